"""A candidate's score is that of its export, whatever the network keeps between forward passes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evomerge.bench import Bench, BenchSpec, build_evaluator, split_ids
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.output.materialize import materialize
from evomerge.plugins import PluginSpec
from evomerge.recipe import Input, Recipe
from evomerge.resident.network_state import NetworkState
from evomerge.resident.resident import load_resident
from evomerge.trial import CANARY, Outcome, Trial
from tests.evaluators.tiny_llava import build_llava
from tests.evomerge.networks import write_network

READ_TOKENS = {"function": "tests.evomerge.networks:read_tokens", "examples": [str(n) for n in range(17, 40)]}
READ_PIXELS = {"function": "tests.evomerge.networks:read_pixels", "examples": [str(n) for n in range(12)]}
#: Kinds that change something: weights, a rotary buffer; and one whose buffers are merged like weights.
KINDS: dict[str, dict[str, Any]] = {"rwkv": READ_TOKENS, "llama_dynamic": READ_TOKENS, "resnet": READ_PIXELS}


def bench_of(folder: Path, kind: str, options: dict[str, Any]) -> Bench:
    paths = write_network(folder, kind)
    inputs = tuple(Input(name, str(paths[name])) for name in ("a", "b"))
    recipe = Recipe(Input("base", str(paths["base"])), inputs, "linear", options={"normalize": False})
    spec = BenchSpec(recipe, PluginSpec("uniform"), {"mine": PluginSpec("callable", options)}, device="cpu")
    return Bench(spec)


def run(bench: Bench, x: Sequence[float], split: str = "search", label: str = "") -> Outcome:
    outcome = bench.run(Trial(0, np.array(x), split=split, label=label))
    assert outcome.failure is None, outcome.failure.traceback
    return outcome


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_scores_are_those_of_the_export_whatever_was_scored_before(tmp_path: Path, kind: str) -> None:
    bench = bench_of(tmp_path, kind, KINDS[kind])
    x = [0.3, 0.8]
    run(bench, x, label=CANARY)
    run(bench, [0.3, 0.1], "report")
    again = run(bench, x, "select").scores["mine"]

    out = tmp_path / "out"
    materialize(bench.merge_of(Trial(0, np.array(x))), out)
    loaded = load_resident(Checkpoint.open(out), out, None, "cpu")
    evaluator = build_evaluator(PluginSpec("callable", KINDS[kind]))
    wanted = evaluator.score(loaded, split_ids(evaluator, "select", bench.spec.split))
    np.testing.assert_array_equal(again.values, wanted.values)
    assert len(set(wanted.values)) > 1


def canary_of(bench: Bench) -> str:
    outcome = bench.run(Trial(0, np.array([0.3, 0.8]), label=CANARY))
    return "" if outcome.failure is None else outcome.failure.message


def test_a_network_that_counts_its_passes_is_refused_by_name(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "llama", READ_TOKENS)
    assert canary_of(bench) == ""
    passes = []

    def count(_: Any, __: Any, output: Any) -> None:
        passes.append(1)
        output.logits += len(passes)

    bench.model.network.register_forward_hook(count)
    assert "LlamaForCausalLM computes different outputs when one candidate is scored again" in canary_of(bench)


def test_what_is_computed_from_weights_on_loading_is_refused(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "llama", READ_TOKENS)
    head = bench.model.network.lm_head
    scale = head.weight.norm()  # of the base's weights, not of those that are merged into them
    head.register_forward_hook(lambda _, __, output: output * scale)
    assert "loaded anew, as its export will be" in canary_of(bench)


def test_a_module_that_was_left_in_training_is_put_back(tmp_path: Path) -> None:
    bench = bench_of(tmp_path, "resnet", READ_PIXELS)
    before = run(bench, [0.3, 0.8]).scores["mine"]
    bench.model.network.train()
    with torch.no_grad():
        bench.model.network(pixel_values=torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    np.testing.assert_array_equal(run(bench, [0.3, 0.8]).scores["mine"].values, before.values)


def test_restoring_unchanged_buffers_writes_nothing() -> None:
    network = torch.nn.BatchNorm1d(3)
    state, mean = NetworkState(network, ()), network.running_mean
    assert mean is not None
    version = mean._version
    assert not state.changed
    state.restore()
    assert mean._version == version, "backward passes refuse buffers that were written to"
    mean.add_(1.0)
    assert state.changed
    state.restore()
    assert not state.changed
    assert mean.tolist() == [0.0, 0.0, 0.0]


def test_hidden_states_are_recorded_once_however_often_a_state_is_restored(tmp_path: Path) -> None:
    network = build_llava(tmp_path, seed=0).network
    state = NetworkState(network, ())
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = []
    for _ in range(3):
        state.restore()
        seen.append(network.get_image_features(pixel_values=pixels).pooler_output[0])
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[0], seen[2])
