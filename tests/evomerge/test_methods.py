"""A search that chooses among merge methods: the first trials, the winner's recipe, resumption, refusals."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge import plugins
from evomerge.cli import app
from evomerge.config import ConfigError, load_config
from evomerge.launch.plan import prepare
from evomerge.merging.engine import MergeEngine
from evomerge.merging.method import MergeMethod
from evomerge.merging.recipe_models import open_models
from evomerge.optimizers._portfolio import Portfolio
from evomerge.recipe import Input, Merge, Recipe
from evomerge.results.coordinates import methods_of
from evomerge.results.methods import best_by_method, method_of
from evomerge.run import Run
from evomerge.study import Study
from evomerge.trial import Origin
from search_spaces.base import CoefficientTable
from tests.evomerge.forks import Fork
from tests.evomerge.searches import history, run_here
from tests.toys import NAMES, search_file, write_statistics, write_toys
from tests.waiting import CEILING, wait_until

METHODS = ["task_arithmetic", {"kind": "ties", "normalize": True}, "dare_ties"]
SPACE = {"kind": "layerwise", "ranges": {"weight": [0, 1], "density": [0.2, 1]}}


def write(folder: Path, methods: Any = METHODS, *, trials: int = 70, **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    settings = search_file(folder, **{"space": SPACE, **changes}, budget={"trials": trials})
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump({**settings, "method": methods}), encoding="utf-8")
    return file


def command(*arguments: object) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    return done.stdout


def refusal(file: Path) -> str:
    done = CliRunner().invoke(app, ["check", str(file)])
    assert done.exit_code != 0
    return " ".join(done.stderr.split())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The search file of a finished search; its models stay."""
    file = write(tmp_path_factory.mktemp("methods"))
    run_here(file)
    return file


def test_every_method_has_a_start_that_counts(finished: Path) -> None:
    first = [entry.trial.label for entry in Study.read(finished.parent / "study").told][:5]
    assert first == ["canary", "start", "start:ties", "start:dare_ties", "base"]
    told = json.loads(command("check", write(finished.parent / "other"), "--json"))
    assert (told["method"], told["dimension"]) == (["task_arithmetic", "ties", "dare_ties"], 1 + 10 + 25 + 20)
    assert told["planned"][:4] == ["canary", "start", "start:ties", "start:dare_ties"]
    assert told["coefficients"][:2] == ["method", "task_arithmetic: weight[embedding, a]"]


def test_the_winner_is_by_the_best_method_and_its_export_has_the_weights_that_were_scored(finished: Path) -> None:
    run = Run(finished.parent / "study")
    found = best_by_method(run.scored("search").points)
    assert {best.method for best, _ in found} == {"task_arithmetic", "ties", "dare_ties"}
    assert run.best.method == found[0][0].method != "task_arithmetic"
    recipe = run.recipe().recipe
    assert (recipe.method, dict(recipe.options)) == ("ties", {"normalize": True})
    out = finished.parent / "out"
    command("export", run.folder, "-o", out)
    bench = prepare(load_config(run.folder / "search.yaml")).spec()
    bench.engine.apply(run.recipe(), bench.model.tensors)
    exported = load_file(next(out.glob("*.safetensors")))
    for name, tensor in bench.model.tensors.items():
        assert exported[name].numpy().tobytes() == tensor.detach().numpy().tobytes()


def test_commands_name_the_method(finished: Path) -> None:
    folder = finished.parent / "study"
    points = json.loads(command("pareto", folder, "--json", "--split", "search"))["points"]
    assert {point.get("method") for point in points if point["kind"] == "candidate"} <= {
        "task_arithmetic",
        "ties",
        "dare_ties",
    }
    assert all("method" not in point for point in points if point["kind"] in ("base", "parent", "average"))
    status = json.loads(command("status", folder, "--json"))
    assert sum(each["candidates"] for each in status["methods"]) == sum(
        entry.trial.origin in (Origin.SEARCH, Origin.START, Origin.RECOMMENDED) and entry.trial.split == "search"
        for entry in Study.read(folder).told
    )
    assert "set aside" in " ".join(status["decisions"])
    picked = json.loads(command("pick", folder, "--json"))
    assert picked["method"] == status["methods"][0]["method"]
    command("report", folder)


def test_the_optimizer_is_rebuilt_from_the_ledger(finished: Path) -> None:
    run = Run(finished.parent / "study")
    assert isinstance(run.optimizer, Portfolio)
    recorded = [data["text"] for kind, data in run.study.events if kind == "decided"]
    assert list(run.optimizer.decisions()[: len(recorded)]) == recorded  # after it, the recommendation is scored
    assert recorded


def test_only_the_methods_own_coordinates_move(finished: Path) -> None:
    run = Run(finished.parent / "study")
    ties = [e.trial for e in run.study.told if method_of(methods_of(run.study), e.trial) == "ties"]
    points = np.stack([trial.x for trial in ties if trial.x is not None])
    moving = np.ptp(points, axis=0) > 0
    assert moving[run.space.part(1)].all()
    assert moving.sum() == run.space.sizes[1]
    assert all(end.name.startswith("ties: ") for end in run.selection.range_ends)


