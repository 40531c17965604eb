"""The examples of the search split, for trials that score some of them and for those that score the rest."""

from collections.abc import Iterable, Mapping

import numpy as np

from evaluators.base import Scores
from evomerge.objective import Objective
from evomerge.optimizers.base import Proposal, Rows
from evomerge.study import Study
from evomerge.trial import Outcome, Trial

#: What a forward and a backward pass cost, in forward passes.
GRADIENT_COST = 3.0


class SearchExamples:
    """The examples of every task on the search split, in the evaluators' order.

    Args:
        ids: Task -> ids of its examples, in the order of the tasks.

    Example:
        >>> examples = SearchExamples({"math": ("a", "b", "c"), "chat": ("d",)})
        >>> examples.chosen(((0, 2), ()))
        {'math': ('a', 'c')}
        >>> examples.cost({"math": ("a", "c")}, gradient=True)
        1.5
    """

    def __init__(self, ids: Mapping[str, tuple[str, ...]]) -> None:
        self.ids = dict(ids)
        self.total = sum(map(len, self.ids.values()))
        self._rows = {task: {name: row for row, name in enumerate(names)} for task, names in self.ids.items()}

    @classmethod
    def of_study(cls, study: Study, tasks: Iterable[str]) -> "SearchExamples | None":
        """Return the examples that a study's whole trials were scored on; None before the first one."""
        if study.growths:
            return cls({task: study.growths[-1].new[task] for task in tasks})
        for entry in study.told:
            outcome = entry.outcome
            if entry.trial.split == "search" and entry.losses is not None and outcome is not None:
                return cls({task: outcome.scores[task].example_ids for task in tasks})
        return None

    def chosen(self, rows: Rows) -> dict[str, tuple[str, ...]]:
        """Return the ids at some rows of each task; tasks without any are left out."""
        return {
            task: tuple(names[row] for row in sorted(of_task))
            for (task, names), of_task in zip(self.ids.items(), rows, strict=True)
            if of_task
        }

    def rows(self, examples: Mapping[str, tuple[str, ...]]) -> Rows:
        """Return the rows of some ids of each task: the inverse of `chosen`."""
        return tuple(tuple(self._rows[task][name] for name in examples.get(task, ())) for task in self.ids)

    def cost(self, examples: Mapping[str, tuple[str, ...]], *, gradient: bool = False) -> float:
        """Return the share of the split that some examples are, in forward passes."""
        share = sum(map(len, examples.values())) / self.total
        return share * GRADIENT_COST if gradient else share

    def scored(self, study: Study, part: int | None) -> dict[str, Scores]:
        """Return the scores of a part together with those of the parts that it extends."""
        found: dict[str, Scores] = {}
        while part is not None:
            entry = study.parts[part]
            outcome = entry.outcome
            for task, scores in ({} if outcome is None else outcome.scores).items():
                if task not in found:
                    found[task] = scores
                # A candidate that was whole before examples were added holds the scores of the parts it completed.
                elif not set(scores.example_ids) <= set(found[task].example_ids):
                    found[task] = self._joined(task, found[task], scores)
            part = entry.trial.extends
        return found

    def rest(self, study: Study, part: int) -> dict[str, tuple[str, ...]]:
        """Return the examples that a part, and those that it extends, have not scored."""
        have = {task: frozenset(scores.example_ids) for task, scores in self.scored(study, part).items()}
        left = {task: tuple(n for n in names if n not in have.get(task, ())) for task, names in self.ids.items()}
        return {task: names for task, names in left.items() if names}

    def part(self, study: Study, proposal: Proposal, candidate: Trial) -> Trial:
        """Return the trial that a proposal asks for: some examples of a candidate, a gradient on them, or the rest."""
        if proposal.rows is None:
            left = {} if proposal.extends is None else self.rest(study, proposal.extends)
            return candidate.changed(extends=proposal.extends, cost=self.cost(left))
        chosen, weights = self.chosen(proposal.rows), proposal.gradient
        return candidate.changed(
            examples=chosen,
            extends=proposal.extends,
            gradient=None if weights is None else dict(zip(self.ids, weights, strict=True)),
            cost=self.cost(chosen, gradient=weights is not None),
        )

    def extension(self, study: Study, number: int) -> Trial:
        """Return the trial, yet without a number of its own, that scores an earlier model on the added examples."""
        before = study.parts[number].trial
        return before.changed(number=-1, examples=None, extends=number, cost=self.cost(self.rest(study, number)))

    def dispatched(self, study: Study, trial: Trial) -> Trial:
        """Return the trial as a worker gets it.

        One that completes a part comes with the examples that are left, one that asks for a gradient with the answers
        that baselines gave to its examples and the metric accepted.
        """
        if trial.gradient is not None and trial.examples is not None:
            return trial.changed(references=_references(study, trial.examples))
        if trial.extends is None or trial.is_part:
            return trial
        return trial.changed(examples=self.rest(study, trial.extends))

    def completed(self, study: Study, trial: Trial, outcome: Outcome) -> Outcome:
        """Return the outcome of a trial with the scores of the part that it completes."""
        if trial.extends is None or trial.is_part or outcome.failure is not None:
            return outcome
        if all(len(scores.values) == len(self.ids[task]) for task, scores in outcome.scores.items()):
            return outcome  # the scores of another trial of the same model
        before = self.scored(study, trial.extends)
        joined = {
            task: self._joined(task, before[task], outcome.scores[task])
            if task in before and task in outcome.scores
            else {**before, **outcome.scores}[task]
            for task in self.ids
        }
        return outcome.changed(scores=joined)

    def _joined(self, task: str, a: Scores, b: Scores) -> Scores:
        """Return the scores of different examples of one task together, in the evaluator's order."""
        ids = (*a.example_ids, *b.example_ids)
        order = sorted(range(len(ids)), key=lambda place: self._rows[task][ids[place]])
        values = np.concatenate([a.values, b.values])
        choices = None if a.choices is None or b.choices is None else (*a.choices, *b.choices)
        truncated = None if a.truncated is None or b.truncated is None else a.truncated + b.truncated
        accepted = None if a.accepted is None or b.accepted is None else (*a.accepted, *b.accepted)
        metric = None if a.metric is None or b.metric is None else np.concatenate([a.metric, b.metric])[order]
        return Scores(
            tuple(ids[place] for place in order),
            values[order],
            None if choices is None else tuple(choices[place] for place in order),
            truncated,
            None if accepted is None else tuple(accepted[place] for place in order),
            metric,
        )


