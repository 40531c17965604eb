"""What an evaluation costs outside the model's forward passes: `python -m tests.benchmarks.bench_evaluation`.

One task of N_EXAMPLES four-choice questions, a tiny Llama, three ways in one run: lm-eval as its command line
uses it (task objects kept), our lm_eval_task, and our multiple_choice. Overhead = seconds outside
forward passes, in percent of the seconds inside. Medians of N_RUNS.

Then CPU seconds of `multiple_choice` against a loop that somebody would write by hand: one forward pass for each
distinct input, the head at the scored places. With few-shot examples the loop reads them again for every input. The
model is the tiny one or, with `--model FOLDER --file QUESTIONS.jsonl`, a real one.
"""

import argparse
import contextlib
import io
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators._tokens import encode_pair
from evaluators.lm_eval_task import LmEvalTask
from evaluators.multiple_choice import MultipleChoice
from tests.evaluators.tiny_llama import LLAMA, TinyModel, build, write_lines

Pair = tuple[tuple[int, ...], tuple[int, ...]]

N_EXAMPLES = 200
N_RUNS = 5
SIZES = {**LLAMA, "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4, "max_position_embeddings": 512}


@dataclass
class Stopwatch:
    """Seconds inside the network's forward passes."""

    inside: float = 0.0
    entered: list[float] = field(default_factory=list)

    def watch(self, network: Any) -> None:
        network.register_forward_pre_hook(lambda *_: self.entered.append(time.perf_counter()))
        network.register_forward_hook(lambda *_: self._leave())

    def _leave(self) -> None:
        self.inside += time.perf_counter() - self.entered.pop()


def measure(watch: Stopwatch, run: Callable[[], float]) -> tuple[float, float, float]:
    """Median seconds in all and inside forward passes, and the score."""
    totals, insides, score = [], [], run()
    for _ in range(N_RUNS):
        watch.inside, start = 0.0, time.perf_counter()
        score = run()
        totals.append(time.perf_counter() - start)
        insides.append(watch.inside)
    return statistics.median(totals), statistics.median(insides), score


def write_task(folder: Path) -> Path:
    rows = [
        {"prompt": f"Question {i}: " + "and then " * (i % 20) + "?", "choices": ["one", "two", "three", "four"]}
        for i in range(N_EXAMPLES)
    ]
    data = write_lines(folder / "data.jsonl", [{**row, "answer": i % 4} for i, row in enumerate(rows)])
    config = {
        "task": "bench",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": str(data), "cache_dir": str(folder / "cache")},
        "test_split": "train",
        "output_type": "multiple_choice",
        "doc_to_text": "{{prompt}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (folder / "bench.yaml").write_text(yaml.safe_dump(config))
    return data


def naive(model: TinyModel, folder: Path) -> Callable[[], float]:
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    wrapped = HFLM(pretrained=model.network, tokenizer=model.tokenizer, batch_size=32)

    def run() -> float:
        with contextlib.redirect_stderr(io.StringIO()):
            found = simple_evaluate(wrapped, tasks=["bench"], task_manager=manager)
        return float(found["results"]["bench"]["acc,none"])

    return run


def loop(model: TinyModel, pairs: Sequence[Sequence[Pair]]) -> tuple[list[list[float]], int]:
    """Log-likelihoods of all choices, and how many tokens were read."""
    found, read = [], 0
    for choices in pairs:
        texts: dict[tuple[int, ...], Any] = {}
        row = []
        for context, continuation in choices:
            tokens = (context + continuation)[:-1]
            if tokens not in texts:
                hidden = model.network.base_model(input_ids=torch.tensor([tokens])).last_hidden_state[0]
                first = min(len(c) for c, t in choices if (c + t)[:-1] == tokens) - 1
                texts[tokens] = (first, model.network.get_output_embeddings()(hidden[first:]).log_softmax(-1))
                read += len(tokens)
            first, logs = texts[tokens]
            start = len(context) - 1 - first
            row.append(sum(float(logs[start + i, target]) for i, target in enumerate(continuation)))
        found.append(row)
    return found, read


def against_a_loop(model: TinyModel, data: Path, limit: int, shots: int) -> None:
    task = MultipleChoice(file=str(data), limit=limit, num_fewshot=shots, separator="")
    task.preflight(model)
    views = [task.preview(row) for row in range(len(task.example_ids))]
    pairs = [[encode_pair(model.tokenizer, view.prompt, text) for text in view.continuations] for view in views]
    read: list[int] = []
    hook = model.network.get_input_embeddings().register_forward_hook(
        lambda _, inputs, __: read.append(inputs[0].numel())
    )
    with torch.inference_mode():
        task.score(model)  # tries once what the network may be spared
        ours, theirs = [], []
        for _ in range(3):
            read.clear()
            begin = time.process_time()
            scores = task.score(model)
            ours.append(time.process_time() - begin)
            tokens = sum(read)
            begin = time.process_time()
            expected, distinct = loop(model, pairs)
            theirs.append(time.process_time() - begin)
    hook.remove()
    apart = max(np.abs(np.array(a) - b).max() for a, b in zip(expected, scores.choices or (), strict=True))
    one, other = min(ours), min(theirs)
    print(
        f"{shots} shots: {one:.2f} CPU s for {tokens} tokens, a loop {other:.2f} s for {distinct}; ratio "
        f"{one / other:.2f}, distinct tokens per CPU second {distinct / one:.0f} and {distinct / other:.0f}; "
        f"log-likelihoods differ by {apart:.1e}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="What an evaluation costs outside the model's forward passes.")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--limit", type=int, default=40)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if options.model is None:
        compare_with_lm_eval()
        return
    network = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    model = TinyModel(network, AutoTokenizer.from_pretrained(options.model), options.model)
    for shots in (0, 5):
        against_a_loop(model, options.file, options.limit, shots)


def compare_with_lm_eval() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = write_task(folder)
        model = build(folder / "model", 0, **SIZES)
        watch = Stopwatch()
        watch.watch(model.network)
        task = LmEvalTask(task="bench", include_path=str(folder))
        own = MultipleChoice(file=str(data))
        ways: dict[str, Callable[[], float]] = {
            "lm-eval, simple_evaluate": naive(model, folder),
            "lm_eval_task": lambda: task.score(model).mean,
            "multiple_choice": lambda: own.score(model).mean,
        }
        found = {way: measure(watch, run) for way, run in ways.items()}
        against_a_loop(model, data, 100, 0)
    slowest = found["lm-eval, simple_evaluate"][0]
    print(f"{'per candidate':26}{'ms':>8}{'forward ms':>12}{'overhead %':>12}{'speed-up':>10}{'score':>8}")
    for way, (total, inside, score) in found.items():
        overhead = 100 * (total - inside) / inside
        print(f"{way:26}{1e3 * total:8.0f}{1e3 * inside:12.0f}{overhead:12.1f}{slowest / total:9.1f}x{score:8.3f}")


if __name__ == "__main__":
    main()
