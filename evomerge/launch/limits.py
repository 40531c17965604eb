"""The limits of a search: its budget, the time reserved for the selection, and whether anything is left to do."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from evomerge.budget import Budget, spent_of, stage_seconds
from evomerge.config import SearchConfig
from evomerge.feedback import replay
from evomerge.launch.placement import placement
from evomerge.launch.plan import Plan, build_optimizer, build_race
from evomerge.optimizers.base import Optimizer
from evomerge.report.status import state_of
from evomerge.results.cost import Scorings, scorings, selection_seconds
from evomerge.results.select import is_complete
from evomerge.study import Study


@dataclass(frozen=True)
class Finished:
    """Why a study has nothing left to do. limit: the limit to raise for more trials, None if that gives none."""

    why: str
    limit: str | None = None

    def text(self, resume: str) -> str:
        """Return the reason and how to get more trials. resume: `run COMMAND`, or `resume again`."""
        more = "" if self.limit is None else f"To continue the search, raise {self.limit} and {resume}; "
        return f"{self.why}. {more}{'for' if more else 'For'} a new search choose another `study` folder."


def spent(config: SearchConfig, plan: Plan, study: Study) -> bool:
    """Return whether the budget leaves no time or trial for another candidate."""
    optimizer = build_optimizer(config, plan)
    workers = 1 if config.executor == "serial" else placement(config, plan.needs)[0]
    return budget(config).spent(study, lambda: time_after(plan, optimizer, study, lambda: workers))


def finished(config: SearchConfig, plan: Plan, study: Study, *, finish: bool = False) -> Finished | None:
    """Return why resuming would score nothing; None if it would. finish: resuming proposes nothing more."""
    if state_of(study) != "done" or not is_complete(study, plan.objective):
        return None
    if finish:
        return Finished("the winner among all candidates is selected")
    trials = config.budget.trials
    of = spent_of(study, trials)
    if spent(config, plan, study):
        limit = "budget.trials" if Budget(trials).spent(study) else _time_limit(config)
        return Finished(f"the budget is spent ({of}) and the winner selected", limit)
    optimizer = build_optimizer(config, plan)
    replay(study, optimizer, plan.objective, race=build_race(config, plan), examples=plan.search_examples)
    asked = {entry.trial.label for entry in study.entries.values()}
    if optimizer.wants({}) or any(trial.label not in asked for trial in plan.planned):
        return None
    units = "evaluations" if study.parts else "trials"
    return Finished(f"{config.optimizer.kind} needs no more {units} ({of}) and the winner is selected")


def _time_limit(config: SearchConfig) -> str:
    limits = config.budget
    given = {"budget.hours": limits.hours, "budget.until": limits.until, "budget.money": limits.money}
    return " or ".join(name for name, value in given.items() if value is not None)


def time_after(plan: Plan, optimizer: Optimizer, study: Study, slots: Callable[[], int]) -> float:
    """Seconds to keep of a budget of time: for one more candidate, then for the selection, at the pace so far."""
    stages = stage_seconds(study)
    searched = sum(trial.merge is None and trial.counts for trial in (e.trial for e in study.told))
    count = selection_count(plan, optimizer, searched)
    more = sum(plan.n_report_only.values())
    return sum(stages.values()) + selection_seconds(count, stages, plan.examples, slots(), more)


def selection_count(plan: Plan, optimizer: Optimizer, searched: int | None) -> Scorings:
    """How many models the selection scores at most. searched: candidates so far, None for an unknown number."""
    baselines = [trial.label for trial in plan.planned if trial.merge is not None]
    recommends = type(optimizer).recommend is not Optimizer.recommend
    return scorings(plan.objective, baselines, searched, recommends=recommends)


def budget(config: SearchConfig) -> Budget:
    """The limits of the search file, from now on."""
    return Budget(config.budget.trials, config.budget.most_hours, config.budget.deadline(datetime.now().astimezone()))
