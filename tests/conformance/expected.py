"""Why some files of the corpus have another outcome here than with mergekit or PEFT. All others must be the same."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """A difference that is meant, and how large it may be.

    relative: of the worst tensor. share: of the elements, those that differ by more than rounding. refused: we
    refuse what the other merges.
    """

    reason: str
    relative: float = 0.0
    share: float = 0.0
    refused: bool = False


#: File -> what is meant.
EXPECTED: Mapping[str, Deviation] = {
    "arcee-fusion": Deviation(
        "single elements at the threshold, where mergekit's divergences are rounded to float32; none in float64",
        relative=0.2,
        share=1e-3,
    ),
    "arcee-fusion-bfloat16": Deviation("as arcee-fusion", relative=0.2, share=1e-3),
    "chat-template-chatml": Deviation("templates that mergekit brings along are not ours to give away", refused=True),
    "linear-unknown-keys": Deviation("keys that do not exist are refused, with a flag to ignore them", refused=True),
    "slerp-parameter-of-a-model": Deviation("a key that has no effect is refused, with a flag", refused=True),
    "slices-single-and-pairs": Deviation(
        "mergekit takes final norm and head from as many models as the first slice has", relative=0.5, share=0.2
    ),
    "task-arithmetic-bfloat16": Deviation(
        "mergekit adds up in bfloat16, we round once: up to two units in the last place", relative=2.0**-6, share=0.2
    ),
    "tokenizer-of-a-stranger": Deviation("a tokenizer comes from a model that takes part in the merge", refused=True),
}
