"""`evomerge compare`: two models of a study, task by task and example by example."""

from collections.abc import Sequence
from typing import Any

from evaluators.base import SPLITS, Evaluator
from evomerge import plugins
from evomerge.commands.models_of_run import model_named
from evomerge.errors import EvomergeError
from evomerge.launch.previews import as_text
from evomerge.objective.score import are_shares
from evomerge.results.as_json import estimate_to_dict
from evomerge.results.changed import Changed, changed
from evomerge.results.scored import ScoredModel
from evomerge.results.verdict import amount_text
from evomerge.run import Run
from evomerge.statistics import p_text


class ComparisonError(EvomergeError):
    """Two models that cannot be compared."""


def compare(run: Run, first: str, second: str, split: str | None, n_shown: int) -> tuple[dict[str, Any], list[str]]:
    """Compare two models of a study, as plain data and as lines of text.

    Args:
        run: The study.
        first: `winner`, the number of a trial, or a label such as `parent:math`.
        second: Likewise.
        split: On which examples; by default the last of search, select and report on which both were scored.
        n_shown: Number of examples that are shown for each task and direction.

    Raises:
        StudyError: There is no such model.
        ComparisonError: There is no such split, or none on which both were scored.
    """
    if split is not None and split not in SPLITS:
        raise ComparisonError(f"--split is one of {', '.join(SPLITS)}; got {split!r}.")
    labels = model_named(run, first).label, model_named(run, second).label
    both = [each for each in SPLITS if set(labels) <= run.scored(each).by_label.keys()]
    if (split or "") not in ("", *both) or not both:
        raise ComparisonError(_not_scored(run, labels, both, split))
    split = split or both[-1]
    points = run.scored(split).by_label
    models = points[labels[0]], points[labels[1]]
    found = changed(*models)
    data = {
        "first": labels[0],
        "second": labels[1],
        "split": split,
        "tasks": {task: _as_dict(each) for task, each in found.items()},
    }
    lines = [f"{labels[0]} against {labels[1]} on the {split} split; differences above 0 are in favor of {labels[0]}"]
    for task, each in found.items():
        lines += _lines(models, task, each)
        lines += _examples(run, task, each, labels, n_shown)
    return data, lines


def _not_scored(run: Run, labels: Sequence[str], both: Sequence[str], split: str | None) -> str:
    where = {
        label: ", ".join(each for each in SPLITS if label in run.scored(each).by_label) or "no split"
        for label in labels
    }
    said = "; ".join(f"{label} was scored on: {splits}" for label, splits in where.items())
    wanted = f"not both scored on the {split} split" if both else "scored on no split in common"
    return f"{labels[0]} and {labels[1]} were {wanted} ({said})."


def _as_dict(each: Changed) -> dict[str, Any]:
    examples = {name: list(each.values[name]) for name in (*each.better, *each.worse)}
    return {
        "means": list(each.means),
        "difference": estimate_to_dict(each.gain),
        "examples": each.n_examples,
        "better": list(each.better),
        "worse": list(each.worse),
        "scores": examples,
    }


def _lines(models: tuple[ScoredModel, ScoredModel], task: str, each: Changed) -> list[str]:
    shares = are_shares(models[0].objective, task, (model.scores for model in models))
    means = " against ".join(f"{100 * mean:.1f} %" if shares else f"{mean:.4g}" for mean in each.means)
    lead = amount_text(each.gain, shares=shares)
    counts = f"better on {len(each.better)} of {each.n_examples} examples, worse on {len(each.worse)}"
    return ["", f"{task}: {means} ({lead}, {p_text(each.gain.p, 'p')}); {counts}"]


def _examples(run: Run, task: str, each: Changed, labels: Sequence[str], n_shown: int) -> list[str]:
    if not n_shown or not (each.better or each.worse):
        return []
    evaluator, lines = _evaluator(run, task), []
    for title, names in ((f"{labels[0]} is better", each.better), (f"{labels[1]} is better", each.worse)):
        for name in names[:n_shown]:
            scores = " against ".join(f"{value:.4g}" for value in each.values[name])
            lines.append(f"  {title}: {name} ({scores})")
            lines += [f"    {line}" for line in _text(evaluator, name)]
        if len(names) > n_shown:
            lines.append(f"  and {len(names) - n_shown} more, which --json lists")
    return lines


def _evaluator(run: Run, task: str) -> Evaluator | None:
    """Return a task's evaluator, for its texts; None where its files are gone, since the scores need none."""
    try:
        evaluator: Evaluator = plugins.build("evaluator", run.config.tasks[task], Evaluator)
    except (EvomergeError, ValueError, OSError):
        return None
    return evaluator


def _text(evaluator: Evaluator | None, name: str) -> list[str]:
    if evaluator is None or name not in evaluator.example_ids:
        return []
    preview = evaluator.preview(evaluator.example_ids.index(name))
    return [] if preview is None else as_text(preview)
