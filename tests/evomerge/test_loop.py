"""The loop: order of events, exact resume, failures, budgets, stopping. Real bench, real weights, real ledger."""

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evomerge.bench import Bench, BenchSpec
from evomerge.budget import Budget, candidates
from evomerge.execution.base import ExecutorError
from evomerge.execution.serial import SerialExecutor
from evomerge.loop import PER_SPARE, Ending, Progress, StopRequest, score_all, search
from evomerge.objective import Floor, Objective
from evomerge.optimizers.base import FloatArray, Observation
from evomerge.optimizers.cma_es import CmaEs
from evomerge.plugins import PluginSpec
from evomerge.recipe import Input, Recipe
from evomerge.study import Study
from evomerge.study.writer import Files
from evomerge.trial import CANARY, Outcome, Trial
from tests.toys import write_toys

OBJECTIVE = Objective({"one": 1.0})
SEED = 5


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    base, experts = write_toys(tmp_path_factory.mktemp("toys"))
    inputs = tuple(Input(name, str(path)) for name, path in experts.items())
    return Recipe(Input("base", str(base)), inputs, "task_arithmetic")


def make_spec(recipe: Recipe, **synthetic: object) -> BenchSpec:
    task = PluginSpec("synthetic", {"n_examples": 100, **synthetic})
    return BenchSpec(recipe, PluginSpec("layerwise"), {"one": task})


def plan(bench: Bench) -> list[Trial]:
    start = bench.space.default()
    return [Trial(0, start, label=CANARY, seed=SEED), Trial(0, start, label="start", seed=SEED)]


