"""Execution of a plan: workers, search, selection, report."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from evomerge.bench import BenchSpec
from evomerge.budget import candidates, spending
from evomerge.config import SearchConfig
from evomerge.config.fields import REPORT_ONLY
from evomerge.execution.base import Executor
from evomerge.feedback import record_measures
from evomerge.launch.backend import backend_environment
from evomerge.launch.environment import environment
from evomerge.launch.learning import LEARNS_FROM
from evomerge.launch.limits import budget, finished, time_after
from evomerge.launch.memory import MemoryNeeds
from evomerge.launch.pinned import PinnedExecutor, pausing, pin_models
from evomerge.launch.placement import COMPUTE_DTYPE
from evomerge.launch.plan import Plan, build_optimizer, build_race, resumed
from evomerge.launch.signals import signals
from evomerge.launch.workers import start_executor
from evomerge.loop import Ending, Progress, StopRequest, search
from evomerge.merging import pins
from evomerge.merging.pins import Pins
from evomerge.objective.spec import record_objective
from evomerge.results.coordinates import record_coordinates
from evomerge.results.report_only import record_reported
from evomerge.results.result import Selection, selection
from evomerge.results.select import select
from evomerge.study import SEARCH_FILE, Study
from evomerge.study.lines import FILE
from evomerge.trial import MERGES_TOKENIZER


def run(
    config: SearchConfig,
    plan: Plan,
    *,
    resume: bool,
    finish: bool = False,
    progress: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    heard: Callable[[StopRequest], None] = lambda _: None,
) -> tuple[Ending, Selection | None]:
    """Run or resume the whole study: search, select, report. For a finished one no workers are started.

    finish: as in `StopRequest`. heard: called with every signal, from its handler. Raises StudyExists without `resume`
    where there is a study, ConfigurationChanged when it is another search, StudyBusy while another process runs it,
    ExecutorError when no worker can be started. Then, and after a signal before the workers run, a new study has not
    been begun.
    """
    study = resumed(config, plan) if resume else None
    nothing_left = None if study is None else finished(config, plan, study, finish=finish)
    if nothing_left is not None:
        found = _finished_selection(config, plan, say)
        say(f"The study in {config.study} is finished: {nothing_left.text('resume again')}")
        return Ending("done"), found
    optimizer = build_optimizer(config, plan)
    race = build_race(config, plan)
    limits, stop = budget(config), StopRequest(finish=finish)
    with ExitStack() as opened:
        opened.enter_context(signals(stop, heard))
        started = _start(config, plan, opened, stop, resume=resume, say=say)
        if started is None:
            return Ending("stopped", signal=stop.signal), None
        study, executor = started
        record_coordinates(study, plan.space, plan.allowed, plan.spec.space.options.get("basis"))
        if record_reported(study, config.as_dict().get(REPORT_ONLY, {}), plan.report_only):
            config.write(Path(config.study) / SEARCH_FILE)
        if optimizer.measures is not None:
            record_measures(study, optimizer.measures)
        reserve = partial(time_after, plan, optimizer, study, lambda: executor.slots)
        with pausing(study):
            ending = search(
                study,
                optimizer,
                executor,
                plan.objective,
                plan.planned,
                limits,
                seed=config.seed,
                same=plan.same,
                reserve=reserve,
                stop=stop,
                progress=progress,
                examples=plan.search_examples,
                race=race,
            )
            if ending.kind == "done":
                cut_short = stop.finish or limits.spent(study, reserve)
                if not cut_short:
                    spent = f"evaluations after {spending(study).evaluations:.1f}" if study.parts else None
                    say(f"{config.optimizer.kind} needs no more {spent or f'trials after {candidates(study)}'}")
                recommended = optimizer.recommend()
                if recommended is not None and optimizer.knows(recommended):
                    recommended = None
                if recommended is not None and optimizer.follows_gradients and cut_short:
                    say("the search ended before its optimizer did, whose current point is scored in addition")
                ending = select(
                    study,
                    executor,
                    plan.objective,
                    recommended,
                    seed=config.seed,
                    same=plan.same,
                    stop=stop,
                    progress=progress,
                )
            if ending.kind == "done":
                executor.settle()
        return ending, selection(study, plan.objective) if ending.kind == "done" else None


def _start(
    config: SearchConfig, plan: Plan, opened: ExitStack, stop: StopRequest, *, resume: bool, say: Callable[[str], None]
) -> tuple[Study, PinnedExecutor] | None:
    """The study, and workers with the models that it began with; None when a signal came before they ran.

    Raises as `run` does, and InputChanged.
    """
    study, recipe = None, plan.spec.recipe
    if (Path(config.study) / FILE).exists():  # its refusals come before workers are started
        study = opened.enter_context(closing(open_study(config, plan, resume=resume)))
        if plan.added is not None:
            say(plan.added.text)
        say(f"resumed {config.study}: {study.resumed}")
        found = pin_models(study, recipe, say)
    else:
        if resume:
            say(f"no study in {config.study} yet: starting a new one")
        found = pins.take(pins.input_files(recipe))
    pool = _workers(config, replace(plan.spec, pins=found), plan.needs, stop, say)
    if pool is None:
        if study is not None:
            study.event("stopped", level=stop.level)
        return None
    opened.enter_context(closing(pool))
    study = study or opened.enter_context(closing(open_study(config, plan, resume=resume, inputs=found)))
    return study, PinnedExecutor(pool, study, recipe, found, plan.ids)


def _finished_selection(config: SearchConfig, plan: Plan, say: Callable[[str], None]) -> Selection:
    """Return the result of a finished study, after recording what ledgers of earlier versions lack.

    Raises StudyBusy and InputChanged.
    """
    with closing(open_study(config, plan, resume=True)) as study:
        pin_models(study, plan.spec.recipe, say)
        record_coordinates(study, plan.space, plan.allowed, plan.spec.space.options.get("basis"))
        record_objective(study, plan.objective)
        return selection(study, plan.objective)


def _workers(
    config: SearchConfig, spec: BenchSpec, needs: MemoryNeeds, stop: StopRequest, say: Callable[[str], None]
) -> Executor | None:
    """The executor with its workers running; None when a signal came before."""
    if stop.level:
        return None
    stop.starting = stop.waiting = True
    try:
        return start_executor(config, spec, needs, say)
    except KeyboardInterrupt:
        return None
    finally:
        stop.starting = stop.waiting = False


def open_study(config: SearchConfig, plan: Plan, *, resume: bool, inputs: Pins | None = None) -> Study:
    """Create the study's folder, or take up the study in it. inputs: the pins of a new study's models."""
    folder = Path(config.study)
    if resume and (folder / FILE).exists():
        study = Study.open(folder, config.identity())
        if plan.added is not None:
            plan.added.record(study)
            config.write(folder / SEARCH_FILE)
        _keep_search_file(config)
        _learn(plan, study)
        return study
    known = None if inputs is None else pins.to_dict(inputs)
    found: dict[str, Any] = environment() | backend_environment(config, plan.spec)
    found[COMPUTE_DTYPE] = plan.spec.compute_dtype
    if plan.borrowed:
        found[MERGES_TOKENIZER] = dict(plan.borrowed)
    if plan.learning is not None:
        found[LEARNS_FROM] = [str(path) for path in config.learn_from]
    study = Study.create(folder, config.identity(), found, inputs=known, search_file=config.text())
    _learn(plan, study)
    return study


def _learn(plan: Plan, study: Study) -> None:
    """Copy the trials of earlier studies into a study that has not got them yet."""
    if plan.learning is not None:
        plan.learning.record(study)


def _keep_search_file(config: SearchConfig) -> None:
    """Write the study's copy of the search file again if it was lost."""
    file = Path(config.study) / SEARCH_FILE
    if not file.is_file() or not file.stat().st_size:
        config.write(file)
