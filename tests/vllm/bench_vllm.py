"""Continuations by vLLM against our continuous batching: `.venv-vllm/bin/python -m tests.vllm.bench_vllm`.

Both write the same greedy answers of random Llamas on one CPU thread. Printed: median CPU seconds of N_RUNS, their
ratio, how many texts are equal, and the CPU seconds in which vLLM takes over new weights.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from evaluators._engines import write_with
from evaluators._generation import Generator
from evomerge.resident.resident import ResidentModel
from evomerge.resident.vllm_engine import VllmEngine
from tests.benchmarks.bench_generation import N_NEW, N_RUNS, SIZES, STOP
from tests.evaluators.tiny_llama import build

LARGER = {**SIZES, "hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "initializer_range": 0.2}
#: Name, configuration, numbers of prompts.
Setting = tuple[str, dict[str, Any], tuple[int, ...]]
CASES: tuple[Setting, ...] = (
    ("3 million parameters", SIZES, (48, 256)),
    ("57 million parameters", LARGER, (48,)),
)


def seconds(run: Callable[[], Any]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def compare(name: str, sizes: dict[str, Any], counts: tuple[int, ...], folder: Path) -> None:
    made = build(folder, 0, **sizes)
    model = ResidentModel(made.tensors, made.network, made.tokenizer)
    alone = copy.deepcopy(made.network)
    engine = VllmEngine(model, made.folder, made.folder, {"max_model_len": 512})
    write_with(model.network, engine)
    for count in counts:
        for shots in ("", "".join(f"{i} plus {i} is {2 * i}. " for i in range(12))):
            prompts = [f"{shots}{'so ' * (i % 17)}{i} plus {i * 7} is " for i in range(count)]
            ours = Generator(model.read_with(alone), prompts, N_NEW, (STOP,), batch_tokens=8192)
            theirs = Generator(model, prompts, N_NEW, (STOP,))

            def by_us(ours: Generator = ours, count: int = count) -> list[Any]:
                return ours.run(alone, range(count))

            def by_vllm(theirs: Generator = theirs, count: int = count) -> list[Any]:
                engine.follow()
                return theirs.run(model.network, range(count))

            with torch.no_grad():
                expected, found = by_us(), by_vllm()
                pairs = [(seconds(by_us), seconds(by_vllm)) for _ in range(N_RUNS)]
                engine.follow()
                transfer = seconds(engine._transfer)
            own, other = (statistics.median(column) for column in zip(*pairs, strict=True))
            lengths = [one.n_tokens for one in expected]
            print(
                f"{name}, {count} prompts{', a common beginning' if shots else ''}, answers of {min(lengths)} to "
                f"{max(lengths)} (mean {statistics.mean(lengths):.0f}): ours {own:.2f} CPU s, vLLM with new weights "
                f"{other:.2f} (of these {transfer:.2f} for the weights), {own / other:.2f} x as fast; equal texts: "
                f"{sum(a == b for a, b in zip(expected, found, strict=True))}",
                flush=True,
            )


def run_cases(cases: Sequence[Setting], compare: Callable[[str, dict[str, Any], tuple[int, ...], Path], None]) -> None:
    """Compare each case on one thread, in a folder of its own."""
    torch.set_num_threads(1)
    for name, sizes, counts in cases:
        with tempfile.TemporaryDirectory() as folder:
            compare(name, sizes, counts, Path(folder))


if __name__ == "__main__":
    run_cases(CASES, compare)
