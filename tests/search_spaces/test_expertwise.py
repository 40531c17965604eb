from search_spaces.base import Layout
from search_spaces.expertwise import Expertwise
from tests.contracts.search_space import SearchSpaceContract


class TestExpertwise(SearchSpaceContract):
    space = Expertwise
    per_block = True

    def test_every_expert_has_a_group_in_every_block(self) -> None:
        parts = ("self_attn.q_proj", *(f"block_sparse_moe.experts.{n}.w{m}" for n in (10, 2) for m in (1, 2)))
        others = ("block_sparse_moe.gate", "mlp.shared_experts.up_proj", "mlp.experts.gate_up_proj")
        names = [f"model.layers.{block}.{part}.weight" for block in (0, 1) for part in (*parts, *others)]
        space = self.build(Layout.from_names([*names, "lm_head.weight"]))
        groups = space.decode(space.default()).groups
        assert list(groups)[:4] == ["block.0.attention", "block.0.mlp", "block.0.expert.2", "block.0.expert.10"]
        assert groups["block.1.expert.10"] == tuple(n for n in names if ".1.block_sparse_moe.experts.10." in n)
        assert groups["block.0.mlp"] == tuple(f"model.layers.0.{part}.weight" for part in others)

    def test_experts_that_cannot_be_told_apart_are_noted(self) -> None:
        experts = {"numbered": "experts.0.w1", "fused": "experts.gate_up_proj", "dense": "up_proj"}
        notes = {}
        for kind, part in experts.items():
            names = [f"model.layers.{n}.mlp.{p}.weight" for n in (0, 1) for p in ("gate", "shared_experts.w1", part)]
            notes[kind] = self.build(Layout.from_names(names)).notes
        assert notes["numbered"] == ()
        (fused,) = notes["fused"]
        assert fused.startswith(
            "2 tensors hold all experts of their block in one (such as model.layers.0.mlp.experts.g"
        )
        (dense,) = notes["dense"]
        assert "blockwise" in dense
