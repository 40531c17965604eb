"""Plan of a search: `prepare` validates all of its parts before any merge or score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from evaluators.base import Evaluator
from evomerge import plugins
from evomerge.bench import BenchSpec
from evomerge.config import SearchConfig
from evomerge.config.fields import REPORT_ONLY
from evomerge.errors import EvomergeError
from evomerge.feedback import new_optimizer
from evomerge.launch import checks
from evomerge.launch.backend import backend_environment, check_backend, examined, foresee, stacked, with_length
from evomerge.launch.checks import placed, placed_models
from evomerge.launch.earlier_study import Setting
from evomerge.launch.environment import environment
from evomerge.launch.first_trials import model_key, planned_paths, planned_trials
from evomerge.launch.growth import Added, added
from evomerge.launch.learning import Learning, learn
from evomerge.launch.memory import MemoryNeeds, memory_needs
from evomerge.launch.pinned import Examples, examples_of
from evomerge.launch.placement import check_device, check_own_networks, folder_notes, memory_notes, scoring_dtype
from evomerge.loop import never
from evomerge.merge_space import MergeSpace
from evomerge.merging import pins
from evomerge.merging.engine import MergeError
from evomerge.merging.method import MergeMethod, MethodError
from evomerge.merging.models.arrangeable import check_arrangeable
from evomerge.merging.models.compatibility import check_finite, tokenizer_differences
from evomerge.merging.models.model import Model
from evomerge.merging.models.network import check_network, outline
from evomerge.merging.recipe_models import RecipeModels, open_models
from evomerge.merging.run_baselines import losses_of, run_baselines
from evomerge.merging.run_directions import directions
from evomerge.merging.slopes import why_no_gradient
from evomerge.objective import Objective
from evomerge.optimizers.base import Measures, Optimizer, Positions, TaskExamples, rounded
from evomerge.plugins import PluginSpec
from evomerge.racing import Race, RacingError, make_race
from evomerge.recipe import Merge, Recipe
from evomerge.resident.parent_configuration import differences, own_configurations
from evomerge.resident.parent_tokenizer import own_tokenizers
from evomerge.resident.resident import check_network_of, check_reads_text, check_resident, unloaded
from evomerge.results.coordinates import basis_of
from evomerge.search_examples import SearchExamples, why_no_parts
from evomerge.space import (
    SPAN,
    arranges_blocks,
    build_merge_space,
    chosen_space,
    layout_of,
    open_searched,
    with_basis,
)
from evomerge.study import Study
from evomerge.study.lines import FILE
from evomerge.trial import START, Origin, Trial
from search_spaces.base import FloatArray, Layout


class LaunchError(EvomergeError):
    """A search that cannot start as it is configured."""


@dataclass(frozen=True)
class Plan:
    """A validated search, before any merge or score.

    same: `first_trials.model_key`, or None for every trial where scores vary. no_loss: task -> why it has no
    differentiable loss, None where it has one. added: the examples that the study of the search file lacks so far.
    report_only: the tasks that are only reported, as an objective; None without any. learning: what is learned from
    earlier studies; None for nothing.
    """

    spec: BenchSpec
    objective: Objective
    planned: tuple[Trial, ...]
    space: MergeSpace
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
    no_loss: Mapping[str, str | None]
    added: Added | None
    report_only: Objective | None
    learning: Learning | None = None

    @property
    def n_report_only(self) -> dict[str, int]:
        """Number of examples of each task that is only reported."""
        return {task: len(self.ids[task, "report"]) for task in (self.report_only.weights if self.report_only else ())}

    @property
    def search_examples(self) -> SearchExamples:
        """The examples of every task on the search split."""
        return SearchExamples({task: self.ids[task, "search"] for task in self.objective.weights})

    @property
    def measures(self) -> Measures:
        """Measurements that an optimizer can ask for besides whole candidates, and the coordinates' positions."""
        shares = zip(self.objective.weights, self.objective.shares, strict=True)
        tasks = [TaskExamples(t, len(self.ids[t, "search"]), float(share), self.no_loss[t]) for t, share in shares]
        no_parts, positions = why_no_parts(self.objective), Positions(*self.space.positions)
        why = {name: self._why_no_gradient(r) for name, r in zip(self.space.methods, self.space.recipes, strict=True)}
        no_gradient = None if None in why.values() else next(iter(why.values()))
        by_method = why if self.space.is_portfolio else {}
        return Measures(tuple(tasks), no_gradient, self.space.coarse, no_parts, positions, by_method)

    def _why_no_gradient(self, recipe: Recipe) -> str | None:
        if self.space.arranges_blocks:
            return f"Paths through blocks change in steps, so `space: {self.spec.space.kind}` has no gradients."
        if self.objective.kind not in ("mean", "pareto") or self.objective.keep:
            return (
                "Gradients follow means of the tasks' losses: they need `objective: mean` or `pareto`, without `keep`."
            )
        return why_no_gradient(recipe)

    @property
    def n_baselines(self) -> int:
        """Number of trials of the budget spent on baselines."""
        return sum(trial.merge is not None for trial in self.planned)

    @property
    def named_first(self) -> str:
        """What comes before the optimizer's proposals: `the start and 9 baselines`, or `4 starts and 9 baselines`."""
        starts = sum(trial.counts for trial in self.planned) - self.n_baselines
        return f"{'the start' if starts == 1 else f'{starts} starts'} and {self.n_baselines} baselines"

    def n_proposed(self, trials: int) -> int:
        """Return the number of trials of a budget left to the optimizer after the start and the baselines."""
        return max(0, trials - sum(trial.counts for trial in self.planned))