def run(
    folder: Path,
    spec: BenchSpec,
    budget: Budget,
    *,
    stop: StopRequest | None = None,
    progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[Ending, Study]:
    executor = SerialExecutor(spec)
    bench = spec()
    study = Study.open(folder) if (folder / "ledger.jsonl").exists() else Study.create(folder, {}, {})
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    ending = search(study, optimizer, executor, OBJECTIVE, plan(bench), budget, seed=SEED, stop=stop, progress=progress)
    study.close()
    executor.close()
    return ending, study


def history(study: Study) -> list[tuple[object, ...]]:
    return [
        (e.trial.number, e.trial.label, None if e.trial.x is None else e.trial.x.tobytes(), e.losses)
        for e in study.told
    ]


def test_a_search_spends_its_budget_and_improves(models: Recipe, tmp_path: Path) -> None:
    ending, study = run(tmp_path / "s", make_spec(models), Budget(trials=80))
    assert ending.kind == "done"
    assert candidates(study) == 80
    assert [e.trial.label for e in study.told[:3]] == [CANARY, "start", "search"]
    losses = [e.losses[0] for e in study.told if e.losses]
    assert min(losses[40:]) < min(losses[:10])


def test_a_search_cut_anywhere_goes_on_as_if_it_had_not_been(models: Recipe, tmp_path: Path) -> None:
    spec = make_spec(models)
    _, whole = run(tmp_path / "whole", spec, Budget(trials=40))
    for trials in (1, 2, 3, 11, 12, 30, 40):
        run(tmp_path / "cut", spec, Budget(trials=trials))
    _, cut = run(tmp_path / "cut", spec, Budget(trials=40))
    assert history(cut) == history(whole)


@pytest.mark.fault(
    "F2", "a search ends after recording a proposal", "the resumed search runs it, coefficients and number unchanged"
)
def test_a_trial_asked_before_a_crash_is_run_again_as_it_was(models: Recipe, tmp_path: Path) -> None:
    spec = make_spec(models)
    _, whole = run(tmp_path / "whole", spec, Budget(trials=20))
    run(tmp_path / "cut", spec, Budget(trials=9))
    with closing(Study.open(tmp_path / "cut")) as study:
        asked = whole.entries[study.next_number].trial
        study.ask(asked)
    _, cut = run(tmp_path / "cut", spec, Budget(trials=20))
    assert history(cut) == history(whole)


@pytest.mark.fault("F16", "both experts are the same model", "paused before the first candidate")
def test_identical_models_never_start_a_search(models: Recipe, tmp_path: Path) -> None:
    same = replace(models, inputs=tuple(replace(i, path=models.base.path) for i in models.inputs))
    ending, study = run(tmp_path / "s", make_spec(same), Budget(trials=10))
    assert ending.kind == "paused"
    assert "same weights" in ending.message
    assert candidates(study) == 0


def test_a_failed_canary_is_tried_again_on_resume(models: Recipe, tmp_path: Path) -> None:
    same = replace(models, inputs=tuple(replace(i, path=models.base.path) for i in models.inputs))
    run(tmp_path / "s", make_spec(same), Budget(trials=10))
    ending, study = run(tmp_path / "s", make_spec(models), Budget(trials=10))
    assert ending.kind == "done"
    assert [e.trial.label for e in study.told[:3]] == [CANARY, CANARY, "start"]


def test_one_failure_is_recorded_and_the_search_goes_on(models: Recipe, tmp_path: Path) -> None:
    ending, study = run(tmp_path / "s", make_spec(models, fail=0.2), Budget(trials=40))
    assert ending.kind == "done"
    failed = [e for e in study.told if e.outcome is not None and e.outcome.failure is not None]
    assert 2 <= len(failed) <= 16
    assert all(entry.losses is None for entry in failed)
    assert candidates(study) == 40


class Failing:
    """A bench whose evaluations fail from some trial on, the way a broken disk or driver would make them."""

    def __init__(self, bench: Bench, since: int) -> None:
        self._bench = bench
        self._since = since

    def run(self, trial: Trial) -> Outcome:
        if trial.number >= self._since:
            raise OSError("disk on fire")
        return self._bench.run(trial)


def failing(folder: Path, spec: BenchSpec, fails: Callable[[Trial], Exception | None]) -> tuple[Ending, Study]:
    """A search whose bench raises what `fails` gives for a trial."""

    class Raises(Failing):
        def run(self, trial: Trial) -> Outcome:
            error = fails(trial)
            if error is not None:
                raise error
            return self._bench.run(trial)

    bench = spec()
    study = Study.open(folder) if (folder / "ledger.jsonl").exists() else Study.create(folder, {}, {})
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    executor = SerialExecutor(lambda: Raises(spec(), 0))
    ending = search(study, optimizer, executor, OBJECTIVE, plan(bench), Budget(trials=100), seed=SEED)
    study.close()
    return ending, study


def test_five_failures_of_a_kind_in_a_row_pause_the_study(models: Recipe, tmp_path: Path) -> None:
    ending, study = failing(
        tmp_path / "s", make_spec(models), lambda t: OSError("disk on fire") if t.number >= 8 else None
    )
    assert ending.kind == "paused"
    assert "5 failures in a row (5 OSError); the first: OSError: disk on fire\nTraceback" in ending.message
    assert len(study.told) == 8 + 5
    assert study.events[-1][0] == "paused"


def test_failures_of_alternating_kinds_pause_the_study(models: Recipe, tmp_path: Path) -> None:
    kinds = (KeyError("even"), ValueError("odd"))
    ending, study = failing(tmp_path / "s", make_spec(models), lambda t: kinds[t.number % 2] if t.number >= 3 else None)
    assert (ending.kind, len(study.told)) == ("paused", 3 + 5)
    assert ending.message.startswith(
        "5 failures in a row (3 ValueError, 2 KeyError); the first: ValueError: odd\nTraceback"
    )


def test_more_than_half_of_the_last_twenty_failing_pauses_the_study(models: Recipe, tmp_path: Path) -> None:
    spec = make_spec(models)
    ending, study = failing(tmp_path / "s", spec, lambda t: OSError("now and then") if t.number % 5 < 3 else None)
    assert (ending.kind, len(study.told)) == ("paused", 1), "the canary fails"
    ending, study = failing(tmp_path / "t", spec, lambda t: OSError("now and then") if t.number % 5 > 1 else None)
    assert ending.kind == "paused"
    assert ending.message.startswith("11 of the last 19 trials failed (11 OSError)")
    ending, study = failing(tmp_path / "u", spec, lambda t: OSError("every other") if t.number % 2 else None)
    assert (ending.kind, candidates(study)) == ("done", 100), "no more than half"


def test_a_search_in_which_nothing_has_scores_is_paused_however_small(models: Recipe, tmp_path: Path) -> None:
    bench, study = make_spec(models)(), Study.create(tmp_path / "s", {}, {})
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    executor = SerialExecutor(lambda: Failing(bench, since=1))
    ending = search(study, optimizer, executor, OBJECTIVE, plan(bench), Budget(trials=3), seed=SEED)
    assert ending.kind == "paused"
    assert ending.message.startswith("no candidate has scores (3 OSError); the first: OSError: disk on fire")


def hungry(model: object, failures: str) -> list[float]:
    """An evaluator under which memory runs out as many times as the file `failures` has lines."""
    left = Path(failures).read_text(encoding="utf-8").splitlines()
    if left:
        Path(failures).write_text("\n".join(left[1:]), encoding="utf-8")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
    return [float(sum(tensor.sum() for tensor in model.tensors.values()))]  # type: ignore[attr-defined]


@pytest.mark.slow
@pytest.mark.fault(
    "F11", "an evaluator raises CUDA's error twice", "paused with advice; the candidate is scored on resume"
)
def test_memory_that_runs_out_is_no_failure_of_a_candidate(models: Recipe, tmp_path: Path) -> None:
    file = tmp_path / "failures"
    task = PluginSpec("callable", {"function": "tests.evomerge.test_loop:hungry", "failures": str(file)})
    spec = replace(make_spec(models), tasks={"one": task})
    file.write_text("")
    run(tmp_path / "s", spec, Budget(trials=3))
    file.write_text("once\n")
    ending, study = run(tmp_path / "s", spec, Budget(trials=6))
    assert (ending.kind, len([e for e in study.told if e.losses])) == ("done", 6), "scored once more"
    for lines, told in ((2, 6), (2, 7)):
        file.write_text("again\n" * lines)
        ending, study = run(tmp_path / "s", spec, Budget(trials=9))
        assert ending.kind == ("paused" if told == 6 else "done")
        if told == 6:
            assert ending.message.startswith("memory ran out twice while trial 7 was scored: CUDA out of memory.")
            assert "`batch_tokens`" in ending.message
            assert [trial.number for trial in study.pending] == [7]
    assert [e.trial.number for e in study.told if e.losses is None] == [0, 7], (
        "again on resume: it may be the candidate"
    )


def test_baselines_that_a_systematic_fault_took_are_scored_on_resume(models: Recipe, tmp_path: Path) -> None:
    bench, study = make_spec(models)(), Study.create(tmp_path / "s", {}, {})
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    broken, whole = SerialExecutor(lambda: Failing(bench, since=1)), SerialExecutor(lambda: bench)
    planned = [*baselines(bench), *(t.changed(label=f"task_arithmetic:{t.label}") for t in baselines(bench)[2:])]
    ending = search(study, optimizer, broken, OBJECTIVE, planned, Budget(trials=20), seed=SEED)
    assert (ending.kind, candidates(study)) == ("paused", 5)
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    ending = search(study, optimizer, whole, OBJECTIVE, planned, Budget(trials=20), seed=SEED)
    assert ending.kind == "done"
    scored = [entry.trial.label for entry in study.told if entry.losses is not None]
    assert scored[: len(planned) - 1] == [trial.label for trial in planned[1:]], "but for the canary"


def test_an_executor_that_breaks_pauses_the_study(models: Recipe, tmp_path: Path) -> None:
    class Lost(SerialExecutor):
        def next_outcome(self, timeout: float | None = None) -> Outcome | None:
            if self._waiting is not None and self._waiting.number == 4:
                raise ExecutorError("no worker answers")
            return super().next_outcome(timeout)

    spec = make_spec(models)
    bench, study = spec(), Study.create(tmp_path / "s", {}, {})
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    ending = search(study, optimizer, Lost(spec), OBJECTIVE, plan(bench), Budget(trials=20), seed=SEED)
    assert (ending.kind, ending.message) == ("paused", "no worker answers")
    assert study.events[-1][1]["reason"] == "no worker answers"
    assert [trial.number for trial in study.pending] == [4], "it is run again on resume"


@pytest.mark.fault("F13", "scores are NaN, infinite or missing", "the optimizer hears of failures, not of numbers")
def test_no_number_from_a_failed_or_empty_score_reaches_the_optimizer(models: Recipe, tmp_path: Path) -> None:
    spec = make_spec(models)

    class Empty(Failing):
        def run(self, trial: Trial) -> Outcome:
            outcome = self._bench.run(trial)
            if trial.number % 3 != 2:
                return outcome
            blank = {t: replace(s, values=np.full(len(s.values), np.nan)) for t, s in outcome.scores.items()}
            return outcome.changed(scores=blank)

    bench = spec()
    study = Study.create(tmp_path / "s", {}, {})
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    executor = SerialExecutor(lambda: Empty(spec(), 0))
    ending = search(study, optimizer, executor, OBJECTIVE, plan(bench), Budget(trials=30), seed=SEED)
    assert ending.kind == "done"
    kinds = {e.outcome.failure.kind for e in study.told if e.outcome is not None and e.outcome.failure is not None}
    assert kinds == {"nonfinite"}
    assert sum(e.losses is None for e in study.told if e.trial.label != CANARY) == 10


def test_one_interrupt_drains_and_the_study_goes_on_later(models: Recipe, tmp_path: Path) -> None:
    spec, stop = make_spec(models), StopRequest()

    def interrupt(progress: Progress) -> None:
        if len(progress.study.told) == 7:
            stop.level = 1

    ending, study = run(tmp_path / "s", spec, Budget(trials=20), stop=stop, progress=interrupt)
    assert ending.kind == "stopped"
    assert not study.pending
    _, rest = run(tmp_path / "s", spec, Budget(trials=20))
    _, whole = run(tmp_path / "whole", spec, Budget(trials=20))
    assert history(rest) == history(whole)


def test_a_second_interrupt_leaves_running_work_to_the_next_session(models: Recipe, tmp_path: Path) -> None:
    spec, stop = make_spec(models), StopRequest()

    def interrupt(progress: Progress) -> None:
        if len(progress.study.told) == 7 and progress.busy:
            stop.level = 2

    ending, study = run(tmp_path / "s", spec, Budget(trials=20), stop=stop, progress=interrupt)
    assert ending.kind == "stopped"
    assert len(study.pending) == 1
    _, rest = run(tmp_path / "s", spec, Budget(trials=20))
    _, whole = run(tmp_path / "whole", spec, Budget(trials=20))
    assert history(rest) == history(whole)


@pytest.mark.fault(
    "F35", "sessions run on a clock that the test turns", "hours add up over sessions, by monotonic time"
)
def test_hours_are_counted_over_all_sessions(tmp_path: Path) -> None:
    now = [0.0]
    study = Study.create(tmp_path / "s", {}, {}, clock=lambda: now[0])
    now[0] = 1800.0
    study.event("tick")
    study.close()
    again = Study.open(tmp_path / "s", clock=lambda: now[0])
    now[0] += 1801.0
    assert Budget(hours=1).spent(again)
    assert not Budget(hours=1.1).spent(again)
    again.close()


def baselines(bench: Bench) -> list[Trial]:
    """The parents after canary and start, without points of their own."""
    names = ("base", "parent:a", "parent:b")
    points = (0.0, 0.25, 0.75)
    merges = [bench.merge_of(Trial(0, np.full(bench.space.dimension, point), seed=SEED)) for point in points]
    return plan(bench) + [Trial(0, None, merge=m, label=n, seed=SEED) for n, m in zip(names, merges, strict=True)]


class Ahead(SerialExecutor):
    """Two trials at a time; of two the parent ends last, of two parents the earlier one."""

    def __init__(self, spec: BenchSpec) -> None:
        super().__init__(spec)
        self._held: list[Trial] = []

    @property
    def slots(self) -> int:
        return 2

    def submit(self, trial: Trial) -> None:
        self._held.append(trial)

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        if not self._held:
            return None
        self._held.sort(key=lambda trial: (trial.origin.is_parent, -trial.number))
        super().submit(self._held.pop(0))
        return super().next_outcome(timeout)


def run_relative(folder: Path, spec: BenchSpec, trials: int, executor: SerialExecutor | None = None) -> Study:
    executor = executor or SerialExecutor(spec)
    bench = spec()
    study = Study.open(folder) if (folder / "ledger.jsonl").exists() else Study.create(folder, {}, {})
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    objective = Objective({"one": 1.0}, kind="chebyshev")
    ending = search(study, optimizer, executor, objective, baselines(bench), Budget(trials=trials), seed=SEED)
    assert ending.kind == "done", ending.message
    study.close()
    return study


def test_a_search_that_is_cut_among_the_parents_goes_on_with_the_same_candidates(
    models: Recipe, tmp_path: Path
) -> None:
    spec = make_spec(models)
    whole = run_relative(tmp_path / "whole", spec, 16)
    for trials in (1, 2, 3, 4, 5, 9):
        run_relative(tmp_path / "cut", spec, trials)
    assert history(run_relative(tmp_path / "cut", spec, 16)) == history(whole)


def test_no_candidate_is_asked_for_before_the_last_parent_has_ended(models: Recipe, tmp_path: Path) -> None:
    spec = make_spec(models)
    study = run_relative(tmp_path / "s", spec, 12, Ahead(spec))
    assert candidates(study) == 12
    order = (tmp_path / "s" / "ledger.jsonl").read_text().splitlines()
    told = {label: n for n, line in enumerate(order) for label in [_told_label(study, line)] if label}
    asked = min(n for n, line in enumerate(order) if '"asked"' in line and '"label":"search"' in line.replace(" ", ""))
    assert max(told[label] for label in ("base", "parent:a", "parent:b")) < asked


def _told_label(study: Study, line: str) -> str:
    record = json.loads(line)
    return study.entries[record["data"]["number"]].trial.label if record.get("kind") == "told" else ""


def test_when_all_parents_fail_a_relative_search_pauses(models: Recipe, tmp_path: Path) -> None:
    spec = make_spec(models)

    class Orphans(Failing):
        def run(self, trial: Trial) -> Outcome:
            if trial.origin.is_parent:
                raise OSError(f"no {trial.label}")
            return self._bench.run(trial)

    bench = spec()
    study = Study.create(tmp_path / "s", {}, {})
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    executor = SerialExecutor(lambda: Orphans(spec(), 0))
    objective = Objective({"one": 1.0}, keep={"one": Floor(0.1)})
    ending = search(study, optimizer, executor, objective, baselines(bench), Budget(trials=30), seed=SEED)
    assert (ending.kind, candidates(study)) == ("paused", 4)
    assert "Every parent failed" in ending.message
    kind, data = study.events[-1]
    assert (kind, data["reason"]) == ("paused", ending.message.partition("\n")[0])
    assert data["trials"] == [2, 3, 4]
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    repaired = SerialExecutor(spec)
    ending = search(study, optimizer, repaired, objective, baselines(bench), Budget(trials=30), seed=SEED)
    assert (ending.kind, candidates(study)) == ("done", 30), "a resume scores the parents again"


class Content(CmaEs):
    """Wants nothing while three candidates of its own are pending or told."""

    def wants(self, pending: Mapping[int, FloatArray]) -> bool:
        return len(pending) + sum(told.proposed for told in self._told.values()) < 3


@pytest.mark.parametrize("executor", [SerialExecutor, Ahead])
def test_a_search_ends_when_its_optimizer_wants_nothing_more(
    models: Recipe, tmp_path: Path, executor: type[SerialExecutor]
) -> None:
    spec = make_spec(models)
    bench = spec()
    study = Study.create(tmp_path / "s", {}, {})
    optimizer = Content(bench.space.dimension, 1, SEED, bench.space.default())
    ending = search(study, optimizer, executor(spec), OBJECTIVE, plan(bench), Budget(trials=50), seed=SEED)
    assert (ending.kind, candidates(study)) == ("done", 1 + 3)
    assert not study.pending


def keyed(trial: Trial) -> bytes | None:
    return None if trial.x is None or trial.label == CANARY else trial.split.encode() + trial.x.tobytes()


def twice(bench: Bench) -> list[Trial]:
    """Canary, start, and a baseline that is the start."""
    canary, start = plan(bench)
    return [canary, start, start.changed(merge=bench.merge_of(start), label="uniform")]


class Counting:
    """A bench that notes what it runs; the first trial of a label in `fails` fails."""

    def __init__(self, bench: Bench, fails: Sequence[str] = ()) -> None:
        self._bench, self._fails, self.ran = bench, list(fails), list[str]()

    def run(self, trial: Trial) -> Outcome:
        self.ran.append(trial.label)
        if trial.label in self._fails:
            self._fails.remove(trial.label)
            raise OSError("for once")
        return self._bench.run(trial)


@pytest.mark.parametrize("slots", [SerialExecutor, Ahead])
@pytest.mark.parametrize("fails", [(), ("start",)])
def test_a_model_is_scored_once_whatever_it_is_called(
    models: Recipe, tmp_path: Path, slots: type[SerialExecutor], fails: tuple[str, ...]
) -> None:
    bench = Counting(make_spec(models)(), fails)
    study = Study.create(tmp_path / "s", {}, {})
    optimizer = CmaEs(bench._bench.space.dimension, 1, SEED, bench._bench.space.default())
    executor = slots(lambda: bench)  # type: ignore[arg-type, return-value]
    planned = twice(bench._bench)
    ending = search(study, optimizer, executor, OBJECTIVE, planned, Budget(trials=8), seed=SEED, same=keyed)
    assert (ending.kind, candidates(study)) == ("done", 8), "it counts as a trial all the same"
    assert bench.ran.count("uniform") == len(fails)
    by_label = {entry.trial.label: entry for entry in study.told}
    if fails:
        assert by_label["uniform"].losses is not None
        return
    assert by_label["uniform"].losses == by_label["start"].losses
    assert ("same_model", {"trial": 2, "as": 1}) in study.events
    assert not by_label["uniform"].outcome.seconds  # type: ignore[union-attr]
    score_all(study, executor, OBJECTIVE, [t.changed(split="report") for t in planned[1:]], phase="report", same=keyed)
    assert bench.ran[-1] == "start", "on another split it is scored anew, and once"
    assert bench.ran.count("uniform") == 0


def test_a_copy_that_a_kill_left_pending_is_copied_on_resume(models: Recipe, tmp_path: Path) -> None:
    def session(folder: Path, trials: int) -> Study:
        bench = make_spec(models)()
        study = Study.open(folder) if (folder / "ledger.jsonl").exists() else Study.create(folder, {}, {})
        optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
        executor = SerialExecutor(lambda: bench)
        search(study, optimizer, executor, OBJECTIVE, twice(bench), Budget(trials=trials), seed=SEED, same=keyed)
        return study

    whole = session(tmp_path / "whole", 9)
    cut = session(tmp_path / "cut", 1)
    cut.ask(whole.entries[2].trial)
    cut.close()
    assert history(session(tmp_path / "cut", 9)) == history(whole)


def test_the_phase_is_that_of_the_running_trials(models: Recipe, tmp_path: Path) -> None:
    phases: list[str] = []
    bench = make_spec(models)()
    study = Study.create(tmp_path / "s", {}, {})
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())

    def note(progress: Progress) -> None:
        if progress.busy:
            phases.append(progress.phase)

    executor = SerialExecutor(lambda: bench)
    search(study, optimizer, executor, OBJECTIVE, plan(bench), Budget(trials=3), seed=SEED, progress=note)
    assert phases == ["canary", "baselines", "search", "search"]


