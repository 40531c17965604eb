"""Selection and report: finalists and baselines on the select split, the winner or the front on the report split.

The best of hundreds of candidates scores too high on the examples that it was picked on, which cannot say by how much.
"""

from evomerge.results.cost import Scorings, scorings, selection_seconds
from evomerge.results.finalists import FINALISTS, FRONT_FINALISTS, finalists
from evomerge.results.range_ends import RangeEnd, ends_text, range_ends, record_coordinates
from evomerge.results.ranking import SelectionError
from evomerge.results.result import Selection, selection
from evomerge.results.scored import ScoredModel
from evomerge.results.select import select
from evomerge.results.verdict import Claim, Repeat

__all__ = [
    "FINALISTS",
    "FRONT_FINALISTS",
    "Claim",
    "RangeEnd",
    "Repeat",
    "ScoredModel",
    "Scorings",
    "Selection",
    "SelectionError",
    "ends_text",
    "finalists",
    "range_ends",
    "record_coordinates",
    "scorings",
    "select",
    "selection",
    "selection_seconds",
]
