import pytest
import torch

from tests.contracts.merge_method import MergeMethodContract, fixed, make_engine, make_merge, random_models


class TestAma(MergeMethodContract):
    name = "ama"
    n_inputs = 1
    values = fixed({"alpha": 0.3})
    one_hot = fixed({"alpha": 0.0})
    permutes = False  # there is one input
    hull = True


LINEAR = ("model.layers.0.mlp.up_proj.weight", "lm_head.weight")
OTHERS = ("model.embed_tokens.weight", "wte.weight", "model.layers.0.norm.weight", "model.layers.0.mlp.up_proj.bias")


@pytest.mark.parametrize("others", ["base", "merge"])
def test_only_linear_layers_are_merged_unless_told_otherwise(others: str) -> None:
    base, other = random_models(0, 1, torch.float32, (6, 8))
    shapes = {name: (..., 0) if "norm" in name or "bias" in name else (...,) for name in (*LINEAR, *OTHERS)}
    models = [{name: tensor[place].contiguous() for name, place in shapes.items()} for tensor in (base, other)]
    merge = make_merge("ama", 1, {"alpha": 0.25}, options={"others": others})
    for name, tensor in make_engine(models[0], models[1:]).stream(merge):
        a, b = (model[name] for model in models)
        share = 0.25 if name in LINEAR or others == "merge" else 1.0
        torch.testing.assert_close(tensor, share * a + (1 - share) * b)
        assert share != 1.0 or torch.equal(tensor, a)


def test_the_bases_share_is_alpha() -> None:
    base, other = random_models(0, 1, torch.float32)
    merge = make_merge("ama", 1, {"alpha": 1.0})
    assert torch.equal(dict(make_engine({"x": base}, [{"x": other}]).stream(merge))["x"], base)
