"""Searches by gradients on trained models: derivatives, kills in the middle of a descent, answers of baselines."""

import gc
import json
import os
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from evaluators import _strict_yaml as strict_yaml
from evomerge.bench import Bench
from evomerge.budget import evaluations
from evomerge.config import load_config
from evomerge.launch.plan import prepare
from evomerge.optimizers.base import OptimizerError
from evomerge.resident.gradients import CoefficientGradient
from evomerge.run import Run
from evomerge.search_examples import SearchExamples
from evomerge.study import Study
from evomerge.trial import Trial
from tests.conftest import TinyModels
from tests.evomerge.searches import evomerge, run_here

pytestmark = pytest.mark.timeout(3600)


def write_search(folder: Path, tiny: TinyModels, optimizer: object = "auto", **changes: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    evaluators = {"count": "multiple_choice", "sort": "exact_match"}
    settings: dict[str, object] = {
        "base": str(tiny.base),
        "experts": {name: str(tiny.experts[name]) for name in ("count", "sort")},
        "dtype": "float32",
        "space": {"kind": "auto", "ranges": {"weight": [0, 1]}},
        "tasks": {name: {"evaluator": kind, "file": str(tiny.tasks[name])} for name, kind in evaluators.items()},
        "optimizer": optimizer,
        "budget": {"trials": 60},
        "executor": "serial",
        "study": str(folder / "study"),
        **changes,
    }
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings))
    return file


def bench_of(file: Path) -> tuple[Bench, SearchExamples]:
    plan = prepare(load_config(file))
    return plan.spec(), plan.search_examples


def batch(examples: SearchExamples, size: int = 6) -> dict[str, tuple[str, ...]]:
    return {task: ids[:size] for task, ids in examples.ids.items()}


def loss_at(bench: Bench, x: np.ndarray, examples: dict[str, tuple[str, ...]], weights: dict[str, float]) -> float:
    outcome = bench.run(Trial(0, x, examples=examples, gradient=weights))
    assert outcome.failure is None, outcome.failure
    return sum(weights[task] * float(scores.values.mean()) for task, scores in outcome.scores.items())


def test_the_gradient_is_the_derivative_of_the_weighted_mean_loss_by_the_point(
    tiny: TinyModels, tmp_path: Path
) -> None:
    bench, examples = bench_of(write_search(tmp_path, tiny))
    assert bench.space.dimension > 30  # a coefficient per tensor
    weights, chosen = {"count": 0.75, "sort": 0.25}, batch(examples)
    x = bench.space.default()
    outcome = bench.run(Trial(0, x, examples=chosen, gradient=weights))
    assert outcome.gradient is not None
    assert {task: scores.example_ids for task, scores in outcome.scores.items()} == chosen
    rng = np.random.default_rng(0)
    for _ in range(4):
        direction = rng.standard_normal(len(x))
        step = 1e-3 * direction
        difference = loss_at(bench, x + step, chosen, weights) - loss_at(bench, x - step, chosen, weights)
        assert outcome.gradient @ direction == pytest.approx(difference / 2e-3, rel=0.02, abs=2e-3)


def test_a_candidate_leaves_no_tensor_to_the_garbage_collector(tiny: TinyModels, tmp_path: Path) -> None:
    """Python looks for cycles rarely, and the tensors in them would fill the memory of an overnight search."""
    bench, examples = bench_of(write_search(tmp_path, tiny))
    x, weights = bench.space.default(), {"count": 0.5, "sort": 0.5}
    trials = [Trial(0, x), Trial(1, x, examples=batch(examples), gradient=weights)]
    for trial in trials:
        bench.run(trial)  # compiled passes and prepared prompts are kept
    gc.collect()
    gc.disable()
    try:
        for trial in trials:
            assert bench.run(trial).failure is None
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert not [each for each in gc.garbage if type(each) is Tensor]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_a_gradient_leaves_the_worker_as_it_was(tiny: TinyModels, tmp_path: Path) -> None:
    bench, examples = bench_of(write_search(tmp_path, tiny))
    x = bench.space.default()
    before = bench.run(Trial(0, x)).scores
    bench.run(Trial(1, x, examples=batch(examples), gradient={"count": 0.5, "sort": 0.5}))
    assert not any(parameter.requires_grad for parameter in bench.model.network.parameters())
    assert all(parameter.grad is None for parameter in bench.model.network.parameters())
    after = bench.run(Trial(2, x)).scores
    for task, scores in before.items():
        assert scores.values.tolist() == after[task].values.tolist()


