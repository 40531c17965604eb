"""What tasks and optimizer have to say before anything is scored: examples by split, what a tokenizer makes of them,
how many objectives there may be; each with its place in the search file."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from evaluators.base import SPLITS, Evaluator, EvaluatorError, content_of
from evomerge import plugins
from evomerge.bench import build_evaluator, split_ids
from evomerge.config import ConfigError, SearchConfig
from evomerge.launch.previews import as_tokens
from evomerge.optimizers.base import Optimizer, OptimizerError
from evomerge.plugins import PluginError
from evomerge.report.words import count as counted
from evomerge.resident.resident import ResidentModel
from search_spaces.base import SpaceError

#: Fewer examples than this on a split say next to nothing.
FEW_EXAMPLES = 20


@contextmanager
def placed(config: SearchConfig, *path: str) -> Iterator[None]:
    """Prefix plug-in errors with their location in the search file."""
    try:
        yield
    except (EvaluatorError, OptimizerError, PluginError, SpaceError) as error:
        error.args = (f"{config.where(*path)}: {error}",)
        raise


def reads_text(config: SearchConfig) -> bool:
    """Whether any task needs a model with a tokenizer. Raises PluginError for an evaluator that is not there."""
    kinds: list[type[Evaluator]] = []
    for task, spec in config.tasks.items():
        with placed(config, "tasks", task):
            kinds.append(plugins.load("evaluator", spec.kind, Evaluator))
    return any(kind.needs_language_model for kind in kinds)


def read_tasks(config: SearchConfig) -> dict[str, Evaluator]:
    """The evaluators by task. Raises PluginError or EvaluatorError, with its place in the search file."""
    found = {}
    for task, spec in config.tasks.items():
        with placed(config, "tasks", task):
            found[task] = build_evaluator(spec)
    return found


def count_examples(
    config: SearchConfig, evaluators: Mapping[str, Evaluator], notes: list[str]
) -> dict[str, dict[str, int]]:
    """Examples of every task on every split. Raises ConfigError for a split without any.

    notes: gets where they are few, and how many repeat another one.
    """
    examples: dict[str, dict[str, int]] = {}
    shares = config.split.shares
    distinct = count_distinct(config, evaluators)
    for task, evaluator in evaluators.items():
        examples[task] = {split: len(split_ids(evaluator, split, shares)) for split in SPLITS}
        for split, count in examples[task].items():
            if count == 0:
                raise ConfigError(
                    f"{config.where('tasks', task)}: the {split} split {shares} gets none of the "
                    f"{counted(len(evaluator.example_ids), 'example')}: add examples or change `split`."
                )
            if distinct[task][split] < FEW_EXAMPLES and not evaluator.whole_model:
                notes.append(f"task {task!r} has only {counted(distinct[task][split], 'example')} on the {split} split")
        total, unlike = len(evaluator.example_ids), sum(distinct[task].values())
        if unlike < total and not evaluator.whole_model:
            notes.append(
                f"task {task!r}: {total - unlike} of {total} examples are duplicates (ignoring case and white space); "
                f"intervals, tests and power count the {unlike} distinct ones"
            )
    return examples


def count_distinct(config: SearchConfig, evaluators: Mapping[str, Evaluator]) -> dict[str, dict[str, int]]:
    """Distinct examples of every task on every split: what intervals, tests and power count."""
    shares = config.split.shares
    return {
        task: {split: len(set(map(content_of, split_ids(evaluator, split, shares)))) for split in SPLITS}
        for task, evaluator in evaluators.items()
    }


def preflight(config: SearchConfig, evaluators: Mapping[str, Evaluator], model: ResidentModel) -> list[str]:
    """What the evaluators say of their examples for a model without weights. Raises EvaluatorError, with its place."""
    notes = []
    for task, evaluator in evaluators.items():
        if evaluator.needs_language_model:
            with placed(config, "tasks", task):
                notes += [f"task {task!r}: {note}" for note in evaluator.preflight(model)]
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
        instead = "objective: mean (or weights, chebyshev, retention)"
        most = plugins.load("optimizer", kind, Optimizer).max_objectives
        handles = "one objective" if most == 1 else f"up to {most} objectives"
    raise OptimizerError(f"{kind} handles {handles}, but {wanted} makes {makes}. Use {instead}, or one of {others}.")


def _takes(name: str, count: int) -> bool:
    kind: type[Optimizer] = plugins.load("optimizer", name, Optimizer)
    return kind.min_objectives <= count <= (kind.max_objectives or count)
