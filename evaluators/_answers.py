"""Right choices of multiple-choice examples: an answer is either the position or the text of a choice.

A number can be read both ways if the choices are numbers too, so the reading is decided once per file.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from evaluators.base import EvaluatorError

AnswerIs = Literal["index", "index_from_1", "letter", "choice"]

#: Answers are taken to count from 1 if the absence of index 0 has a smaller probability than this by chance.
UNLIKELY = 0.01


@dataclass(frozen=True)
class Labeled:
    """An example's answer as in the file, its choices as texts, and its location for error messages."""

    where: str
    answer: Any
    choices: Sequence[str]


def right_choices(examples: Sequence[Labeled], answer_is: AnswerIs | None) -> tuple[list[int], tuple[str, ...]]:
    """Return the position of each example's right choice, and warnings about suspicious answers.

    answer_is: how to read answers; None infers it from all examples together. A text is a choice then, or, where no
    text of the file is one, a letter: A for the first choice. Raises EvaluatorError for an unreadable answer and for
    numbers with two readings.
    """
    if answer_is is not None and answer_is not in get_args(AnswerIs):
        raise EvaluatorError(f"answer_is is {answer_is!r}; expected one of {', '.join(get_args(AnswerIs))}.")
    numbers = [example for example in examples if _is_number(example.answer)]
    texts = [example for example in examples if isinstance(example.answer, str)]
    how = answer_is or _reading(numbers)
    of_text = answer_is or _reading_of_texts(texts)
    found = []
    for example in examples:
        position = _READINGS[of_text if isinstance(example.answer, str) else how](example)
        if position is None:
            raise _unreadable(example, answer_is)
        found.append(position)
    notes = _from_zero(numbers) if answer_is is None and how == "index" else ()
    if answer_is is None and of_text == "letter":
        first = texts[0]
        meant = f"{first.answer!r} in {first.where} is {first.choices[_as_letter(first) or 0]!r}"
        return found, (*notes, f"its answers are letters, and none is a choice: read as positions ({meant})")
    return found, notes


def _reading_of_texts(examples: Sequence[Labeled]) -> AnswerIs:
    """Infer whether the texts of a file are choices, or letters: only if none is a choice, and all are letters."""
    letters = bool(examples) and all(_as_choice(e) is None and _as_letter(e) is not None for e in examples)
    return "letter" if letters else "choice"


def _reading(examples: Sequence[Labeled]) -> AnswerIs:
    """Infer how to read the numbers of a file: the only reading in which all of them make sense."""
    index, choice = [list(map(_READINGS[how], examples)) for how in ("index", "choice")]
    for example, as_index, as_choice in zip(examples, index, choice, strict=True):
        if None not in index and None not in choice and as_index != as_choice:
            raise EvaluatorError(
                f"{example.where}: the answer {example.answer!r} can be an index, meaning "
                f"{example.choices[as_index or 0]!r}, or a choice, {example.choices[as_choice or 0]!r}, and every "
                "number in this file is ambiguous. Set `answer_is: index` or `answer_is: choice`."
            )
    if None in index and None in choice:
        neither = next((e for e, a, b in zip(examples, index, choice, strict=True) if a is None and b is None), None)
        if None not in map(_from_one, examples):
            hint = " No answer is 0; if indices start at 1, set `answer_is: index_from_1`."
        else:
            hint = "" if neither else " Other answers of this file are not choices: no single reading fits all."
        raise _unreadable(neither or examples[index.index(None)], None, hint)
    return "choice" if None in index else "index"


def _unreadable(example: Labeled, answer_is: AnswerIs | None, hint: str = "") -> EvaluatorError:
    last = len(example.choices) - 1
    wanted = {
        None: f"an index from 0 to {last} or one of {list(example.choices)!r}",
        "index": f"an index from 0 to {last}, as `answer_is: index` says",
        "index_from_1": f"an index from 1 to {last + 1}, as `answer_is: index_from_1` says",
        "letter": f"a letter from A to {chr(ord('A') + last)}, as `answer_is: letter` says",
        "choice": f"one of {list(example.choices)!r}, as `answer_is: choice` says",
    }[answer_is]
    if not hint and answer_is is None and isinstance(example.answer, str):
        ways: tuple[AnswerIs, ...] = ("letter", "index")
        named = [how for how in ways if _READINGS[how](example) is not None]
        hint = f" If it names a position, set `answer_is: {named[0]}`." if named else ""
    return EvaluatorError(f"{example.where}: answer is {example.answer!r}; expected {wanted}.{hint}")


def _from_zero(examples: Sequence[Labeled]) -> tuple[str, ...]:
    """Return a warning if no answer is 0 although some should be by chance."""
    chance = 1.0
    for example in examples:
        if example.answer == 0:
            return ()
        chance *= 1 - 1 / len(example.choices)
    if chance >= UNLIKELY:
        return ()
    note = f"none of its {len(examples)} answers is 0, the first choice; if indices start at 1, set"
    return (f"{note} `answer_is: index_from_1`",)


def _is_number(answer: Any) -> bool:
    return isinstance(answer, int | float) and not isinstance(answer, bool)


def _as_index(example: Labeled, first: int = 0) -> int | None:
    answer = example.answer
    if isinstance(answer, str) and answer.strip().isdecimal():
        answer = int(answer)
    if not isinstance(answer, int) or isinstance(answer, bool):
        return None
    return answer - first if 0 <= answer - first < len(example.choices) else None


def _as_letter(example: Labeled) -> int | None:
    answer = example.answer.strip().upper() if isinstance(example.answer, str) else ""
    position = ord(answer) - ord("A") if len(answer) == 1 else -1
    return position if 0 <= position < len(example.choices) else None


def _from_one(example: Labeled) -> int | None:
    return _as_index(example, first=1)


def _as_choice(example: Labeled) -> int | None:
    answer = example.answer
    if isinstance(answer, str):
        return example.choices.index(answer) if answer in example.choices else None
    if not _is_number(answer):
        return None
    return next((i for i, text in enumerate(example.choices) if text == str(answer) or _number(text) == answer), None)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_READINGS: dict[AnswerIs, Callable[[Labeled], int | None]] = {
    "index": _as_index,
    "index_from_1": _from_one,
    "letter": _as_letter,
    "choice": _as_choice,
}
