"""`--knob T` and `--knob-steps K` of `evomerge pick` and `evomerge export`: any position along a front."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from evomerge.commands.decision import Decision, decision_lines, decision_to_dict
from evomerge.commands.pick import Request, check_split, decide, deciding_front, record_report_use
from evomerge.report import status
from evomerge.report.words import column_digits, plus_minus, tasks
from evomerge.results.as_json import estimates_to_dict
from evomerge.results.knob import Knob, Setting, Stop, knob
from evomerge.results.pick import ChoiceError
from evomerge.run import Run


@dataclass(frozen=True, eq=False)
class Mixture:
    """A position between two scored merges, whose coefficients are interpolated. command: exports it, without -o."""

    knob: Knob
    setting: Setting
    neighbors: tuple[Stop, Stop]
    command: str
    notes: tuple[str, ...]

    @property
    def label(self) -> str:
        """`knob 0.37`."""
        return f"knob {self.setting.t:g}"

    @property
    def shares(self) -> Mapping[str, float]:
        """Label of a neighbor -> its share in the coefficients."""
        first, second = self.neighbors
        return {first.point.label: 1.0 - self.setting.share, second.point.label: self.setting.share}

    @property
    def sentence(self) -> str:
        """What it is, and that it was not scored."""
        parts = " and ".join(f"{share:.3g} of {label}" for label, share in self.shares.items())
        return (
            f"{_place(self.knob, self.setting)}, no merge was scored: the coefficients are interpolated, {parts}, and "
            "the scores are unknown."
        )


def find(run: Run, request: Request) -> Decision | Mixture:
    """Return the merge at the position that is asked for: a scored one, or the mixture of its two neighbors.

    A use of the report split is recorded in the study. Raises ChoiceError for an invalid request.
    """
    found = open_knob(run, request)
    t = 0.0 if request.knob is None else request.knob
    setting = found.at(t)
    notes = [*_notes(run, found, f"knob {t:g}"), *_violations(setting)]
    if setting.second is None:
        decision = decide(run, Request(trial=setting.first.point.number, split=found.split))
        moved = "no merge lies there; the nearest scored one" if setting.is_moved else "the merge"
        sentence = f"{_place(found, setting)}, {moved} is {setting.first.point.label}, which was scored."
        return replace(decision, sentence=sentence, notes=(*notes, *decision.notes))
    command = f"{status.export_command(run.folder)} --knob {t:g}{_options(request)}"
    return Mixture(found, setting, (setting.first, setting.second), command, tuple(notes))


def open_knob(run: Run, request: Request) -> Knob:
    """Return the knob of a run. Raises ChoiceError for options that exclude each other, and if there is no front."""
    if request.wishes or request.trial is not None or request.predicted is not None or request.nearest:
        raise ChoiceError(
            "--knob and --knob-steps name positions on the front: leave out --trial, --predicted, --nearest and all "
            "preferences."
        )
    check_split(request.split)
    return knob(run.study, deciding_front(run, request.split), _tasks(request.between))


def shown(run: Run, found: Decision | Mixture) -> tuple[dict[str, Any], list[str]]:
    """Return the merge at a position as plain data and as lines of text."""
    if isinstance(found, Decision):
        return decision_to_dict(found, run.folder) | {"evaluated": True}, decision_lines(found, run.folder)
    rows = [found.sentence, f"Scores of its neighbors on the {found.knob.split} split:"]
    for task in found.neighbors[0].point.tasks:
        values = [stop.point.tasks[task] for stop in found.neighbors]
        digits = column_digits(values)
        said = (f"{s.point.label} {plus_minus(v, digits)}" for s, v in zip(found.neighbors, values, strict=True))
        rows.append(f"  {task}: {', '.join(said)}")
    rows += [f"note: {note}" for note in found.notes]
    data = {
        **_setting_to_dict(found.setting),
        "between": list(found.knob.tasks),
        "split": found.knob.split,
        "sentence": found.sentence,
        "notes": list(found.notes),
        "recipe": None,
        "next": f"{found.command} -o DIR",
    }
    return data, [*rows, f"To export it: {data['next']}"]


def shown_steps(run: Run, request: Request, n_steps: int) -> tuple[dict[str, Any], list[str]]:
    """Return positions at equal distances as plain data, and as lines of text with the scores where there are some."""
    found = open_knob(run, request)
    settings = found.steps(n_steps)
    first, last = found.tasks
    notes = _notes(run, found, f"{n_steps} positions")
    scored = sum(setting.is_evaluated for setting in settings)
    lines = [f"{n_steps} positions on the front of the {found.split} split, from best on {first} to best on {last}:"]
    lines += [f"  {setting.t:.3f}  {_described(setting)}" for setting in settings]
    lines.append(
        f"{scored} of them {'is a scored merge' if scored == 1 else 'are scored merges'}; the others are "
        "interpolated between neighbors and were not scored."
    )
    data = {
        "between": [first, last],
        "split": found.split,
        "steps": [_setting_to_dict(setting) | {"recipe": None} for setting in settings],
        "notes": notes,
    }
    return data, [*lines, *(f"note: {note}" for note in notes)]


def _tasks(between: str | None) -> tuple[str, str] | None:
    if between is None:
        return None
    names = [name.strip() for name in between.split(",")]
    if len(names) != 2:
        raise ChoiceError(f"--between names two tasks, such as math,chat; got {between!r}.")
    return names[0], names[1]


def _options(request: Request) -> str:
    """Return the options besides the position, for a command that means the same knob."""
    given = {"--between": request.between, "--split": request.split}
    return "".join(f" {name} {shlex.quote(value)}" for name, value in given.items() if value is not None)


def _place(found: Knob, setting: Setting) -> str:
    first, last = found.tasks
    return f"At {setting.t:g} along the front of the {found.split} split, from best on {first} to best on {last}"


def _described(setting: Setting) -> str:
    if setting.second is not None:
        parts = (setting.first, 1.0 - setting.share), (setting.second, setting.share)
        return " + ".join(f"{share:.2f} {stop.point.label}" for stop, share in parts) + ", interpolated"
    point = setting.first.point
    return f"{point.label}{', the nearest' if setting.is_moved else ''}, scored: {tasks(point.means)}"


def _setting_to_dict(setting: Setting) -> dict[str, Any]:
    stops = [(setting.first, 1.0 - setting.share)]
    if setting.second is not None:
        stops.append((setting.second, setting.share))
    neighbors = [
        {
            "label": stop.point.label,
            "number": stop.point.number,
            "t": stop.t,
            "share": share,
            "tasks": estimates_to_dict(stop.point.tasks),
        }
        for stop, share in stops
    ]
    return {"t": setting.t, "evaluated": setting.is_evaluated, "neighbors": neighbors}


def _notes(run: Run, found: Knob, taken: str) -> list[str]:
    """Say which merges of the front are not on the knob, and record a use of the report split for `taken`."""
    notes = []
    if found.left_out:
        notes.append(
            f"Merges of the front that are no points of the search space are left out: {', '.join(found.left_out)}."
        )
    if found.split == "search":
        notes.append("The front is that of the search examples, whose scores are optimistic.")
    if found.split == "report":
        notes.append(record_report_use(run.study, taken, "a position on its front"))
    return notes


def _violations(setting: Setting) -> list[str]:
    """Warn if a merge that is taken, or a neighbor of it, violates the study's constraints."""
    stops = [setting.first] if setting.second is None else [setting.first, setting.second]
    missed = [stop.point.label for stop in stops if not stop.point.keeps]
    objective = setting.first.point.objective
    asked = ", ".join(f"{task} {objective.asked(task)}" for task in objective.keep)
    return [f"The study's constraints ({asked}) are violated by {' and '.join(missed)}."] if missed else []