def why_no_parts(objective: Objective) -> str | None:
    """Return why candidates cannot be compared on some of the examples; None where they can."""
    needs = "Candidates are compared on some of the examples by the mean of the tasks"
    if objective.kind != "mean":
        return f"{needs}, which `objective: {objective.kind}` is not."
    if objective.keep:
        return f"{needs}, and what `keep` asks of {', '.join(sorted(objective.keep))} needs all examples."
    if objective.whole_model:
        names = ", ".join(sorted(objective.whole_model))
        return f"Candidates are scored on some of the examples first, and {names} gives one value per model."
    return None


def _references(study: Study, examples: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, str]]:
    """Return, by task and example, an accepted answer of the parent or baseline that has most of them."""
    baselines = [
        entry.outcome.scores
        for entry in study.told
        if entry.trial.split == "search"
        and entry.trial.merge is not None
        and entry.losses
        and entry.outcome is not None
    ]
    found: dict[str, dict[str, str]] = {}
    for task, ids in examples.items():
        written = [scores[task] for scores in baselines if scores[task].accepted is not None]
        answers: dict[str, str] = {}
        for scores in sorted(written, key=lambda each: sum(text is not None for text in each.accepted or ())):
            pairs = zip(scores.example_ids, scores.accepted or (), strict=True)
            answers |= {name: text for name, text in pairs if text is not None}  # later models have more of them
        found[task] = {name: answers[name] for name in ids if name in answers}
    return found
