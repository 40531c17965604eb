"""The examples in the docstrings of the contracts run as they are written."""

import doctest
import importlib

import pytest

MODULES = (
    "search_spaces.base",
    "evaluators.base",
    "evomerge.execution.base",
    "evomerge.merging.engine",
    "evomerge.merging.method",
    "evomerge.optimizers.base",
    "evomerge.study.study",
)


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_contract_run(name: str) -> None:
    done = doctest.testmod(importlib.import_module(name))
    assert done.attempted > 0
    assert done.failed == 0
