"""Specification of the objective in a search file, and the Objective of a study from its ledger."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, get_args

import numpy as np

from evomerge.objective.floor import Floor, read_keep
from evomerge.objective.objective import FloatArray, Kind, Objective
from evomerge.study import Study, StudyError

KINDS: tuple[Kind, ...] = get_args(Kind)
#: Kinds in which weights mean something: the worst share of a parent's score is the worst whatever it weighs.
WEIGHED = ("mean", "chebyshev", "borda")
#: Name of the event that says what the evaluators say of their tasks.
EVENT = "objectives"
#: No task has a smooth score.
NO_SMOOTH: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class ObjectiveSpec:
    """`objective` of a search file. weights: task -> weight; None where none are given."""

    kind: Kind = "mean"
    weights: Mapping[str, float] | None = None

    @property
    def data(self) -> str | dict[str, Any]:
        """As the file says it, in its shortest form."""
        if self.weights is None:
            return self.kind
        weights = dict(self.weights)
        return weights if self.kind == "mean" else {"kind": self.kind, "weights": weights}


def read_objective(data: Any) -> ObjectiveSpec:
    """`pareto`, `{task: weight}` or `{kind: chebyshev, weights: {task: weight}}`. Raises ValueError for others."""
    if isinstance(data, str) and data in KINDS:
        return ObjectiveSpec(data)
    expected = (
        f"expected {', '.join(KINDS)} or a mapping task: weight above 0, "
        f"or {{kind: KIND, weights: {{task: weight}}}}; got {data!r}"
    )
    if not isinstance(data, Mapping):
        raise ValueError(expected)
    if not isinstance(data.get("kind"), str):  # else a task may be called `kind`
        return ObjectiveSpec("mean", _weights(data, expected))
    kind = data["kind"]
    if kind not in KINDS or not data.keys() <= {"kind", "weights"}:
        raise ValueError(expected)
    if "weights" not in data:
        return ObjectiveSpec(kind)
    if kind not in WEIGHED:
        instead = (
            "say `prefer: {task: weight}`" if kind == "pareto" else "leave `weights` out, or use chebyshev or borda"
        )
        raise ValueError(f"weights do not change a search of kind {kind}; {instead}")
    return ObjectiveSpec(kind, _weights(data["weights"], expected))


def read_weights(data: Any) -> dict[str, float]:
    """`{task: weight}`. Raises ValueError unless every weight is above 0."""
    return _weights(data, f"expected a mapping task: weight above 0; got {data!r}")


def make_objective(
    spec: ObjectiveSpec,
    tasks: Collection[str],
    prefer: Mapping[str, float] | None,
    keep: Floor | Mapping[str, Floor] | None,
    lower_is_better: Collection[str],
    whole_model: Collection[str],
    smooth: Mapping[str, str] = NO_SMOOTH,
) -> Objective:
    """The objective over `tasks`, in their order; in a Pareto search its weights are the preference."""
    given = spec.weights or prefer or {}
    kept = {} if keep is None else keep if isinstance(keep, Mapping) else dict.fromkeys(tasks, keep)
    return Objective(
        {task: given.get(task, 1.0) for task in tasks},
        frozenset(lower_is_better),
        spec.kind,
        {task: kept[task] for task in tasks if task in kept},
        frozenset(whole_model),
        dict(smooth),
    )


def record_objective(study: Study, objective: Objective) -> None:
    """Write down, once, what the evaluators say of the tasks, so that reading the study need not build them."""
    if all(kind != EVENT for kind, _ in study.events):
        tasks = objective.weights
        study.event(
            EVENT,
            lower_is_better=[task for task in tasks if task in objective.lower_is_better],
            whole_model=[task for task in tasks if task in objective.whole_model],
            **({"smooth": dict(objective.smooth)} if objective.smooth else {}),
        )


def objective_of_study(study: Study) -> Objective:
    """The objective of a study, from its ledger alone: to read a study runs nothing that it names.

    Raises StudyError for a study without tasks, and where the ledger does not say which way they count.
    """
    tasks = list(study.configuration.get("tasks", {}))
    if not tasks:
        raise StudyError(
            f"The study in {study.folder} has no tasks: its ledger is empty or of something else. "
            "Restore ledger.jsonl from a copy, or delete it and start the search anew."
        )
    spec = read_objective(study.configuration.get("objective", "mean"))
    said = next((data for kind, data in study.events if kind == EVENT), None) or _said_by_losses(study, spec, tasks)
    if said is None:
        raise StudyError(
            f"The ledger in {study.folder} does not record on which tasks lower is better. "
            "`evomerge search FILE --resume` writes that down, and runs nothing where the search is done."
        )
    keep = study.configuration.get("keep")
    return make_objective(
        spec,
        tasks,
        study.configuration.get("prefer"),
        None if keep is None else read_keep(keep),
        **said,
    )


def _said_by_losses(study: Study, spec: ObjectiveSpec, tasks: Sequence[str]) -> dict[str, list[str]] | None:
    """What EVENT would say, of a ledger that is older than it, from losses and scores; None where they do not tell.

    The loss of a task is its mean where less is better, else the negative of it; a mean of tasks weighs these.
    """
    told = [entry.outcome.scores for entry in study.told if entry.outcome is not None and entry.losses is not None]
    losses = np.array([entry.losses for entry in study.told if entry.losses is not None])
    if not told:
        return None
    plain = make_objective(spec, tasks, None, None, (), ())
    parts = np.array([plain.by_task(scores) for scores in told])
    if spec.kind == "mean":
        signs = _signs(parts * plain.shares, losses[:, 0])
    else:
        signs = [sign for column, _ in enumerate(tasks) for sign in _signs(parts[:, [column]], losses[:, column])]
    if len(signs) < len(tasks):
        return None
    return {
        "lower_is_better": [task for task, sign in zip(tasks, signs, strict=True) if sign < 0],
        "whole_model": [task for task in tasks if all(len(scores[task].example_ids) == 1 for scores in told)],
    }


def _signs(parts: FloatArray, sums: FloatArray) -> list[float]:
    """1 or -1 for every column of parts, (n, n_parts), that make its rows add up to sums, (n,); none if not known."""
    solved, _, rank, _ = np.linalg.lstsq(parts, sums)
    signs = np.where(solved < 0, -1.0, 1.0)
    known = rank == parts.any(axis=0).sum() and np.allclose(parts @ signs, sums, rtol=1e-9, atol=1e-12)
    return [float(sign) for sign in signs] if known else []


def _weights(data: Any, expected: str) -> dict[str, float]:
    if not isinstance(data, Mapping) or not data:
        raise ValueError(expected)
    if not all(type(weight) in (int, float) and weight > 0 for weight in data.values()):
        raise ValueError(expected)
    return {task: float(weight) for task, weight in data.items()}