@pytest.mark.slow
def test_a_killed_search_goes_on_as_if_it_had_not_been(finished: Path, tmp_path: Path) -> None:
    file = write(tmp_path)
    ledger = tmp_path / "study" / "ledger.jsonl"
    with Fork("search", file, silent=True) as driver:
        wait_until(lambda: ledger.exists() and ledger.read_bytes().count(b'"told"') > 45)
        driver.kill()
        driver.wait(CEILING)
    assert len(Study.read(tmp_path / "study").told) < len(Study.read(finished.parent / "study").told)
    run_here(file, "--resume")

    def told(folder: Path) -> list[tuple[object, ...]]:
        return [row for row in history(folder / "study") if row[0] not in ("opened", "stopped")]

    assert told(tmp_path) == told(finished.parent)


def test_a_method_that_does_not_fit_the_models_is_refused_with_its_place(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, ["task_arithmetic", "slerp"], space="layerwise"))
    assert "search.yaml:" in said
    assert "method.1: slerp merges exactly 1 model(s) into the base; got 2" in said
    said = refusal(write(tmp_path, ["task_arithmetic", {"kind": "ties", "normalise": True}]))
    assert "method.1.normalise: " in said
    assert "Did you mean 'normalize'?" in said
    said = refusal(write(tmp_path, ["task_arithmetic", "fisher"], space="layerwise"))
    assert "method.1: fisher needs the statistics" in said
    said = refusal(write(tmp_path, ["task_arithmetic", "ties"], optimizer="asha"))
    assert "optimizer: asha divides the budget" in said


def test_mistakes_in_the_list_are_found_when_the_file_is_read(tmp_path: Path) -> None:
    for methods, said in (
        ([], "a list of several to choose from; got"),
        (["ties", "ties"], "'ties' is listed twice"),
        (["ties", "tie"], "method.1: No merge method named 'tie'"),
        (["ties", 3], "expected a name"),
    ):
        with pytest.raises(ConfigError, match=said):
            load_config(write(tmp_path, methods))
    assert load_config(write(tmp_path, ["ties"])).identity() == load_config(write(tmp_path, "ties")).identity()
    twice = load_config(write(tmp_path, ["ties", {"kind": "ties", "normalize": True}, "linear"]))
    assert list(twice.recipes()) == ["ties-1", "ties-2", "linear"]
    assert dict(twice.recipes()["ties-2"].options) == {"normalize": True}


def test_ranges_apply_to_the_methods_that_have_the_parameter(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, space={"kind": "layerwise", "ranges": {"densty": [0, 1]}}))
    assert "space: No parameter named 'densty' in any of task_arithmetic, ties, dare_ties" in said
    fixed = {"kind": "layerwise", "ranges": {"weight": [0.3, 0.3], "density": [0.2, 1]}}
    said = refusal(write(tmp_path, ["task_arithmetic", "ties"], space=fixed))
    assert "method.0: task_arithmetic has no coefficient to search" in said


def test_a_start_is_that_of_its_own_method(finished: Path, tmp_path: Path) -> None:
    """Another method starts at its defaults; a start by none of the methods is refused."""
    start = tmp_path / "start.yaml"
    command("export", finished.parent / "study", "--recipe-only", "-o", start)
    method = Run(finished.parent / "study").recipe().recipe.method
    write_toys(tmp_path / "models")
    space = {**SPACE, "start": str(start)}
    plan = prepare(load_config(write(tmp_path, ["task_arithmetic", method], space=space)))
    began, plain = plan.planned[2], plan.planned[1]
    assert plan.space.merge(began.x).table.at("model.norm.weight")["weight"].tolist() != [0.5, 0.5]
    assert plan.space.merge(plain.x).table.at("model.norm.weight")["weight"].tolist() == [0.5, 0.5]
    said = refusal(write(tmp_path, ["task_arithmetic", "linear"], space={"kind": "layerwise", "start": str(start)}))
    assert f"merges by {method}, and the search chooses from task_arithmetic, linear" in said


def test_a_front_over_several_methods(tmp_path: Path) -> None:
    file = write(tmp_path, trials=45, objective="pareto", optimizer="nsga2")
    run_here(file)
    run = Run(tmp_path / "study")
    assert {point.method for point in run.scored("search").points if point.is_candidate} >= {"task_arithmetic", "ties"}


def test_methods_share_an_engine_without_a_trace(tmp_path: Path) -> None:
    """Caches per tensor outlive a candidate: whatever was merged before, a merge has the bits of a fresh engine."""
    base, experts = write_toys(tmp_path)
    statistics = write_statistics(tmp_path, experts)
    inputs = tuple(Input(name, str(path), statistics=str(statistics[name])) for name, path in experts.items())
    merges = []
    for name in plugins.names("merge method"):
        method = plugins.load("merge method", name, MergeMethod)
        if method.min_inputs <= len(inputs) <= (method.max_inputs or len(inputs)) and not name.startswith("lora_"):
            recipe = Recipe(Input("base", str(base)), inputs, name)
            merges.append(Merge(recipe, CoefficientTable({"all": tuple(NAMES)}, {}), seed=1))
    assert len(merges) > 35

    def merged(engine: MergeEngine, merge: Merge) -> dict[str, bytes]:
        into = {name: torch.empty(4, 6) for name in NAMES}
        engine.apply(merge, into)
        return {name: tensor.numpy().tobytes() for name, tensor in into.items()}

    alone = [merged(open_models(merge.recipe).engine(), merge) for merge in merges]
    shared = open_models(merges[0].recipe).engine()
    for order in (merges, merges[::-1]):
        for merge in order:
            assert merged(shared, merge) == alone[merges.index(merge)], merge.recipe.method
