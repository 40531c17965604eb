"""Learned soup (Wortsman et al., 2022): mixing weights by gradient descent. https://arxiv.org/abs/2203.05482.

Notation: theta_i the models, a = softmax(logits) their weights, W = sum_i a_i theta_i, L the loss of W on labeled
data. No gradient flows through the merge: one backward pass over the merged network gives dL/dW, and
dL/da_i = <dL/dW, theta_i>. Memory holds one model and its gradient, whatever the number of models.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from evomerge.errors import EvomergeError
from evomerge.merging.engine import MergeEngine
from evomerge.merging.prepared import PreparedMerge
from evomerge.merging.recipe_models import RecipeModels
from evomerge.merging.tiles import TensorSource, Tile, total
from evomerge.prepare.calibration.collect import check_network
from evomerge.prepare.calibration.data import Example, batches
from evomerge.prepare.calibration.layers import parts
from evomerge.prepare.label_losses import label_losses
from evomerge.recipe import Merge, Recipe
from evomerge.resident.resident import ResidentModel
from search_spaces.base import CoefficientTable, FloatArray

#: Called with the number of tokens read since the last call.
Progress = Callable[[int], None]
#: Decimals of a learned weight: a smaller difference does not change a model noticeably.
DECIMALS = 5


class SoupError(EvomergeError):
    """A soup that cannot be learned: invalid settings, too few models or examples, a loss that is not finite."""


@dataclass(frozen=True)
class Settings:
    """Settings of AdamW without weight decay.

    batch_examples: examples per step. temperature: whether outputs get one (see `Learned`).
    by_layer: a weight per model and tensor instead of one per model. seed: of the order of the examples.
    """

    epochs: int = 5
    learning_rate: float = 0.05
    batch_examples: int = 8
    batch_tokens: int = 4096
    by_layer: bool = False
    temperature: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("epochs", "batch_examples", "batch_tokens")}
        for name, value in counts.items():
            if value < 1:
                raise SoupError(f"{name} is {value}; expected at least 1.")
        if not 0 < self.learning_rate < float("inf") or self.seed < 0:
            raise SoupError(
                f"The learning rate is {self.learning_rate} and the seed {self.seed}; expected a finite rate above 0 "
                "and a non-negative seed."
            )


@dataclass(frozen=True)
class Slope:
    """The loss of a soup and its derivatives with respect to weights (n_groups, n_inputs) and temperature."""

    loss: float
    weights: FloatArray
    temperature: float


@dataclass(frozen=True)
class Learned:
    """Weights (n_groups, n_inputs), each row summing to 1 up to rounding; the mean loss of every epoch's steps.

    temperature: factor of the outputs during learning; it is not part of the merged model.
    """

    weights: FloatArray
    temperature: float
    losses: tuple[float, ...]


class Soup:
    """A resident network as the average of models with any weights, and its loss.

    The loss of an example is the mean negative log-likelihood of its labels, in nats per token. The recipe's method
    is linear. names: of the models. groups: tensors that share a row of weights. Raises CollectionError for a
    network that is not a causal language model.
    """

    def __init__(
        self,
        recipe: Recipe,
        sources: RecipeModels,
        model: ResidentModel,
        engine: MergeEngine,
        *,
        by_layer: bool = False,
    ) -> None:
        check_network(model.network)
        self._recipe, self._model, self._engine = recipe, model, engine
        self._network: Any = model.network
        names = tuple(name for name in sources.base.names if sources.base.mergeable(name))
        self.groups = _places(names, model) if by_layer else {"all": names}
        self.names = tuple(model.name for model in recipe.inputs)
        self.n_inputs = len(self.names)
        self._row = {name: row for row, members in enumerate(self.groups.values()) for name in members}
        self._present = dict.fromkeys(names, tuple(range(self.n_inputs)))
        #: One name for each tensor in memory: the one that the engine writes last.
        self._parts = {name: part for name, part in parts(model).items() if name in self._present}

    def merge(self, weights: FloatArray) -> Merge:
        """Return the merge with these weights (n_groups, n_inputs)."""
        return Merge(self._recipe, CoefficientTable(self.groups, {"weight": weights}))

    def losses(self, weights: FloatArray, examples: Sequence[Example], batch_tokens: int, step: Progress) -> FloatArray:
        """Return the loss of every example, in their order, without a temperature."""
        self._engine.apply(self.merge(weights), self._model.tensors)
        self._model.settle()
        found: dict[Example, float] = {}
        with torch.no_grad():
            for batch in batches(examples, batch_tokens):
                found.update(zip(batch, self._losses(batch, None).tolist(), strict=True))
                step(len(batch) * batch[0].length)
        return np.array([found[example] for example in examples])

    def slope(
        self, weights: FloatArray, temperature: float, examples: Sequence[Example], batch_tokens: int, step: Progress
    ) -> Slope:
        """Return the mean loss of examples with these weights, and its derivatives."""
        merge = self.merge(weights)
        self._engine.apply(merge, self._model.tensors)
        self._model.settle()
        scale = torch.tensor(temperature, dtype=torch.float64, device=self._network.device, requires_grad=True)
        loss = 0.0
        for part in self._parts.values():
            part.parameter.requires_grad_(True)
        with torch.enable_grad():
            for batch in batches(examples, batch_tokens):
                share = self._losses(batch, scale).sum() / len(examples)
                share.backward()  # type: ignore[no-untyped-call]
                loss += float(share.detach())
                step(len(batch) * batch[0].length)
        slopes = self._products(merge)
        for part in self._parts.values():
            part.parameter.requires_grad_(False).grad = None
        return Slope(loss, slopes, 0.0 if scale.grad is None else float(scale.grad))

    def _losses(self, batch: Sequence[Example], temperature: Tensor | None) -> Tensor:
        return label_losses(self._network, batch, temperature)

    def _products(self, merge: Merge) -> FloatArray:
        """Return <dL/dW, theta_i> in float64, summed over the tensors of each group: (n_groups, n_inputs)."""
        sums = np.zeros((len(self.groups), self.n_inputs))
        candidate = PreparedMerge(merge, self.names, self._present)
        for source in self._engine.sources(candidate, keep=True):
            gradient = self._parts[source.tensor].grad if source.tensor in self._parts else None
            if gradient is not None:
                sums[self._row[source.tensor]] += _products(source, gradient.reshape(-1))
        return sums


def learn(soup: Soup, examples: Sequence[Example], settings: Settings, step: Progress) -> Learned:
    """Learn the weights of a soup, starting from equal ones. Raises SoupError for a loss that is not finite."""
    logits = torch.ones(len(soup.groups), soup.n_inputs, dtype=torch.float64, requires_grad=True)
    temperature = torch.ones((), dtype=torch.float64, requires_grad=True)
    followed = [logits, temperature] if settings.temperature else [logits]
    optimizer = torch.optim.AdamW(followed, lr=settings.learning_rate, weight_decay=0.0)
    losses = []
    for epoch in range(settings.epochs):
        order = np.random.Generator(np.random.Philox(key=[settings.seed, epoch])).permutation(len(examples))
        total_loss = 0.0
        for start in range(0, len(order), settings.batch_examples):
            chosen = [examples[index] for index in order[start : start + settings.batch_examples]]
            weights = logits.softmax(1)
            slope = soup.slope(
                weights.detach().numpy().copy(), float(temperature.detach()), chosen, settings.batch_tokens, step
            )
            if not (np.isfinite(slope.loss) and np.isfinite(slope.weights).all()):
                raise SoupError(
                    f"The loss is {slope.loss} in epoch {epoch + 1}, or its gradient is not finite: do the models "
                    "compute finite numbers on these data? A smaller --lr, or --dtype float32, may help."
                )
            optimizer.zero_grad()
            weights.backward(torch.from_numpy(slope.weights))  # type: ignore[no-untyped-call]
            temperature.grad = torch.tensor(slope.temperature, dtype=torch.float64)
            optimizer.step()
            total_loss += slope.loss * len(chosen)
        losses.append(total_loss / len(order))
    found = logits.detach().softmax(1).numpy().round(DECIMALS)
    return Learned(found, float(temperature.detach()), tuple(losses))


def _places(names: Sequence[str], model: ResidentModel) -> dict[str, tuple[str, ...]]:
    """Return a group for each tensor in memory, named after its first name: tied tensors have one gradient."""
    places: dict[int, list[str]] = {}
    for name in names:
        places.setdefault(model.tensors[name].data_ptr(), []).append(name)
    return {members[0]: tuple(members) for members in places.values()}


def _products(source: TensorSource, gradient: Tensor) -> FloatArray:
    """Return the inner product of a flat gradient with each model's tensor: (n_inputs,)."""

    def of_tile(tile: Tile) -> list[float]:
        wide = gradient[tile.start : tile.stop].double()
        return [total(source.weights(index, tile).double().mul_(wide)) for index in range(len(source.input_names))]

    tiles: FloatArray = np.array(source.map(of_tile)).reshape(-1, len(source.input_names))
    return np.asarray(tiles.sum(axis=0), dtype=np.float64)