def prepare(config: SearchConfig, *, say: Callable[[str], None] = lambda _: None) -> Plan:
    """Check models, space, optimizer, tasks and splits; nothing is merged or scored yet.

    Raises CheckpointError or ModelError for refused models; PluginError, MethodError, SpaceError, EvaluatorError,
    OptimizerError, ConfigError or LaunchError for what cannot work.
    """
    study = begun(config)  # a study that cannot go on is refused before its models are read
    recipe = config.recipe()
    if study is not None:
        with placed_models(config):
            pins.compare_models(study, recipe)
    check_device(config)
    check_backend(config)
    checks.check_methods(config)
    say("checking the models")
    with placed_models(config):
        sources = open_searched(config.space, recipe)
    base, models = sources.base, {"base": sources.base, **sources.inputs}
    places = check_resident(base)  # names what no conversion of transformers can place
    check_network(base)
    check_finite(models)
    paths = arranges_blocks(config.space)
    if paths:
        checks.check_paths(config)
        check_arrangeable(base, sources.inputs)
    own = {} if paths else own_configurations(base, sources.inputs)
    spec, said = _bench(config, sources, study)
    needs = _needs(sources, spec)
    with placed(config, "space"):
        layout = layout_of(spec.space, sources.by_name(recipe))
        space = build_merge_space(spec.space, config.recipes(), layout)
    _check_merges(config, sources, space)
    notes = [*tokenizer_differences(base, sources.inputs), *differences(own), *sources.notes, *places, *said]
    notes += [f"space {config.space.kind}: {note}" for note in space.notes] + [
        *memory_notes(config, needs),
        *folder_notes(config),
    ]
    say("reading the tasks")
    evaluators, only = checks.read_tasks(config), checks.read_tasks(config, REPORT_ONLY)
    tasks = {**evaluators, **only}
    checks.check_experts(config, tasks)
    examples = checks.count_examples(config, evaluators, notes)
    reported = checks.report_only_examples(config, evaluators, only, notes)
    ids, objective = examples_of(config, evaluators, reported), _objective(config, evaluators)
    if study is not None:
        checks.check_reported(study, config)
    beyond = None if study is None else added(study, ids, config, objective)
    reader = unloaded(base, sources.tokenizer) if base.config is not None else None
    previews: dict[str, tuple[str, ...]] = {}
    foreseen = None if reader is None else foresee(config, reader)
    if reader is not None and checks.needs_network(config):
        heads = {name: outline(sources.inputs[name]).network for name in sources.heads}
        notes += checks.preflight(config, tasks, reader, heads)
    if reader is not None and checks.reads_text(config):
        previews = checks.previews(tasks, reader.tokenizer)
    notes += checks.floor_notes(config, objective)
    reading = own_tokenizers(reader, sources, recipe, tasks, own)
    check_own_networks(config, needs, {**own, **reading.scored})
    spec = with_length(config, spec, foreseen, own)
    apart = tuple(name for name in (recipe.base.name, *sources.inputs) if name in own or name in reading.scored)
    planned = (
        planned_paths(space, sources.by_name(recipe), config.seed, apart)
        if paths
        else planned_trials(space, base, config.seed, apart, _fixed(config, base))
    )
    verdict = examined(config, spec, sources, reader, say)
    as_adapters, said = stacked(config, spec, verdict, study, sources, space, planned, tasks)
    notes += said
    plan = Plan(
        spec=replace(spec, own=apart, own_tokenizers=tuple(reading.scored), stacked=as_adapters),
        objective=objective,
        planned=planned,
        space=space,
        allowed=_allowed(space),
        examples=examples,
        ids=ids,
        distinct_examples=checks.count_distinct(config, evaluators),
        model_bytes=base.nbytes,
        needs=needs,
        notes=(*notes, *reading.notes(recipe)),
        previews=previews,
        borrowed=reading.borrowed(recipe),
        no_loss={task: evaluator.why_no_loss() for task, evaluator in evaluators.items()},
        same=partial(model_key, space, apart) if all(e.deterministic for e in tasks.values()) else never,
        added=beyond,
        report_only=_reported(only),
    )
    plan = _learning(config, plan, study, layout)
    build_optimizer(config, plan)
    build_race(config, plan)
    return plan if study is not None else replace(plan, notes=(*plan.notes, *_check_budget(config, plan)))