@pytest.mark.slow
def test_each_method_of_several_follows_its_own_gradient(tiny: TinyModels, tmp_path: Path) -> None:
    """A step of the second method moves its coordinates only; a method without gradients is searched by black box."""
    file = write_search(tmp_path, tiny, method=["task_arithmetic", "linear", "copa"], budget={"trials": 22})
    bench, examples = bench_of(file)
    assert bench.spec.space.kind == "layerwise"
    x, weights, chosen = bench.space.default(1), {"count": 0.75, "sort": 0.25}, batch(examples)
    outcome = bench.run(Trial(0, x, examples=chosen, gradient=weights))
    assert outcome.gradient is not None
    own = bench.space.part(1)
    assert np.flatnonzero(outcome.gradient).tolist() == list(range(own.start, own.stop))
    direction = outcome.gradient / np.abs(outcome.gradient).max()
    difference = loss_at(bench, x + 1e-3 * direction, chosen, weights) - loss_at(
        bench, x - 1e-3 * direction, chosen, weights
    )
    assert outcome.gradient @ direction == pytest.approx(difference / 2e-3, rel=0.02)
    run_here(file)
    run = Run(tmp_path / "study")
    steps = [entry.trial.x for entry in run.study.parts.values() if entry.trial.gradient is not None]
    assert {run.space.method_at(x) for x in steps if x is not None} == {0, 1}
    said = [data["text"] for kind, data in run.study.events if kind == "decided"]
    assert any(text.startswith("copa: Black-box search") for text in said)
    assert list(run.optimizer.decisions()[: len(said)]) == said


