"""Interactive `evomerge pick`: lists the front and asks until a merge is chosen."""

import re
from collections.abc import Callable

from evomerge.commands import knob
from evomerge.commands.knob import Mixture
from evomerge.commands.pick import Request, decide, deciding_front
from evomerge.report.words import column_digits, plus_minus
from evomerge.results.pick import ChoiceError
from evomerge.run import Run
from evomerge.study import StudyError
from evomerge.trial import Origin

_QUESTION = "Trial number, weights (math=2,chat=1), `max math`, constraints (chat>=-1pt), `knee`, `knob 0.3`, or q"
_KNOB = re.compile(r"knob\s+(?P<t>\d*\.?\d+)(?:\s+(?P<between>.+))?")
_SPACES = re.compile(r"\s*(>=|<=|=)\s*")


def ask_for_choice(
    run: Run, split: str | None, ask: Callable[[str], str], say: Callable[[str], None]
) -> int | Mixture | None:
    """Return the number of the chosen trial, an interpolated merge, or None.

    ask: asks a question; say: prints a line.
    """
    _list(run, split, say)
    while (answer := ask(_QUESTION).strip()) not in ("q", "quit"):
        try:
            request = read_answer(answer, split)
            found = decide(run, request) if request.knob is None else knob.find(run, request)
        except (ChoiceError, StudyError) as error:
            say(str(error))
            continue
        for line in knob.shown(run, found)[1]:
            say(line)
        if ask("Write its recipe? y or n").strip().lower() in ("y", "yes"):
            return found if isinstance(found, Mixture) else found.point.number
    return None


def read_answer(answer: str, split: str | None) -> Request:
    """Parse `7`, `math=2,chat=1`, `max math chat>=-1pt`, `knee`, `knob 0.3`, or `knob 0.3 math,chat` of several tasks.

    Raises ChoiceError for anything else.
    """
    turned = _KNOB.fullmatch(answer.strip())
    if turned is not None:
        return Request(split=split, knob=float(turned["t"]), between=turned["between"])
    words = re.split(r"[\s,]+", _SPACES.sub(r"\1", answer.strip()))
    if len(words) == 1 and words[0].isdigit():
        return Request(trial=int(words[0]), split=split)
    keep = tuple(word for word in words if ">=" in word or "<=" in word)
    weights = [word for word in words if "=" in word and word not in keep]
    rest = [word for word in words if word not in keep and word not in weights]
    best_at = rest[1] if len(rest) == 2 and rest[0] == "max" else None
    knee = rest == ["knee"]
    if rest and not knee and best_at is None:
        raise ChoiceError(f"Cannot read {' '.join(rest)!r}. {_QUESTION}.")
    return Request(",".join(weights) or None, best_at, keep, knee, split=split)


def _list(run: Run, split: str | None, say: Callable[[str], None]) -> None:
    front = deciding_front(run, split)
    if not front.choices:
        raise ChoiceError(f"No merge of {run.folder} is scored on the {front.split} split yet.")
    say(f"Non-dominated merges on the {front.split} split:")
    digits = {task: column_digits(point.tasks[task] for point in front.choices) for task in front.tasks}
    for point in front.choices:
        tasks = ", ".join(f"{task} {plus_minus(value, digits[task])}" for task, value in point.tasks.items())
        named = [name for name, one in (("preferred", front.preferred), ("knee", front.knee)) if one is point]
        remarks = f"  ({', '.join(named)})" if named else ""
        other = "" if point.label == Origin.CANDIDATE.label(point.number) else f" {point.label}"
        say(f"{point.number:>5}{other}  {tasks}{remarks}")
