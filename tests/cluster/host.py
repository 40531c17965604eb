"""A process that holds a Ray cluster of several nodes in a network of its own, and changes it on request.

Ray gives every node of a machine the same address unless it sees no network but the loopback: therefore a namespace,
which needs root. Run by `tests.cluster.conftest` with `unshare --net`; one JSON list per line, in both directions.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

_STORE = 80 << 20
_PREEMPTION = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")


class Host:
    """The cluster; public methods are the requests. Nodes are numbered in the order in which they are added."""

    def __init__(self) -> None:
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 0, "include_dashboard": False, "object_store_memory": _STORE},
        )
        self._nodes: list[Any] = []
        self._others: list[subprocess.Popen[bytes]] = []

    def add(self, cpus: float, memory: float) -> str:
        """Add a node; return its id."""
        node = self._cluster.add_node(num_cpus=cpus, memory=int(memory), object_store_memory=_STORE)
        self._nodes.append(node)
        return str(node.node_id)

    def add_without(self, cpus: float, memory: float, folder: str) -> None:
        """Add a node that finds an empty folder in this place."""
        start = f"mount -t tmpfs none {folder} && exec {sys.executable} -m ray.scripts.scripts start --block"
        options = f"--address={self._cluster.address} --num-cpus={cpus:g} --memory={int(memory)} --disable-usage-stats"
        count = sum(node["Alive"] for node in self._known())
        self._others.append(
            subprocess.Popen(
                ["unshare", "--mount", "sh", "-c", f"{start} {options} --object-store-memory={_STORE}"],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        )
        while sum(node["Alive"] for node in self._known()) <= count:
            time.sleep(0.1)

    def _known(self) -> list[dict[str, Any]]:
        return list(self._cluster.global_state.node_table())

    def drain(self, number: int, seconds: float) -> bool:
        """Announce that a node will be preempted."""
        deadline = int((time.time() + seconds) * 1000)
        client = GcsClient(address=self._cluster.address)
        accepted, _ = client.drain_node(self._nodes[number].node_id, _PREEMPTION, "sold", deadline)
        return bool(accepted)

    def kill(self, number: int) -> None:
        """Let a node vanish, with the workers on it."""
        node = self._nodes[number]
        raylet = node.all_processes["raylet"][0].process.pid
        workers = [int(pid) for pid in Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()]
        self._cluster.remove_node(node, allow_graceful=False)
        for pid in workers:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    def signal_head(self, number: int) -> None:
        """Send a signal to the head's server, the GCS."""
        head = self._cluster.head_node
        os.kill(head.all_processes["gcs_server"][0].process.pid, number)

    def address(self) -> str:
        """Return HOST:PORT of the head."""
        return str(self._cluster.address)


def main() -> None:
    os.system("ip link set lo up")
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # Ray prints
    host = Host()
    replies.write(json.dumps(host.address()) + "\n")
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        replies.write(json.dumps(getattr(host, name)(*arguments)) + "\n")
    for other in host._others:
        os.killpg(other.pid, signal.SIGKILL)
    for node in [*host._nodes, host._cluster.head_node]:
        node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
    ray.shutdown()
    os._exit(0)


if __name__ == "__main__":
    main()
