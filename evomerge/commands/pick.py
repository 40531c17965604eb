"""`evomerge pick`, and the choice of a trial in `evomerge export`: from a preference to a point of the front."""

from dataclasses import dataclass

from evaluators.base import SPLITS
from evomerge.commands.decision import Decision, reached_line, view
from evomerge.objective import Objective
from evomerge.report.status import state_of
from evomerge.report.words import absent, same_decimals
from evomerge.results import pick
from evomerge.results.front import Front
from evomerge.results.pick import ChoiceError, Chosen, Wish, preferred_model, read_wish
from evomerge.results.scored import ScoredModel, identity
from evomerge.run import Run
from evomerge.study import Study, StudyBusy, StudyError, StudyPaused


@dataclass(frozen=True)
class Request:
    """The options of a choice, as typed. split: the deciding one; by default select once finalists are scored on it.

    nearest: take the nearest point if none meets the constraints. predicted: the number of a predicted point. knob: a
    position along the front, from 0 to 1; between: the two tasks that it goes from and to, comma-separated.
    """

    prefer: str | None = None
    best_at: str | None = None
    keep: tuple[str, ...] = ()
    knee: bool = False
    trial: int | None = None
    split: str | None = None
    nearest: bool = False
    predicted: int | None = None
    knob: float | None = None
    between: str | None = None

    @property
    def wishes(self) -> bool:
        """Whether the request chooses from the front."""
        return self.prefer is not None or self.best_at is not None or bool(self.keep) or self.knee

    def wish(self, objective: Objective) -> Wish:
        """Parse the preference. Raises ChoiceError for invalid text, or for one beside a trial number."""
        check_split(self.split)
        if self.trial is not None and self.wishes:
            raise ChoiceError("--trial N names the merge: leave out --prefer, --max, --keep and --knee.")
        return read_wish(objective, prefer=self.prefer, best_at=self.best_at, keep=self.keep, knee=self.knee)


def decide(run: Run, request: Request) -> Decision:
    """Find the requested point; a choice on the report split is recorded in the study.

    Raises ChoiceError for an invalid request, StudyError for a trial without scores.
    """
    check_split(request.split)
    deciding = deciding_front(run, request.split)
    wish = request.wish(deciding.objective)
    if request.trial is not None:
        deciding, point = _numbered(run, deciding, request)
        return _decision(run, deciding, Chosen(point, wish, ()), f"{point.label}, as requested.", ())
    chosen = pick.choose(deciding, wish)
    notes = [*_caveats(deciding), *_not_kept(deciding, chosen)]
    if deciding.split != "search" and not chosen.met:
        notes.append(
            f"Only finalists are scored on the {deciding.split} split; --split search chooses among all merges."
        )
    if deciding.split == "report" and (chosen.met or request.nearest):
        notes.append(record_report_use(run.study, chosen.point.label, wish.text))
    return _decision(run, deciding, chosen, _sentence(deciding, chosen), notes)


def check_split(split: str | None) -> None:
    """Raise ChoiceError for an unknown split."""
    if split is not None and split not in SPLITS:
        raise ChoiceError(f"--split is one of {', '.join(SPLITS)}; got {split!r}.")


def deciding_front(run: Run, split: str | None = None) -> Front:
    """Return the front of a split; by default of select once finalists are scored on it, else of search."""
    if split is None:
        split = "select" if any(point.is_candidate for point in run.scored("select").points) else "search"
    return run.scored(split)


def number_to_write(decision: Decision, request: Request) -> int:
    """Return the number of the trial to write. Raises ChoiceError if it violates a constraint."""
    if not decision.chosen.met and not request.nearest:
        missed = "; ".join(reached_line(each) for each in decision.chosen.reached if each.missed_by > 0)
        raise ChoiceError(f"{decision.sentence} {missed}. Accept it with --nearest, or relax the constraint.")
    return decision.point.number


