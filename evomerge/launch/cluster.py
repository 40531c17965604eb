"""The Ray cluster of a search: its workers by node, and whether its nodes have the models, files and packages."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from evomerge.config import SearchConfig
from evomerge.config.fields import named_paths
from evomerge.errors import REFUSED, EvomergeError
from evomerge.execution.base import NoCluster
from evomerge.execution.nodes import Node
from evomerge.launch.memory import MemoryNeeds
from evomerge.launch.placement import on_cluster, placement, takes
from evomerge.merging import pins
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.pins import Pins
from evomerge.recipe import Recipe
from evomerge.report import words

#: Packages whose versions should be the same on all nodes: scores depend on them.
_PACKAGES = ("evomerge", "torch", "transformers", "numpy")
#: Nodes that a message lists.
_LISTED = 5


class NodesUnfit(EvomergeError):
    """Nodes of a cluster lack what a search needs, such as the models."""

    exit_code = REFUSED


@dataclass(frozen=True)
class NodeReport:
    """What a node says of itself. problem: why no candidate can be scored there; empty if one can."""

    problem: str
    versions: Mapping[str, str]


def check_nodes(
    config: SearchConfig,
    recipe: Recipe,
    found: Pins,
    nodes: Sequence[Node],
    ask: Callable[[Sequence[Node], Callable[[], NodeReport]], Mapping[str, NodeReport | str | None]],
) -> tuple[str, ...]:
    """Ask every node whether it has the models, task files and packages; return warnings.

    found: pins of the models' files here, with which the files there are compared by samples. ask: see
    `ray_cluster.ask_nodes`. Raises NodesUnfit where candidates could not be scored.
    """
    files = [str(path) for path in named_paths(config.as_dict())]
    own = _versions()
    problems, notes = [], []
    for name, report in ask(nodes, partial(_report, recipe, found, tuple(files))).items():
        if report is None:  # busy, perhaps; a worker that cannot be built there is told by the pool
            notes.append(f"node {name} has not answered in time whether it has the models and the same packages")
        elif isinstance(report, str):
            problems.append(f"  node {name}: {report}")
        elif report.problem:
            problems.append(f"  node {name}: {report.problem}")
        elif report.versions != own:
            other = [f"{package} {known}" for package, known in report.versions.items() if known != own[package]]
            here = ", ".join(f"{package} {own[package]}" for package in own if report.versions[package] != own[package])
            notes.append(f"node {name} has {', '.join(other)}, here is {here}: scores may depend on the node")
    if problems:
        more = [f"  and {len(problems) - _LISTED} more"] if len(problems) > _LISTED else []
        raise NodesUnfit(
            "Workers read models and task files at the same paths as this process, and need the same packages:\n"
            + "\n".join([*problems[:_LISTED], *more])
            + "\nUse a folder that all nodes share, or copy the files to the same paths on every node."
        )
    return tuple(notes)


def describe(
    config: SearchConfig, recipe: Recipe, needs: MemoryNeeds
) -> tuple[tuple[int, int, float], dict[str, Any] | None, list[str]]:
    """Connect to the cluster of a search, check its nodes, and disconnect.

    Returns `placement`'s workers, CPUs and GPUs; the cluster as plain data, None without one; lines of text. A
    cluster that is not running yet is said in a line. Raises ExecutorError and NodesUnfit.
    """
    if not on_cluster(config):
        return placement(config, needs), None, []
    from evomerge.execution.ray_cluster import ask_nodes, cluster_address, connect

    try:
        address = cluster_address(config.ray_address)
        if address is None:
            return placement(config, needs), None, []
        connection = connect(address, insecure=config.ray_insecure)
    except NoCluster as error:
        return placement(config, needs), None, [f"note: the Ray cluster was not asked. {error}"]
    try:
        nodes = connection.nodes
        placed = placement(config, needs, nodes)
        worker = takes(placed, needs)
        notes = check_nodes(
            config, recipe, pins.take(pins.input_files(recipe)), with_room(nodes, config, needs), ask_nodes
        )
    finally:
        connection.close()
    rows: list[dict[str, Any]] = [
        {
            "name": node.name,
            "cpus": node.total.cpus,
            "gpus": node.total.gpus,
            "memory_bytes": int(node.total.memory),
            "draining": node.draining,
            "workers": 0 if node.draining else node.total.holds(worker),
        }
        for node in nodes
    ]
    data = {"address": address, "nodes": rows, "worker_memory_bytes": int(worker.memory)}
    how = "as many as have room at any time" if config.workers == "auto" else "as given"
    lines = [
        f"cluster {address}: {words.count(placed[0], 'worker')}, {how}; each takes {worker}",
        *(
            f"  node {node.name}: {node.total}; "
            + ("about to be taken away" if node.draining else words.count(row["workers"], "worker"))
            for node, row in zip(nodes, rows, strict=True)
        ),
        *(f"note: {note}" for note in notes),
    ]
    there = sum(int(row["workers"]) for row in rows)
    if there < placed[0]:
        lines.append(
            f"note: the nodes have room for {words.count(there, 'worker')} now; the search waits for more nodes"
        )
    return placed, data, lines


def with_room(nodes: Sequence[Node], config: SearchConfig, needs: MemoryNeeds) -> list[Node]:
    """Return the nodes that could hold a worker."""
    worker = takes(placement(config, needs, nodes), needs)
    return [node for node in nodes if not node.draining and node.total.holds(worker)]


def _report(recipe: Recipe, found: Pins, files: tuple[str, ...]) -> NodeReport:
    """Return the report of the node that this runs on."""
    versions = _versions()
    missing = next((path for path in files if not Path(path).exists()), None)
    if missing is not None:
        return NodeReport(f"it has no {missing}", versions)
    try:
        pins.check_worker(pins.input_files(recipe), found)
    except CheckpointError as error:
        return NodeReport(" ".join(str(error).split()), versions)
    return NodeReport("", versions)


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
