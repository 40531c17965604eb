"""The function that tasks of these studies name: `lab:surprise`."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def surprise(model: Any, ids: Sequence[str]) -> list[float]:
    """One value per text, less is better: a bowl over the mean coefficient, around another place for each text."""
    mean = float(np.mean([np.mean(values) for values in model.coefficients.values()]))
    places = (0.3 + 0.02 * (int(name.removeprefix("text ")) % 20) for name in ids)
    return [round(2.0 + (mean - place) ** 2, 4) for place in places]
