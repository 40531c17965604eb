"""Where gradients are read: along the blocks of a stack, as search spaces see them."""

from evomerge.merging.mergekit.places import places


def depths(*names: str) -> list[float]:
    return [round(place.depth, 3) for place in places(names, None)]


def test_gradients_run_through_the_stages_of_a_stack() -> None:
    block = "resnet.encoder.stages.{}.layers.{}.layer.0.convolution.weight"
    names = [block.format(stage, layer) for stage, layer in ((0, 0), (0, 1), (1, 0), (1, 1), (1, 2))]
    assert depths("resnet.embedder.embedder.convolution.weight", *names) == [0, 0, 0.25, 0.5, 0.75, 1]
    assert [place.in_source(0) for place in places(names, None)] == names


def test_every_stack_runs_from_its_first_block_to_its_last() -> None:
    names = [
        f"{stack}.block.{n}.layer.0.q.weight" for stack, size in (("encoder", 2), ("decoder", 3)) for n in range(size)
    ]
    assert depths(*names) == [0, 1, 0, 0.5, 1]


def test_numbers_before_the_block_stay_in_a_source() -> None:
    (place,) = places(["towers.1.layers.0.mlp.weight"], [1])
    assert place.in_source(3) == "towers.1.layers.3.mlp.weight"
