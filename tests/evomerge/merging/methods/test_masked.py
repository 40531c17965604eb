from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from evomerge.merging.method import MethodError
from evomerge.merging.prepared import MergeError
from evomerge.merging.tiles import Moments
from tests.contracts.merge_method import MergeMethodContract, Statistics, fixed, merged
from tests.evomerge.merging.methods.informed import statistics
from tests.evomerge.merging.vectors import check


class TestMasked(MergeMethodContract):
    name = "masked"
    values = fixed({"weight": [0.5, 1.0, 1.5]})
    one_hot = None

    def moments(self, model: str, tensors: Mapping[str, Tensor]) -> Moments | None:
        return statistics(model, tensors, "mask")


def masked(masks: list[Tensor | None], weight: list[float]) -> Tensor:
    base, models = torch.tensor([1.0, 1.0, 1.0]), [torch.tensor([2.0, 3.0, 4.0]), torch.tensor([0.0, 0.0, 5.0])]
    given = [None if mask is None else Statistics({"mask/x": mask}) for mask in masks]
    return merged("masked", base, models, {"weight": weight}, moments=[None, *given])


def test_worked_examples() -> None:
    half, other = torch.tensor([True, False, True]), torch.tensor([False, True, True])
    check(masked([half, other], [1.0, 1.0]), [2.0, 0.0, 8.0])
    check(masked([half, other], [2.0, 0.5]), [3.0, 0.5, 9.0])
    factors = torch.tensor([0.5, 2.0, 0.5], dtype=torch.float16)
    check(masked([factors, factors], [1.0, 0.0]), [1.5, 5.0, 2.5])


def test_models_without_masks_are_refused_with_the_command_that_learns_them() -> None:
    mask = torch.ones(3, dtype=torch.bool)
    with pytest.raises(MergeError, match=r"needs the statistics 'mask' of every input.*`evomerge tools mask BASE"):
        masked([mask, None], [1.0, 1.0])
    with pytest.raises(MethodError, match=r"has shape \(2,\), expected \(3,\)"):
        masked([mask, torch.ones(2)], [1.0, 1.0])
