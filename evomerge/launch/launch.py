"""From a search file to a finished study: check everything, start the workers, search, select, report."""

import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from evomerge import plugins
from evomerge.bench import BenchSpec, build_space
from evomerge.budget import Budget, candidates, is_candidate, stage_seconds
from evomerge.config import SearchConfig
from evomerge.errors import EvomergeError
from evomerge.execution.base import Executor
from evomerge.feedback import new_optimizer
from evomerge.launch import checks
from evomerge.launch.checks import placed
from evomerge.launch.first_trials import model_key, planned_trials
from evomerge.launch.memory import MemoryNeeds, memory_needs
from evomerge.launch.pinned import (
    Examples,
    PinnedExecutor,
    compare_examples,
    examples_of,
    pausing,
    pin_models,
)
from evomerge.launch.placement import (
    COMPUTE_DTYPE,
    check_device,
    check_own_networks,
    memory_notes,
    scoring_dtype,
    start_executor,
)
from evomerge.launch.signals import signals
from evomerge.loop import Ending, Progress, StopRequest, never, search
from evomerge.merging import pins
from evomerge.merging.method import MergeMethod
from evomerge.merging.models.compatibility import check_finite, tokenizer_differences
from evomerge.merging.models.network import check_network
from evomerge.merging.pins import Pins
from evomerge.merging.recipe_models import RecipeModels, open_models
from evomerge.objective import Objective
from evomerge.optimizers.base import Optimizer, rounded
from evomerge.recipe import Merge
from evomerge.resident.parent_configuration import differences, own_configurations
from evomerge.resident.parent_tokenizer import own_tokenizers
from evomerge.resident.resident import check_reads_text, check_resident, unloaded
from evomerge.results import (
    Scorings,
    Selection,
    record_coordinates,
    scorings,
    select,
    selection,
    selection_seconds,
)
from evomerge.study import SEARCH_FILE, Study
from evomerge.study.lines import FILE
from evomerge.trial import MERGES_TOKENIZER, Origin, Trial
from search_spaces.base import FloatArray, SearchSpace


class LaunchError(EvomergeError):
    """A search that cannot start as it is configured."""


@dataclass(frozen=True)
class Plan:
    """What is known before anything is spent. same: `planned.model_key`, or None for every trial where scores vary."""

    spec: BenchSpec
    objective: Objective
    dimension: int
    start: FloatArray  # (dimension,)
    names: tuple[str, ...]
    planned: tuple[Trial, ...]
    space: SearchSpace
    allowed: Mapping[str, tuple[float, float]]
    examples: Mapping[str, Mapping[str, int]]
    ids: Examples
    distinct_examples: Mapping[str, Mapping[str, int]]
    model_bytes: int
    needs: MemoryNeeds
    notes: tuple[str, ...]
    previews: Mapping[str, tuple[str, ...]]
    borrowed: Mapping[str, str]
    same: Callable[[Trial], bytes | None]


