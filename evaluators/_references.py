"""References that a generating task's settings make impossible: such an example could only score 0."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from evaluators._tokens import encode
from evaluators.base import EvaluatorError

#: Maximum length of texts quoted in a warning.
QUOTED = 40
_LOOKS_AROUND = ("(?=", "(?!", "(?<=", "(?<!")


def unreachable(
    references: Sequence[Sequence[str]],
    tokenizer: Any,
    *,
    stop: Sequence[str],
    max_new_tokens: int,
    extract: re.Pattern[str] | None,
    normal: Callable[[str], str],
) -> tuple[str, ...]:
    """Return warnings about examples none of whose references can be generated under these settings.

    references: accepted texts of each example. normal: normalization of texts before they are compared.
    Raises EvaluatorError if this holds for every example.
    """
    reasons: dict[str, list[str]] = {}
    for texts in references:
        found = [_reason(text, tokenizer, stop, max_new_tokens, extract, normal) for text in texts]
        if None not in found:
            reasons.setdefault(str(found[0]), []).append(texts[0])
    lost = sum(map(len, reasons.values()))
    if lost == len(references):
        raise EvaluatorError(f"No example can score: {_told(reasons, len(references))}.")
    return tuple(_told({reason: texts}, len(references)) for reason, texts in reasons.items())


def _told(reasons: Mapping[str, Sequence[str]], count: int) -> str:
    return "; ".join(
        f"the answers of {len(texts)} of {count} examples, such as {texts[0][:QUOTED]!r}, are impossible: {reason}"
        for reason, texts in reasons.items()
    )


def _reason(
    text: str,
    tokenizer: Any,
    stop: Sequence[str],
    max_new_tokens: int,
    extract: re.Pattern[str] | None,
    normal: Callable[[str], str],
) -> str | None:
    """Return why no continuation matches this reference; None if one may."""
    wanted = normal(text)
    stopped = next((each for each in stop if each and each in wanted), None)
    if stopped is not None:
        return f"they contain {stopped!r}, which ends a continuation (option `stop`)"
    if extract is not None and not _may_extract(extract, text, normal):
        return f"`extract: {extract.pattern}` never yields them"
    special = set(tokenizer.all_special_ids)
    tokens = [encode(tokenizer, space + text.strip()) for space in ("", " ")]
    if min(sum(token not in special for token in each) for each in tokens) > max_new_tokens:
        return f"they have more than {max_new_tokens} tokens (option `max_new_tokens`)"
    if normal(tokenizer.decode(encode(tokenizer, text), skip_special_tokens=True)) != wanted:
        return "the tokenizer has no tokens for some of their characters"
    return None


def _may_extract(pattern: re.Pattern[str], text: str, normal: Callable[[str], str]) -> bool:
    """Return whether some continuation has this text as the match; True if the pattern does not tell."""
    if any(mark in pattern.pattern for mark in _LOOKS_AROUND):
        return True
    inner = _first_group(pattern)
    if inner is None:
        return True
    wanted = normal(text)
    variants = {text, text.strip(), *(f"{text.strip()}{space}" for space in (" ", "\n")), f" {text.strip()}"}
    variants |= {change(each) for each in tuple(variants) for change in (str.lower, str.upper)}
    return any(normal(each) == wanted and inner.fullmatch(each) for each in variants)


def _first_group(pattern: re.Pattern[str]) -> re.Pattern[str] | None:
    """Return the first capturing group as a pattern (without one, the whole); None if it needs others."""
    source = pattern.pattern
    if not pattern.groups:
        return pattern
    start = _opening(source)
    depth, end, in_class, i = 0, len(source), False, start
    while i < len(source):
        if source[i] == "\\":
            i += 2
            continue
        if in_class:
            in_class = source[i] != "]"
        elif source[i] == "[":
            in_class = True
            i += 1 + source[i + 1 : i + 2].count("^")  # a bracket right after the opening one is a member
        elif source[i] in "()":
            depth += 1 if source[i] == "(" else -1
            if depth < 0:
                end = i
                break
        i += 1
    try:
        return re.compile(source[start:end], pattern.flags)
    except re.error:
        return None


def _opening(source: str) -> int:
    """Return the position at which the content of the first capturing group begins."""
    for found in re.finditer(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\((\?P<\w+>|\?)?", source, re.DOTALL):
        if found[0].startswith("(") and found[1] != "?":
            return found.end()
    return len(source)
