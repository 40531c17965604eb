"""16-bit models on CPUs without 16-bit instructions: rounded weights in a float32 network, the export's own numbers."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from evaluators import _strict_yaml as strict_yaml
from evaluators.model_size import ModelSize
from evomerge.config import SearchConfig, load_config
from evomerge.launch.launch import run
from evomerge.launch.placement import COMPUTE_DTYPE, scoring_dtype
from evomerge.launch.plan import prepare
from evomerge.merging.engine import MergeError
from evomerge.merging.output.materialize import materialize
from evomerge.merging.recipe_models import open_models
from evomerge.resident.resident import ResidentModel, compute_dtype
from evomerge.study import ConfigurationChanged, Study
from tests.conftest import TinyModels
from tests.contracts.merge_method import make_merge
from tests.evomerge.merging.test_engine import W, engine_of, models, two_groups

Configured = Callable[..., SearchConfig]


@pytest.fixture
def configured(tiny: TinyModels, tmp_path: Path) -> Configured:
    def make(**changes: object) -> SearchConfig:
        names = list(tiny.experts)[:2]
        data = {
            "base": str(tiny.base),
            "experts": {name: str(tiny.experts[name]) for name in names},
            "dtype": "bfloat16",
            "tasks": {"count": {"evaluator": "multiple_choice", "file": str(tiny.tasks["count"]), "limit": 90}},
            "optimizer": "random",
            "budget": {"trials": 7},
            "executor": "serial",
            "device": "cpu",
            "study": str(tmp_path / "study"),
        }
        file = tmp_path / "search.yaml"
        file.write_text(strict_yaml.dump({**data, **changes}))
        return load_config(file)

    return make


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", ["task_arithmetic", "iso_c"])
def test_a_wider_place_holds_the_rounded_values(dtype: torch.dtype, method: str) -> None:
    """Tile by tile, whole tensor by whole tensor, and (`b`) copied because no model changes it."""
    made = models()
    for model in made[1:]:
        model["b"] = made[0]["b"]
    merge = two_groups(W) if method == "task_arithmetic" else make_merge(method, 3, {"weight": [0.3]})
    engine = engine_of(made, dtype=dtype)
    into = {name: tensor.clone() for name, tensor in made[0].items()}
    engine.apply(merge, into)
    for name, tensor in engine.stream(merge):
        assert tensor.dtype == (dtype if tensor.is_floating_point() else torch.int64)
        assert torch.equal(into[name], tensor.to(into[name].dtype))


def test_an_overflow_of_float16_is_found_in_float32_too() -> None:
    made = [{"x": torch.full((5,), 100.0)}, *({"x": torch.full((5,), 60000.0)} for _ in range(3))]
    engine = engine_of(made, dtype=torch.float16)
    with pytest.raises(MergeError, match=r"5 non-finite values in x \(dtype float16\)\. If this is an overflow"):
        engine.apply(make_merge("task_arithmetic", 3, {"weight": [0.4] * 3}), {"x": torch.zeros(5)})


X86, ARM = {"avx2": True, "avx512_bf16": False}, {"neon": True, "fp16_arith": True}


@pytest.mark.parametrize(
    ("stored", "device", "capabilities", "chosen"),
    [
        ([torch.bfloat16], "cpu", X86, "float32"),
        ([torch.bfloat16], "cpu", {**X86, "avx512_bf16": True}, "stored"),
        ([torch.bfloat16], "cpu", {**X86, "amx_bf16": True}, "stored"),
        ([torch.float16], "cpu", {**X86, "avx512_bf16": True}, "float32"),
        ([torch.float16], "cpu", ARM, "stored"),
        ([torch.bfloat16], "cpu", ARM, "float32"),
        ([torch.float32, torch.bfloat16], "cpu", X86, "float32"),
        ([torch.float32], "cpu", {}, "stored"),
        ([torch.bfloat16], "cuda", {}, "stored"),
        ([torch.bfloat16], "mps", {}, "stored"),
    ],
)
def test_float32_where_the_cpu_emulates(
    stored: list[torch.dtype], device: str, capabilities: dict[str, bool], chosen: str
) -> None:
    assert compute_dtype(stored, device, capabilities) == chosen


def test_a_candidate_scores_what_its_export_scores_in_float32(configured: Configured, tmp_path: Path) -> None:
    plan = prepare(configured(compute_dtype="float32"))
    assert any("rounded to bfloat16 and scored by a float32 network" in note for note in plan.notes)
    bench = plan.spec()
    assert bench.model.network.dtype == torch.float32
    start = next(trial for trial in plan.planned if trial.label == "start")
    (scores,) = bench.run(start).scores.values()
    materialize(bench.merge_of(start), tmp_path / "export")
    for dtype in ("bfloat16", "auto"):
        assert AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=dtype).dtype == torch.bfloat16
    export = AutoModelForCausalLM.from_pretrained(tmp_path / "export", dtype=torch.float32).eval()
    live = bench.model.network.state_dict()
    for name, tensor in export.state_dict().items():
        assert torch.equal(tensor, live[name]), name
    (expected,) = (
        evaluator.score(ResidentModel({}, export, bench.model.tokenizer), scores.example_ids)
        for evaluator in bench.evaluators.values()
    )
    np.testing.assert_array_equal(np.concatenate(scores.choices or ()), np.concatenate(expected.choices or ()))
    small = {name: dtype.itemsize for name, dtype in bench.model.dtypes.items()}
    assert set(small.values()) == {2}
    zeros = sum(int((tensor == 0).sum()) for tensor in bench.model.tensors.values())
    count = sum(tensor.numel() for tensor in bench.model.tensors.values())
    assert ModelSize().score(bench.model).mean == 2 * (count - zeros)


def test_a_study_keeps_the_type_that_it_was_begun_with(configured: Configured) -> None:
    config = configured()
    suits = scoring_dtype(config, open_models(config.recipe()).base, None)[0]
    other = "stored" if suits == "float32" else "float32"
    environment = {COMPUTE_DTYPE: other}
    Study.create(config.study, config.identity(), environment).close()
    plan = prepare(config)
    assert plan.spec.compute_dtype == other
    wanted = "scored in bfloat16, which this CPU emulates" if other == "stored" else "scored by a float32 network"
    assert any(wanted in note for note in plan.notes)
    with pytest.raises(ConfigurationChanged, match=r"compute_dtype: \(not there\) -> float32"):
        run(configured(compute_dtype="float32"), plan, resume=True)


def test_studies_from_before_it_was_recorded_keep_that_of_their_weights(configured: Configured) -> None:
    config = configured()
    Study.create(config.study, config.identity(), {"torch": "2.13"}).close()
    assert prepare(config).spec.compute_dtype == "stored"


def test_the_study_records_it(configured: Configured) -> None:
    config = configured(compute_dtype="float32")
    run(config, prepare(config), resume=False)
    assert Study.read(config.study).environment[COMPUTE_DTYPE] == "float32"
