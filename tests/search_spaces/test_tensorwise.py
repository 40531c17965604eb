from search_spaces.tensorwise import Tensorwise
from tests.contracts.search_space import SearchSpaceContract, model


class TestTensorwise(SearchSpaceContract):
    space = Tensorwise

    def test_every_tensor_has_its_own_group_in_order_of_depth(self) -> None:
        layout = model(11)
        space = self.build(layout)
        groups = space.decode(space.default()).groups
        assert all(members == (group,) for group, members in groups.items())
        assert len(groups) == len(layout.names)
        assert list(groups)[:2] == ["model.embed_tokens.weight", "model.layers.0.self_attn.k_proj.weight"]
        blocks = [int(group.split(".")[2]) for group in groups if ".layers." in group]
        assert blocks == sorted(blocks)
        assert list(groups)[-3:] == ["model.norm.weight", "lm_head.weight", "steering_vector"]

    def test_patterns_match_tensors(self) -> None:
        space = self.build(freeze={"*norm*": "default"}, tie=[["*.q_proj.*", "*.k_proj.*"]])
        assert not [name for name in space.names if "norm" in name]
        assert [name for name in space.names if "_proj.*" in name] == [
            f"{parameter}[*.q_proj.*+*.k_proj.*{expert}]"
            for parameter, experts in (("weight", 3), ("density", 3), ("t", 1))
            for expert in ((", math", ", code", ", chat") if experts == 3 else ("",))
        ]
