"""A file of the corpus, read by evomerge."""

from evomerge.merging.mergekit.read import read_mergekit
from evomerge.recipe import Merge
from tests.conformance.corpus import WORK, Case


def refuses(error: Exception) -> bool:
    """Whether an error is one with which evomerge refuses a file or a merge; every other is a fault of ours."""
    return isinstance(error, ValueError) and type(error).__module__.startswith(("evomerge.", "search_spaces."))


#: Files with keys that mergekit passes over, which we read when asked to.
LENIENT = ("linear-unknown-keys", "slerp-parameter-of-a-model")


def imported(case: Case) -> Merge:
    """The merge that a file describes. Raises what `refuses` knows."""
    path = WORK / "yaml" / f"{case.name}.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(case.text, encoding="utf-8")
    return read_mergekit(path, lenient=case.name in LENIENT)