@pytest.fixture(scope="module")
def finished(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search by `auto` that ended by itself."""
    folder = tmp_path_factory.mktemp("auto")
    run_here(write_search(folder, tiny))
    return folder


def test_auto_beats_every_baseline_at_a_fraction_of_the_budget(finished: Path) -> None:
    run = Run(finished / "study")
    study = run.study
    assert evaluations(study) < 60
    steps = [entry for entry in study.parts.values() if entry.trial.gradient is not None]
    assert len(steps) > 90
    assert all(entry.outcome is not None and entry.outcome.gradient is not None for entry in steps)
    on_search = run.scored("search")
    assert on_search.preferred is not None
    best = on_search.preferred
    baselines = [point for point in on_search.points if not point.is_candidate]
    assert best.is_candidate
    means = {baseline.label: baseline.score.mean for baseline in baselines}
    assert best.score.mean > max(means.values()), means
    assert best.score.mean > means["uniform"] + 0.1
    decided = [str(data["text"]) for kind, data in study.events if kind == "decided"]
    assert decided == list(run.optimizer.decisions())  # a report replays what the search decided


def test_a_kill_in_the_middle_of_a_descent_changes_nothing(finished: Path, tiny: TinyModels, tmp_path: Path) -> None:
    whole = Study.read(finished / "study")
    ledger = (finished / "study" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    file = write_search(tmp_path, tiny)
    (tmp_path / "study").mkdir()
    # Cut after an ask: the step was running when the process died.
    cut = next(i for i, line in enumerate(ledger) if i > 150 and b'"kind":"asked"' in line)
    (tmp_path / "study" / "ledger.jsonl").write_bytes(b"".join(ledger[: cut + 1]))
    told = sum(b'"kind":"told"' in line for line in ledger[: cut + 1])
    with evomerge("search", file, "--resume", "--json") as driver:
        while len(Study.read(tmp_path / "study").ended) < told + 15 and driver.poll() is None:
            pass
        os.kill(driver.pid, 9)
    resumed = Study.read(tmp_path / "study")
    assert told + 15 <= len(resumed.ended) < len(whole.ended)
    for ours, theirs in zip(resumed.ended, whole.ended, strict=False):
        assert ours.trial.number == theirs.trial.number
        assert (ours.trial.x is None) == (theirs.trial.x is None)
        if ours.trial.x is not None and theirs.trial.x is not None:
            assert ours.trial.x.tobytes() == theirs.trial.x.tobytes()
        assert ours.trial.examples == theirs.trial.examples
        if ours.outcome is not None and ours.outcome.gradient is not None:
            assert theirs.outcome is not None
            assert theirs.outcome.gradient is not None
            assert ours.outcome.gradient.tobytes() == theirs.outcome.gradient.tobytes()


def test_generated_answers_of_baselines_are_the_targets_of_a_descent(finished: Path) -> None:
    study = Study.read(finished / "study")
    step = next(entry.trial for entry in study.parts.values() if entry.trial.gradient is not None)
    examples = SearchExamples.of_study(study, ["count", "sort"])
    assert examples is not None
    sent = examples.dispatched(study, step)
    assert not step.references
    assert set(sent.references) == {"count", "sort"}
    expert = next(e.outcome for e in study.told if e.trial.label == "parent:sort" and e.outcome is not None)
    accepted = dict(zip(expert.scores["sort"].example_ids, expert.scores["sort"].accepted or (), strict=True))
    assert step.examples is not None
    written = [name for name in step.examples["sort"] if accepted[name] is not None]
    assert written
    assert all(sent.references["sort"][name] == accepted[name] for name in written)


def test_hostile_references_do_not_mislead_a_search(tiny: TinyModels, tmp_path: Path) -> None:
    """The file's answers are spelled as no model writes them, and the metric accepts the models' spelling."""
    rows = [json.loads(line) for line in tiny.tasks["sort"].read_text().splitlines()]
    data = tmp_path / "hostile.jsonl"
    for row in rows:
        row["answer"] = [" ".join(str(row["answer"])), row["answer"]]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    file = write_search(tmp_path, tiny, optimizer={"kind": "gradient", "evaluations": 3})
    settings = strict_yaml.load(file.read_text(), source="search.yaml").data
    settings["tasks"]["sort"]["file"] = str(data)
    file.write_text(strict_yaml.dump(settings))
    run_here(file)
    front = Run(tmp_path / "study").scored("search")
    assert front.preferred is not None
    start = next(point for point in front.points if point.label == "uniform")
    assert front.preferred.is_candidate
    assert front.preferred.score.mean > start.score.mean


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"method": "arcee_fusion", "space": "uniform", "experts": ("sort",)}, "arcee_fusion has no gradient"),
        ({"objective": "retention"}, "objective: mean"),
    ],
)
def test_check_says_why_a_descent_cannot_begin(
    changes: dict[str, object], why: str, tiny: TinyModels, tmp_path: Path
) -> None:
    if "experts" in changes:
        changes = {**changes, "experts": {name: str(tiny.experts[name]) for name in changes["experts"]}}  # type: ignore[attr-defined]
    file = write_search(tmp_path, tiny, optimizer="gradient", **changes)
    with pytest.raises(OptimizerError, match=f"{why}.*optimizer: auto"):
        prepare(load_config(file))


@pytest.mark.slow
def test_two_workers_take_the_same_steps_as_one(tiny: TinyModels, tmp_path: Path) -> None:
    options = {"kind": "gradient", "evaluations": 3}
    points = []
    for name, executor in (("one", {}), ("two", {"executor": "ray", "workers": 2})):
        run_here(write_search(tmp_path / name, tiny, optimizer=options, **executor))
        study = Study.read(tmp_path / name / "study")
        points.append([e.trial.x.tobytes() for e in study.parts.values() if e.trial.x is not None])
    assert points[0] == points[1]
    assert len(points[0]) > 5


def test_a_gradient_that_runs_out_of_memory_is_computed_again_with_less(tiny: TinyModels, tmp_path: Path) -> None:
    bench, examples = bench_of(write_search(tmp_path, tiny))
    trial = Trial(0, bench.space.default(), examples=batch(examples), gradient={"count": 0.5, "sort": 0.5})
    plain = bench.run(trial)
    task = bench.evaluators["sort"]
    real, calls = task.loss, []

    def short(*arguments: object) -> object:
        calls.append(bench._sparing)
        if len(calls) == 1:
            raise MemoryError("no memory left")
        return real(*arguments)  # type: ignore[arg-type]

    task.loss = short  # type: ignore[method-assign,assignment]
    again = bench.run(trial.changed(number=1))
    assert calls == [False, True]
    assert again.failure is None
    assert plain.gradient is not None
    assert again.gradient == pytest.approx(plain.gradient, rel=1e-3, abs=1e-6)


def test_each_weight_is_contracted_once_for_all_tasks(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, examples = bench_of(write_search(tmp_path, tiny))
    real, contracted = CoefficientGradient.add, []

    def add(self: CoefficientGradient, name: str, gradient: Tensor) -> None:
        contracted.append(name)
        real(self, name, gradient)

    monkeypatch.setattr(CoefficientGradient, "add", add)
    bench.run(Trial(0, bench.space.default(), examples=batch(examples), gradient={"count": 0.5, "sort": 0.5}))
    assert len(contracted) == len(set(contracted)) > 10


def test_buffers_that_a_pass_changes_are_restored_between_tasks(tiny: TinyModels, tmp_path: Path) -> None:
    bench, examples = bench_of(write_search(tmp_path, tiny))
    network = bench.model.network
    frequencies = network.model.rotary_emb.inv_freq
    network.lm_head.register_forward_hook(lambda _, __, output: output * frequencies[:1])

    def change(*_: object) -> None:
        frequencies.mul_(1.5)

    network.register_forward_pre_hook(change)

    def gradient(*tasks: str) -> np.ndarray:
        chosen = {task: examples.ids[task][:2] for task in tasks}
        outcome = bench.run(Trial(0, bench.space.default(), examples=chosen, gradient=dict.fromkeys(chosen, 0.5)))
        assert outcome.failure is None, outcome.failure
        assert outcome.gradient is not None
        return outcome.gradient

    gradient("count", "sort")  # a task's first loss prepares with a pass of its own
    assert gradient("count", "sort") == pytest.approx(gradient("count") + gradient("sort"), rel=1e-4, abs=1e-6)
