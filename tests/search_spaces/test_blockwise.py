from search_spaces.blockwise import Blockwise
from tests.contracts.search_space import SearchSpaceContract, model


class TestBlockwise(SearchSpaceContract):
    space = Blockwise
    per_block = True

    def test_components_have_groups_in_every_block(self) -> None:
        groups = self.build(model(11)).decode(self.build(model(11)).default()).groups
        assert list(groups)[:4] == ["embedding", "block.0.attention", "block.0.mlp", "block.0.norm"]
        assert list(groups)[-4:] == ["block.10.norm", "norm", "head", "other"]
        assert groups["block.10.attention"] == (
            "model.layers.10.self_attn.k_proj.weight",
            "model.layers.10.self_attn.q_proj.weight",
        )
        assert groups["norm"] == ("model.norm.weight",)
