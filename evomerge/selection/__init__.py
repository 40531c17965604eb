"""After the search: finalists and baselines meet on the select split, the winner or the front on the report split.

A search that tries hundreds of candidates picks a lucky one; the split it was picked on cannot say by how much.
"""

from evomerge.selection.cost import Scorings, scorings, selection_seconds
from evomerge.selection.finalists import FINALISTS, FRONT_FINALISTS, finalists
from evomerge.selection.range_ends import RangeEnd, ends_text, range_ends, record_coordinates
from evomerge.selection.ranking import SelectionError
from evomerge.selection.result import Selection, selection
from evomerge.selection.select import select
from evomerge.selection.verdict import Claim, Repeat, Standing

__all__ = [
    "FINALISTS",
    "FRONT_FINALISTS",
    "Claim",
    "RangeEnd",
    "Repeat",
    "Scorings",
    "Selection",
    "SelectionError",
    "Standing",
    "ends_text",
    "finalists",
    "range_ends",
    "record_coordinates",
    "scorings",
    "select",
    "selection",
    "selection_seconds",
]
