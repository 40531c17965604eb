"""mergekit's results for the corpus. Runs in .venv-conformance, knows nothing of evomerge.

    python -m tests.conformance.oracle models    builds the tiny models
    python -m tests.conformance.oracle merge     merges every file of the corpus with mergekit
    python -m tests.conformance.oracle back      merges the configurations that evomerge's results bring along

Random methods ask torch for Bernoulli masks. Where `draws/NAME.safetensors` has uniform numbers for a tensor of a
model, a mask is where they are below the probabilities that mergekit computed: all but the generator is mergekit's.
"""

import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.merge_methods import generalized_task_arithmetic
from mergekit.options import MergeOptions
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils import logging as transformers_logging

from tests.conformance import models
from tests.conformance.corpus import WORK, Case, read

LORA_CACHE = WORK / "lora"


class Masks:
    """Stands in for torch's Bernoulli masks inside of mergekit's sparsification, one tensor of one model at a time."""

    def __init__(self, uniforms: dict[str, Tensor]) -> None:
        self.uniforms = uniforms
        self.used = 0
        self._keys: list[str] = []
        self._key = ""

    @contextmanager
    def injected(self) -> Iterator[None]:
        """While it is entered, mergekit's masks come from the uniform numbers."""
        family = generalized_task_arithmetic.GeneralizedTaskArithmeticMerge
        merge_group, sparsify, bernoulli = family.merge_group, generalized_task_arithmetic.sparsify, torch.bernoulli

        def one_tensor(method: Any, group: Any, /, **parameters: Any) -> Tensor:
            self._keys = [f"{group.metadata.name}|{entry.id}" for entry in group.non_base]
            return merge_group(method, group, **parameters)

        def one_model(*arguments: Any, **parameters: Any) -> Tensor:
            self._key = self._keys.pop(0)
            return sparsify(*arguments, **parameters)

        def mask(probabilities: Tensor) -> Tensor:
            if self._key not in self.uniforms:
                return bernoulli(probabilities)
            self.used += 1
            numbers = self.uniforms[self._key][: probabilities.numel()].view(probabilities.shape)
            return (numbers < probabilities.double()).to(probabilities.dtype)

        family.merge_group, generalized_task_arithmetic.sparsify, torch.bernoulli = one_tensor, one_model, mask
        try:
            yield
        finally:
            family.merge_group, generalized_task_arithmetic.sparsify = merge_group, sparsify
            torch.bernoulli = bernoulli


def merge(case: Case, folder: Path) -> dict[str, Any]:
    """Merge one file into `folder`. Returns {"error": message} where mergekit fails, else how masks were drawn."""
    shutil.rmtree(folder, ignore_errors=True)
    draws = WORK / "draws" / f"{case.name}.safetensors"
    masks = Masks(load_file(draws) if draws.exists() else {})
    options = MergeOptions(lora_merge_cache=str(LORA_CACHE), write_model_card=False, quiet=True, random_seed=0)
    try:
        with masks.injected():
            run_merge(MergeConfiguration.model_validate(yaml.safe_load(case.text)), str(folder), options)
    except Exception as error:  # noqa: BLE001 - whatever mergekit raises is its answer
        if not any(folder.glob("model*.safetensors")):
            shutil.rmtree(folder, ignore_errors=True)
        return {"error": _message(error)}
    return {"injected": masks.used}


def _message(error: Exception) -> str:
    """An error in one line, without paths of this machine."""
    said = str(error)
    if isinstance(error, ValidationError):
        said = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
    return " ".join(f"{type(error).__name__}: {said}".split()).replace(str(WORK.absolute()) + "/", "")


def brought_along() -> Iterator[Case]:
    """mergekit's configuration in each of evomerge's results of the corpus."""
    for case in read(WORK / "models"):
        path = WORK / "ours" / case.name / "mergekit_config.yml"
        if path.exists():
            yield replace(case, text=path.read_text())


def main(command: str) -> None:
    """Build the models, or merge the corpus; results go below WORK."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.disable(logging.ERROR)
    if command == "models":
        names = models.build(WORK / "models")
        shutil.rmtree(LORA_CACHE, ignore_errors=True)
        print(f"{len(names)} models in {WORK / 'models'}")
        return
    if os.environ.get("PYTHONHASHSEED") != "0":
        sys.exit("mergekit's result depends on the hash seed: run this with PYTHONHASHSEED=0.")
    name = {"merge": "mergekit", "back": "back"}[command]
    shutil.rmtree(WORK / name, ignore_errors=True)
    cases = read(WORK / "models") if command == "merge" else list(brought_along())
    results = {case.name: merge(case, WORK / name / case.name) for case in cases}
    answer = {"mergekit": version("mergekit"), "results": results}
    (WORK / f"{name}.json").write_text(json.dumps(answer, indent=1))
    failed = sum("error" in result for result in results.values())
    print(f"mergekit merged {len(results) - failed} files and refused {failed}")


if __name__ == "__main__":
    main(sys.argv[1])