def _learning(config: SearchConfig, plan: Plan, study: Study | None, layout: Layout) -> Plan:
    """Return the plan with what is learned from earlier studies."""
    setting = Setting(
        config,
        plan.space,
        plan.spec.space,
        layout,
        plan.spec.compute_dtype,
        plan.objective,
        plan.ids,
        plan.planned,
        plan.same,
        environment() | backend_environment(config, plan.spec),
    )
    learning = learn(setting, study)
    if learning is None:
        return plan
    notes = (*plan.notes, *learning.notes)
    return replace(plan, learning=learning, planned=learning.begin(plan.planned), notes=notes)


def _fixed(config: SearchConfig, base: Model) -> Sequence[tuple[str, Merge]] | None:
    """Return labels and merges of the baselines of a run's checkpoints; None for other models."""
    if not config.checkpoints:
        return None
    return run_baselines(config.recipe(), base.layout().names, losses_of([Path(path) for path in config.checkpoints]))


def _check_merges(config: SearchConfig, sources: RecipeModels, space: MergeSpace) -> None:
    """Check the start of every method without reading weights. Raises MergeError or MethodError."""
    for number, name in enumerate(space.methods):
        if space.is_portfolio and not space.sizes[number]:
            raise LaunchError(
                f"{config.where(*config.place_of_method(name))}: {name} has no coefficient to search: leave it out, or "
                "widen `ranges`."
            )
        try:
            start = space.merge(space.default(number), config.seed)
            (open_models(start.recipe) if start.recipe.slices else sources).engine().check(start)
        except (MergeError, MethodError) as error:
            if space.is_portfolio:
                error.args = (f"{config.where(*config.place_of_method(name))}: {error}",)
            raise


def _allowed(space: MergeSpace) -> dict[str, tuple[float, float]]:
    """Return the values that a method takes by parameter, named as the coordinates are."""
    methods: list[MergeMethod] = [plugins.load("merge method", r.method, MergeMethod) for r in space.recipes]
    return {space.prefix(k) + name: ends for k, method in enumerate(methods) for name, ends in method.allowed.items()}


def _check_budget(config: SearchConfig, plan: Plan) -> list[str]:
    """Warnings about a budget that leaves nothing to search with; it can be raised later, so it is not refused."""
    trials = config.budget.trials
    if trials is None or plan.n_proposed(trials):
        return []
    first = sum(trial.counts for trial in plan.planned)
    parents = [trial.label for trial in plan.planned if trial.origin.is_parent]
    said = (
        f"{config.where('budget', 'trials')}: the first {first} trials are {plan.named_first}, "
        f"so a budget of {trials} leaves {config.optimizer.kind} nothing to propose; set at least "
        f"{first + 1}, better a few hundred"
    )
    if trials <= len(parents):
        return [f"{said}. With this budget, not even all of {', '.join(parents)} are scored."]
    return [f"{said}. With this budget, only baselines are scored, and the best of them is selected."]


def _bench(config: SearchConfig, sources: RecipeModels, study: Study | None) -> tuple[BenchSpec, tuple[str, ...]]:
    """Return the specification for the workers, and notes; a base that has to read text is checked for that."""
    compute: str = "stored"
    said: tuple[str, ...] = ()
    if checks.reads_text(config):
        check_reads_text(sources.base, sources.tokenizer)
    if checks.needs_network(config):
        check_network_of(sources.base)
        compute, said = scoring_dtype(config, sources.base, study)
    spec = BenchSpec(
        config.recipe(),
        _space(config, sources, study),
        dict(config.tasks),
        config.split.shares,
        config.device,
        1 if config.threads == "auto" else config.threads,
        compute_dtype=compute,
        backend=config.backend,
        code=config.code_folders,
        salt=config.split.salt or "",
        batch_tokens=config.batch_tokens,
        methods=config.recipes(),
        report_only=dict(config.report_only),
    )
    return spec, said