def _decision(run: Run, deciding: Front, chosen: Chosen, sentence: str, notes: list[str] | tuple[str, ...]) -> Decision:
    number = chosen.point.number
    splits = [deciding]
    if deciding.split != "report":
        splits.append(run.scored("report"))
    views = (view(deciding, number, split, chosen.wish.weights) for split in splits)
    outscored = _outscored(deciding, chosen)
    notes = (*notes, *outscored, *_dominated(deciding, chosen.point))
    return Decision(chosen, sentence, notes, tuple(v for v in views if v is not None), " ".join(outscored))


def _sentence(deciding: Front, chosen: Chosen) -> str:
    if chosen.met:
        return f"On the {deciding.split} split, {chosen.point.label} is {chosen.wish.text}."
    asked = " and ".join(constraint.text for constraint in chosen.wish.keep)
    how = (
        ", whose largest violation, relative to the range of its task, is the smallest"
        if len(chosen.reached) > 1
        else ""
    )
    return f"No merge meets {asked} on the {deciding.split} split; the nearest is {chosen.point.label}{how}."


def _numbered(run: Run, deciding: Front, request: Request) -> tuple[Front, ScoredModel]:
    """Find a trial by its number on the deciding split, or, if no split was requested, on the search split."""
    entry = run.study.entries.get(request.trial) if request.trial is not None else None
    number = -1 if entry is None else identity(run.study, entry.trial)[1]
    found = deciding.numbered(number)
    if found is None and request.split is None:
        deciding = run.scored()
        found = deciding.numbered(number)
    if found is None:
        there = ", ".join(str(point.number) for point in deciding.choices)
        what = f"has no scores on the {deciding.split} split of" if entry else "is not in"
        raise StudyError(f"Trial {request.trial} {what} {run.folder}; trials on its front: {there or 'none'}.")
    return deciding, found


def _caveats(deciding: Front) -> list[str]:
    notes = []
    if deciding.split == "search":
        optimism = deciding.optimism
        by = f"about {optimism.expected:.2g} of " if optimism is not None and optimism.expected > 0 else ""
        notes.append(f"Chosen on search examples; expect {by}selection optimism.")
    return notes + absent(deciding)


def _not_kept(deciding: Front, chosen: Chosen) -> list[str]:
    """Warn if the choice violates the study's constraints; constraints of the request replace these."""
    keep = deciding.objective.keep
    if not keep or chosen.wish.keep or chosen.point.keeps:
        return []
    asked = ", ".join(f"{task} {deciding.objective.asked(task)}" for task in keep)
    only_here = any(deciding.objective.limits_flips(task) for task in keep)  # --keep limits means of tasks
    more = "" if only_here else "; repeat them with --keep to enforce them here"
    return [f"It violates the study's constraints ({asked}){more}."]


def _outscored(deciding: Front, chosen: Chosen) -> list[str]:
    """Warn of a base or parent that scores higher than the choice by the same measure, with both scores."""
    found = preferred_model(deciding, chosen)
    if found is None:
        return []
    model, theirs, mine = found
    measure = "the study's own score" if chosen.wish.counted is None and chosen.wish.best_at is None else "this measure"
    higher, lower = same_decimals(theirs, mine)
    return [f"By {measure}, {model.label} scores higher on the {deciding.split} split: {higher} against {lower}."]


def _dominated(deciding: Front, point: ScoredModel) -> list[str]:
    rivals = (model for model in deciding.points if model.number != point.number)
    above = [r.label for r in rivals if (r.losses <= point.losses).all() and (r.losses < point.losses).any()]
    return [f"It is dominated by {', '.join(above[:3])}."] if above else []


def record_report_use(study: Study, label: str, why: str) -> str:
    """Record that the report split was used for a choice; return the note on it."""
    said = "This choice used the report split, so its scores there are no longer held-out"
    if state_of(study) != "done":
        return f"{said}. The study is not finished, so this is not recorded."
    try:
        writer = Study.open(study.folder)
    except (StudyBusy, StudyPaused) as error:
        return f"{said}. This is not recorded: {error}"
    try:
        writer.event("report_split_read", winner=label, reason=f"chosen on it: {why}")
    finally:
        writer.close()
    return f"{said}; the study records this."
