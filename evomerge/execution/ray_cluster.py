"""Connection to Ray: which cluster, whether it may be joined, and what its nodes have.

A cluster lets everybody who reaches it run code unless it was started with RAY_AUTH_MODE=token. So its head is asked
first, see `ray_probe`: without authentication it is joined on request only, and with it this user's token is needed,
which Ray would otherwise miss by ending the process.
"""

import os
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from evomerge.execution import ray_probe
from evomerge.execution._head import INTERVAL, Head
from evomerge.execution._worker import raised, signal_handlers_kept
from evomerge.execution.address import AUTO, LOCAL, from_environment
from evomerge.execution.base import ClusterRefused, ExecutorError, NoCluster
from evomerge.execution.nodes import Node, Resources

# Ray reads these at import, so they are set here and nowhere else; the user's own values stay. If other code imported
# Ray first, they would reach its servers but not this process, which could then not authenticate.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # A local cluster listens on 127.0.0.1 only; joining a cluster elsewhere works as before.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # The mode of a local Ray; the mode of a cluster follows from the answer of its head.
    "RAY_AUTH_MODE": "token",
    # Ray prints "(raylet) A worker died ..." on stdout, which is reserved for our own output.
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
}
#: That of a private Ray.
_OWN_MODE = os.environ.get("RAY_AUTH_MODE", "token")
if "ray" not in sys.modules:
    os.environ.update({name: value for name, value in _SETTINGS.items() if name not in os.environ})

import ray  # noqa: E402
from ray._private.state import actors, available_resources_per_node, state  # noqa: E402
from ray._private.utils import read_ray_address  # noqa: E402
from ray._raylet import Config  # type: ignore[attr-defined] # noqa: E402
from ray.exceptions import (  # noqa: E402
    GetTimeoutError,
    NodeDiedError,
    RayError,
    RaySystemError,
    TaskUnschedulableError,
)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

Answer = TypeVar("Answer")

#: Only coefficients and scores pass through Ray's object store; this is close to the minimum size it accepts.
_OBJECT_STORE_BYTES = 100 << 20
#: Seconds until a head must have answered.
_CONNECT, _PROBE = 5.0, 20.0
#: Seconds until all nodes must have answered a question; importing packages from shared storage takes some.
_ANSWER = 120.0
#: Times that a question is asked again after the death of the process that was to answer it.
_RETRIES = 2

#: Clusters whose heads were lost.
_LOST: list[str | None] = []

_TOKENS = "the variable RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, or ~/.ray/auth_token"


def cluster_address(given: str | None) -> str | None:
    """Return HOST:PORT of the cluster to use; None for a private Ray on this machine.

    given: `ray_address` of a search file. Without one, a job uses the cluster that it runs on, by RAY_ADDRESS.
    Raises NoCluster where `auto` finds none, ClusterRefused where a private Ray would share a machine with a cluster.
    """
    if given not in (None, AUTO):
        return None if given == LOCAL else given
    named = from_environment()
    if named not in ("", AUTO, LOCAL):
        return named
    if named == LOCAL and given is None:
        return None
    started: str | None = read_ray_address()  # written by `ray start`
    running = started if started and _answers(started) else None
    if given == AUTO or named == AUTO:
        if running is None:
            raise NoCluster(
                "`ray_address: auto` finds no Ray cluster: RAY_ADDRESS is not set, and `ray start` has started none on "
                "this machine. Give the address of its head as `ray_address: HOST:PORT`."
            )
        return running
    if running is not None:
        raise ClusterRefused(
            f"This machine is part of the Ray cluster at {running}, with which a private Ray would compete for cores "
            "and GPUs. Use the cluster by `ray_address: auto`; `ray_address: local` starts a private Ray all the same."
        )
    return None


def has_lost_a_head() -> bool:
    """Return whether a cluster's head was lost: Ray then waits for it at the end of the process, and crashes."""
    return bool(_LOST)


