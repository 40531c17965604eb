import re
from pathlib import Path

import pytest

from evomerge import plugins
from evomerge.merging import methods
from evomerge.merging.catalogue import catalogue, coefficients, entry, markdown

FOLDER = Path(next(iter(methods.__path__)))


def test_every_method_is_described_by_its_own_declarations() -> None:
    found = catalogue()
    assert [item.name for item in found] == list(plugins.names("merge method"))
    for item in found:
        assert item.title, item.name
        assert item.summary.endswith("."), item.name


def test_an_entry_describes_its_method() -> None:
    found = entry("dare_linear")
    assert found.title == "DARE: drop deltas at random, rescale, and add (Yu et al., 2024)"
    assert found.needs == ("base", "1 or more inputs", "seed")
    assert coefficients(found) == (
        "density 0.5 [0.05, 1] per input",
        "weight 1 [-1, 1.5] per input",
        "scale 1 (fixed)",
    )
    assert "rescale: paper (or mergekit, none)" in found.options
    assert "normalize: false" in found.options
    assert entry("linear").needs[0] == "no base"
    assert entry("slerp").needs == ("base", "1 input")


def test_a_method_that_does_not_exist() -> None:
    with pytest.raises(plugins.PluginError, match="Did you mean 'ties'"):
        entry("tie")


def test_the_table_of_the_documentation_says_what_the_methods_say() -> None:
    """`make format` writes it; a method that was just added may still be missing."""
    table = (FOLDER / "TABLE.md").read_text(encoding="utf-8").splitlines()
    current = markdown(catalogue()).splitlines()
    assert table[:2] == current[:2]
    assert len(table) > 20
    for line in table[2:]:
        assert line in current


def test_every_method_that_the_documentation_names_exists() -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    static = text.split("## Out of scope")[1]
    named = set(re.findall(r"`([a-z_]+)`", static)) - set(plugins.names("search space"))
    assert named <= set(plugins.names("merge method"))
    assert "twin_merging" in named
