from search_spaces.base import Layout
from search_spaces.layerwise import Layerwise
from tests.contracts.search_space import PLAIN, SearchSpaceContract, model


class TestLayerwise(SearchSpaceContract):
    space = Layerwise
    per_block = True

    def test_groups_are_in_order_of_depth(self) -> None:
        blocks = [f"block.{n}" for n in range(12)]
        assert self.build(model(12)).groups == ("embedding", *blocks, "norm", "head", "other")

    def test_a_model_without_blocks_has_the_groups_outside_of_blocks(self) -> None:
        assert self.build(PLAIN).groups == ("other",)
        named = Layout.from_names(["wte.weight", "strange", "lm_head.weight"])
        assert self.build(named).groups == ("embedding", "head", "other")