def prepare(config: SearchConfig, *, say: Callable[[str], None] = lambda _: None) -> Plan:
    """Check models, space, optimizer, tasks and splits; nothing is merged or scored yet.

    Raises CheckpointError or ModelError for refused models; PluginError, MethodError, SpaceError, EvaluatorError,
    OptimizerError, ConfigError or LaunchError for what cannot work.
    """
    study = begun(config)  # a study that cannot go on is refused before its models are read
    recipe = config.recipe()
    if study is not None:
        pins.compare_models(study, recipe)
    check_device(config)
    say("checking the models")
    sources = open_models(recipe)
    base, named = sources.base, sources.inputs
    places = check_resident(base)  # names what no conversion of transformers can place
    check_network(base)
    check_finite({"base": base, **named})
    own = own_configurations(base, named)
    reads_text = checks.reads_text(config)
    if reads_text:
        check_reads_text(base, sources.tokenizer)
    threads = 1 if config.threads == "auto" else config.threads
    compute, said = scoring_dtype(config, base, study) if reads_text else ("stored", ())
    spec = BenchSpec(
        recipe,
        config.space,
        dict(config.tasks),
        config.split.shares,
        config.device,
        threads,
        compute_dtype=compute,
        code=config.code_folders,
    )
    needs = _needs(sources, spec)
    layout = base.layout()
    with placed(config, "space"):
        space = build_space(spec.space, recipe, layout)
    sources.engine().check(Merge(recipe, space.decode(space.default()), config.seed))
    notes = [*tokenizer_differences(base, named), *differences(own), *sources.notes, *places, *said]
    notes += [f"space {config.space.kind}: {note}" for note in space.notes]
    notes += memory_notes(config, needs)
    say("reading the tasks")
    evaluators = checks.read_tasks(config)
    examples = checks.count_examples(config, evaluators, notes)
    ids = examples_of(config, evaluators)
    if study is not None:
        compare_examples(study, ids, config)
    previews: dict[str, tuple[str, ...]] = {}
    reader = unloaded(base, sources.tokenizer) if base.config is not None else None
    if reads_text and reader is not None:
        notes += checks.rehearse(config, evaluators, reader)
        previews = checks.previews(evaluators, reader.tokenizer)
    reading = own_tokenizers(reader, sources, recipe, evaluators, own)
    notes += reading.notes(recipe)
    apart = tuple(name for name in (recipe.base.name, *named) if name in own or name in reading.scored)
    check_own_networks(config, needs, {**own, **reading.scored})
    spec = replace(spec, own=apart, own_tokenizers=tuple(reading.scored))
    objective = config.objective_for(
        [task for task, evaluator in evaluators.items() if not evaluator.higher_is_better],
        [task for task, evaluator in evaluators.items() if evaluator.whole_model],
    )
    start = space.default()
    plan = Plan(
        spec=spec,
        objective=objective,
        dimension=space.dimension,
        start=start,
        names=space.names,
        planned=planned_trials(recipe, space, base, config.seed, apart),
        space=space,
        allowed=plugins.load("merge method", recipe.method, MergeMethod).allowed,
        examples=examples,
        ids=ids,
        distinct_examples=checks.count_distinct(config, evaluators),
        model_bytes=base.nbytes,
        needs=needs,
        notes=tuple(notes),
        previews=previews,
        borrowed=reading.borrowed(recipe),
        same=partial(model_key, space, recipe, apart)
        if all(each.deterministic for each in evaluators.values())
        else never,
    )
    build_optimizer(config, plan)
    return plan


def begun(config: SearchConfig) -> Study | None:
    """The study that the search file resumes, for reading; None where it begins one.

    Raises StudyError for a damaged one, ConfigurationChanged for that of another search.
    """
    if not (config.study / FILE).exists():
        return None
    study = Study.read(config.study)
    study.compare(config.identity())
    return study


def build_optimizer(config: SearchConfig, plan: Plan) -> Optimizer:
    """The optimizer for the plan's space and objectives."""
    with placed(config, "optimizer"):
        checks.check_objectives(config, plan.objective.n_objectives)
        optimizer = new_optimizer(
            config.optimizer, plan.objective, dimension=plan.dimension, seed=config.seed, start=plan.start
        )
    n_models = len(plan.spec.recipe.inputs)
    if optimizer.one_coordinate_per_model and plan.dimension != n_models:
        raise LaunchError(
            f"{config.optimizer.kind} chooses among models, and needs one coordinate for each of the {n_models}; "
            f"there are {plan.dimension}: search one weight per model (method: linear, space: uniform)."
        )
    apart = [model.name for model in plan.spec.recipe.inputs if model.name in plan.spec.own]
    if optimizer.one_coordinate_per_model and apart:
        raise LaunchError(
            f"{config.optimizer.kind} chooses among models that are scored alike, and {', '.join(apart)}'s "
            "configuration or tokenizer is another than the merges' (see the notes of `evomerge check`): use another "
            "optimizer, or give the models one configuration and one tokenizer."
        )
    if optimizer.one_coordinate_per_model and not _ends_are_models(plan):
        raise LaunchError(
            f"{config.optimizer.kind} chooses among models, and needs weights that end at 0, without a model, and at "
            "1, the model itself; here no end is a model: give space: {kind: uniform, ranges: {weight: [0, 1]}}."
        )
    optimizer.identify(partial(candidate_key, plan.space))
    return optimizer


def candidate_key(space: SearchSpace, x: FloatArray) -> bytes:
    """The coefficients at a point as a merge computes with them; points with the same ones are one candidate."""
    return b"".join(rounded(values) for _, values in sorted(space.decode(x).values.items()))


def _ends_are_models(plan: Plan) -> bool:
    parents = [trial.x for trial in plan.planned if trial.origin is Origin.PARENT]
    return all(
        x is not None and x.tolist() == one.tolist() for x, one in zip(parents, np.eye(len(parents)), strict=True)
    )


