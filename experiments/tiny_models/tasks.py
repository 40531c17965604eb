"""The tasks: short texts with a command, an argument and an answer, made by the program.

Training and evaluation examples are disjoint by construction: the hash of a prompt says which side it is on.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

LETTERS = "abcdefgh"
DIGITS = "0123456789"


@dataclass(frozen=True)
class Example:
    """A prompt, its answer, and the answers to choose from (none where the answer is generated)."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()

    @property
    def for_evaluation(self) -> bool:
        """Whether the example is kept for evaluation: one prompt in eight, by the hash of its text."""
        return hashlib.sha256(self.prompt.encode()).digest()[0] % 8 == 0


@dataclass(frozen=True)
class Task:
    """A task: its name, how its answers are scored, and how one example is drawn."""

    name: str
    multiple_choice: bool
    draw: Callable[[Random], Example]

    def training(self, rng: Random, n_examples: int) -> list[Example]:
        """Examples to train on; some may be equal."""
        found: list[Example] = []
        while len(found) < n_examples:
            example = self.draw(rng)
            if not example.for_evaluation:
                found.append(example)
        return found

    def evaluation(self, rng: Random, n_examples: int) -> list[Example]:
        """Examples to evaluate on, all different. Raises ValueError when there are not so many."""
        found: dict[str, Example] = {}
        for _ in range(200 * n_examples):
            example = self.draw(rng)
            if example.for_evaluation:
                found.setdefault(example.prompt, example)
            if len(found) == n_examples:
                return list(found.values())
        raise ValueError(
            f"Task {self.name!r} has too few different prompts for {n_examples} evaluation examples "
            f"({len(found)} found); make its prompts longer."
        )


def _choices(rng: Random, answer: str, others: list[str]) -> tuple[str, ...]:
    """The answer and three of the others, in random order."""
    chosen = [answer, *rng.sample(others, 3)]
    rng.shuffle(chosen)
    return tuple(chosen)


def count(length: int) -> Task:
    """`count cabbacab =` is 3: how often there is an a. Multiple choice."""

    def draw(rng: Random) -> Example:
        number = rng.randint(0, length)
        text = ["a"] * number + rng.choices("bc", k=length - number)
        rng.shuffle(text)
        near = [str(n) for n in range(max(0, number - 3), number + 4) if n != number]
        return Example(f"count {''.join(text)} =", str(number), _choices(rng, str(number), near))

    return Task("count", True, draw)


def largest(length: int) -> Task:
    """`largest 72519 =` is 9. Multiple choice."""

    def draw(rng: Random) -> Example:
        digits = rng.choices(DIGITS, k=length)
        answer = max(digits)
        others = [digit for digit in DIGITS if digit != answer]
        return Example(f"largest {''.join(digits)} =", answer, _choices(rng, answer, others))

    return Task("largest", True, draw)


def reverse(length: int) -> Task:
    """`reverse 7251 =` is 1527. The answer is written out."""

    def draw(rng: Random) -> Example:
        digits = rng.choices(DIGITS, k=length)
        return Example(f"reverse {''.join(digits)} =", "".join(reversed(digits)))

    return Task("reverse", False, draw)


def sort(length: int) -> Task:
    """`sort 7251 =` is 1257. The answer is written out."""

    def draw(rng: Random) -> Example:
        digits = rng.choices(DIGITS, k=length)
        return Example(f"sort {''.join(digits)} =", "".join(sorted(digits)))

    return Task("sort", False, draw)


def find(entries: int) -> Task:
    """`find c a3c7b1 =` is 7: the digit behind the letter. Multiple choice."""

    def draw(rng: Random) -> Example:
        keys, values = rng.sample(LETTERS, entries), rng.sample(DIGITS, entries)
        key, answer = rng.choice(list(zip(keys, values, strict=True)))
        table = "".join(k + v for k, v in zip(keys, values, strict=True))
        others = [digit for digit in DIGITS if digit != answer]
        return Example(f"find {key} {table} =", answer, _choices(rng, answer, others))

    return Task("find", True, draw)
