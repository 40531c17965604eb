"""LoRA experts on vLLM, merged or stacked: `.venv-vllm/bin/python -m tests.vllm.bench_adapters`.

A candidate of three experts of rank 8 answers prompts on one CPU thread: merged into resident weights, which vLLM then
reloads; as one adapter of rank 24; and several candidates as adapters in one batch. Printed: median CPU seconds per
candidate of N_RUNS, interleaved, and how many texts are equal.
"""

import statistics
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.merging.recipe_models import open_models
from evomerge.merging.stacked import StackedAdapters
from evomerge.recipe import Input, Merge, Recipe
from evomerge.resident.resident import load_resident
from evomerge.resident.vllm_engine import VllmEngine
from search_spaces.base import CoefficientTable
from tests.benchmarks.bench_generation import N_RUNS, SIZES
from tests.evaluators.tiny_llama import build
from tests.evomerge.merging.adapters import lora
from tests.vllm.bench_vllm import LARGER, Setting, run_cases, seconds

ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
N_EXPERTS, RANK, N_NEW = 3, 8, 16
#: Candidates in one batch.
ABREAST = (2, 4)
#: Name, configuration, numbers of prompts.
CASES: tuple[Setting, ...] = (
    ("3 million parameters", SIZES, (4, 48)),
    ("57 million parameters", LARGER, (4, 16)),
)


class Case:
    """One model with its adapters, and two engines in this process."""

    def __init__(self, sizes: dict[str, Any], folder: Path) -> None:
        made = build(folder / "base", 0, **sizes)
        experts = [lora(folder / str(n), made.folder, n, r=RANK, target_modules=ALL) for n in range(N_EXPERTS)]
        inputs = tuple(Input(path.name, str(path)) for path in experts)
        self.recipe = Recipe(Input("base", str(made.folder)), inputs, "task_arithmetic")
        models = open_models(self.recipe)
        self.merging = models.engine(keep=2**34)
        self.resident = load_resident(models.base, made.folder, None, "cpu")
        options = {"max_model_len": 512}
        self.reloading = VllmEngine(self.resident, made.folder, made.folder, options)
        stacks = StackedAdapters(models.engine(), models.base, models.inputs)
        self.stacking = VllmEngine(
            self.resident, made.folder, made.folder, {**options, "max_loras": max(ABREAST)}, stacks
        )
        self._names = models.base.layout().names
        self._drawn = np.random.default_rng(0)

    def candidate(self) -> Merge:
        """Return a random merge."""
        weights = self._drawn.uniform(0, 0.3, (1, N_EXPERTS))
        return Merge(self.recipe, CoefficientTable({"all": self._names}, {"weight": weights}))

    def merged(self, merge: Merge, prompts: Sequence[Any]) -> list[Any]:
        self.merging.apply(merge, self.resident.tensors)
        self.reloading.follow(merge)
        return texts(self.reloading, prompts)

    def stacked(self, merge: Merge, prompts: Sequence[Any]) -> list[Any]:
        self.stacking.follow(merge)
        return texts(self.stacking, prompts)

    def abreast(self, merges: Sequence[Merge], prompts: Sequence[Any]) -> list[Any]:
        requests = []
        for merge in merges:
            self.stacking.follow(merge)
            self.stacking._transfer()
            requests += [self.stacking._adapter] * len(prompts)
        asked = [{"prompt_token_ids": list(prompt)} for _ in merges for prompt in prompts]
        found = self.stacking._llm.generate(asked, settings(), use_tqdm=False, lora_request=requests)
        return [each.outputs[0].token_ids for each in found]


def settings() -> Any:
    from vllm import SamplingParams  # as late as the engine imports it

    return SamplingParams(temperature=0.0, max_tokens=N_NEW, ignore_eos=True, detokenize=False)


def texts(engine: VllmEngine, prompts: Sequence[Any]) -> list[Any]:
    return [each.token_ids for each in engine._generate(prompts, settings(), N_NEW)]


def measured(case: Case, prompts: Sequence[Any]) -> dict[str, float]:
    """Return CPU seconds per candidate of each way, once."""
    merge = case.candidate()
    found = {
        "merged": seconds(lambda: case.merged(merge, prompts)),
        "stacked": seconds(lambda: case.stacked(merge, prompts)),
    }
    for n in ABREAST:
        merges = [case.candidate() for _ in range(n)]
        found[f"{n} in one batch"] = seconds(partial(case.abreast, merges, prompts)) / n
    return found


def transferred(case: Case) -> tuple[float, float]:
    """Return CPU seconds for reloading merged weights, and for loading an adapter."""
    merge = case.candidate()
    case.merging.apply(merge, case.resident.tensors)
    case.reloading.follow(merge)
    case.stacking.follow(merge)
    return seconds(case.reloading._transfer), seconds(case.stacking._transfer)


def compare(name: str, sizes: dict[str, Any], counts: Sequence[int], folder: Path) -> None:
    case = Case(sizes, folder)
    for count in counts:
        prompts = [case.resident.tokenizer.encode(f"{'so ' * (i % 17)}{i} plus {i * 7} is ") for i in range(count)]
        merge = case.candidate()
        pairs = zip(case.merged(merge, prompts), case.stacked(merge, prompts), strict=True)
        same = sum(a == b for a, b in pairs)
        runs = [measured(case, prompts) for _ in range(N_RUNS)]
        medians = {way: statistics.median(run[way] for run in runs) for way in runs[0]}
        said = ", ".join(f"{way} {each:.3f} s ({each / medians['merged']:.2f} x)" for way, each in medians.items())
        reloading, adapter = transferred(case)
        print(
            f"{name}, {count} prompts: CPU seconds per candidate {said}; of these {reloading:.3f} for reloading, "
            f"{adapter:.3f} for the adapter; equal texts {same} of {count}",
            flush=True,
        )


if __name__ == "__main__":
    run_cases(CASES, compare)