def run(
    config: SearchConfig,
    plan: Plan,
    *,
    resume: bool,
    progress: Callable[[Progress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
    heard: Callable[[StopRequest], None] = lambda _: None,
) -> tuple[Ending, Selection | None]:
    """Run or resume the whole study: search, select, report.

    heard: told of every signal, from its handler. Raises StudyExists without `resume` where there is a study,
    ConfigurationChanged when it is another search, StudyBusy while somebody else runs it, ExecutorError when no
    worker can be started. Then, and after a signal before the workers run, a new study has not been begun.
    """
    optimizer = build_optimizer(config, plan)
    spendable = budget(config)
    stop = StopRequest()
    with ExitStack() as opened:
        opened.enter_context(signals(stop, heard))
        started = _start(config, plan, opened, stop, resume=resume, say=say)
        if started is None:
            return Ending("stopped", signal=stop.signal), None
        study, executor = started
        record_coordinates(study, plan.space, plan.allowed)
        reserve = partial(time_after, plan, optimizer, study, lambda: executor.slots)
        with pausing(study):
            ending = search(
                study,
                optimizer,
                executor,
                plan.objective,
                plan.planned,
                spendable,
                seed=config.seed,
                same=plan.same,
                reserve=reserve,
                stop=stop,
                progress=progress,
            )
            if ending.kind == "done":
                if not spendable.spent(study, reserve):
                    say(f"{config.optimizer.kind} needs no more trials; it has had {candidates(study)}")
                recommended = optimizer.recommend()
                if recommended is not None and optimizer.knows(recommended):
                    recommended = None
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
        say(f"resumed {config.study}: {study.resumed}")
        found = pin_models(study, recipe, say)
    else:
        if resume:
            say(f"no study in {config.study} yet: starting a new one")
        found = pins.take(pins.input_files(recipe))
    say(f"starting {config.executor} workers")
    pool = _workers(config, replace(plan.spec, pins=found), plan.needs, stop)
    if pool is None:
        if study is not None:
            study.event("stopped", level=stop.level)
        return None
    opened.enter_context(closing(pool))
    study = study or opened.enter_context(closing(open_study(config, plan, resume=resume, inputs=found)))
    return study, PinnedExecutor(pool, study, recipe, found, plan.ids)


def _workers(config: SearchConfig, spec: BenchSpec, needs: MemoryNeeds, stop: StopRequest) -> Executor | None:
    """The executor with its workers running; None when a signal came before."""
    if stop.level:
        return None
    stop.starting = stop.waiting = True
    try:
        return start_executor(config, spec, needs)
    except KeyboardInterrupt:
        return None
    finally:
        stop.starting = stop.waiting = False


def time_after(plan: Plan, optimizer: Optimizer, study: Study, slots: Callable[[], int]) -> float:
    """Seconds to keep of a budget of time: for one more candidate, then for the selection, at the pace so far."""
    stages = stage_seconds(study)
    searched = sum(trial.merge is None and is_candidate(trial) for trial in (e.trial for e in study.told))
    count = selection_count(plan, optimizer, searched)
    return sum(stages.values()) + selection_seconds(count, stages, plan.examples, slots())


def selection_count(plan: Plan, optimizer: Optimizer, searched: int | None) -> Scorings:
    """How many models the selection scores at most. searched: candidates so far, None for an unknown number."""
    baselines = [trial.label for trial in plan.planned if trial.merge is not None]
    recommends = type(optimizer).recommend is not Optimizer.recommend
    return scorings(plan.objective, baselines, searched, recommends=recommends)


def budget(config: SearchConfig) -> Budget:
    """The limits of the search file, from now on."""
    return Budget(config.budget.trials, config.budget.hours, config.budget.deadline(datetime.now().astimezone()))


def open_study(config: SearchConfig, plan: Plan, *, resume: bool, inputs: Pins | None = None) -> Study:
    """Create the study's folder, or take up the study in it. inputs: the pins of a new study's models."""
    folder = Path(config.study)
    if resume and (folder / FILE).exists():
        study = Study.open(folder, config.identity())
        if not _has_text(folder / SEARCH_FILE):
            config.write(folder / SEARCH_FILE)
        return study
    known = None if inputs is None else pins.to_dict(inputs)
    found: dict[str, Any] = environment() | {COMPUTE_DTYPE: plan.spec.compute_dtype}
    if plan.borrowed:
        found[MERGES_TOKENIZER] = dict(plan.borrowed)
    return Study.create(folder, config.identity(), found, inputs=known, search_file=config.text())


def _has_text(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def environment() -> dict[str, str]:
    """Versions that the numbers depend on; no host name, no path."""
    packages = ("evomerge", "torch", "transformers", "lm_eval", "optuna", "cmaes", "ray", "numpy", "scipy")
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        **{package: version(package) for package in packages},
    }


def _needs(sources: RecipeModels, spec: BenchSpec) -> MemoryNeeds:
    dtype = getattr(torch, spec.recipe.dtype) if spec.recipe.dtype else None
    return memory_needs(sources, dtype, torch.float32 if spec.compute_dtype == "float32" else None)
