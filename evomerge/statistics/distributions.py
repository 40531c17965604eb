"""Distribution functions of SciPy. Its import takes longer than most commands, which call none of them."""

import numpy as np
from numpy.typing import NDArray


def student_quantile(degrees: float, probability: float) -> float:
    """Return a quantile of Student's t."""
    from scipy import special

    return float(special.stdtrit(degrees, probability))


def student_cdf(degrees: float, value: float) -> float:
    """Return the probability that Student's t is at most a value."""
    from scipy import special

    return float(special.stdtr(degrees, value))


def normal_cdf(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities that a standard normal variable is at most each value."""
    from scipy import special

    return np.asarray(special.ndtr(values))
