"""The executor of a search, with its workers running."""

from collections.abc import Callable
from dataclasses import replace

from evomerge.bench import BenchSpec
from evomerge.config import SearchConfig
from evomerge.execution.base import Executor
from evomerge.execution.nodes import Node
from evomerge.execution.serial import SerialExecutor
from evomerge.launch.cluster import check_nodes, with_room
from evomerge.launch.memory import MemoryNeeds
from evomerge.launch.placement import placement, takes
from evomerge.merging import pins
from evomerge.report import words
from evomerge.resident.free_memory import available_memory


def start_executor(
    config: SearchConfig, bench: BenchSpec, needs: MemoryNeeds, say: Callable[[str], None] = lambda _: None
) -> Executor:
    """Start the configured executor, with as many workers as fit.

    say: called with sentences about the start and the cluster.

    Raises ExecutorError, and NodesUnfit where nodes lack the models.
    """
    wait = " (Ray itself takes several seconds)" if config.executor == "ray" else ""
    say(f"starting {config.executor} workers{wait}")
    if config.executor == "serial":
        return SerialExecutor(replace(bench, keep_bytes=needs.room_to_keep(1, available_memory())))
    from evomerge.execution.ray_cluster import ask_nodes, cluster_address, connect
    from evomerge.execution.ray_pool import RayPool  # starting Ray is for those who use it

    address = cluster_address(config.ray_address)
    if address is None:
        workers, cpus, gpus = placement(config, needs)
        return RayPool(
            replace(bench, gpus=gpus, keep_bytes=needs.room_to_keep(workers, available_memory())),
            workers=workers,
            cpus_per_worker=cpus,
            gpus_per_worker=gpus,
            trial_timeout=config.trial_timeout,
        )
    connection = connect(address, insecure=config.ray_insecure)
    try:
        nodes = connection.nodes
        placed = placement(config, needs, nodes)
        found = pins.take(pins.input_files(bench.recipe)) if bench.pins is None else bench.pins
        for note in check_nodes(config, bench.recipe, found, with_room(nodes, config, needs), ask_nodes):
            say(note)
        workers, cpus, gpus = placed
        on = f"{words.count(len(nodes), 'node')} of the Ray cluster at {address}"
        say(f"{words.count(workers, 'worker')} on {on}; each takes {takes(placed, needs)}")
        return RayPool(
            replace(bench, gpus=gpus, keep_bytes=_keep_bytes(config, needs, nodes)),
            workers=None if config.workers == "auto" else workers,
            cpus_per_worker=cpus,
            gpus_per_worker=gpus,
            memory_per_worker=takes(placed, needs).memory,
            connection=connection,
            trial_timeout=config.trial_timeout,
            say=say,
        )
    except BaseException:
        connection.close()
        raise


def _keep_bytes(config: SearchConfig, needs: MemoryNeeds, nodes: tuple[Node, ...]) -> int:
    """Return the bytes of folded adapters that a worker may keep on any of the nodes."""
    placed = placement(config, needs, nodes)
    worker = takes(placed, needs)
    room = [
        needs.room_to_keep(node.total.holds(worker), int(node.total.memory))
        for node in nodes
        if node.total.holds(worker)
    ]
    return min(room, default=0)