def _space(config: SearchConfig, sources: RecipeModels, study: Study | None) -> PluginSpec:
    """Return the space that is searched, along directions that were recorded when the study began, or are found now."""
    chosen = chosen_space(config.space, config.optimizer, config.recipes(), of_run=bool(config.checkpoints))
    if chosen.kind != SPAN:
        return chosen
    basis = None if study is None else basis_of(study)
    if basis is None:
        rows, _ = directions(sources.base, list(sources.inputs.values()))
        if not len(rows):
            raise LaunchError("The checkpoints are all equal, so there is no direction to search along.")
        basis = rows.tolist()
    return with_basis(chosen, basis)


def _objective(config: SearchConfig, evaluators: Mapping[str, Evaluator]) -> Objective:
    return config.objective_for(
        [task for task, evaluator in evaluators.items() if not evaluator.higher_is_better],
        [task for task, evaluator in evaluators.items() if evaluator.whole_model],
        {task: evaluator.smooth_score for task, evaluator in evaluators.items() if evaluator.smooth_score is not None},
    )


def _reported(only: Mapping[str, Evaluator]) -> Objective | None:
    """Return the tasks that are only reported as an objective."""
    if not only:
        return None
    lower = frozenset(task for task, evaluator in only.items() if not evaluator.higher_is_better)
    whole = frozenset(task for task, evaluator in only.items() if evaluator.whole_model)
    return Objective(dict.fromkeys(only, 1.0), lower, whole_model=whole)


def _needs(sources: RecipeModels, spec: BenchSpec) -> MemoryNeeds:
    dtype = getattr(torch, spec.recipe.dtype) if spec.recipe.dtype else None
    compute = torch.float32 if spec.compute_dtype == "float32" else None
    paths = arranges_blocks(spec.space)
    return memory_needs(sources, dtype, compute, vllm=spec.backend is not None, paths=paths)


def begun(config: SearchConfig) -> Study | None:
    """The study that the search file resumes, for reading; None where it begins one.

    Raises StudyError for a damaged one, ConfigurationChanged for that of another search.
    """
    if not (config.study / FILE).exists():
        return None
    study = Study.read(config.study)
    study.compare(config.identity())
    return study


def resumed(config: SearchConfig, plan: Plan) -> Study | None:
    """The study that the search file resumes, for reading, as it will be with the examples that were added to it."""
    study = begun(config)
    if study is not None and plan.added is not None:
        plan.added.record(study)
    return study


def build_optimizer(config: SearchConfig, plan: Plan) -> Optimizer:
    """The optimizer for the plan's space and objectives."""
    with placed(config, "optimizer"):
        checks.check_objectives(config, plan.objective.n_objectives)
        dimension = plan.space.dimension
        start = next(trial.x for trial in plan.planned if trial.label == START)
        several = plan.space.is_portfolio
        kind: type[Optimizer] = plugins.load("optimizer", config.optimizer.kind, Optimizer)
        optimizer = new_optimizer(
            config.optimizer,
            plan.objective,
            dimension=dimension,
            seed=config.seed,
            start=start,
            measures=plan.measures if kind.uses_parts or kind.uses_positions else None,
            methods=dict(zip(plan.space.methods, plan.space.sizes, strict=True)) if several else None,
        )
    n_models = len(plan.spec.recipe.inputs)
    if optimizer.one_coordinate_per_model and dimension != n_models:
        raise LaunchError(
            f"{config.where('optimizer')}: {config.optimizer.kind} chooses among models, and needs one coordinate for "
            f"each of the {n_models}; "
            f"there are {dimension}: search one weight per model (method: linear, space: uniform)."
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


def build_race(config: SearchConfig, plan: Plan) -> Race | None:
    """The race of the candidates, if they race. Raises LaunchError where they cannot."""
    try:
        return make_race(config.racing, config.optimizer.kind, plan.search_examples, plan.objective, config.seed)
    except RacingError as error:
        raise LaunchError(f"{config.where('racing')}: {error}") from error


def candidate_key(space: MergeSpace, x: FloatArray) -> bytes:
    """The method and coefficients at a point as a merge computes with them; points with the same are one candidate."""
    method = space.methods[space.method_at(x)].encode() if space.is_portfolio else b""
    return method + rounded(space.key_values(x))


def _ends_are_models(plan: Plan) -> bool:
    parents = [trial.x for trial in plan.planned if trial.origin is Origin.PARENT]
    return all(
        x is not None and x.tolist() == one.tolist() for x, one in zip(parents, np.eye(len(parents)), strict=True)
    )
