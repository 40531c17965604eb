import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomerge.merging.method import MethodError
from evomerge.merging.output.materialize import materialize
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable
from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, merged

SHAPES: Mapping[str, tuple[int, ...]] = {"embed.weight": (9, 6), "wide": (5, 8), "tall": (8, 5), "norm": (6,)}
DESCENDING = torch.diag(torch.tensor([3.0, 2, 1]))
COUNTING = torch.arange(1.0, 10).view(3, 3)


class TestOpcm(MergeMethodContract):
    name = "opcm"
    values = fixed({"alpha": 0.6, "scale": 0.9})
    one_hot = None  # there are no weights
    permutes = False  # each model is projected away from those before it
    local = False  # the norm is that of the whole model
    rotates = True


@pytest.mark.slow
class TestOpcmOfThePaper(MergeMethodContract):
    name = "opcm"
    options = fixed({"compat": "paper", "exclude": ""})
    values = fixed({"alpha": 0.3})
    n_inputs = 2
    one_hot = None  # as above
    permutes = False  # as above
    local = False  # as above
    rotates = True


def models(n_inputs: int, seed: int = 0) -> list[dict[str, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [{name: torch.randn(shape, generator=random) for name, shape in SHAPES.items()} for _ in range(n_inputs + 1)]


def opcm(made: list[dict[str, Tensor]], alpha: float = 0.5, **options: Any) -> dict[str, Tensor]:
    merge = make_merge("opcm", len(made) - 1, {"alpha": alpha}, options=options)
    return dict(make_engine(made[0], made[1:]).stream(merge))


def norm(deltas: Mapping[str, Tensor] | Mapping[str, Any]) -> float:
    return float(sum(float((d.double() ** 2).sum()) for d in deltas.values()) ** 0.5)


def minus(model: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: model[name].double() - base[name].double() for name in base}


def reference(made: list[dict[str, Tensor]], alpha: float) -> dict[str, Tensor]:
    """Step by step as the paper has it: full decompositions, rescaling of the whole model after each model."""
    deltas = [minus(model, made[0]) for model in made[1:]]
    merge, stretch = dict(deltas[0]), 1.0
    for step, new in enumerate(deltas[1:], 2):
        for name, old in merge.items():
            added = new[name]
            if name in ("wide", "tall"):
                left, values, right = np.linalg.svd(old.numpy(), full_matrices=True)
                along = left.T @ added.numpy() @ right.T
                split = int(np.argmax(np.cumsum(values) / values.sum() > alpha))
                np.fill_diagonal(along, 0)
                along[:split, :split] = 0
                added = torch.from_numpy(left @ along @ right)
            merge[name] = stretch * old + added
        mean = sum(map(norm, deltas[:step])) / step
        stretch = norm(merge) / mean
        merge = {name: value / stretch for name, value in merge.items()}
    return merge


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.5, 0.9])
def test_against_the_steps_of_the_paper(alpha: float) -> None:
    made = models(4)
    result = minus(opcm(made, alpha), made[0])
    for name, wanted in reference(made, alpha).items():
        torch.testing.assert_close(result[name], wanted, rtol=1e-5, atol=2e-6)


def raw(first: Tensor, second: Tensor, alpha: float, **options: Any) -> Tensor:
    """The merged delta before it is rescaled to the mean norm."""
    result = merged("opcm", torch.zeros_like(first), [first, second], {"alpha": alpha}, options=options)
    return result * (result[0, 0] and first[0, 0] / result[0, 0])


def test_worked_example() -> None:
    first, second = torch.diag(torch.tensor([2.0, 1])), torch.tensor([[1.0, 1], [2, 3]])
    result = merged("opcm", torch.zeros(2, 2), [first, second], {})
    wanted = torch.tensor([[1.931852, 0.965926], [1.931852, 0.965926]])
    torch.testing.assert_close(result, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("alpha", "compat", "expected"),
    [
        (0.6, "official", [[3, 2, 3], [4, 2, 6], [7, 8, 1]]),
        (0.9, "official", [[3, 0, 3], [0, 2, 6], [7, 8, 1]]),
        (1.0, "official", [[3, 2, 3], [4, 2, 6], [7, 8, 1]]),
        (0.4, "paper", [[3, 2, 3], [4, 2, 6], [7, 8, 1]]),
        (0.6, "paper", [[3, 0, 3], [0, 2, 6], [7, 8, 1]]),
        (1.0, "paper", [[3, 0, 0], [0, 2, 0], [0, 0, 1]]),
    ],
)
def test_directions_that_are_closed(alpha: float, compat: str, expected: list[list[int]]) -> None:
    result = raw(DESCENDING, COUNTING, alpha, compat=compat)
    torch.testing.assert_close(result, torch.tensor(expected, dtype=torch.float32), rtol=0, atol=5e-6)


def test_added_part_is_orthogonal_to_the_merge_so_far() -> None:
    made = models(2)
    first, second = (minus(model, made[0]) for model in made[1:])
    result = minus(opcm(made, 0.4), made[0])
    # Vectors are summed up as they are, which shows by what the whole model was rescaled.
    stretch = float((first["norm"] + second["norm"]).norm() / result["norm"].norm())
    for name in ("wide", "tall"):
        added = result[name] * stretch - first[name]
        along, before = (float((d * first[name]).sum().abs()) for d in (added, second[name]))
        assert along < 1e-5 < 1e-2 < before


def test_the_whole_model_has_the_mean_norm() -> None:
    made = models(3)
    wanted = np.mean([norm(minus(model, made[0])) for model in made[1:]])
    assert norm(minus(opcm(made), made[0])) == pytest.approx(wanted, rel=1e-6)


