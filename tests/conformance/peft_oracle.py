"""PEFT's results: adapters folded into the base, alone or after `add_weighted_adapter`. Runs in .venv-conformance.

python -m tests.conformance.peft_oracle
"""

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from peft.tuners.lora.model import LoraModel
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from tests.conformance.corpus import WORK
from tests.conformance.peft_cases import ADAPTERS, CASES, DRAWS, PeftCase


class Masks:
    """Stands in for torch's Bernoulli masks inside of PEFT's combinations."""

    def __init__(self, uniforms: dict[str, Tensor]) -> None:
        self.uniforms = uniforms
        self.used = 0
        self._keys: list[str] = []

    @contextmanager
    def injected(self) -> Iterator[None]:
        """While it is entered, PEFT's masks come from the uniform numbers."""
        factors = LoraModel._generalized_task_arithmetic_weighted_adapter
        dense, bernoulli = LoraModel._svd_generalized_task_arithmetic_weighted_adapter, torch.bernoulli

        def name_of(model: Any, target: Any, ending: str) -> str:
            name = next(name for name, module in model.named_modules() if module is target)
            return f"{name.removeprefix('model.')}.weight{ending}"

        def by_factors(model: Any, kind: str, adapters: list[str], weights: Any, target: Any, *rest: Any) -> Any:
            having = [adapter for adapter in adapters if adapter in target.lora_A]
            names = [name_of(model, target, ending) for ending in (".lora_A", ".lora_B")]
            self._keys = [f"{name}|{adapter}" for name in names for adapter in having]
            return factors(model, kind, adapters, weights, target, *rest)

        def by_product(
            model: Any, kind: str, adapters: list[str], weights: Any, rank: int, target: Any, *rest: Any, **more: Any
        ) -> Any:
            name = name_of(model, target, "")
            self._keys = [f"{name}|{adapter}" for adapter in adapters if adapter in target.lora_A]
            return dense(model, kind, adapters, weights, rank, target, *rest, **more)

        def mask(probabilities: Tensor) -> Tensor:
            numbers = self.uniforms[self._keys.pop(0)][: probabilities.numel()].view(probabilities.shape)
            self.used += 1
            return (numbers < probabilities.double()).to(probabilities.dtype)

        LoraModel._generalized_task_arithmetic_weighted_adapter = by_factors
        LoraModel._svd_generalized_task_arithmetic_weighted_adapter = by_product
        torch.bernoulli = mask
        try:
            yield
        finally:
            LoraModel._generalized_task_arithmetic_weighted_adapter = factors
            LoraModel._svd_generalized_task_arithmetic_weighted_adapter = dense
            torch.bernoulli = bernoulli


def merge(case: PeftCase, folder: Path) -> dict[str, Any]:
    """Write the base with the case's adapters to `folder`. Returns {"error": message} where PEFT fails."""
    shutil.rmtree(folder, ignore_errors=True)
    masks = Masks(load_file(DRAWS) if case.random else {})
    models = WORK / "models"
    base = transformers.AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    try:
        first, *others = case.adapters
        model = peft.PeftModel.from_pretrained(base, models / first, adapter_name=first)
        for name in others:
            model.load_adapter(models / name, adapter_name=name)
        if case.rank is not None:
            # In float32 a decomposition is exact to some 1e-6 only.
            model = model.double()
        if case.combination is not None:
            arguments = {"svd_rank": case.rank, "density": case.density, "majority_sign_method": case.majority}
            with masks.injected():
                model.add_weighted_adapter(
                    list(case.adapters), list(case.weights), "merged", combination_type=case.combination, **arguments
                )
            model.set_adapter("merged")
        model.merge_and_unload().float().save_pretrained(folder)
    except Exception as error:  # noqa: BLE001 - whatever PEFT raises is its answer
        shutil.rmtree(folder, ignore_errors=True)
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    return {"injected": masks.used}


def load(adapter: Path, folder: Path) -> dict[str, Any]:
    """Write the base with an adapter of evomerge's to `folder`."""
    base = transformers.AutoModelForCausalLM.from_pretrained(WORK / "models" / "base", dtype=torch.float32)
    peft.PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)
    return {}


def main() -> None:
    """Merge every case; results go below WORK."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    results = {case.name: merge(case, WORK / "peft" / case.name) for case in CASES}
    for case in CASES:
        if case.loaded is not None and (ADAPTERS / case.name).exists():
            results[case.loaded] = load(ADAPTERS / case.name, WORK / "peft" / case.loaded)
    (WORK / "peft.json").write_text(json.dumps({"peft": version("peft"), "results": results}, indent=1))
    failed = sum("error" in result for result in results.values())
    print(f"PEFT merged {len(results) - failed} adapters and refused {failed}")


if __name__ == "__main__":
    main()
