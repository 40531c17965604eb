from search_spaces.uniform import Uniform
from tests.contracts.search_space import INPUTS, SMALL, SearchSpaceContract


class TestUniform(SearchSpaceContract):
    space = Uniform
    per_block = False

    def test_one_coordinate_per_input_and_one_for_a_shared_parameter(self) -> None:
        space = self.build()
        assert space.names == (
            *(f"{parameter}[all, {name}]" for parameter in ("weight", "density") for name in INPUTS),
            "t[all]",
        )
        assert space.decode(space.default()).groups == {"all": SMALL.names}
