"""Why some files of the corpus have another outcome here than with mergekit. Everything else must be the same."""

from collections.abc import Mapping

#: File -> reason.
EXPECTED: Mapping[str, str] = {
    "linear-unknown-keys": "keys that do not exist are refused here and ignored by mergekit",
    "slices-single-and-pairs": "mergekit takes final norm and head from as many models as the first slice has",
    "task-arithmetic-bfloat16": "mergekit adds up in bfloat16, we round once",
}
