"""Coefficients of a model with another number of blocks: what is at the same relative depth."""

import numpy as np
import pytest

from search_spaces._depth_transfer import carried_over
from search_spaces.base import CoefficientTable, Layout, SpaceError


def layout(blocks: int, parts: tuple[str, ...] = ("mlp", "self_attn")) -> Layout:
    inner = (f"model.layers.{n}.{part}.weight" for n in range(blocks) for part in parts)
    return Layout.from_names(["model.embed_tokens.weight", *inner, "lm_head.weight"])


def table(blocks: int) -> CoefficientTable:
    """One expert whose weight is the block's number, 7 in the embedding and 9 in the head; one shared number."""
    names = layout(blocks).names
    numbers = [float(n.split(".")[2]) if "layers" in n else 7.0 if "embed" in n else 9.0 for n in names]
    values = {"weight": np.stack([numbers, np.negative(numbers)], axis=1), "t": np.array(numbers)[:, None]}
    return CoefficientTable({name: (name,) for name in names}, values)


@pytest.mark.parametrize(
    ("theirs", "ours", "wanted"),
    [
        (3, 5, [0.0, 0.5, 1.0, 1.5, 2.0]),
        (5, 3, [0.0, 2.0, 4.0]),
        (4, 2, [0.0, 3.0]),
        (1, 3, [0.0, 0.0, 0.0]),
        (3, 1, [0.0]),
    ],
)
def test_blocks_get_what_is_at_their_relative_depth(theirs: int, ours: int, wanted: list[float]) -> None:
    found = carried_over(table(theirs), layout(ours))
    for part in ("mlp", "self_attn"):
        rows = [found.at(f"model.layers.{n}.{part}.weight") for n in range(ours)]
        assert [row["weight"].tolist() for row in rows] == [[value, -value] for value in wanted]
        assert [row["t"].tolist() for row in rows] == [[value] for value in wanted]
    assert found.at("model.embed_tokens.weight")["weight"].tolist() == [7.0, -7.0]
    assert found.at("lm_head.weight")["weight"].tolist() == [9.0, -9.0]


def test_what_has_no_counterpart_is_refused() -> None:
    with pytest.raises(SpaceError, match="expected the same stacks with another number of blocks"):
        carried_over(table(3), layout(3))
    with pytest.raises(SpaceError, match=r"no coefficients for 'model\.layers\.0\.norm\.weight'"):
        carried_over(table(3), layout(5, ("norm",)))
    other = Layout.from_names(["encoder.block.0.mlp.weight", "encoder.block.1.mlp.weight"])
    with pytest.raises(SpaceError, match=r"model \(3\), those of the model encoder \(2\)"):
        carried_over(table(3), other)