class Synced(Files):
    """Knows how much of the ledger is on the disk."""

    def __init__(self, ledger: Path) -> None:
        self.ledger, self.size, self.calls = ledger, 0, 0

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        self.calls += 1
        self.size = self.ledger.stat().st_size if self.ledger.exists() else 0

    def has(self, kind: str, number: int) -> bool:
        """Whether the record of a trial would survive the machine's death now."""
        lines = self.ledger.read_bytes()[: self.size].splitlines()
        return any(r["kind"] == kind and r["data"].get("number") == number for r in map(json.loads, lines))


class FourAtOnce(SerialExecutor):
    """Four slots whose trials end together; each must be on the disk when it is submitted."""

    slots = 4

    def __init__(self, spec: BenchSpec, files: Synced) -> None:
        super().__init__(spec)
        self._files, self.held, self.fullest = files, list[Trial](), 0

    def submit(self, trial: Trial) -> None:
        assert self._files.has("asked", trial.number)
        self.held.append(trial)
        self.fullest = max(self.fullest, len(self.held))

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        if not self.held:
            return None
        super().submit(self.held.pop(0))
        return super().next_outcome(timeout)


class Recorded(CmaEs):
    """An optimizer whose observations must be on the disk."""

    files: Synced

    def tell(self, observation: Observation) -> None:
        assert self.files.has("told", observation.number)
        super().tell(observation)


