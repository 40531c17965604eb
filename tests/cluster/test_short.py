"""The short form of these tests: one cluster, no models."""

import pytest

from tests.cluster.clusters import cluster, needs_namespaces

DRIVER = """
import sys, time
from dataclasses import replace
from evomerge.execution.base import ClusterRefused
from evomerge.execution.ray_cluster import ask_nodes, cluster_address, connect
from evomerge.execution.ray_pool import RayPool
from tests.contracts.executor import SmallBench, run_all, trial

address = sys.argv[1]
assert cluster_address("auto") == address, "as `ray start` has written it"
try:
    cluster_address(None)
except ClusterRefused as error:
    print(error)
try:
    connect(address)
except ClusterRefused as error:
    print(error)
said = []
connection = connect(address, insecure=True)
pool = RayPool(SmallBench, workers=None, memory_per_worker=1e9, connection=connection, say=said.append)
begin = [node.name for node in connection.nodes]
lost = replace(connection.nodes[0], id="0" * 56, name="lost")
assert ask_nodes((*connection.nodes, lost), str) == {name: "" for name in begin}
slots = pool.slots
outcomes = run_all(pool, map(trial, range(6)))
print("change", flush=True)
sys.stdin.readline()
while pool.slots != 3:
    pool.next_outcome(0.2)
outcomes += run_all(pool, map(trial, range(6, 12)))
pool.close()
print(slots, len(begin), sorted(outcome.number for outcome in outcomes) == list(range(12)), said)
"""


@needs_namespaces
@pytest.mark.fault("F8", "a node is gone when it is asked for its files", "left out; the others are used")
def test_an_open_cluster_is_joined_on_request_and_its_workers_follow_its_nodes() -> None:
    with cluster(1, cpus=5) as made:  # memory for two workers
        driver = made.start("-c", DRIVER, made.address)
        driver.wait_until(lambda: "change\n" in driver.out)
        made.call("add", 1, 2e9)
        driver.write("go")
        assert driver.wait() == 0, driver.words
        private, opened, _, last = driver.out.splitlines()
    assert f"part of the Ray cluster at {made.address}" in private
    assert f"Ray cluster at {made.address} has no authentication" in opened
    assert last.startswith("2 2 True ["), last
    assert "has joined, with 1 CPU, 2 GB of memory" in last