def test_the_norm_that_was_handed_on_counts_for_all_earlier_models() -> None:
    """Rounding the earlier result to bfloat16 may have changed its norm."""
    made = models(2)
    wanted = (3 * 5.0 + norm(minus(made[2], made[0]))) / 4
    result = opcm(made, earlier_models=3, earlier_norm=5.0)
    assert norm(minus(result, made[0])) == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("seed", range(8))
def test_alpha_one_excludes_no_leading_direction_in_official(seed: int) -> None:
    """Nothing exceeds a share of 1, whichever way the sum of the singular values is rounded."""
    first, second = torch.randn(2, 30, 30, generator=torch.Generator().manual_seed(seed))
    ends = [merged("opcm", torch.zeros(30, 30), [first, second], {"alpha": alpha}) for alpha in (0.0, 1.0)]
    assert torch.equal(*ends)


def test_one_model_is_that_model() -> None:
    made = models(1)
    for name, tensor in opcm(made).items():
        torch.testing.assert_close(tensor, made[1][name], rtol=1e-6, atol=1e-6)


def test_a_merge_of_low_rank_closes_no_other_direction() -> None:
    """The null space of the first delta has arbitrary directions: what the second has there is added whole."""
    first = torch.zeros(4, 4)
    first[0, 0] = 2.0
    second = torch.eye(4)
    torch.testing.assert_close(raw(first, second, 0.5), torch.diag(torch.tensor([2.0, 1, 1, 1])), rtol=0, atol=1e-5)


def test_excluded_matrices_are_added_as_they_are() -> None:
    made = models(2)
    deltas = [minus(model, made[0]) for model in made[1:]]
    for exclude, projected in (("*embed*", False), ("", True)):
        result = minus(opcm(made, exclude=exclude), made[0])
        factor = result["norm"] / (deltas[0]["norm"] + deltas[1]["norm"])
        torch.testing.assert_close(factor, factor[:1].expand(6), rtol=1e-5, atol=0)
        summed = (deltas[0]["embed.weight"] + deltas[1]["embed.weight"]) * factor[0]
        assert torch.allclose(result["embed.weight"], summed, rtol=1e-4, atol=1e-5) != projected


def test_an_input_that_lacks_a_tensor() -> None:
    made = models(3)
    del made[1]["wide"]
    result = minus(opcm(made, earlier_models=2, earlier_raw=2.0), made[0])
    alone = minus(opcm([{"wide": model["wide"]} for model in (made[0], made[2], made[3])]), {"wide": made[0]["wide"]})
    factor = result["wide"] / alone["wide"]
    torch.testing.assert_close(factor, factor[:1, :1].expand(5, 8), rtol=1e-4, atol=0)


def write(folder: Path, tensors: Mapping[str, Tensor]) -> Input:
    folder.mkdir()
    save_file(dict(tensors), folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    return Input(folder.name, str(folder))


def on_disk(base: Input, inputs: list[Input], folder: Path, options: Mapping[str, Any]) -> dict[str, Any]:
    table = CoefficientTable({"all": ("*",)}, {"alpha": np.array([[0.4]])})
    materialize(Merge(Recipe(base, tuple(inputs), "opcm", options), table), folder)
    state: dict[str, Any] = json.loads((folder / "evomerge.json").read_text())["state"]
    return state


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_model_can_be_added_later(tmp_path: Path, cut: int) -> None:
    base, *inputs = [write(tmp_path / f"m{index}", model) for index, model in enumerate(models(4))]
    final = on_disk(base, inputs, tmp_path / "together", {})
    state = on_disk(base, inputs[:cut], tmp_path / "before", {})
    assert state["earlier_models"] == cut
    after = on_disk(base, [Input("before", str(tmp_path / "before")), *inputs[cut:]], tmp_path / "after", state)
    together, apart = (load_file(tmp_path / name / "model.safetensors") for name in ("together", "after"))
    for name, tensor in together.items():
        torch.testing.assert_close(apart[name], tensor, rtol=0, atol=5e-6)
    assert after == pytest.approx(final, rel=1e-5)
    without = on_disk(base, [Input("before", str(tmp_path / "before")), *inputs[cut:]], tmp_path / "forgotten", {})
    assert cut == 1 or without["earlier_raw"] != pytest.approx(final["earlier_raw"], rel=1e-2)


def test_a_method_without_a_state_records_none(tmp_path: Path) -> None:
    base, other = [write(tmp_path / f"m{index}", model) for index, model in enumerate(models(1))]
    table = CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.4]])})
    assert materialize(Merge(Recipe(base, (other,), "linear"), table), tmp_path / "out").state is None


def test_a_new_scale_reuses_decompositions(monkeypatch: pytest.MonkeyPatch) -> None:
    made = models(2)
    engine, into = make_engine(made[0], made[1:]), {name: x.clone() for name, x in made[0].items()}
    engine.apply(make_merge("opcm", 2, {"scale": 1.0}), into)
    monkeypatch.setattr(torch.linalg, "eigh", None)
    engine.apply(make_merge("opcm", 2, {"scale": 0.5}), into)
    with pytest.raises(TypeError):
        engine.apply(make_merge("opcm", 2, {"alpha": 0.1}), into)


def test_invalid_coefficients_and_options_are_errors() -> None:
    for given in ({"alpha": 1.5}, {"alpha": -0.1}):
        with pytest.raises(MethodError, match="alpha must lie between 0 and 1"):
            opcm(models(2), **given)
    for option, value in (("earlier_models", 0), ("earlier_raw", 0.0), ("earlier_norm", -1.0)):
        with pytest.raises(MethodError, match=option):
            opcm(models(2), **{option: value})
