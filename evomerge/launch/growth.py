"""Examples that were added to a study's tasks: whether it can continue on them, and which models are extended."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evaluators.base import SPLITS
from evomerge.config import ConfigError, SearchConfig
from evomerge.launch.pinned import Examples, other_examples, scored_on
from evomerge.objective import Objective
from evomerge.report.words import count as counted
from evomerge.results.finalists import FINALISTS
from evomerge.results.ranking import Ranking, non_dominated, ranked
from evomerge.results.scored import ScoredModel
from evomerge.search_examples import SearchExamples
from evomerge.study import Study

#: Candidates that are extended at most. The first FINALISTS always are: the best of many owes its place to sampling
#: error in part, so that a test against it is too hard on the next ones.
LEADERS = 2 * FINALISTS


@dataclass(frozen=True)
class Added:
    """Examples that a search file has beyond those of its study.

    tasks: the tasks' configuration. examples: split -> task -> ids of all examples now. counts: task -> numbers of
    search examples before and now. leaders: names of the candidates that are extended. extends: numbers of all trials
    that are. evaluations: what that costs, in evaluations of the whole search split of now.
    """

    tasks: Mapping[str, Any]
    examples: Mapping[str, Mapping[str, tuple[str, ...]]]
    counts: Mapping[str, tuple[int, int]]
    leaders: tuple[str, ...]
    extends: tuple[int, ...]
    evaluations: float

    def record(self, study: Study) -> None:
        """Add the examples to a study; to a reader's for itself only."""
        study.grow(self.tasks, self.examples, self.extends)

    @property
    def text(self) -> str:
        """Say what was added and what will be scored on it."""
        grown = ", ".join(f"{task} from {a} to {b}" for task, (a, b) in self.counts.items() if a != b) or "unchanged"
        others = counted(len(self.extends) - len(self.leaders), "baseline")
        named = f" ({', '.join(self.leaders)})" if self.leaders else ""
        leaders = f"{counted(len(self.leaders), 'leading candidate')}{named}"
        return (
            f"examples were added (search split: {grown}). First, {leaders} and {others} are scored on the added ones, "
            f"at the cost of {self.evaluations:.1f} evaluations. The other candidates keep their scores on the earlier "
            "examples and cannot be selected. What was spent so far counts in evaluations of the larger split, and the "
            "selection starts anew"
        )


def added(study: Study, examples: Examples, config: SearchConfig, objective: Objective) -> Added | None:
    """Return what was added to the tasks; None where the examples are those that the study was scored on.

    Raises ConfigError where examples are missing or may read differently.
    """
    before = scored_on(study)
    changed = [key for key, ids in before.items() if examples.get(key, ()) != ids]
    only = [key for key in changed if key[0] in config.report_only]
    if only and only == changed:  # the models that were reported would have to be scored again
        task, split = only[0]
        said = other_examples(task, split, before[only[0]], examples[only[0]])
        raise ConfigError(f"{config.where_task(task)}: {said}")
    changed = [key for key in changed if key not in only]
    for task, split in changed:
        now = examples.get((task, split), ())
        if not set(before[task, split]) < set(now):
            raise ConfigError(f"{config.where('tasks', task)}: {other_examples(task, split, before[task, split], now)}")
        _check_shots(study, config, task)
    if not changed:
        return None
    data = config.as_dict()["tasks"]
    splits = {split: {task: examples[task, split] for task in config.tasks} for split in SPLITS}
    old = {task: before.get((task, "search"), ids) for task, ids in splits["search"].items()}
    ranking = Ranking(study, objective, "search")
    leaders = _leaders(ranking)
    others = [model for model in ranking.models if model.kind not in ("candidate", "recommended")]
    extends = sorted(model.trial.number for model in (*leaders, *others))
    left = 1 - SearchExamples(old).total / SearchExamples(splits["search"]).total
    return Added(
        tasks=data,
        examples=splits,
        counts={task: (len(old[task]), len(ids)) for task, ids in splits["search"].items()},
        leaders=tuple(model.name for model in leaders),
        extends=tuple(extends),
        evaluations=len(extends) * left,
    )


def _leaders(ranking: Ranking) -> list[ScoredModel]:
    """Return the candidates that lead, best first: those that the best one was not shown to be better than.

    Of a front, its points. The start is not among them: it is extended as baselines are.
    """
    searched = ranked(model for model in ranking.candidates if model.kind != "start")
    if ranking.objective.pareto:
        return ranked(non_dominated(searched))[:LEADERS]
    display = ranking.reference.display
    others = searched[FINALISTS:]
    level = [other for other in others if not display.difference(searched[0].scores, other.scores).shown]
    return [*searched[:FINALISTS], *level][:LEADERS]


def _check_shots(study: Study, config: SearchConfig, task: str) -> None:
    """Raise ConfigError where lines were added to a file from which solved examples are drawn for every prompt."""
    options, earlier = config.tasks[task].options, study.configuration["tasks"][task]
    if options.get("num_fewshot") and "file" in options and options.get("limit") == earlier.get("limit"):
        raise ConfigError(
            f"{config.where('tasks', task)}: lines were added to {options['file']}, and {options['num_fewshot']} of "
            "its examples are shown in every prompt (num_fewshot), which may now be others: earlier scores would be "
            "of other prompts. Remove the added lines, or begin a new study in another folder (`study`)."
        )
