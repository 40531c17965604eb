"""The pictures of `docs/statistics.md`: simulated studies with known truth. `python docs/pictures.py` draws them."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import pyplot as plt

from evomerge.statistics import difference, estimate

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "evomerge"  # the same names in every file

FOLDER = Path(__file__).parent / "pictures"
SIZE = (6.4, 2.8)
BLUE, ORANGE, GRAY = "#2563eb", "#d97706", "#6b7280"


def optimism() -> None:
    """Draw the scores of equal candidates, and the best of them on new examples."""
    rng = np.random.default_rng(0)
    scores = rng.binomial(200, 0.6, size=200) / 200
    again = rng.binomial(200, 0.6, size=2000) / 200
    figure, axes = plt.subplots(figsize=SIZE)
    axes.hist(scores, bins=np.arange(0.4825, 0.73, 0.015), color=BLUE, alpha=0.7, label="200 equal candidates")
    axes.axvline(0.6, color=GRAY, linestyle="--", label="truth")
    axes.axvline(scores.max(), color=ORANGE, label=f"best of them: {scores.max():.3f}")
    axes.axvspan(*np.quantile(again, [0.025, 0.975]), color=GRAY, alpha=0.12)
    axes.set_xlabel("score on the 200 search examples")
    axes.set_ylabel("candidates")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    axes.set_xlim(0.42, 0.73)
    _save(figure, "optimism")


def pairs() -> None:
    """Draw two scores with intervals, and their paired difference."""
    rng = np.random.default_rng(1)
    hard = rng.random(400) < 0.4
    first = np.where(hard, rng.random(400) < 0.1, rng.random(400) < 0.95).astype(float)
    lost = rng.random(400) < 0.06
    second = np.where(lost, 0.0, first)
    values = [estimate({"task": first}), estimate({"task": second})]
    gap = difference({"task": first}, {"task": second})
    figure, (left, right) = plt.subplots(1, 2, figsize=SIZE, width_ratios=(3, 2))
    for row, (value, color) in enumerate(zip(values, (BLUE, ORANGE), strict=True)):
        left.errorbar(value.mean, row, xerr=value.half_width, fmt="o", color=color, capsize=4)
    left.set_yticks([0, 1], ["model A", "model B"])
    left.set_ylim(-0.7, 1.7)
    left.set_xlabel("score with 95 % interval")
    right.errorbar(gap.mean, 0, xerr=gap.half_width, fmt="o", color="black", capsize=4)
    right.axvline(0, color=GRAY, linestyle="--")
    right.set_yticks([0], ["A - B"])
    right.set_ylim(-1, 1)
    right.set_xlabel("paired difference")
    _save(figure, "pairs")


def power() -> None:
    """Draw the smallest detectable difference over the number of examples."""
    n_examples = np.geomspace(50, 10_000, 60)
    detectable = (1.96 + 0.84) * np.sqrt(0.2 / n_examples)
    figure, axes = plt.subplots(figsize=SIZE)
    axes.loglog(n_examples, 100 * detectable, color=BLUE)
    for count in (100, 400, 1600, 6400):
        gap = 100 * (1.96 + 0.84) * np.sqrt(0.2 / count)
        axes.plot(count, gap, "o", color=ORANGE)
        axes.annotate(f"{count}: {gap:.1f}", (count, gap), textcoords="offset points", xytext=(6, 4), fontsize=8)
    axes.set_xlabel("examples of the report split")
    axes.set_ylabel("points")
    _save(figure, "power")


def _save(figure: plt.Figure, name: str) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, facecolor="white")


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    optimism()
    pairs()
    power()
