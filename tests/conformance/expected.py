"""Why some files of the corpus have another outcome here than with mergekit or PEFT. All others must be the same."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Deviation:
    """A difference that is meant, and how large it may be.

    relative: of the worst tensor. share: of the elements, those that differ by more than rounding. parts: what the
    faults that are no values are about. refused: we refuse what the other merges.
    """

    reason: str
    relative: float = 0.0
    share: float = 0.0
    parts: tuple[str, ...] = ()
    refused: bool = False


#: Ends the name of a file that is the configuration in our result.
BACK = " (back)"
#: File -> what is meant; with BACK, in that direction only.
EXPECTED: Mapping[str, Deviation] = {
    "arcee-fusion": Deviation(
        "single elements at the threshold, where mergekit's divergences are rounded to float32; none in float64",
        relative=0.2,
        share=1e-3,
    ),
    "arcee-fusion-bfloat16": Deviation("as arcee-fusion", relative=0.2, share=1e-3),
    "chat-template-chatml": Deviation("templates that mergekit brings along are not ours to give away", refused=True),
    "linear-buffers": Deviation(
        "buffers in the base's files are copied; mergekit writes what its definition of the architecture names",
        parts=("inv_freq is missing there",),
    ),
    "linear-inputs-cast": Deviation(
        "mergekit rounds the inputs to dtype too, we round once", relative=2.0**-6, share=0.02
    ),
    "lora-bfloat16": Deviation(
        "mergekit rounds the folded weights to the base's bfloat16 first", relative=2.0**-6, share=0.02
    ),
    "linear-out-dtype-alone": Deviation(
        "mergekit rounds to the inputs' bfloat16 before out_dtype, we do not round", relative=2.0**-7, share=1.0
    ),
    "linear-weights-cancel": Deviation("weights that sum to zero are refused; mergekit divides by zero", refused=True),
    "slices-empty-range": Deviation("a slice without layers is refused", refused=True),
    "ties-bfloat16": Deviation(
        "mergekit trims and adds up in bfloat16, where many magnitudes are equal", relative=0.2, share=0.06
    ),
    "ties-density-above-one": Deviation("a density above one is refused", refused=True),
    "tokenizer-slices": Deviation(
        "rows of tokens that the base lacks come from all models, with mergekit from those of the slice",
        relative=0.5,
        share=0.01,
    ),
    "linear-tied-and-not": Deviation("a head that a model lacks is not made of its embeddings", refused=True),
    "linear-tied-base": Deviation(
        "as linear-tied-and-not; mergekit's result has a head that its config.json ties", refused=True
    ),
    "olmo-slices": Deviation(
        "where mergekit has no definition it leaves num_hidden_layers, and takes head and norm from the first slice",
        relative=0.5,
        share=0.1,
        parts=("num_hidden_layers",),
    ),
    "slices-single-and-pairs": Deviation(
        "mergekit takes final norm and head from as many models as the first slice has", relative=0.5, share=0.1
    ),
    "task-arithmetic-bfloat16": Deviation("mergekit adds up in bfloat16, we round once", relative=2.0**-6, share=0.05),
    "ties-negative-weight": Deviation("weights that cancel in the divisor are refused", refused=True),
    "tokenizer-of-a-stranger": Deviation("a tokenizer comes from a model that takes part in the merge", refused=True),
    f"arcee-fusion-float64{BACK}": Deviation("as arcee-fusion: written with dtype float32", relative=0.2, share=1e-3),
}


def expected(name: str) -> Deviation:
    """What may differ for a file; nothing where nothing is said."""
    return EXPECTED.get(name) or EXPECTED.get(name.removesuffix(BACK)) or Deviation("")
