"""What tasks and optimizer have to say before anything is scored: examples by split, what a tokenizer makes of them,
how many objectives there may be; each with its place in the search file."""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from evaluators.base import SPLITS, Evaluator, EvaluatorError, content_of
from evomerge import plugins
from evomerge.bench import build_evaluator, report_only_ids, split_ids
from evomerge.config import ConfigError, SearchConfig
from evomerge.config.fields import REPORT_ONLY
from evomerge.launch.previews import as_tokens
from evomerge.merging.method import MergeMethod, MethodError
from evomerge.merging.models.checkpoint import ModelNotFound
from evomerge.objective import Objective
from evomerge.optimizers.base import Optimizer, OptimizerError
from evomerge.plugins import PluginError
from evomerge.recipe.paths import METHOD as PATH_METHOD
from evomerge.report.words import count as counted
from evomerge.resident.resident import ResidentModel
from evomerge.results.report_only import reported_tasks
from evomerge.space import n_merged
from evomerge.study import Study
from evomerge.study.changes import differences
from evomerge.text.masking import masked_data
from evomerge.yaml.reader import unknown_key
from search_spaces.base import SpaceError

#: Key of the tasks that are searched.
TASKS = "tasks"
#: Fewer examples than this on a split say next to nothing.
FEW_EXAMPLES = 20


@contextmanager
def placed(config: SearchConfig, *path: str | int) -> Iterator[None]:
    """Prefix plug-in errors with their location in the search file."""
    try:
        yield
    except (EvaluatorError, OptimizerError, PluginError, SpaceError) as error:
        error.args = (f"{config.where(*path)}: {error}",)
        raise


@contextmanager
def placed_models(config: SearchConfig) -> Iterator[None]:
    """Prefix the error of a model that is not found with its location in the search file."""
    try:
        yield
    except ModelNotFound as error:
        error.args = (f"{config.where_model(error.name)}: {error}",)
        raise


def check_methods(config: SearchConfig) -> None:
    """Check the options and the number of models of every merge method.

    Raises PluginError or MethodError, with its place in the search file.
    """
    for name, recipe in config.recipes().items():
        place = config.place_of_method(name)
        with placed(config, *place):
            method = plugins.load("merge method", recipe.method, MergeMethod)
        with placed(config, "space"):
            count = n_merged(config.space, recipe)
        try:
            method.check(recipe.options, count)
        except MethodError as error:
            option = error.place[1:] if error.place[:1] == ("options",) else ()
            path = recipe.method == PATH_METHOD and count > 1
            hint = " For a path through the blocks of several, write `space: dataflow`." if path else ""
            error.args = (f"{config.where(*place, *option)}: {error}{hint}",)
            raise


def check_paths(config: SearchConfig) -> None:
    """Raise ConfigError for settings that a search for paths through blocks cannot follow."""
    refused = {
        "tokenizer": (config.tokenizer is not None, "embeddings are those of one model, with its tokenizer"),
        "backend": (config.backend is not None, "vLLM holds a network of a fixed depth"),
        "gpus_per_worker": (
            config.gpus_per_worker != "auto" and config.gpus_per_worker > 1,
            "the blocks of a path have to be on one GPU",
        ),
    }
    for key, (given, why) in refused.items():
        if given:
            raise ConfigError(f"{config.where(key)}: not with `space: {config.space.kind}`, where {why}. Leave it out.")


def reads_text(config: SearchConfig) -> bool:
    """Whether any task needs a model with a tokenizer. Raises PluginError for an evaluator that is not there."""
    return any(kind.needs_language_model for kind in _kinds(config))


def needs_network(config: SearchConfig) -> bool:
    """Whether any task needs a network, with or without a tokenizer. Raises PluginError as `reads_text` does."""
    return any(kind.needs_language_model or kind.needs_network for kind in _kinds(config))


def _kinds(config: SearchConfig) -> list[type[Evaluator]]:
    kinds: list[type[Evaluator]] = []
    for key, tasks in ((TASKS, config.tasks), (REPORT_ONLY, config.report_only)):
        for task, spec in tasks.items():
            with placed(config, key, task):
                kinds.append(plugins.load("evaluator", spec.kind, Evaluator))
    return kinds


def read_tasks(config: SearchConfig, key: str = TASKS) -> dict[str, Evaluator]:
    """The evaluators by task. Raises PluginError or EvaluatorError, with its place in the search file.

    key: of the tasks that are searched, or of those that are only reported.
    """
    found = {}
    for task, spec in (config.tasks if key == TASKS else config.report_only).items():
        with placed(config, key, task):
            found[task] = build_evaluator(spec)
    return found