def test_trials_that_end_together_are_saved_by_one_sync_before_anything_is_done_with_them(
    models: Recipe, tmp_path: Path
) -> None:
    spec = make_spec(models)
    bench = spec()
    files = Synced(tmp_path / "ledger.jsonl")
    study = Study.create(tmp_path, {}, {}, files=files)
    optimizer, executor = Recorded(bench.space.dimension, 1, SEED, bench.space.default()), FourAtOnce(spec, files)
    optimizer.files = files
    before = files.calls
    ending = search(study, optimizer, executor, OBJECTIVE, plan(bench), Budget(trials=41), seed=SEED)
    study.close()
    assert (ending.kind, candidates(study), executor.fullest) == ("done", 41, 4)
    assert len(optimizer._told) == 41
    assert files.calls - before < 60, "of 84 records, and with proposals that come in time 30"


def test_outcomes_before_a_broken_executor_are_saved(models: Recipe, tmp_path: Path) -> None:
    class Breaking(FourAtOnce):
        def next_outcome(self, timeout: float | None = None) -> Outcome | None:
            if len(self.held) == 2:
                raise ExecutorError("no worker answers")
            return super().next_outcome(timeout)

    spec = make_spec(models)
    bench = spec()
    files = Synced(tmp_path / "ledger.jsonl")
    study = Study.create(tmp_path, {}, {}, files=files)
    optimizer = CmaEs(bench.space.dimension, 1, SEED, bench.space.default())
    executor = Breaking(spec, files)
    ending = search(study, optimizer, executor, OBJECTIVE, plan(bench), Budget(trials=20), seed=SEED)
    assert (ending.kind, ending.message) == ("paused", "no worker answers")
    assert (len(study.told), len(study.pending)) == (3, 2)
    assert files.has("told", study.told[-1].trial.number)
    study.close()


