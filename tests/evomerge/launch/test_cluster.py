"""Reports of nodes about themselves when a search on a cluster begins."""

from pathlib import Path

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.config import load_config
from evomerge.execution.nodes import Node, Resources
from evomerge.launch.cluster import NodeReport, NodesUnfit, check_nodes
from evomerge.merging import pins
from tests.toys import search_file


def checked(folder: Path, reports: dict[str, NodeReport | str | None]) -> tuple[str, ...]:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder)))
    config = load_config(file)
    nodes = [Node(name, name, Resources(1), Resources(1)) for name in reports]
    return check_nodes(config, config.recipe(), pins.take(pins.input_files(config.recipe())), nodes, lambda *_: reports)


def test_a_busy_node_that_has_not_answered_is_told_and_not_refused(tmp_path: Path) -> None:
    (note,) = checked(tmp_path, {"busy": None})
    assert note.startswith("node busy has not answered in time")


def test_a_node_that_answers_without_the_models_is_refused_beside_one_that_does_not_answer(tmp_path: Path) -> None:
    reports = {"busy": None, "bare": NodeReport("it has no /models", {}), "broken": "no evomerge"}
    with pytest.raises(NodesUnfit, match=r"node bare: it has no /models\n  node broken: no evomerge\nUse a folder"):
        checked(tmp_path, reports)
