"""Our merges of the adapters that PEFT combined: which method of ours is which of PEFT's."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.merging.output.lora_export import export_lora
from evomerge.merging.output.materialize import materialize
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable
from tests.conformance.corpus import WORK
from tests.conformance.peft_cases import ADAPTERS, PeftCase


@dataclass(frozen=True)
class Equal:
    """A method of ours and its options."""

    method: str
    options: Mapping[str, Any] = field(default_factory=dict)


_PEFT = {"compat": "peft"}
#: PEFT's combination -> what it is here. One adapter is always combined by `linear` there.
EQUALS: Mapping[str | None, Equal] = {
    None: Equal("passthrough"),
    "linear": Equal("lora_linear"),
    "cat": Equal("task_arithmetic"),
    "svd": Equal("task_arithmetic"),
    "ties": Equal("lora_ties"),
    "ties_svd": Equal("ties", _PEFT),
    "dare_linear": Equal("lora_dare_linear"),
    "dare_linear_svd": Equal("dare_linear"),
    "dare_ties": Equal("lora_dare_ties"),
    "dare_ties_svd": Equal("dare_ties", {**_PEFT, "normalize": True}),
    "magnitude_prune": Equal("lora_magnitude_prune"),
    "magnitude_prune_svd": Equal("magnitude_prune"),
}


def merge_of(case: PeftCase) -> Merge:
    """The same merge as ours."""
    folder = (WORK / "models").absolute()
    equal = EQUALS[case.combination]
    inputs = tuple(Input(name, str(folder / "base"), adapter=str(folder / name)) for name in case.adapters)
    election = {"election": case.majority} if case.combination in ("ties", "ties_svd", "dare_ties") else {}
    recipe = Recipe(Input("base", str(folder / "base")), inputs, equal.method, {**equal.options, **election})
    values = {} if case.combination is None else {"weight": np.array([case.weights])}
    if case.density is not None:
        values["density"] = np.full((1, len(inputs)), case.density)
    return Merge(recipe, CoefficientTable({"all": ("*",)}, values), 0)


def write(case: PeftCase, folder: Path) -> None:
    """Write our result as a model folder; where PEFT cuts a merged change to a rank, so does our LoRA of it."""
    if case.rank is None:
        materialize(merge_of(case), folder)
        return
    adapter = (ADAPTERS / case.name).absolute()
    shutil.rmtree(adapter, ignore_errors=True)
    export_lora(merge_of(case), adapter, case.rank)
    base = str((WORK / "models" / "base").absolute())
    folded = Recipe(Input("base", base), (Input(case.name, base, adapter=str(adapter)),), "passthrough")
    materialize(Merge(folded, CoefficientTable({"all": ("*",)}, {})), folder)
