"""A prompt scores the same whatever else is in its batch, also on networks that read padding."""

from pathlib import Path
from typing import Any

import pytest
import torch

from evaluators._generation import Generator
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.resident.resident import load_resident
from tests.evomerge.networks import write_network

PROMPTS = ["there were 7 of the", "there were 31 of the", "and then", "these 5 words", "there is a lot of this here"]


@pytest.mark.parametrize("kind", ["rwkv", "recurrent_gemma", "mamba", "llama"])
def test_continuations_do_not_depend_on_the_batch(tmp_path: Path, kind: str) -> None:
    folder = write_network(tmp_path, kind, 0)["base"]
    model = load_resident(Checkpoint.open(folder), folder, None, "cpu")
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.2)
    together = Generator(model, PROMPTS * 2, 4, ())
    first = together.run(model.network, range(len(PROMPTS) * 2))  # finds out how this network can be batched
    sizes: list[int] = []

    def count(network: Any, arguments: Any, options: dict[str, Any]) -> None:
        sizes.append(len(options["input_ids"] if "input_ids" in options else arguments[0]))

    model.network.register_forward_pre_hook(count, with_kwargs=True)
    found = together.run(model.network, range(len(PROMPTS) * 2))
    assert found == first
    assert max(sizes) > 1, "prompts of one length are still read together"
    alone = [Generator(model, [prompt], 4, ()).run(model.network, [0])[0] for prompt in PROMPTS]
    assert [each.text for each in found] == [each.text for each in alone] * 2
    if kind in ("mamba", "llama"):  # padding is masked, so that lengths are mixed
        assert max(sizes) > 2