class Connection:
    """This process's connection to Ray.

    address: HOST:PORT of a cluster; None for a private Ray on this machine. head: whether it still answers.
    """

    def __init__(self, address: str | None, *, owned: bool) -> None:
        self.address = address
        self._owned = owned
        self.head = Head(ray.get_runtime_context().gcs_address)
        self._nodes: tuple[Node, ...] = _alive() if address else ()
        self._changed = threading.Event()
        self._closed = threading.Event()
        if address:
            # A call to a head that is gone blocks until Ray ends the process: the driver must not make it.
            threading.Thread(target=self._watch, name="ray-nodes", daemon=True).start()

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Nodes of the cluster that are alive, a few seconds ago at most; none of a private Ray."""
        return self._nodes

    def news(self) -> tuple[Node, ...] | None:
        """Return the nodes if they have been read again since the last call."""
        if not self._changed.is_set():
            return None
        self._changed.clear()
        return self._nodes

    def close(self) -> None:
        """Disconnect, and stop a private Ray, if this connection was made here."""
        self._closed.set()
        if self.head.lost:
            _LOST.append(self.address)
        elif self._owned:
            ray.shutdown()

    def _watch(self) -> None:
        while not self._closed.wait(INTERVAL):
            if not _answers(self.address or ""):
                continue
            try:
                self._nodes = _alive()
            except (RayError, RuntimeError):  # Ray is being disconnected, or its head is in trouble
                continue
            self.head.answered()
            self._changed.set()


def connect(address: str | None = None, *, cpus: float | None = None, insecure: bool = False) -> Connection:
    """Connect this process to Ray; an existing connection of this process is used as it is.

    The previous signal handlers stay in force (Ray's own would end the driver on SIGTERM).

    Args:
        address: A running cluster, see `cluster_address`; None starts a Ray that only this machine can reach.
        cpus: CPUs of that one; None for the machine's.
        insecure: Join a cluster that has no authentication.

    Raises:
        ExecutorError: The cluster cannot be reached, lets everybody in, or does not accept this user's token.
    """
    if ray.is_initialized():
        return Connection(address, owned=False)
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": False,
            "num_cpus": cpus,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
        _set_mode(_OWN_MODE)  # a cluster that was joined before may have been an open one
    else:
        _set_mode(_mode_of(address, insecure=insecure))
    with signal_handlers_kept():
        try:
            ray.init(**options)
        except (KeyboardInterrupt, SystemExit):
            ray.shutdown()
            raise
        except Exception as error:
            # Ray raises bare exceptions, too, e.g. if it takes over 30 s to start on a busy machine.
            ray.shutdown()
            said = " ".join(str(error).split())
            if address is None:
                raise ExecutorError(
                    f"Ray did not start on this machine: {said} Try again when it is less busy."
                ) from error
            raise ExecutorError(f"Cannot connect to Ray at {address}: {said}") from error
    return Connection(address, owned=True)


def own_node() -> str:
    """Return the id of the node that this process runs on."""
    return str(ray.get_runtime_context().get_node_id())


def node_of_actor(actor: str) -> str:
    """Return the id of the node that an actor runs or ran on; empty if unknown."""
    return str(actors(actor).get("Address", {}).get("NodeID", ""))


def ask_nodes(nodes: Sequence[Node], question: Callable[[], Answer]) -> dict[str, Answer | str | None]:
    """Call a function on each of these nodes; return the results by the nodes' names, or why there is none.

    None: the node has not answered in time. A node that is lost meanwhile is left out: no worker will be there.
    """
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node.id, soft=False)
        task = ray.remote(_called).options(num_cpus=0, max_retries=_RETRIES, scheduling_strategy=there)
        asked[node.name] = task.remote(question)
    end = time.monotonic() + _ANSWER
    answers: dict[str, Answer | str | None] = {}
    for name, call in asked.items():
        try:
            answers[name] = _answer(call, end)
        except (NodeDiedError, TaskUnschedulableError):
            continue
    return answers


def _called(function: Callable[[], Answer]) -> Answer:
    return function()


def _answer(call: Any, end: float) -> Any:
    try:
        return ray.get(call, timeout=max(0.0, end - time.monotonic()))
    except GetTimeoutError:
        return None
    except (ImportError, RaySystemError) as error:
        return f"evomerge cannot be imported there; install the same packages on all nodes ({raised(error)})"
    except (NodeDiedError, TaskUnschedulableError):
        raise
    except RayError as error:
        return raised(error)


def _mode_of(address: str, *, insecure: bool) -> str:
    """Return the authentication mode to join a cluster with. Raises ExecutorError where it must not or cannot."""
    if not _answers(address):
        raise NoCluster(
            f"Nothing answers at {address}, where the head of a Ray cluster is expected (HOST:PORT; `ray start --head` "
            "prints it, usually with port 6379). Start the cluster, or correct `ray_address`."
        )
    found = _asked(address)
    if found == ray_probe.OPEN and not insecure:
        raise ClusterRefused(
            f"The Ray cluster at {address} has no authentication: everyone who can reach it can run code on it, and "
            "read your models. Start it with RAY_AUTH_MODE=token and a token (`ray get-auth-token --generate`); or, if "
            "only you can reach it, set `ray_insecure: true` in the search file."
        )
    if found == ray_probe.NO_TOKEN:
        raise ClusterRefused(
            f"The Ray cluster at {address} requires a token, and there is none here. Copy the cluster's token to "
            f"{_TOKENS}."
        )
    if found == ray_probe.REFUSED:
        raise ClusterRefused(
            f"The Ray cluster at {address} does not accept the token found here. Ray takes the first of these: "
            f"{_TOKENS}. Put the cluster's token there."
        )
    if found not in (ray_probe.OPEN, ray_probe.ACCEPTED):
        raise ClusterRefused(
            f"The process at {address} is not the head of a Ray cluster, or one of an incompatible version (here: "
            f"{ray.__version__}). `ray_address` is the address that `ray start --head` prints, usually with port 6379, "
            "not that of the dashboard (8265) or of Ray Client (10001)."
        )
    return "disabled" if found == ray_probe.OPEN else "token"


def _asked(address: str) -> str:
    """Return the answer of a head, see `ray_probe`; empty if there is none."""
    command = [sys.executable, "-m", ray_probe.__name__, address]
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE, check=False, env={**os.environ, "PYTHONPATH": path}
        )
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _set_mode(mode: str) -> None:
    os.environ["RAY_AUTH_MODE"] = mode
    Config.initialize("")  # Ray has read the variable at its import


def _answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT).close()
    except (OSError, ValueError, OverflowError):
        return False
    return True


def _alive() -> tuple[Node, ...]:
    """Return the nodes that are alive, by address."""
    free, draining = available_resources_per_node(), state.get_draining_nodes()
    found = sorted((node["NodeManagerAddress"], node["NodeID"], node) for node in ray.nodes() if node["Alive"])
    several, seen = Counter(address for address, _, _ in found), Counter[str]()
    nodes = []
    for address, identity, node in found:
        seen[address] += 1
        name = address if several[address] == 1 else f"{address} ({identity[:6]})"
        nodes.append(
            Node(
                identity,
                name,
                _resources(node["Resources"]),
                _resources(free.get(identity, {})),
                identity in draining,
            )
        )
    return tuple(nodes)


def _resources(of: dict[str, float]) -> Resources:
    return Resources(of.get("CPU", 0.0), of.get("GPU", 0.0), of.get("memory", 0.0))
