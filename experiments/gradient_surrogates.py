"""`python -m experiments.gradient_surrogates`: `map` on deep-24 with and without gradients in its surrogates.

A prototype; LOG.md says why it is no optimizer. With gradients, every point also has those of each task's loss, on a
third of its search examples (in turn), so that a point costs two evaluations. Score and loss of a task are one Gaussian
process:
latent score = c + b f + r and -loss = d + f, with the derivatives of f observed; f and r are Matern 5/2 processes plus
a linear trend that share the metric of `evomerge.optimizers._depth_process`.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from evaluators.base import FloatArray
from evomerge.bench import Bench
from evomerge.launch.plan import build_optimizer, prepare
from evomerge.optimizers._links import Data
from evomerge.optimizers._predicted_front import PredictedFront
from evomerge.optimizers._regions import Neighborhood, Region
from evomerge.optimizers._surrogates import Surrogates, fit
from evomerge.optimizers.base import Observation, Positions
from evomerge.optimizers.map import Map
from evomerge.plugins import PluginSpec
from evomerge.statistics.pareto import hypervolume, non_dominated
from evomerge.trial import Trial
from experiments.front_landscapes import LANDSCAPES, configuration

_ROOT5 = 5.0**0.5
#: Numbers of points at which the parameters are fitted again; between them the process is only conditioned.
REFITS = (8, 10, 13, 17, 22, 28, 36, 46, 60)
STEPS = 25
N_PARTS = 3
COSTS = (12, 20, 32, 40, 50, 60, 70)


@dataclass(frozen=True)
class Parts:
    """Parameters of one fit: the metric, then of each process the amplitude and the weight of the trend."""

    metric: Tensor
    own: tuple[Tensor, Tensor]  # of f
    rest: tuple[Tensor, Tensor]  # of r
    slope: Tensor  # b
    noise: Tensor  # factor of the scores' noise
    loss_noise: Tensor
    gradient_noise: Tensor


class JointProcess:
    """Scores, losses and gradients of one task at the same points.

    Args:
        data: The scores. Only latents of accuracies were tried.
        losses: (n_points,).
        gradients: (n_points, dimension).
        theta: Parameters of an earlier fit; None to fit them.
    """

    def __init__(
        self,
        data: Data,
        losses: FloatArray,
        gradients: FloatArray,
        positions: Positions,
        theta: Tensor | None = None,
    ) -> None:
        self._x = torch.tensor(data.x) - 0.5
        self._n, self._dimension = data.x.shape
        self._offset, self._spread = float(np.average(data.latents, weights=1.0 / data.noise)), data.spread
        unit = max(float(losses.std()), 1e-6)
        self._y = torch.tensor(
            np.concatenate(
                [
                    (data.latents - self._offset) / self._spread,
                    (losses.mean() - losses) / unit,
                    -gradients.ravel() / unit,
                ]
            )
        )
        self._noise = torch.tensor(data.noise / data.spread**2)
        self._steepness = float((gradients**2).mean()) / unit**2
        self._series = torch.tensor(positions.series)
        self._n_series = positions.n_series
        depths = torch.tensor(positions.depths)
        self._gaps = (depths[:, None] - depths[None]) ** 2
        self._same = (self._series[:, None] == self._series[None]).double()
        self.theta = self._fit() if theta is None else theta
        self._parts = self._unpack(self.theta)
        self._factor = torch.linalg.cholesky(self._covariance(self._parts))
        self._weights = torch.cholesky_solve(self._y[:, None], self._factor)[:, 0]

    def mean(self, points: Tensor) -> Tensor:
        """Return the expected latent scores (n,) at points (n, dimension)."""
        return self._offset + self._spread * (self._cross(points - 0.5, self._parts) @ self._weights)

    def deviation(self, points: Tensor) -> Tensor:
        """Return the standard deviations (n,) of the latent scores."""
        z, p = points - 0.5, self._parts
        norms = ((z @ p.metric) * z).sum(1)
        prior = 10.0 + p.rest[0] + p.rest[1] * norms + p.slope**2 * (p.own[0] + p.own[1] * norms)
        known = torch.linalg.solve_triangular(self._factor, self._cross(z, p).T, upper=False)
        return self._spread * torch.sqrt((prior - (known**2).sum(0)).clamp(min=1e-12))

    def _cross(self, z: Tensor, p: Parts) -> Tensor:
        x = self._x
        values = value(z, x, p.metric, *p.own)
        scores = 10.0 + value(z, x, p.metric, *p.rest) + p.slope**2 * values
        return torch.cat([scores, p.slope * values, p.slope * by_second(z, x, p.metric, *p.own)], 1)

    def _covariance(self, p: Parts) -> Tensor:
        x, n, eye = self._x, self._n, torch.eye
        values, first = value(x, x, p.metric, *p.own), by_second(x, x, p.metric, *p.own)
        scores = 10.0 + value(x, x, p.metric, *p.rest) + p.slope**2 * values + torch.diag(p.noise * self._noise)
        losses = 10.0 + values + (p.loss_noise + 0.05) * eye(n)
        slopes = by_both(x, x, p.metric, *p.own)
        slopes = slopes + p.gradient_noise * self._steepness * eye(n * self._dimension)
        return torch.cat(
            [
                torch.cat([scores, p.slope * values, p.slope * first], 1),
                torch.cat([p.slope * values.T, losses, first], 1),
                torch.cat([p.slope * first.T, first.T, slopes], 1),
            ]
        )

    def _unpack(self, theta: Tensor) -> Parts:
        """Log weights, log lengths, log reach, logit share, b, and logarithms of all others."""
        d, s = self._dimension, self._n_series
        reach, share, slope = theta[d + s].exp(), theta[d + s + 1].sigmoid(), theta[d + s + 2]
        own, own_trend, rest, rest_trend, noise, loss_noise, gradient_noise = theta[d + s + 3 :].exp()
        alike = share * self._same * torch.exp(-self._gaps / (2 * reach**2)) + (1 - share) * torch.eye(d)
        total = torch.zeros(s, dtype=torch.float64).index_add(0, self._series, alike.sum(1))[self._series]
        weights, lengths = theta[:d].exp(), theta[d : d + s].exp()[self._series]
        metric = torch.outer(weights / (lengths**2 * total), weights) * alike
        return Parts(metric, (own, own_trend), (rest, rest_trend), slope, noise, loss_noise, gradient_noise)

    def _fit(self) -> Tensor:
        d, s = self._dimension, self._n_series
        log = np.log
        lengths = np.full(s, log(0.5 * s**0.5))
        ends = [log(0.3), 0.0, 1.0, 0.0, -1.0, log(0.3), log(0.3) - 1.0, log(0.3), log(1e-3), log(0.2)]
        center = np.concatenate([np.zeros(d), lengths, ends])
        loose = np.concatenate([np.full(d, 0.4), np.full(s, 0.5), [0.7, 1.5, 0.7], np.full(7, 1.5)])
        bounds = [(c - 4.0, c + 4.0) for c in center]
        bounds[-3:] = [(log(1e-3), 0.0), (log(1e-6), 0.0), (log(1e-4), 1.0)]
        middle, width = torch.tensor(center), torch.tensor(loose)

        def loss(values: FloatArray) -> tuple[float, FloatArray]:
            theta = torch.tensor(values, requires_grad=True)
            factor = torch.linalg.cholesky(self._covariance(self._unpack(theta)))
            whitened = torch.linalg.solve_triangular(factor, self._y[:, None], upper=False)
            prior = 0.5 * (((theta - middle) / width) ** 2).sum()
            total = 0.5 * (whitened**2).sum() + torch.log(torch.diagonal(factor)).sum() + prior
            (slope,) = torch.autograd.grad(total, theta)
            return float(total.detach()), slope.numpy()

        found = minimize(loss, center, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
        return torch.tensor(found.x)


def _apart(a: Tensor, b: Tensor, metric: Tensor) -> tuple[Tensor, Tensor]:
    inner = a @ metric @ b.T
    square = ((a @ metric) * a).sum(1)[:, None] + ((b @ metric) * b).sum(1)[None] - 2 * inner
    return inner, _ROOT5 * torch.sqrt(square.clamp(min=0) + 1e-12)


def value(a: Tensor, b: Tensor, metric: Tensor, amplitude: Tensor, trend: Tensor) -> Tensor:
    """Return the covariances k(a, b): (n_a, n_b)."""
    inner, r = _apart(a, b, metric)
    return amplitude * (1 + r + r * r / 3) * torch.exp(-r) + trend * inner


def by_second(a: Tensor, b: Tensor, metric: Tensor, amplitude: Tensor, trend: Tensor) -> Tensor:
    """Return dk / db: (n_a, n_b * dimension)."""
    _, r = _apart(a, b, metric)
    pull = amplitude * 5 / 3 * (1 + r) * torch.exp(-r)
    along = (a @ metric)[:, None] - (b @ metric)[None]
    return (pull[..., None] * along + trend * (a @ metric)[:, None]).reshape(len(a), -1)


def by_both(a: Tensor, b: Tensor, metric: Tensor, amplitude: Tensor, trend: Tensor) -> Tensor:
    """Return d2k / da db: (n_a * dimension, n_b * dimension)."""
    _, r = _apart(a, b, metric)
    along = (a @ metric)[:, None] - (b @ metric)[None]
    decay = amplitude * 5 / 3 * torch.exp(-r)
    flat = (decay * (1 + r) + trend)[..., None, None] * metric
    bent = (5 * decay)[..., None, None] * along[..., :, None] * along[..., None, :]
    return (flat - bent).permute(0, 2, 1, 3).reshape(len(a) * a.shape[1], -1)


@dataclass(frozen=True, eq=False)
class WithGradients(Surrogates):
    """Predictions of joint processes; the models are those without gradients, and keep the data."""

    joint: tuple[JointProcess, ...] = ()

    def predict(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        x = torch.tensor(points)
        mean = np.stack([each.mean(x).numpy() for each in self.joint], 1)
        deviation = np.stack([each.deviation(x).numpy() for each in self.joint], 1)
        return -expit(mean), (expit(mean + deviation) - expit(mean - deviation)) / 2

    def losses_and_gradients(self, points: FloatArray) -> tuple[FloatArray, FloatArray]:
        found = []
        for each in self.joint:
            x = torch.tensor(points, requires_grad=True)
            losses = -torch.sigmoid(each.mean(x))
            found.append((losses.detach().numpy(), torch.autograd.grad(losses.sum(), x)[0].numpy()))
        return np.stack([losses for losses, _ in found], 1), np.stack([slopes for _, slopes in found], 1)


class MapPrototype(Map):
    """`map` with all coordinates free after its design; one point at a time.

    measured: point -> losses (n_tasks,) and gradients (n_tasks, dimension) at it. None to learn from scores only.
    """

    measured: Callable[[FloatArray], tuple[FloatArray, FloatArray]] | None = None
    _latest: tuple[int, PredictedFront] | None = None
    _kept: tuple[Tensor | None, ...] = ()

    def _region(self) -> Region:
        return Neighborhood(self._places)

    def _belief(self) -> PredictedFront:
        if self.measured is None:
            return super()._belief()
        told = self._succeeded()
        if self._latest is None or self._latest[0] != len(told):
            plain = fit(told, self.n_objectives, "auto", self._places)
            found = [self.measured(seen.x) for seen in told]
            losses, gradients = (np.array([each[part] for each in found]) for part in (0, 1))
            kept = self._kept if self._kept and len(told) not in REFITS else (None,) * self.n_objectives
            joint = tuple(
                JointProcess(model.data, losses[:, m], gradients[:, m], self._places, kept[m])
                for m, model in enumerate(plain.models)
            )
            self._kept = tuple(each.theta for each in joint)
            front = PredictedFront(
                WithGradients(plain.models, joint), self.seed, self.preference, self.limits, self._region()
            )
            self._latest = len(told), front
        return self._latest[1]


def search(kind: str, seed: int, n_points: int, out: Path) -> FloatArray:
    """Return the losses (n_points, n_tasks) in the order of measurement."""
    file = out / f"{kind}-{seed}-{n_points}.npy"
    if file.exists():
        return np.load(file)
    optimizer_of = "map" if kind == "map" else "experiments.gradient_surrogates:MapPrototype"
    config = configuration(LANDSCAPES["deep-24"], PluginSpec(optimizer_of, {"stop": False}), seed, out, kind)
    plan = prepare(config)
    bench: Bench = plan.spec()
    ids = plan.search_examples.ids
    optimizer = build_optimizer(config, plan)
    known: dict[bytes, tuple[FloatArray, FloatArray]] = {}
    if kind == "gradients":
        optimizer.measured = lambda x: known[x.tobytes()]  # type: ignore[attr-defined]
    rng = np.random.Generator(np.random.Philox(0))
    parts = {task: np.array_split(rng.permutation(np.array(names)), N_PARTS) for task, names in ids.items()}
    losses = []
    for number in range(n_points):
        x = plan.space.default() if number == 0 else optimizer.ask(number, {}).x
        scores = bench.run(Trial(number, x)).scores
        examples = tuple(-scores[task].values for task in ids)
        losses.append([values.mean() for values in examples])
        if kind == "gradients":
            runs = {
                task: bench.run(
                    Trial(
                        number,
                        x,
                        examples={task: tuple(parts[task][number % N_PARTS])},
                        gradient={other: float(other == task) for other in ids},
                    )
                )
                for task in ids
            }
            mean = np.array([run.scores[task].values.mean() for task, run in runs.items()])
            known[x.tobytes()] = mean, np.array([run.gradient for run in runs.values()])
        optimizer.tell(Observation(number, x, np.array(losses[-1]), proposed=number > 0, examples=examples))
        print(f"  {kind} {seed}: point {number}", flush=True)
    np.save(file, np.array(losses))
    return np.array(losses)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/gradient_surrogates"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, default=COSTS[-1])
    given = parser.parse_args()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    costs = [cost for cost in COSTS if cost <= given.evaluations]
    price = {"map": 1, "free": 1, "gradients": 2}
    for seed in given.seeds:
        found = {kind: search(kind, seed, costs[-1] // price[kind], out) for kind in price}
        everything = np.concatenate(list(found.values()))
        front = everything[non_dominated(everything)]
        reference = front.max(axis=0) + 0.1 * np.ptp(front, axis=0)
        print(f"\n| seed {seed} | " + " | ".join(map(str, costs)) + " |\n" + "|---" * (len(costs) + 1) + "|")
        for kind, losses in found.items():
            seen = [losses[: cost // price[kind]] for cost in costs]
            shares = [hypervolume(one[non_dominated(one)], reference) / hypervolume(front, reference) for one in seen]
            print(f"| {kind} | " + " | ".join(f"{share:.3f}" for share in shares) + " |")


if __name__ == "__main__":
    main()