def check_experts(config: SearchConfig, evaluators: Mapping[str, Evaluator]) -> None:
    """Raise ConfigError for a task that compares with a model that is not merged."""
    recipe = config.recipe()
    names = [recipe.base.name, *(model.name for model in recipe.inputs)]
    for task, evaluator in evaluators.items():
        for expert in evaluator.experts:
            if expert not in names:
                raise ConfigError(f"{config.where_task(task)}: {unknown_key(expert, names, 'expert')}")


def count_examples(
    config: SearchConfig, evaluators: Mapping[str, Evaluator], notes: list[str]
) -> dict[str, dict[str, int]]:
    """Examples of every task on every split. Raises ConfigError for a split without any.

    notes: gets where they are few, and how many repeat another one.
    """
    examples: dict[str, dict[str, int]] = {}
    small: dict[str, dict[str, int]] = {}
    shares, salt = config.split.shares, config.split.salt or ""
    distinct = count_distinct(config, evaluators)
    for task, evaluator in evaluators.items():
        examples[task] = {split: len(split_ids(evaluator, split, shares, salt)) for split in SPLITS}
        for split, count in examples[task].items():
            if count == 0:
                raise ConfigError(
                    f"{config.where('tasks', task)}: the {split} split {shares} gets none of the "
                    f"{counted(len(evaluator.example_ids), 'example')}: add examples or change `split`."
                )
        total, unlike = len(evaluator.example_ids), sum(distinct[task].values())
        few = {split: count for split, count in distinct[task].items() if count < FEW_EXAMPLES}
        if few and not evaluator.whole_model:
            small[task] = few
        if unlike < total and not evaluator.whole_model:
            notes.append(
                f"task {task!r}: {total - unlike} of {total} examples are duplicates (ignoring case and white space); "
                f"intervals, tests and power count the {unlike} distinct ones"
            )
    if small:
        totals = {task: sum(distinct[task].values()) for task in small}
        notes.append(_few(small, totals, dict(zip(SPLITS, shares, strict=True))))
    return examples


def _few(small: Mapping[str, Mapping[str, int]], totals: Mapping[str, int], shares: Mapping[str, float]) -> str:
    """Warn about splits with few examples. small: task -> split -> number of examples. totals: on all splits."""
    said = []
    for task, few in small.items():
        listed = ", ".join(f"{count} on the {split} split (share {shares[split]:g})" for split, count in few.items())
        wanted = max(math.ceil(FEW_EXAMPLES / shares[split]) for split in few)
        change = ", or change `split`" if totals[task] >= FEW_EXAMPLES * len(SPLITS) else ""
        has = counted(totals[task], "example")
        said.append(f"task {task!r} has {has}, only {listed}: give it about {wanted}{change}")
    return (
        f"{'; '.join(said)}. Fewer than {FEW_EXAMPLES} show next to nothing. A hash of each example decides its "
        "split, so numbers vary around the shares"
    )


def report_only_examples(
    config: SearchConfig, searched: Mapping[str, Evaluator], only: Mapping[str, Evaluator], notes: list[str]
) -> dict[str, tuple[str, ...]]:
    """Examples of every task that is only reported. Raises ConfigError for a task without any.

    notes: gets how many examples a task shares with searched ones, and where they are few.
    """
    shares, salt = config.split.shares, config.split.salt or ""
    found: dict[str, tuple[str, ...]] = {}
    for task, evaluator in only.items():
        ids = found[task] = report_only_ids(evaluator, searched.values(), shares, salt)
        total = len(evaluator.example_ids)
        said = f"{total - len(ids)} of its {counted(total, 'example')} are also on the search or select split of a task"
        if not ids:
            raise ConfigError(
                f"{config.where_task(task)}: no example is left to report, since {said}: give it other examples."
            )
        if len(ids) < total:
            notes.append(f"task {task!r} is reported on {counted(len(ids), 'example')}: {said}, and are left out")
        distinct = len(set(map(content_of, ids)))
        if distinct < FEW_EXAMPLES and not evaluator.whole_model:
            few = counted(distinct, "distinct example")
            notes.append(f"task {task!r} is reported on {few}: fewer than {FEW_EXAMPLES} show next to nothing")
    return found