class OneByOne(FourAtOnce):
    """Sixteen slots of which one ends at a time."""

    slots = 16

    def __init__(self, spec: BenchSpec, files: Synced, said: list[str]) -> None:
        super().__init__(spec, files)
        self.said = said

    def submit(self, trial: Trial) -> None:
        super().submit(trial)
        self.said.append("submitted")

    def next_outcome(self, timeout: float | None = None) -> Outcome | None:
        if timeout == 0.0 and self.said[-1] == "ended":
            return None
        self.said.append("ended")
        return super().next_outcome(timeout)


class Listening(Recorded):
    said: list[str]

    def tell(self, observation: Observation) -> None:
        super().tell(observation)
        self.said.append("told")


def test_a_free_worker_goes_on_before_its_outcome_is_recorded_and_a_resume_runs_what_was_recorded_ahead(
    models: Recipe, tmp_path: Path
) -> None:
    spec = make_spec(models)
    bench, stop = spec(), StopRequest()
    files, said = Synced(tmp_path / "ledger.jsonl"), list[str]()

    def run(study: Study, **changes: object) -> Ending:
        optimizer = Listening(bench.space.dimension, 1, SEED, bench.space.default())
        optimizer.files, optimizer.said = files, said
        executor = OneByOne(spec, files, said)
        found = search(study, optimizer, executor, OBJECTIVE, plan(bench), Budget(60), seed=SEED, **changes)  # type: ignore[arg-type]
        assert executor.fullest <= OneByOne.slots
        return found

    def drain(progress: Progress) -> None:
        if progress.outcome is not None and progress.outcome.number == 20:
            assert len(study.unfinished) == OneByOne.slots + OneByOne.slots // PER_SPARE - 1
            stop.level = 1

    study = Study.create(tmp_path, {}, {}, files=files)
    assert run(study, stop=stop, progress=drain).kind == "stopped"
    assert "est" * 15 in "".join(word[0] for word in said), "ended, the next one submitted, then told"
    assert len(study.unfinished) == OneByOne.slots // PER_SPARE - 1 == 1
    study.close()
    study = Study.open(tmp_path, files=files)
    assert (run(study).kind, candidates(study), study.unfinished) == ("done", 60, [])
    assert len({entry.trial.number for entry in study.told}) == len(study.told) == 61
    study.close()
