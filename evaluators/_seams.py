"""White space between a prompt and its continuation: `check` warns about it, because the tokens depend on it."""

from collections.abc import Sequence
from typing import Any

from evaluators._tokens import encode_prompt


def seam_notes(prompts: Sequence[str], separator: str, choices: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return warnings about choices that follow their prompt without white space, or after more than one space."""
    pairs = [(prompt, text) for prompt, texts in zip(prompts, choices, strict=True) for text in texts]
    seams = [_seam(prompt, separator, text) for prompt, text in pairs]
    wide = [i for i, seam in enumerate(seams) if len(seam) > 1 and " " in seam]
    glued = [i for i, (p, t) in enumerate(pairs) if not seams[i] and p[-1:].isalnum() and t[:1].isalnum()]
    notes = []
    if wide:
        prompt, text = pairs[wide[0]]
        remedy = 'set `separator: ""`' if separator.strip() == "" else "remove it from the data"
        notes.append(
            f"{len(wide)} of {len(pairs)} choices follow {seams[wide[0]]!r} instead of one space, as in "
            f"{prompt[-20:] + separator + text!r}: the separator is {separator!r}, and the data contain white space "
            f"too; {remedy}"
        )
    if glued:
        prompt, text = pairs[glued[0]]
        notes.append(
            f"{len(glued)} of {len(pairs)} choices follow their prompt without white space, as in "
            f"{prompt[-20:] + separator + text!r}: set `separator`"
        )
    return tuple(notes)


def trailing_notes(tokenizer: Any, prompts: Sequence[str], continuations: Sequence[str]) -> tuple[str, ...]:
    """Return a warning about prompts whose last white space the tokenizer joins with the next word.

    continuations: the expected continuation of each prompt.
    """
    bad = [
        prompt
        for prompt, text in zip(prompts, continuations, strict=True)
        if prompt != prompt.rstrip() and not _ends_between_tokens(tokenizer, prompt, text.lstrip())
    ]
    if not bad:
        return ()
    seen = f"{len(bad)} of {len(prompts)} prompts end with white space, as in {bad[0][-20:]!r}"
    return (f"{seen}, which the tokenizer joins with the next word into one token; remove it from the prompt",)


def _seam(prompt: str, separator: str, text: str) -> str:
    whole = prompt + separator + text
    start = len(prompt.rstrip()) if separator.strip() == "" else len((prompt + separator).rstrip())
    end = len(whole) - len((separator + text).lstrip() if separator.strip() == "" else text.lstrip())
    return whole[start : max(start, end)]


def _ends_between_tokens(tokenizer: Any, prompt: str, text: str) -> bool:
    head, whole = encode_prompt(tokenizer, prompt), encode_prompt(tokenizer, prompt + text)
    return whole[: len(head)] == head
