"""`backend: vllm` where vLLM is not installed: what the search file may say, what is refused, what a study records."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import EvaluatorError
from evomerge.cli import app
from evomerge.config import ConfigError, SearchConfig, load_config
from evomerge.launch.plan import prepare
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.plugins import PluginSpec
from evomerge.resident.vllm_engine import is_installed
from evomerge.study import ConfigurationChanged, Study
from tests.conftest import TinyModels
from tests.evomerge.merging.adapters import bare_lora

Configured = Callable[..., SearchConfig]
#: The machines of a cluster are not asked for vLLM.
ELSEWHERE = {"backend": "vllm", "executor": "ray", "ray_address": "10.0.0.1:6379"}


@pytest.fixture
def configured(tiny: TinyModels, tmp_path: Path) -> Configured:
    def make(**changes: object) -> SearchConfig:
        data = {
            "base": str(tiny.base),
            "experts": {name: str(tiny.experts[name]) for name in ("count", "sort")},
            "tasks": {"sort": {"evaluator": "exact_match", "file": str(tiny.tasks["sort"]), "max_new_tokens": 8}},
            "optimizer": "random",
            "budget": {"trials": 12},
            "executor": "serial",
            "device": "cpu",
            "study": str(tmp_path / "study"),
        }
        file = tmp_path / "search.yaml"
        file.write_text(strict_yaml.dump({**data, **changes}))
        return load_config(file)

    return make


def test_transformers_is_the_default_and_changes_no_identity(configured: Configured) -> None:
    default, named = configured(), configured(backend="transformers")
    assert default.backend is None
    assert named.identity() == default.identity()
    assert "backend" not in default.identity()
    assert prepare(named).spec.backend is None


def test_another_backend_is_another_study(configured: Configured, tmp_path: Path) -> None:
    config = configured()
    Study.create(config.study, config.identity(), {}).close()
    other = configured(**ELSEWHERE)
    assert other.identity()["backend"] == "vllm"
    with pytest.raises(ConfigurationChanged, match=r"backend: \(not there\) -> vllm"):
        prepare(other)
    options = configured(backend={"kind": "vllm", "max_num_seqs": 8})
    assert options.identity()["backend"] == {"kind": "vllm", "max_num_seqs": 8}
    options.write(tmp_path / "again.yaml")
    assert load_config(tmp_path / "again.yaml") == options


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("sglang", "backend: expected transformers or vllm"),
        (["vllm"], "backend: expected transformers or vllm"),
        ({"kind": "transformers", "x": 1}, "backend: transformers takes no options; got x"),
        ({"kind": "vllm", "dtype": "float16"}, "backend: dtype of vLLM follows from the search"),
    ],
)
def test_what_a_search_file_may_not_say(configured: Configured, backend: object, said: str) -> None:
    with pytest.raises(ConfigError, match=rf"search.yaml:\d+: {said}"):
        configured(backend=backend)


@pytest.mark.skipif(is_installed(), reason="vLLM is installed")
def test_check_says_how_to_install_it(configured: Configured, tmp_path: Path) -> None:
    configured(backend="vllm")
    done = CliRunner().invoke(app, ["check", str(tmp_path / "search.yaml")])
    assert done.exit_code == 2
    assert "backend: vLLM is not installed in this environment. Install it as docs/tasks.md says" in " ".join(
        done.output.split()
    )
    assert not (tmp_path / "study").exists()


def test_the_workers_learn_the_length_of_the_texts(configured: Configured) -> None:
    spec = prepare(configured(**ELSEWHERE)).spec
    # "<s>sort 806 =" and 8 tokens more
    assert spec.backend == PluginSpec("vllm", {"max_model_len": 19})
    given = {**ELSEWHERE, "backend": {"kind": "vllm", "max_model_len": 60}}
    assert prepare(configured(**given)).spec.backend == PluginSpec("vllm", {"max_model_len": 60})
    short = {**ELSEWHERE, "backend": {"kind": "vllm", "max_model_len": 18}}
    with pytest.raises(
        ConfigError, match="max_model_len is 18, but a prompt with its continuation has up to 19 tokens"
    ):
        prepare(configured(**short))


STACKING = {**ELSEWHERE, "backend": {"kind": "vllm", "enable_lora": True}}


@pytest.fixture
def of_adapters(configured: Configured, tiny: TinyModels, tmp_path: Path) -> Configured:
    """A search over adapters of rank 2 and 3 on the attention of the base."""
    base = Checkpoint.open(tiny.base)
    experts = {}
    for name, rank in (("count", 2), ("sort", 3)):
        tensors = {}
        for weight in (each for each in base.names if "q_proj" in each):
            module, (rows, columns) = weight.removesuffix(".weight"), base.shape(weight)
            tensors |= {f"{module}.lora_A.weight": torch.ones(rank, columns)}
            tensors |= {f"{module}.lora_B.weight": torch.ones(rows, rank)}
        experts[name] = str(bare_lora(tmp_path / "adapters" / name, tensors, r=rank))
    return partial(configured, experts=experts)


def test_candidates_are_adapters_if_experts_are(of_adapters: Configured, configured: Configured) -> None:
    plan = prepare(of_adapters(**STACKING))
    assert plan.spec.stacked
    said = "vLLM keeps the base's weights and gets every candidate as one adapter of rank 5, without a merge"
    assert any(said in note for note in plan.notes)
    assert prepare(of_adapters(**{**STACKING, "backend": "vllm", "device": "auto"})).spec.stacked
    assert not prepare(of_adapters()).spec.stacked
    assert not any("vLLM" in note for note in prepare(configured()).notes)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"backend": "vllm"}, "its build for CPUs computes adapters more slowly"),
        ({"backend": {"kind": "vllm", "enable_lora": False}}, "enable_lora is false"),
        ({"method": "ties"}, "ties is not always a sum of the adapters' changes to the base"),
        ({"method": {"kind": "linear", "normalize": False}}, "linear is not always a sum"),
        ({"tasks": ("exact_match", "multiple_choice")}, "task 'multiple_choice' needs the merged weights themselves"),
        ({"experts": ("full",)}, "full is no adapter"),
    ],
)
def test_why_candidates_are_merged(
    of_adapters: Configured, tiny: TinyModels, changes: dict[str, Any], why: str
) -> None:
    """The way that is used is in a note; adapters that are demanded are refused."""
    if "tasks" in changes:
        files = {"exact_match": str(tiny.tasks["sort"]), "multiple_choice": str(tiny.tasks["count"])}
        changes = {"tasks": {name: {"evaluator": name, "file": file} for name, file in files.items()}}
    if "experts" in changes:
        changes = {"experts": {"full": str(tiny.experts["sort"])}}
    given = {**ELSEWHERE, **changes}
    plan = prepare(of_adapters(**given))
    assert not plan.spec.stacked
    assert any("vLLM's weights are replaced by those of every candidate, since " + why in note for note in plan.notes)
    if "backend" not in changes:
        with pytest.raises(ConfigError, match=rf"backend: enable_lora asks for .*, but {why}"):
            prepare(of_adapters(**{**STACKING, **changes}))


def test_linear_is_stacked_where_its_weights_add_up_to_one(of_adapters: Configured) -> None:
    assert prepare(of_adapters(**STACKING, method="linear")).spec.stacked


def test_a_study_keeps_the_form_of_its_candidates(of_adapters: Configured) -> None:
    config = of_adapters(**STACKING)
    Study.create(config.study, config.identity(), {}).close()
    plan = prepare(config)
    assert not plan.spec.stacked
    assert any("since the study was begun so" in note for note in plan.notes)


def test_a_copy_of_the_weights_is_reckoned_with(configured: Configured) -> None:
    more, less = prepare(configured(**ELSEWHERE)).needs, prepare(configured()).needs
    assert more.worker > less.worker + less.export
    assert more.device >= less.device + less.export


def test_a_search_that_generates_nothing_is_refused(configured: Configured, tiny: TinyModels) -> None:
    tasks = {"count": {"evaluator": "multiple_choice", "file": str(tiny.tasks["count"])}}
    with pytest.raises(ConfigError, match=r"search.yaml:\d+: backend: vllm generates text, but no task does"):
        prepare(configured(**ELSEWHERE, tasks=tasks))


def test_a_model_over_several_gpus_is_refused(configured: Configured) -> None:
    with pytest.raises(ConfigError, match=r"backend: vLLM holds a model on one GPU here, but gpus_per_worker is 2"):
        prepare(configured(**ELSEWHERE, gpus_per_worker=2))


@pytest.mark.parametrize("device", ["mps", "cuda:1"])
def test_a_device_that_vllm_would_not_use_is_refused(configured: Configured, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"backend: vLLM runs on .* and device is {device}"):
        prepare(configured(**ELSEWHERE, device=device))


def test_settings_of_generation_are_refused_with_their_task(
    configured: Configured, tiny: TinyModels, tmp_path: Path
) -> None:
    lm_eval = {
        "task": "drawn",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tiny.tasks["sort"])}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{prompt}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"], "do_sample": True, "min_p": 0.1, "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "drawn.yaml").write_text(json.dumps(lm_eval))
    tasks = {"drawn": {"evaluator": "lm_eval_task", "task": str(tmp_path / "drawn.yaml")}}
    prepare(configured(tasks=tasks))
    with pytest.raises(EvaluatorError, match=r"tasks.drawn: `backend: vllm` follows temperature.* also sets min_p"):
        prepare(configured(**ELSEWHERE, tasks=tasks))


def test_a_parent_with_another_configuration_is_refused(
    configured: Configured, tiny: TinyModels, tmp_path: Path
) -> None:
    parent = tmp_path / "sort"
    parent.mkdir()
    for file in tiny.experts["sort"].iterdir():
        if file.is_file():
            (parent / file.name).write_bytes(file.read_bytes())
    settings = json.loads((parent / "config.json").read_text())
    (parent / "config.json").write_text(json.dumps({**settings, "rms_norm_eps": 0.01}))
    experts = {"count": str(tiny.experts["count"]), "sort": str(parent)}
    with pytest.raises(ConfigError, match=r"backend: vLLM scores every model with the base's.*sort: rms_norm_eps is"):
        prepare(configured(**ELSEWHERE, experts=experts))
