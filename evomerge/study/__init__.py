"""The ledger of a run, and its replay."""

from evomerge.study.codec import StoredScores, ids_of, same_examples
from evomerge.study.study import (
    SEARCH_FILE,
    ConfigurationChanged,
    Entry,
    Growth,
    Learned,
    Study,
    StudyBusy,
    StudyError,
    StudyExists,
    StudyPaused,
)

__all__ = [
    "SEARCH_FILE",
    "ConfigurationChanged",
    "Entry",
    "Growth",
    "Learned",
    "StoredScores",
    "Study",
    "StudyBusy",
    "StudyError",
    "StudyExists",
    "StudyPaused",
    "ids_of",
    "same_examples",
]
