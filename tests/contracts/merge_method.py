"""The contract kit of merge methods: subclass `MergeMethodContract`, name the plug-in, inherit the tests.

The tests P1 to P13 are properties that hold for families of methods; a flag declares where one does not apply.
"""

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor

from evomerge import plugins
from evomerge.merging import tiles
from evomerge.merging.engine import MergeEngine
from evomerge.merging.method import MergeMethod
from evomerge.merging.tiles import Moments
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable
from tests.contracts.other_process import OtherProcess

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("math", "code", "chat", "law", "art")
Values = Mapping[str, float | Sequence[float]]

examples = settings(
    max_examples=8,
    phases=(Phase.explicit, Phase.generate),  # no seed is simpler than another
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.differing_executors],
)
seeds = st.integers(0, 2**32 - 1)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


def fixed(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """Values of a class attribute that no test can change."""
    return MappingProxyType(dict(values))


class Statistics(dict[str, Tensor]):
    """Statistics from data in memory, named as in their files: `fisher/x`."""

    @property
    def kinds(self) -> frozenset[str]:
        return frozenset(name.partition("/")[0] for name in self)

    def tensor(self, kind: str, name: str) -> Tensor | None:
        return self.get(f"{kind}/{name}")


class Tensors(dict[str, Tensor]):
    """A checkpoint in memory; integer tensors are not merged."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self)

    def mergeable(self, name: str) -> bool:
        return self[name].is_floating_point()

    def tensor(self, name: str) -> Tensor:
        return self[name]


def make_merge(
    method: str,
    n_inputs: int,
    values: Values,
    *,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    groups: Mapping[str, tuple[str, ...]] | None = None,
    names: Sequence[str] = NAMES,
) -> Merge:
    """A merge of `n_inputs` models with the same values for all groups (one, by default)."""
    groups = groups or {"all": ("*",)}
    arrays = {name: np.tile(np.atleast_1d(np.array(v, dtype=float)), (len(groups), 1)) for name, v in values.items()}
    inputs = tuple(Input(name, name) for name in names[:n_inputs])
    return Merge(Recipe(Input("base", "base"), inputs, method, options or {}), CoefficientTable(groups, arrays), seed)


def make_engine(base: Mapping[str, Tensor], inputs: Sequence[Mapping[str, Tensor]], **settings: Any) -> MergeEngine:
    """An engine over tensors in memory."""
    names = settings.pop("names", NAMES)[: len(inputs)]
    return MergeEngine(Tensors(base), [Tensors(model) for model in inputs], names=names, **settings)


def merged(method: str, base: Tensor, inputs: Sequence[Tensor], values: Values, **given: Any) -> Tensor:
    """The merge of one tensor, called `x`."""
    settings = {key: given.pop(key) for key in ("dtype", "threads", "moments") if key in given}
    engine = make_engine({"x": base}, [{"x": tensor} for tensor in inputs], names=given.get("names", NAMES), **settings)
    return dict(engine.stream(make_merge(method, len(inputs), values, **given)))["x"]


def random_models(seed: int, n_inputs: int, dtype: torch.dtype, shape: tuple[int, ...] = (9, 37)) -> list[Tensor]:
    """Base and inputs as fine-tuning leaves them: small deltas, many of them zero or equal in bfloat16."""
    random = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=random)
    models = [base + 0.05 * torch.randn(shape, generator=random) for _ in range(n_inputs)]
    return [tensor.to(dtype) for tensor in (base, *models)]


class MergeMethodContract:
    """What every merge method keeps. Flags: see the test of the same letter and number."""

    name: ClassVar[str]
    n_inputs: ClassVar[int] = 3
    options: ClassVar[Mapping[str, Any]] = {}
    #: Coefficients of a typical merge, also the ones most tests use.
    values: ClassVar[Values]
    #: P1: options and all values but `weight` with which a one-hot weight gives that input back; None: not at all.
    one_hot: ClassVar[Values | None] = {}
    #: P2: the method averages, so that experts that are all the same come back, with its `values`.
    averages: ClassVar[bool] = False
    #: P3: a tensor that is the same in all models stays as it is.
    keeps: ClassVar[bool] = True
    #: P4: the order of the inputs (and their coefficients) does not matter.
    permutes: ClassVar[bool] = True
    #: P5, P6: scaling all deltas scales the merged delta; adding one tensor to all models adds it to the result.
    scales: ClassVar[bool] = True
    translates: ClassVar[bool] = True
    #: P9: the result lies between the smallest and the largest of base and inputs.
    hull: ClassVar[bool] = False
    #: P7: a tensor's result does not depend on the other tensors of the model.
    local: ClassVar[bool] = True
    #: P10: with these options the result is linear in the parameters that the method says.
    linear: ClassVar[bool] = True
    #: P15: signs and masks do not depend on the coefficients that have a gradient, so that it is a derivative.
    smooth: ClassVar[bool] = True
    #: P11: on average over the masks, the merged delta is that of task arithmetic with `values`' weights.
    unbiased: ClassVar[bool] = False
    #: P14: rotating all deltas from the left and from the right rotates the merged delta.
    rotates: ClassVar[bool] = False

    @property
    def method(self) -> MergeMethod:
        loaded: MergeMethod = plugins.load("merge method", self.name, MergeMethod)
        return loaded

    def moments(self, model: str, tensors: Mapping[str, Tensor]) -> Moments | None:
        """Statistics from data of the input called `model`, for a method that needs them; the same for a name."""
        return None

    def engine_settings(self, inputs: Sequence[Mapping[str, Tensor]], names: Sequence[str] = NAMES) -> dict[str, Any]:
        """What the engine is told besides the models: statistics from data, where the method needs them."""
        found = [self.moments(name, model) for name, model in zip(names, inputs, strict=False)]
        return {"moments": [None, *found]} if self.method.needs else {}

    def merge(self, base: Tensor, inputs: Sequence[Tensor], **given: Any) -> Tensor:
        values = given.pop("values", self.values)
        given |= self.engine_settings([{"x": tensor} for tensor in inputs], given.get("names", NAMES))
        return merged(self.name, base, inputs, values, **{"options": self.options, **given})

    def test_declares_itself(self) -> None:
        method = self.method
        assert method.reference.startswith("https://")
        assert method.kernel.__doc__
        module = sys.modules[method.module].__doc__ or ""
        assert "https://" in module.splitlines()[0]
        for parameter in method.parameters:
            assert parameter.low <= parameter.default <= parameter.high, parameter
        method.check(self.options, self.n_inputs)
        method.arguments({}, NAMES[: self.n_inputs])

    @examples
    @given(seed=seeds, dtype=dtypes)
    def test_p1_one_hot_gives_that_input(self, seed: int, dtype: torch.dtype) -> None:
        if self.one_hot is None:
            pytest.skip("declared: one-hot weights do not select an input")
        base, *inputs = random_models(seed, self.n_inputs, dtype)
        for index, wanted in enumerate(inputs):
            weight = {"weight": [float(index == other) for other in range(self.n_inputs)]}
            takes_weight = any(parameter.name == "weight" for parameter in self.method.parameters)
            values = {**(weight if takes_weight else {}), **self.one_hot}
            assert torch.equal(self.merge(base, inputs, values=values), wanted)

    @examples
    @given(seed=seeds, dtype=dtypes)
    def test_p2_identical_experts_come_back(self, seed: int, dtype: torch.dtype) -> None:
        if not self.averages:
            pytest.skip("declared: the method does not average")
        base, expert = random_models(seed, 1, dtype)
        result = self.merge(base, [expert] * self.n_inputs, dtype=torch.float32)
        torch.testing.assert_close(result, expert.float(), rtol=1e-6, atol=1e-6)

    @examples
    @given(seed=seeds, dtype=dtypes)
    def test_p3_tensors_nobody_changed_stay_bit_for_bit(self, seed: int, dtype: torch.dtype) -> None:
        if not self.keeps:
            pytest.skip("declared: scales what nobody changed")
        base, _ = random_models(seed, 1, dtype)
        base.view(-1)[:2] = torch.tensor([0.0, -0.0])
        result = self.merge(base, [base.clone() for _ in range(self.n_inputs)])
        integers = torch.int32 if dtype == torch.float32 else torch.int16
        assert torch.equal(result.view(integers), base.view(integers))

    @examples
    @given(seed=seeds, order=st.permutations(range(5)))
    def test_p4_order_of_the_inputs(self, seed: int, order: list[int]) -> None:
        if not self.permutes:
            pytest.skip("declared: inputs have roles")
        order = [index for index in order if index < self.n_inputs]
        base, *inputs = random_models(seed, self.n_inputs, torch.float32)

        def reordered(value: Any) -> Any:
            return [value[index] for index in order] if isinstance(value, list | tuple) else value

        values = {name: reordered(value) for name, value in self.values.items()}
        result = self.merge(base, [inputs[i] for i in order], values=values, names=tuple(NAMES[i] for i in order))
        torch.testing.assert_close(result, self.merge(base, inputs), rtol=1e-5, atol=1e-6)

    @examples
    @given(seed=seeds, exponent=st.integers(-6, 6))
    def test_p5_scale(self, seed: int, exponent: int) -> None:
        if not self.scales:
            pytest.skip("declared: not equivariant to scale")
        _, *deltas = random_models(seed, self.n_inputs, torch.float32)
        zero = torch.zeros_like(deltas[0])
        result = self.merge(zero, [delta * 2.0**exponent for delta in deltas])
        torch.testing.assert_close(result, self.merge(zero, deltas) * 2.0**exponent, rtol=1e-6, atol=1e-9)

    @examples
    @given(seed=seeds)
    def test_p6_translation(self, seed: int) -> None:
        if not self.translates:
            pytest.skip("declared: not equivariant to translation")
        # Multiples of 2**-10: deltas are exact wherever the models stand.
        base, *inputs = [(t * 1024).round() / 1024 for t in random_models(seed, self.n_inputs, torch.float32)]
        shift = torch.linspace(-4, 4, base.numel()).mul(64).round().div(64).view(base.shape)
        moved = self.merge(base + shift, [model + shift for model in inputs])
        torch.testing.assert_close(moved, self.merge(base, inputs) + shift, rtol=1e-6, atol=2e-6)

    def test_p7_tiles_threads_and_other_tensors_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        base, *inputs = random_models(7, self.n_inputs, torch.bfloat16, (3, 37003))
        expected = self.merge(base, inputs, threads=1)
        assert torch.equal(self.merge(base, inputs, threads=2), expected)
        assert torch.equal(self.merge(base, inputs, threads=5), expected)
        merge = make_merge(self.name, self.n_inputs, self.values, options=self.options)
        several = [{"a": t[:, :9], "x": t, "b": t[:, 9:] * 2} for t in (base, *inputs)]
        engine = make_engine(several[0], several[1:], **self.engine_settings(several[1:]))
        if self.local:
            assert torch.equal(dict(engine.stream(merge))["x"], expected)
        monkeypatch.setattr(tiles, "TILE", 1009)
        # Sums of whole tensors may round otherwise in other tiles, but not by more than their last bits.
        torch.testing.assert_close(self.merge(base, inputs), expected, rtol=2**-8, atol=0)
        same = (self.merge(base, inputs) == expected).float().mean()
        assert same > 0.9999

    def test_p7_resident_and_streamed_are_the_same(self) -> None:
        models = [{"x": t, "y": t[:4] * 3} for t in random_models(3, self.n_inputs, torch.bfloat16, (40, 1300))]
        merge = make_merge(self.name, self.n_inputs, self.values, options=self.options, seed=5)
        informed = self.engine_settings(models[1:])
        engine = make_engine(models[0], models[1:], threads=2, **informed)
        into = {name: torch.zeros_like(tensor) for name, tensor in models[0].items()}
        assert engine.apply(merge, into) == ("x", "y")
        for name, tensor in make_engine(models[0], models[1:], **informed).stream(merge):
            assert torch.equal(tensor, into[name]), name

    def test_p7_another_process_and_hash_seed(self, other_process: OtherProcess) -> None:
        assert other_process.fingerprint(type(self)) == self.fingerprint(threads=1)

    def fingerprint(self, threads: int) -> str:
        """Hash of a merge."""
        base, *inputs = random_models(11, self.n_inputs, torch.float32, (50, 1000))
        result = self.merge(base, inputs, seed=3, threads=threads)
        return hashlib.sha256(result.numpy().tobytes()).hexdigest()

    @examples
    @given(seed=seeds)
    def test_p8_the_seed_matters_to_random_methods_only(self, seed: int) -> None:
        base, *inputs = random_models(seed, self.n_inputs, torch.float32)
        results = [self.merge(base, inputs, seed=number) for number in (1, 1, 2)]
        assert torch.equal(results[0], results[1])
        assert torch.equal(results[0], results[2]) != self.method.random

    @examples
    @given(seed=seeds, dtype=dtypes)
    def test_p9_hull(self, seed: int, dtype: torch.dtype) -> None:
        if not self.hull:
            pytest.skip("declared: may leave the hull of the models")
        models = random_models(seed, self.n_inputs, dtype)
        result = self.merge(models[0], models[1:], dtype=torch.float32)
        everything = torch.stack(models).float()
        slack = 1e-6 * everything.abs().amax(0)
        assert bool((result >= everything.amin(0) - slack).all())
        assert bool((result <= everything.amax(0) + slack).all())

    @examples
    @given(seed=seeds)
    def test_p10_linear(self, seed: int) -> None:
        if not self.linear or not self.method.linear_in:
            pytest.skip("declared: linear in none of its parameters")
        base, *inputs = random_models(seed, self.n_inputs, torch.float32)
        for parameter in self.method.parameters:
            if parameter.name not in self.method.linear_in:
                continue
            a, b = np.random.default_rng(seed).uniform(0.2, 1.3, (2, self.n_inputs if parameter.per_input else 1))

            def delta(coefficients: np.ndarray[Any, Any], name: str = parameter.name) -> Tensor:
                return self.merge(base, inputs, values={**self.values, name: coefficients.tolist()}) - base

            origin = delta(np.zeros_like(a))  # what the method does without any input: -base for weights
            torch.testing.assert_close(delta(a + b) - origin, delta(a) + delta(b) - 2 * origin, rtol=1e-4, atol=3e-6)

    @examples
    @given(seed=seeds, dtype=dtypes)
    def test_p11_unbiased(self, seed: int, dtype: torch.dtype) -> None:
        if not self.unbiased:
            pytest.skip("declared: no unbiased estimate of task arithmetic")
        base, *inputs = random_models(seed, self.n_inputs, dtype, (1, 12))
        many = [tensor.expand(4000, 12).contiguous() for tensor in (base, *inputs)]
        drawn = self.merge(many[0], many[1:], seed=seed, dtype=torch.float32).double() - base.double()
        weights = np.broadcast_to(np.asarray(self.values["weight"], dtype=float), self.n_inputs)
        expected = sum(float(w) * (model.double() - base.double()) for w, model in zip(weights, inputs, strict=True))
        error = drawn.std(0) / len(drawn) ** 0.5
        # An element that nobody changed has no error.
        assert bool(((drawn.mean(0) - expected).abs() <= 4.5 * error).all())

    @examples
    @given(seed=seeds)
    def test_p14_rotation(self, seed: int) -> None:
        if not self.rotates:
            pytest.skip("declared: works on single elements")
        base, *inputs = random_models(seed, self.n_inputs, torch.float32, (6, 9))
        random = torch.Generator().manual_seed(seed)
        left, right = (torch.linalg.qr(torch.randn(n, n, generator=random, dtype=torch.float64))[0] for n in (6, 9))
        zero = torch.zeros_like(base)
        turned = [(left @ (model - base).double() @ right).float() for model in inputs]
        result = self.merge(zero, [model - base for model in inputs])
        torch.testing.assert_close(
            self.merge(zero, turned), (left @ result.double() @ right).float(), rtol=1e-3, atol=1e-5
        )

    @examples
    @given(seed=seeds)
    def test_p12_bfloat16_is_the_float32_result_rounded_once(self, seed: int) -> None:
        base, *inputs = random_models(seed, self.n_inputs, torch.bfloat16)
        result = self.merge(base, inputs)
        wide = self.merge(base.float(), [model.float() for model in inputs])
        assert result.dtype == torch.bfloat16
        assert torch.equal(result, wide.bfloat16())

    @examples
    @given(seed=seeds, dtype=dtypes)
    def test_p15_slopes(self, seed: int, dtype: torch.dtype) -> None:
        reason = self.method.why_no_gradient(self.options)
        if reason is not None or not self.smooth:
            assert reason is None or reason.startswith(f"{self.name} ")
            pytest.skip(reason or "declared: elected signs depend on the coefficients")
        base, *inputs = random_models(seed, self.n_inputs, dtype)
        gradient = torch.randn(base.shape, generator=torch.Generator().manual_seed(seed))
        parameters = {parameter.name: parameter for parameter in self.method.parameters}
        values = {
            name: np.broadcast_to(
                np.asarray(self.values.get(name, parameter.default), float),
                self.n_inputs if parameter.per_input else 1,
            )
            for name, parameter in parameters.items()
        }

        def value(name: str, index: int, change: float) -> float:
            moved = {**values, name: values[name] + change * np.eye(len(values[name]))[index]}
            lists = {key: row.tolist() for key, row in moved.items()}
            result = self.merge(base, inputs, values=lists, dtype=torch.float32)
            return float((gradient.double() * result.double()).sum())

        for name, slopes in self.slopes(base, inputs, gradient).items():
            step = 1e-2 * min((parameters[name].high - parameters[name].low) or 1.0, 1.0)
            # Differences of fourth order: float32 results allow no smaller step.
            expected = [
                sum(
                    factor * value(name, index, n * step) / (12 * step)
                    for n, factor in ((-2, 1), (-1, -8), (1, 8), (2, -1))
                )
                for index in range(len(slopes))
            ]
            np.testing.assert_allclose(slopes, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max() + 2e-3)

    def slopes(self, base: Tensor, inputs: Sequence[Tensor], gradient: Tensor, **given: Any) -> dict[str, Any]:
        """The slopes of a tensor's coefficients, which are `values`."""
        models = [{"x": tensor} for tensor in (base, *inputs)]
        engine = make_engine(models[0], models[1:], **self.engine_settings(models[1:]))
        merge = make_merge(self.name, len(inputs), {**self.values, **given}, options=self.options)
        return engine.slopes(merge)("x", gradient)

    def test_p15_slopes_of_any_tiles_threads_and_layout(self, monkeypatch: pytest.MonkeyPatch) -> None:
        if self.method.why_no_gradient(self.options) is not None:
            pytest.skip("declared: no gradient")
        base, *inputs = random_models(7, self.n_inputs, torch.bfloat16, (30, 1201))
        gradient = torch.randn(1201, 30, generator=torch.Generator().manual_seed(1)).T
        expected = self.slopes(base, inputs, gradient)
        again = self.slopes(base, inputs, gradient.double().contiguous())
        assert all(np.array_equal(again[name], row) for name, row in expected.items())
        monkeypatch.setattr(tiles, "TILE", 1009)
        rounding = 1e-7 * float((gradient * base.float()).abs().sum())  # of terms that cancel out
        for name, row in self.slopes(base, inputs, gradient).items():
            np.testing.assert_allclose(row, expected[name], rtol=1e-3, atol=1e-4 * np.abs(row).max() + rounding)
        assert not any(row.any() for row in self.slopes(base, inputs, torch.zeros_like(gradient)).values())

    def test_inputs_are_only_read(self) -> None:
        models = random_models(1, self.n_inputs, torch.float32, (40, 1300))
        before = [model.clone() for model in models]
        self.merge(models[0], models[1:], threads=2)
        assert all(torch.equal(model, copy) for model, copy in zip(models, before, strict=True))

    def test_tensors_of_any_size(self) -> None:
        for shape in ((), (0,), (1,), (tiles.TILE,), (tiles.TILE + 1,)):
            base, *inputs = random_models(2, self.n_inputs, torch.float32, shape)
            result = self.merge(base, inputs)
            assert result.shape == base.shape
            assert bool(torch.isfinite(result).all())