def check_reported(study: Study, config: SearchConfig) -> None:
    """Raise ConfigError where the tasks that are only reported differ from those that models were reported on."""
    told = (entry for entry in study.told if entry.trial.split == "report" and entry.losses is not None)
    if next(told, None) is None:
        return
    now = masked_data(json.loads(json.dumps(config.as_dict().get(REPORT_ONLY, {}))))
    changed = differences(reported_tasks(study), now, REPORT_ONLY)
    if changed:
        raise ConfigError(
            f"{config.where(REPORT_ONLY)}: models of this study have been reported, with other tasks beside those that "
            f"were searched ({'; '.join(changed)}). Revert the change, or begin a new study (`study`)."
        )


def floor_notes(config: SearchConfig, objective: Objective) -> list[str]:
    """Warn about constraints that no merge can violate on tasks with scores from 0 to 1.

    Raises ConfigError for a limit on the flips of a task whose examples are not right or wrong.
    """
    notes = []
    for task, floor in objective.keep.items():
        if objective.limits_flips(task):
            _check_flips(config, objective, task)
            continue
        if task in objective.by_metric.lower_is_better or task in objective.whole_model:
            continue
        where = config.where("keep", *([task] if isinstance(config.keep, Mapping) else []))
        if floor.unit == "fall" and floor.amount >= 1:
            notes.append(
                f"{where}: a fall of {floor.amount:g} is no constraint on {task!r} if its scores are from 0 to 1; "
                f"for {floor.amount:g} points write -{floor.amount:g}pt"
            )
        elif floor.unit == "share" and floor.amount == 0:
            notes.append(
                f"{where}: every score above 0 keeps 0 % of the parent's, so this is no constraint on {task!r}"
            )
    return notes


def _check_flips(config: SearchConfig, objective: Objective, task: str) -> None:
    whole = task in objective.whole_model
    if whole or task in objective.by_metric.lower_is_better:
        why = "has one value per model" if whole else "is better the less it scores"
        place = config.where("keep", *([task] if isinstance(config.keep, Mapping) else []))
        raise ConfigError(
            f"{place}: flips are answers that the best parent gets right and a merge wrong, and {task!r} {why}; "
            "say how far it may fall, such as 0.01 or 98%."
        )


def count_distinct(config: SearchConfig, evaluators: Mapping[str, Evaluator]) -> dict[str, dict[str, int]]:
    """Distinct examples of every task on every split: what intervals, tests and power count."""
    shares, salt = config.split.shares, config.split.salt or ""
    return {
        task: {split: len(set(map(content_of, split_ids(evaluator, split, shares, salt)))) for split in SPLITS}
        for task, evaluator in evaluators.items()
    }


def preflight(
    config: SearchConfig, evaluators: Mapping[str, Evaluator], model: ResidentModel, own: Mapping[str, Any]
) -> list[str]:
    """What the evaluators say of their examples for a model without weights. Raises EvaluatorError, with its place.

    own: networks of models that are learned from by another one than the merge's, without weights.
    """
    notes = []
    for task, evaluator in evaluators.items():
        if evaluator.needs_language_model or evaluator.needs_network:
            with placed(config, REPORT_ONLY if task in config.report_only else TASKS, task):
                notes += [f"task {task!r}: {note}" for note in evaluator.preflight(model)]
                for expert in evaluator.experts:
                    evaluator.check_expert(expert, own.get(expert, model.network))
    return notes


def previews(evaluators: Mapping[str, Evaluator], tokenizer: Any) -> dict[str, tuple[str, ...]]:
    """Task -> lines that show its first example with the ends of its tokens, for the tasks that have text to show."""
    found = {task: evaluator.preview(0) for task, evaluator in evaluators.items()}
    return {task: tuple(as_tokens(preview, tokenizer)) for task, preview in found.items() if preview is not None}


def check_objectives(config: SearchConfig, count: int) -> None:
    """Raises OptimizerError for an optimizer that does not take so many objectives, with those that do."""
    kind = config.optimizer.kind
    if _takes(kind, count):
        return
    wanted = f"objective: {config.objective.kind}"
    makes = "one number" if count == 1 else f"{count} of them, one for each task"
    others = ", ".join(name for name in plugins.names("optimizer") if _takes(name, count))
    if count == 1:
        instead = "objective: pareto with several tasks"
        handles = "several objectives"
    else:
        instead = "objective: mean (or weights, chebyshev, retention, borda)"
        most = plugins.load("optimizer", kind, Optimizer).max_objectives
        handles = "one objective" if most == 1 else f"up to {most} objectives"
    raise OptimizerError(f"{kind} handles {handles}, but {wanted} makes {makes}. Use {instead}, or one of {others}.")


def _takes(name: str, count: int) -> bool:
    kind: type[Optimizer] = plugins.load("optimizer", name, Optimizer)
    return kind.min_objectives <= count <= (kind.max_objectives or count)
