"""What an evaluation costs outside the model's forward passes: `python -m tests.benchmarks.bench_evaluation`.

One task of N_EXAMPLES four-choice questions, a tiny Llama, three ways in one run: lm-eval as its command line
uses it (task objects kept), our lm_eval_task, and our multiple_choice. Overhead = seconds outside
forward passes, in percent of the seconds inside. Medians of N_RUNS.

Then CPU seconds of `multiple_choice`, without and with 5 solved examples, against two ways to the same log-likelihoods:
a loop written by hand (what all inputs begin with is read once if that saves much, equal inputs once, in batches sorted
by length, the head at the scored places only), and the loop of lm-eval's Hugging Face backend. Medians of N_RUNS. The
model is the tiny one or, with `--model FOLDER --file QUESTIONS.jsonl`, a real one.
"""

import argparse
import contextlib
import copy
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
from lm_eval.api.instance import Instance
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
#: Inputs per batch of the other loops.
AT_ONCE = 16
#: Share of the tokens that a common beginning must save, since reading it is a forward pass of its own.
WORTH = 0.2
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


def by_hand(model: TinyModel, pairs: Sequence[Sequence[Pair]]) -> tuple[list[list[float]], int]:
    """Log-likelihoods of all choices, and how many tokens were read."""
    texts = list(dict.fromkeys((context + target)[:-1] for choices in pairs for context, target in choices))
    start = min(len(context) - 1 for choices in pairs for context, _ in choices)
    common = next((i for i in range(start) if len({text[i] for text in texts}) > 1), start)
    if common * (len(texts) - 1) < WORTH * sum(map(len, texts)):
        common = 0
    network, body, head = model.network, model.network.base_model, model.network.get_output_embeddings()
    before = network(input_ids=torch.tensor([texts[0][:common]]), logits_to_keep=1).past_key_values if common else None
    scored: dict[tuple[int, ...], set[int]] = {}
    for context, target in (pair for choices in pairs for pair in choices):
        scored.setdefault((context + target)[:-1], set()).update(range(len(context) - 1, len(context + target) - 1))
    logs: dict[tuple[tuple[int, ...], int], Any] = {}
    ordered = sorted(texts, key=len)
    for batch in (ordered[i : i + AT_ONCE] for i in range(0, len(ordered), AT_ONCE)):
        options: dict[str, Any] = {"use_cache": False}
        if before is not None:
            cache = copy.deepcopy(before)
            cache.batch_repeat_interleave(len(batch))
            options = {"past_key_values": cache}
        inputs = torch.tensor([text[common:] + (0,) * (len(batch[-1]) - len(text)) for text in batch])
        hidden = body(input_ids=inputs, **options).last_hidden_state
        places = [(row, text, place) for row, text in enumerate(batch) for place in sorted(scored[text])]
        chosen = hidden[[row for row, _, _ in places], [place - common for _, _, place in places]]
        for (_, text, place), each in zip(places, head(chosen).log_softmax(-1), strict=True):
            logs[text, place] = each
    found = [
        [sum(float(logs[(c + t)[:-1], len(c) - 1 + i][token]) for i, token in enumerate(t)) for c, t in choices]
        for choices in pairs
    ]
    return found, common + sum(len(text) - common for text in texts)


def by_lm_eval(model: TinyModel, views: Sequence[Any]) -> Callable[[], list[list[float]]]:
    wrapped = HFLM(pretrained=model.network, tokenizer=model.tokenizer, batch_size=AT_ONCE)
    pairs = [(view.prompt, text) for view in views for text in view.continuations]
    requests = [Instance("loglikelihood", {}, pair, number) for number, pair in enumerate(pairs)]

    def run() -> list[list[float]]:
        found = iter(wrapped.loglikelihood(requests, disable_tqdm=True))
        return [[next(found)[0] for _ in view.continuations] for view in views]

    return run


def seconds(run: Callable[[], Any]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def against_other_loops(model: TinyModel, data: Path, limit: int, shots: int) -> None:
    task = MultipleChoice(file=str(data), limit=limit, num_fewshot=shots)
    task.preflight(model)
    views: list[Any] = [task.preview(row) for row in range(len(task.example_ids))]
    pairs = [[encode_pair(model.tokenizer, view.prompt, text) for text in view.continuations] for view in views]
    lm_eval = by_lm_eval(model, views)
    with torch.inference_mode():
        scores = task.score(model)  # tries once what the network may be spared
        expected, distinct = by_hand(model, pairs)
        theirs = lm_eval()
        times = [
            [seconds(lambda: task.score(model)), seconds(lambda: by_hand(model, pairs)), seconds(lm_eval)]
            for _ in range(N_RUNS)
        ]
    own, hand, harness = (statistics.median(column) for column in zip(*times, strict=True))
    choices = scores.choices or ()
    apart = max(np.abs(np.array(a) - b).max() for a, b in zip(expected, choices, strict=True))
    same = sum(int(np.argmax(a) == np.argmax(b)) for a, b in zip(theirs, choices, strict=True))
    print(
        f"{shots} shots, {distinct} distinct tokens: {distinct / own:.0f} tokens per CPU second, {hand / own:.2f} x "
        f"those of the loop by hand ({hand:.2f} s, log-likelihoods differ by {apart:.1e}); {harness / own:.2f} x "
        f"as fast as lm-eval's loop ({harness:.2f} s, {same} of {len(views)} answers the same)"
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
        against_other_loops(model, options.file, options.limit, shots)


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
        for shots in (0, 5):
            against_other_loops(model, data, 100, shots)
    slowest = found["lm-eval, simple_evaluate"][0]
    print(f"{'per candidate':26}{'ms':>8}{'forward ms':>12}{'overhead %':>12}{'speed-up':>10}{'score':>8}")
    for way, (total, inside, score) in found.items():
        overhead = 100 * (total - inside) / inside
        print(f"{way:26}{1e3 * total:8.0f}{1e3 * inside:12.0f}{overhead:12.1f}{slowest / total:9.1f}x{score:8.3f}")


if __name__ == "__main__":
    main()
