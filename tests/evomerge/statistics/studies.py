"""Simulated studies whose truth is known: candidates of known abilities, and examples of varying difficulty."""

from dataclasses import dataclass

import numpy as np

from evomerge.statistics import FloatArray

#: Standard deviation of the examples' difficulties, in logits.
DIFFICULTY = 1.5
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(40)


def chance(ability: FloatArray, difficulty: FloatArray) -> FloatArray:
    """The probability of a right answer."""
    answer: FloatArray = 1 / (1 + np.exp(difficulty - ability))
    return answer


def truth(abilities: FloatArray) -> FloatArray:
    """The mean over all examples that there could be, by Gauss-Hermite quadrature; any shape."""
    return chance(abilities[..., None], DIFFICULTY * _NODES) @ _WEIGHTS / _WEIGHTS.sum()


@dataclass(frozen=True)
class Simulated:
    """Candidates that can be asked any number of new examples. abilities: (n_candidates, n_tasks), in logits."""

    abilities: FloatArray
    rng: np.random.Generator

    @property
    def true_means(self) -> FloatArray:
        """(n_candidates, n_tasks)."""
        return truth(self.abilities)

    def answers(self, sizes: tuple[int, ...]) -> dict[str, FloatArray]:
        """Task -> zeros and ones (n_candidates, n_examples) on examples that all candidates share."""
        found = {}
        for task, n_examples in enumerate(sizes):
            difficulty = DIFFICULTY * self.rng.standard_normal(n_examples)
            chances = chance(self.abilities[:, task, None], difficulty)
            found[f"task{task}"] = (self.rng.random(chances.shape) < chances).astype(np.float64)
        return found


def simulated(seed: int, n_candidates: int, n_tasks: int, *, mean: float = 0.5, spread: float = 0.3) -> Simulated:
    """Candidates of a common ability of normal spread, and a little of their own in every task."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    common = mean + spread * rng.standard_normal((n_candidates, 1))
    return Simulated(common + 0.3 * spread * rng.standard_normal((n_candidates, n_tasks)), rng)


def contributions(answers: dict[str, FloatArray], candidate: int) -> dict[str, FloatArray]:
    """One candidate's values as `Objective.contributions` gives them for equal weights."""
    return {task: matrix[candidate] / len(answers) for task, matrix in answers.items()}


def scores(answers: dict[str, FloatArray]) -> FloatArray:
    """The measured scores (n_candidates,)."""
    total: FloatArray = np.mean([matrix.mean(axis=1) for matrix in answers.values()], axis=0)
    return total
