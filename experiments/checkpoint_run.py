"""`python -m experiments.checkpoint_run`: a training run of a tiny Llama, cut off in the middle, with its checkpoints.

The folder has what `transformers.Trainer` leaves there: `checkpoint-N` with weights, tokenizer and
`trainer_state.json`, whose log holds training losses and the loss on validation examples. Minutes on one core.
"""

import argparse
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import torch
from transformers import LlamaForCausalLM

from experiments.tiny_models.files import write_examples
from experiments.tiny_models.tasks import Task, count, reverse, sort
from experiments.tiny_models.train import Network, Schedule, _batch, character_tokenizer, fit, new_model

TASKS = (count(20), reverse(6), sort(8))
NETWORK = Network(hidden=48, layers=3, heads=4)
#: The learning rate falls to a tenth over all steps; the run ends where it is still high.
SCHEDULE = Schedule(steps=2000, learning_rate=4e-3)
FIRST, EVERY, LAST = 240, 30, 600
N_EXAMPLES, N_VALIDATION = 600, 192


class _CutOff(Exception):
    """The end of the run."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/run"))
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    train(given.out, given.seed)


def train(out: Path, seed: int, *, first: int = FIRST, every: int = EVERY, last: int = LAST) -> None:
    """Train from random weights and write data/ and checkpoint-N/ below `out`."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        write_examples(out / "data" / f"{task.name}.jsonl", task.evaluation(Random(f"run {task.name}"), N_EXAMPLES))
    model = new_model(NETWORK, seed)
    with suppress(_CutOff):
        fit(model, TASKS, SCHEDULE, seed + 1, _keeping(model, out, first, every, last))


def _keeping(model: LlamaForCausalLM, out: Path, first: int, every: int, last: int) -> Callable[[int, float], None]:
    log: list[dict[str, Any]] = []
    held = _batch([example for task in TASKS for example in _unseen(task)])
    begin = time.monotonic()

    def progress(step: int, loss: float) -> None:
        if step % every == 0:
            log.append({"step": step, "loss": loss})
        if step >= first and step % every == 0:
            with torch.no_grad():
                log.append({"step": step, "eval_loss": float(model(input_ids=held[0], labels=held[1]).loss)})
            folder = out / f"checkpoint-{step}"
            model.save_pretrained(folder)
            character_tokenizer().save_pretrained(folder)
            (folder / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
            print(f"step {step}: {log[-1]['eval_loss']:.4f}, {time.monotonic() - begin:.0f} s", flush=True)
        if step == last:
            raise _CutOff

    return progress


def _unseen(task: Task) -> list[Any]:
    return task.training(Random(f"validation {task.name}"), N_VALIDATION)


if __name__ == "__main__":
    main()
