"""`python -m experiments.six_tasks`: a small GPT-NeoX, six experts, and a task for each.

Three tasks are multiple choice, three are written out. All weights begin at random; each expert is trained on one task.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM
from transformers.utils import logging

from experiments.tiny_models.files import write_examples
from experiments.tiny_models.tasks import DIGITS, Example, Task, count, find, largest, reverse, sort
from experiments.tiny_models.train import BOS, EOS, MAX_LENGTH, VOCABULARY, Schedule, character_tokenizer, fit

N_EXAMPLES = 300


def following(length: int) -> Task:
    """`following 7259 =` is 8360: the next of each digit. The answer is written out."""

    def draw(rng: Random) -> Example:
        digits = rng.choices(DIGITS, k=length)
        return Example(f"following {''.join(digits)} =", "".join(str((int(digit) + 1) % 10) for digit in digits))

    return Task("following", False, draw)


TASKS = (count(10), find(3), following(4), largest(5), reverse(4), sort(4))
# Found by trial: the base knows something of every task, an expert forgets part of what the others know.
BASE = Schedule(steps=240, learning_rate=2e-3)
EXPERTS: Mapping[str, Schedule] = {task.name: Schedule(steps=200, learning_rate=2e-4) for task in TASKS}


def configuration() -> GPTNeoXConfig:
    """Return the shape of the network: 90 coefficients for six experts by blocks, 312 by tensors."""
    return GPTNeoXConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=MAX_LENGTH,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )


def make(folder: Path, say: Callable[[str], None]) -> None:
    """Write the tasks, and train base and experts into a folder each, those that are not there yet."""
    (folder / "data").mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        examples = task.evaluation(Random(f"evaluation {task.name}"), N_EXAMPLES)
        write_examples(folder / "data" / f"{task.name}.jsonl", examples)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base = GPTNeoXForCausalLM(configuration())
    _make(base, folder / "base", TASKS, BASE, 1, say)
    for task in TASKS:
        expert = GPTNeoXForCausalLM.from_pretrained(folder / "base")
        _make(expert, folder / task.name, (task,), EXPERTS[task.name], 2, say)


def _make(
    network: GPTNeoXForCausalLM,
    folder: Path,
    tasks: tuple[Task, ...],
    schedule: Schedule,
    seed: int,
    say: Callable[[str], None],
) -> None:
    if (folder / "config.json").is_file():
        say(f"{folder.name}: found")
        return

    def progress(step: int, loss: float) -> None:
        if step % 50 == 0:
            say(f"{folder.name}: step {step} of {schedule.steps}, loss {loss:.3f}")

    fit(network, tasks, schedule, seed, progress)
    character_tokenizer().save_pretrained(folder)
    network.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/six"))
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    make(parser.parse_args().out, lambda line: print(f"  {line}", flush=True))


if __name__ == "__main__":
    main()
