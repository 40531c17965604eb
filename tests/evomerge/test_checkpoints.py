"""A search over the checkpoints of one run: order, baselines, directions, losses, resumption."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.config import ConfigError, load_config
from evomerge.launch.plan import prepare
from evomerge.merging.recipe_models import open_models
from evomerge.merging.run_baselines import best_of, losses_of, moving_average
from evomerge.merging.run_directions import directions
from evomerge.run import Run
from evomerge.study import Study
from tests.evomerge.searches import run_here
from tests.toys import NAMES, search_file

STEPS = (80, 90, 100, 110, 1000)
LOSSES = (0.9, 0.4, 0.2, 0.3, 0.5)


def write_run(folder: Path, *, losses: tuple[float, ...] | None = LOSSES) -> Path:
    """Checkpoints that drift in one direction and scatter around it, as `transformers.Trainer` names them."""
    rng = np.random.default_rng(3)
    begin, drift = ({name: rng.normal(size=(4, 6)) for name in NAMES} for _ in range(2))
    log = []
    for number, step in enumerate(STEPS):
        place = folder / f"checkpoint-{step}"
        place.mkdir(parents=True)
        weights = {name: begin[name] + 0.1 * number * drift[name] + 0.02 * rng.normal(size=(4, 6)) for name in NAMES}
        tensors = {name: torch.tensor(array, dtype=torch.float32) for name, array in weights.items()}
        save_file(tensors, place / "model.safetensors")
        if losses is not None:
            log += [{"step": step, "loss": 2 * losses[number]}, {"step": step, "eval_loss": losses[number]}]
            (place / "trainer_state.json").write_text(json.dumps({"global_step": step, "log_history": log}))
    return folder


def write(folder: Path, **changes: object) -> Path:
    if not (folder / "run").exists():
        write_run(folder / "run")
    settings = search_file(folder, **{"space": "auto", **changes})
    settings.pop("base"), settings.pop("experts"), settings.pop("method")
    settings = {"checkpoints": "run/checkpoint-*", **settings, **changes}
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = write(tmp_path_factory.mktemp("checkpoints"), budget={"trials": 40})
    run_here(file)
    return file


def test_checkpoints_are_in_training_order_and_the_last_is_the_base(tmp_path: Path) -> None:
    config = load_config(write(tmp_path))
    assert [Path(path).name for path in config.checkpoints] == [f"checkpoint-{step}" for step in STEPS]
    assert Path(config.base.path).name == "checkpoint-1000"
    assert [model.name for model in config.experts] == [f"checkpoint-{step}" for step in STEPS[:-1]]
    again = tmp_path / "again.yaml"
    config.write(again)
    assert load_config(again).identity() == config.identity()


def test_only_first_last_best_and_averages_are_baselines(finished: Path) -> None:
    labels = [entry.trial.label for entry in Study.read(finished.parent / "study").told]
    first = labels[: labels.index("search")]
    assert first[:5] == ["canary", "start", "base", "parent:checkpoint-80", "parent:checkpoint-100"]
    averages = ["uniform", "last:2", "last:4", *(f"ema:{rate}" for rate in (0.5, 0.7, 0.9, 0.95, 0.99))]
    assert first[5:] == [*averages, "metrics_weighted:1", "metrics_weighted:4"]


def test_baselines_are_the_averages_that_they_are_called(tmp_path: Path) -> None:
    plan = prepare(load_config(write(tmp_path)))
    bench = plan.spec()
    models = [open_models(plan.spec.recipe).base, *open_models(plan.spec.recipe).inputs.values()]
    tensors = [models[k].tensor("model.norm.weight").double().numpy() for k in (1, 2, 3, 4, 0)]  # in training order
    wanted = {
        "uniform": np.mean(tensors, axis=0),
        "last:2": np.mean(tensors[-2:], axis=0),
        "metrics_weighted:1": np.average(tensors, axis=0, weights=1 / np.array(LOSSES)),
        "base": tensors[-1],
        "parent:checkpoint-100": tensors[2],
    }
    average = tensors[0]
    for tensor in tensors[1:]:
        average = 0.7 * average + 0.3 * tensor
    wanted["ema:0.7"] = average
    for label, weights in wanted.items():
        trial = next(trial for trial in plan.planned if trial.label == label)
        if trial.x is None:  # one checkpoint may lie outside of the space; the optimizer learns from the averages
            assert label == "parent:checkpoint-100"
        for merge in (trial.merge, *([] if trial.x is None else [plan.space.merge(trial.x)])):
            bench.engine.apply(merge, bench.model.tensors)
            assert bench.model.tensors["model.norm.weight"].numpy() == pytest.approx(weights, abs=1e-6)


def test_directions_are_orthogonal_in_weights_and_longest_first(tmp_path: Path) -> None:
    plan = prepare(load_config(write(tmp_path)))
    assert plan.spec.space.kind == "span"
    basis = np.array(plan.spec.space.options["basis"])
    sources = open_models(plan.spec.recipe)
    deltas = np.stack(
        [
            np.concatenate([(model.tensor(n) - sources.base.tensor(n)).double().numpy().ravel() for n in NAMES])
            for model in sources.inputs.values()
        ]
    )
    products = (basis @ deltas) @ (basis @ deltas).T
    lengths = np.sqrt(np.diag(products))
    assert (np.diff(lengths) < 0).all()
    assert products / np.outer(lengths, lengths) == pytest.approx(np.eye(4), abs=1e-6)
    assert directions(sources.base, list(sources.inputs.values()))[1] == pytest.approx(lengths)
    rough, _ = directions(sources.base, list(sources.inputs.values()), sample=60)
    assert abs(rough[0] @ basis[0]) > 0.98


def test_equal_checkpoints_give_no_direction(tmp_path: Path) -> None:
    plan = prepare(load_config(write(tmp_path)))
    sources = open_models(plan.spec.recipe)
    rows, lengths = directions(sources.base, [sources.base, next(iter(sources.inputs.values()))])
    assert (len(rows), len(lengths)) == (1, 1)
    assert abs(rows[0]) == pytest.approx([0, 1])


def test_the_directions_of_a_study_stay_those_that_it_began_with(finished: Path) -> None:
    run = Run(finished.parent / "study")
    recorded = next(data["basis"] for kind, data in run.study.events if kind == "coordinates")
    assert prepare(load_config(finished)).spec.space.options["basis"] == recorded
    assert run.space.spaces[0].names[0] == "weight[all, direction 1]"
    values = run.recipe().table.values["weight"]
    assert values.shape == (1, 4)
    assert run.best.score.mean >= max(point.score.mean for point in run.scored("report").points)


def test_losses_come_from_the_trainers_state(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    places = [folder / f"checkpoint-{step}" for step in STEPS]
    assert losses_of(places) == LOSSES
    assert best_of(LOSSES) == 2
    (places[1] / "trainer_state.json").write_text(
        json.dumps({"global_step": 90, "log_history": [{"step": 90, "loss": 0.8}]})
    )
    assert losses_of(places) == (1.8, 0.8, 0.4, 0.6, 1.0)  # training losses, which all have
    (places[1] / "trainer_state.json").unlink()
    assert losses_of(places)[1] is None
    assert best_of(losses_of(places)) is None
    (places[1] / "trainer_state.json").write_text("[not JSON")
    assert losses_of(places)[1] is None


def test_without_losses_the_best_is_not_known(tmp_path: Path) -> None:
    write_run(tmp_path / "run", losses=None)
    labels = [trial.label for trial in prepare(load_config(write(tmp_path))).planned]
    assert [label for label in labels if label.startswith("parent")] == ["parent:checkpoint-80"]
    assert not any(label.startswith("metrics_weighted") for label in labels)


def test_moving_averages_sum_to_one() -> None:
    for rate in (0.0, 0.5, 0.99, 1.0):
        assert moving_average(6, rate).sum() == pytest.approx(1)
    assert moving_average(3, 0.0).tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"checkpoints": "run/other-*"},
            "search.yaml:1: checkpoints: needs at least two checkpoints; 'run/other-*' names no folder",
        ),
        ({"checkpoints": "run/checkpoint-80"}, "'run/checkpoint-80' names only checkpoint-80"),
        ({"checkpoints": ["run/base", "run/checkpoint-80"]}, "has a checkpoint named 'base', which is what the last"),
        ({"checkpoints": 3}, "expected a pattern such as RUN/checkpoint-"),
        ({"base": "run/checkpoint-80"}, "takes the place of `base` and `experts`; remove 'base'"),
        ({"method": "ties"}, "method: must be task_arithmetic"),
        ({"method": {"kind": "task_arithmetic", "normalize": True}}, "without `normalize`"),
        ({"checkpoints": ["run/checkpoint-80", "run/checkpoint-80"]}, "'checkpoint-80' appears twice"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, **changes), files=True)
    assert said in str(caught.value)


def test_a_missing_checkpoint_of_a_list_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, checkpoints=["run/checkpoint-80", "run/checkpoint-85"])
    with pytest.raises(ConfigError, match=r"checkpoints\.1: .*checkpoint-85 does not exist"):
        load_config(file, files=True)
    done = CliRunner().invoke(app, ["check", str(write(tmp_path))])
    assert done.exit_code == 0, done.output
    assert "4 coefficients to search (auto: span)" in done.stdout
