"""Plug-ins by file name, and the rule that every plug-in has a test that inherits its contract kit."""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from evaluators.base import Evaluator
from evomerge import plugins
from evomerge.merging.method import MergeMethod
from evomerge.optimizers.base import Optimizer
from evomerge.plugins import PluginError, PluginSpec
from evomerge.trackers.base import Tracker
from search_spaces.base import SearchSpace
from search_spaces.layerwise import Layerwise
from tests.contracts.search_space import INPUTS, PARAMETERS, SMALL

CONTRACTS: dict[str, type] = {
    "search space": SearchSpace,
    "evaluator": Evaluator,
    "optimizer": Optimizer,
    "merge method": MergeMethod,
    "tracker": Tracker,
}
TESTS = Path(__file__).parents[1]
PLUGINS = [(what, name) for what in plugins.PACKAGES for name in plugins.names(what)]

PLUGIN_FILE = """
from abc import abstractmethod
from fractions import Fraction
from numbers import Number

class {name}(Fraction):
    def __new__(cls, size, *, colour="red", **more): return super().__new__(cls, size)

Alias = {name}

class Abstract(Number):
    @abstractmethod
    def missing(self): ...
"""


@pytest.mark.parametrize(("what", "name"), PLUGINS, ids=[f"{what}-{name}" for what, name in PLUGINS])
def test_every_plugin_loads_and_has_a_test_that_inherits_its_kit(what: str, name: str) -> None:
    assert plugins.load(what, name, CONTRACTS[what]) is not None
    test = TESTS.joinpath(*plugins.PACKAGES[what].split("."), f"test_{name}.py")
    assert test.is_file(), f"The {what} {name!r} has no test; write {test.relative_to(TESTS.parent)}."
    assert re.search(r"^class Test\w*\(\w*Contract\):", test.read_text(), re.MULTILINE), (
        f"{test.relative_to(TESTS.parent)} subclasses no contract kit of tests/contracts."
    )


@pytest.mark.parametrize("what", plugins.PACKAGES)
def test_no_test_outlives_its_plugin(what: str) -> None:
    package = importlib.import_module(plugins.PACKAGES[what])
    folder = TESTS.joinpath(*plugins.PACKAGES[what].split("."))
    modules = {path.stem.lstrip("_") for path in Path(package.__path__[0]).glob("*.py")}
    kits = {
        test.stem.removeprefix("test_")
        for test in folder.glob("test_*.py")
        if re.search(r"^class Test\w*\(\w*Contract\):", test.read_text(), re.MULTILINE)
    }
    assert kits <= modules


