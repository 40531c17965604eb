"""Brackets of successive halving: n candidates enter on a rung, and the best 1/eta of each rung climb.

Which bracket a candidate belongs to follows from its entry rung and its number, so that no state has to be kept.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from evomerge.optimizers._rungs import Candidate, best


@dataclass(frozen=True)
class Bracket:
    """A bracket: the rung on which its candidates enter, and their number."""

    entry: int
    size: int

    def climber(
        self, members: Sequence[Candidate], top: int, eta: int, climbing: Collection[Candidate]
    ) -> Candidate | None:
        """Return the next candidate that climbs; None while a rung waits for results, and at the end.

        Args:
            members: The candidates that entered, all of them with results.
            top: The rung of all examples.
            eta: Ratio of the sizes of two neighboring rungs.
            climbing: Candidates whose next result is pending.
        """
        for rung in range(self.entry + 1, top + 1):
            members = best(members, rung - 1, self.size // eta ** (rung - self.entry))
            waiting = [member for member in members if rung not in member.losses]
            if waiting:
                return next((member for member in waiting if member not in climbing), None)
        return None


class Brackets:
    """Brackets in a fixed order, repeated without end. While one waits for results, candidates enter the next.

    Args:
        brackets: The brackets; no two have the same entry rung.
        top: The rung of all examples.
        eta: Ratio of the sizes of two neighboring rungs.
    """

    def __init__(self, brackets: Sequence[Bracket], top: int, eta: int) -> None:
        self._brackets, self._top, self._eta = tuple(brackets), top, eta
        self._schedule = Schedule(tuple(bracket.entry for bracket in brackets for _ in range(bracket.size)))

    def climber(
        self, candidates: Collection[Candidate], new: Collection[int], climbing: Collection[Candidate]
    ) -> Candidate | None:
        """Return the candidate of the oldest bracket that climbs next; None where all of them wait or are done.

        Args:
            candidates: All candidates so far.
            new: Numbers of the pending trials of new candidates.
            climbing: Candidates whose next result is pending.
        """
        for bracket, members in self._full(entries(candidates, new, self._schedule)):
            found = bracket.climber(members, self._top, self._eta, climbing)
            if found is not None:
                return found
        return None

    def entry(self, candidates: Collection[Candidate], new: Collection[int]) -> int:
        """Return the rung on which the next candidate enters."""
        taken = Counter(rung for rung, _ in entries(candidates, new, self._schedule))
        return self._schedule.rung(self._schedule.free(taken))

    def _full(self, entered: Sequence[tuple[int, Candidate | None]]) -> Iterator[tuple[Bracket, list[Candidate]]]:
        """Yield the brackets that are full, oldest first, with their candidates."""
        found = []
        for place, bracket in enumerate(self._brackets):
            here = [candidate for rung, candidate in entered if rung == bracket.entry]
            for first in range(0, len(here) - bracket.size + 1, bracket.size):
                members = [candidate for candidate in here[first : first + bracket.size] if candidate is not None]
                if len(members) == bracket.size:
                    found.append((first // bracket.size, place, members))
        for _, place, members in sorted(found, key=lambda each: each[:2]):
            yield self._brackets[place], members


def entries(
    candidates: Collection[Candidate], new: Collection[int], schedule: "Schedule"
) -> list[tuple[int, Candidate | None]]:
    """Return entry rung and candidate, None while its first result is pending, in the order of the trials' numbers.

    Args:
        candidates: All candidates so far.
        new: Numbers of the pending trials of new candidates.
        schedule: The slots that candidates take.
    """
    told = {candidate.number: candidate for candidate in candidates if candidate.entered is not None}
    taken: Counter[int] = Counter()
    found: list[tuple[int, Candidate | None]] = []
    for number in sorted({*told, *new}):
        candidate = told.get(number)
        rung = None if candidate is None else candidate.entered
        rung = schedule.rung(schedule.free(taken)) if rung is None else rung
        taken[rung] += 1
        found.append((rung, candidate))
    return found


@dataclass(frozen=True)
class Schedule:
    """Slots for new candidates, each on a rung: those of `first`, then those of `cycle`, repeated without end.

    Example:
        >>> schedule = Schedule(cycle=(0, 0, 1))
        >>> schedule.free({}), schedule.free({0: 2}), schedule.free({0: 2, 1: 1})
        (0, 2, 3)
        >>> schedule.rung(3)
        0
    """

    cycle: tuple[int, ...]
    first: tuple[int, ...] = ()

    def free(self, taken: Mapping[int, int]) -> int:
        """Return the place of the first free slot, given the number of candidates by rung; they take slots in turn."""
        return min(self._place(rung, taken.get(rung, 0)) for rung in {*self.first, *self.cycle})

    def rung(self, place: int) -> int:
        """Return the rung of a slot."""
        n_first = len(self.first)
        return self.first[place] if place < n_first else self.cycle[(place - n_first) % len(self.cycle)]

    def _place(self, rung: int, index: int) -> int:
        """Return the place of slot `index` of a rung."""
        once = [place for place, other in enumerate(self.first) if other == rung]
        if index < len(once):
            return once[index]
        again = [place for place, other in enumerate(self.cycle) if other == rung]
        rounds, within = divmod(index - len(once), len(again))
        return len(self.first) + rounds * len(self.cycle) + again[within]