def test_names_are_the_plugins_and_nothing_else() -> None:
    found = plugins.names("search space")
    assert {"blockwise", "layerwise", "simplex", "smooth", "uniform"} <= set(found)
    assert not [name for name in found if name == "base" or name.startswith("_")]
    assert list(found) == sorted(found)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes a package of plug-in files and makes it a sort of plug-in, `thing`."""

    def write(**files: str) -> str:
        folder = tmp_path / "things_of_a_test"
        folder.mkdir()
        for name, text in {"__init__": "", **files}.items():
            (folder / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.setattr(plugins, "PACKAGES", {"thing": folder.name})
        return folder.name

    yield write
    for module in [name for name in sys.modules if name.split(".")[0] == "things_of_a_test"]:
        del sys.modules[module]


def _fraction() -> type:
    return importlib.import_module("fractions").Fraction


def test_a_plugin_is_the_one_concrete_class_that_its_file_defines(package: Callable[..., str]) -> None:
    folder = package(half=PLUGIN_FILE.format(name="Half"), base="", _private="", third="")
    Path(sys.path[0], folder, "nested").mkdir()
    Path(sys.path[0], folder, "nested", "__init__.py").write_text("")
    assert plugins.names("thing") == ("half", "third")
    found = plugins.load("thing", "half", _fraction())
    assert (found.__name__, found.__module__) == ("Half", f"{folder}.half")
    with pytest.raises(PluginError, match="exactly one concrete Fraction; it contains 0"):
        plugins.load("thing", "third", _fraction())


def test_two_plugins_in_one_file_are_refused(package: Callable[..., str]) -> None:
    package(half=PLUGIN_FILE.format(name="Half") + PLUGIN_FILE.format(name="Again"))
    with pytest.raises(PluginError, match="exactly one concrete Fraction; it contains 2"):
        plugins.load("thing", "half", _fraction())


def test_a_plugin_may_be_an_instance(package: Callable[..., str]) -> None:
    package(half="from fractions import Fraction\nhalf = Fraction(1, 2)\nsame = half\n")
    assert plugins.load("thing", "half", _fraction()) == 0.5


def test_an_unknown_name_is_refused_with_the_nearest() -> None:
    message = r"No search space named 'layer_wise'\. Did you mean 'layerwise'\? There are .* in search_spaces/"
    with pytest.raises(PluginError, match=message):
        plugins.load("search space", "layer_wise", SearchSpace)
    for hidden in ("base", "_layout", "zzz"):
        with pytest.raises(PluginError, match=f"named '{hidden}'. There are auto, blockwise, dataflow"):
            plugins.load("search space", hidden, SearchSpace)


@pytest.mark.parametrize(("count", "last"), [(9, ", p8"), (10, " and 2 more")])
def test_the_names_there_are_are_counted_only_where_that_is_shorter(
    package: Callable[..., str], count: int, last: str
) -> None:
    package(**{f"p{n}": "" for n in range(count)})
    with pytest.raises(PluginError, match=rf"There are p0, p1, p2, p3, p4, p5, p6, p7{last} in "):
        plugins.check_name("thing", "zzz")


def test_a_name_with_a_colon_is_a_class_outside(package: Callable[..., str]) -> None:
    folder = package(mine=PLUGIN_FILE.format(name="Mine") + "value = Fraction(1, 3)\n")
    assert plugins.load("thing", f"{folder}.mine:Mine", _fraction()).__name__ == "Mine"
    assert plugins.load("thing", f"{folder}.mine:value", _fraction()) == _fraction()(1, 3)
    assert plugins.load("search space", "search_spaces.layerwise:Layerwise", SearchSpace) is Layerwise


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:Space", "cannot be imported: No module named 'no_such_module'"),
        ("search_spaces.layerwise:Layerwize", "no 'Layerwize'.*Did you mean 'Layerwise'"),
        ("search_spaces.base:SearchSpace", "not a concrete SearchSpace"),
        ("search_spaces.base:Layout", "not a concrete SearchSpace"),
        ("search_spaces.layerwise:", "needs the form"),
        (":Layerwise", "needs the form"),
        (".layerwise:Layerwise", "needs the form"),
        ("a:b:c", "needs the form"),
    ],
)
def test_a_class_outside_that_is_none_is_refused(name: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        plugins.load("search space", name, SearchSpace)


def _build(kind: str, /, **options: Any) -> Any:
    given = {"layout": SMALL, "inputs": INPUTS, "parameters": PARAMETERS}
    return plugins.build("search space", PluginSpec(kind, options), SearchSpace, **given)


def test_build_passes_what_is_given_and_the_options() -> None:
    space = _build("smooth", points=2, ranges={"t": [0, 0]})
    assert [name for name in space.names if ".mlp.point" in name or "[mlp.point" in name] == [
        f"{parameter}[mlp.point.{n}, {name}]"
        for parameter in ("weight", "density")
        for n in range(2)
        for name in INPUTS
    ]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("pionts", "'smooth' has no option 'pionts'; it has points, ranges, .*Did you mean 'points'"),
        ("layout", "'smooth' has no option 'layout'"),
        ("self", "'smooth' has no option 'self'"),
    ],
)
def test_build_refuses_an_option_that_there_is_not(option: str, message: str) -> None:
    with pytest.raises(PluginError, match=message):
        _build("smooth", **{"points": 3, option: 1})


@pytest.mark.parametrize("options", [{"peak": "high"}, {"batch": "big"}])
def test_build_refuses_an_option_of_another_type(options: dict[str, str]) -> None:
    with pytest.raises(PluginError, match=r"optimizer 'gradient' does not accept its options .*'(high|big)'"):
        plugins.build(
            "optimizer", PluginSpec("gradient", options), Optimizer, dimension=2, n_objectives=1, seed=0, start=None
        )


def test_build_names_a_missing_option_and_passes_variadic_ones(package: Callable[..., str]) -> None:
    package(half=PLUGIN_FILE.format(name="Half"))
    with pytest.raises(PluginError, match="thing 'half' needs 'size'"):
        plugins.build("thing", PluginSpec("half", {"colour": "blue"}), _fraction())
    assert plugins.build("thing", PluginSpec("half", {"size": 2, "shape": "round"}), _fraction()) == 2


@pytest.mark.parametrize(
    ("data", "key", "spec"),
    [
        ("gp", "kind", PluginSpec("gp")),
        ({"kind": "gp", "seed": 1}, "kind", PluginSpec("gp", {"seed": 1})),
        ({"evaluator": "x", "kind": "y"}, "evaluator", PluginSpec("x", {"kind": "y"})),
    ],
)
def test_a_plug_in_as_files_say_it(data: str | dict[str, object], key: str, spec: PluginSpec) -> None:
    assert PluginSpec.read(data, key) == spec
