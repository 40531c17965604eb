"""How many workers: as many as cores and memory allow, or what the file says."""

import math
import os
from pathlib import Path

import pytest
import torch

from evaluators import _strict_yaml as strict_yaml
from evomerge.bench import BenchSpec
from evomerge.config import ConfigError, SearchConfig, load_config
from evomerge.execution.nodes import Node, Resources
from evomerge.execution.serial import SerialExecutor
from evomerge.launch.memory import MemoryNeeds, memory_needs
from evomerge.launch.placement import check_device, folder_notes, memory_notes, on_cluster, placement, takes
from evomerge.launch.workers import start_executor
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Recipe
from evomerge.resident.free_memory import available_memory
from tests.conftest import TinyModels
from tests.toys import search_file


def config(folder: Path, **changes: object) -> SearchConfig:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, **{"device": "cpu", **changes})))
    return load_config(file)


def test_one_worker_per_core_when_memory_allows(tmp_path: Path) -> None:
    workers, cpus, gpus = placement(config(tmp_path), MemoryNeeds(1000, 1000))
    assert 1 <= workers <= len(os.sched_getaffinity(0))
    assert (cpus, gpus) == (1, 0.0)


def test_threads_take_cores_from_workers(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    workers, cpus, _ = placement(config(tmp_path, threads=cores), MemoryNeeds(1000, 1000))
    assert (workers, cpus) == (1, cores)


def test_a_model_larger_than_memory_still_gets_one_worker(tmp_path: Path) -> None:
    assert placement(config(tmp_path), MemoryNeeds(10**15, 10**15))[0] == 1


def test_the_file_has_the_last_word(tmp_path: Path) -> None:
    assert placement(config(tmp_path, workers=7, threads=2), MemoryNeeds(10**15, 10**15)) == (7, 2, 0.0)


@pytest.mark.parametrize("device", ["cuda:999", "mps"])
def test_a_gpu_that_is_not_there_is_refused_unless_it_may_be_elsewhere(tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device: {device} was requested, .* Use device: auto"):
        check_device(config(tmp_path, device=device))
    check_device(config(tmp_path, device=device, executor="ray", ray_address="10.0.0.1:6379"))


def test_a_device_is_there_as_often_as_torch_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in ("auto", "cpu", "cuda", "cuda:1"):
        check_device(config(tmp_path, device=device))
    with pytest.raises(ConfigError, match="finds 2 of that kind"):
        check_device(config(tmp_path, device="cuda:2"))


def test_serial_runs_in_this_process(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    spec = BenchSpec(chosen.recipe(), chosen.space, dict(chosen.tasks))
    executor = start_executor(chosen, spec, MemoryNeeds(1000, 1000))
    assert isinstance(executor, SerialExecutor)
    assert executor.slots == 1


def test_workers_share_the_files_and_have_the_rest_of_their_own() -> None:
    needs = MemoryNeeds(inputs=4000, worker=1000, folded=300)
    assert needs.total(3) == 7000
    assert needs.total(3, kept=300) == 7900
    assert needs.fitting(10_000) == 5, "of 9000, less the files"
    assert needs.fitting(100) == 1
    assert needs.room_to_keep(3, 10_000) == 300
    assert needs.room_to_keep(3, 8_000) == 66
    assert needs.room_to_keep(3, 7_000) == 0


def test_what_a_search_needs_knows_types_and_copies(tiny: TinyModels) -> None:
    sources = open_models(Recipe(Input("base", str(tiny.base)), (Input("sort", str(tiny.experts["sort"])),), "linear"))
    size = sum(math.prod(sources.base.shape(name)) for name in sources.base.names)
    same, rounded = memory_needs(sources, None, None), memory_needs(sources, torch.bfloat16, None)
    scored = memory_needs(sources, torch.bfloat16, torch.float32)
    assert (same.export, rounded.export, scored.export) == (4 * size, 2 * size, 2 * size)
    assert same.worker - rounded.worker > 2 * size
    assert scored.worker == same.worker
    assert same.inputs == sum(file.stat().st_size for model in sources.models for file in model.files)
    assert same.device > 3 * 4 * size, "the network, the base and the expert"
    assert same.folded == 0


def test_available_memory_counts_the_page_cache() -> None:
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < available_memory() <= whole


def test_workers_that_do_not_fit_are_said(tmp_path: Path) -> None:
    assert memory_notes(config(tmp_path), MemoryNeeds(10**15, 1000)) == ()
    (one,) = memory_notes(config(tmp_path), MemoryNeeds(1000, 10**15))
    assert one.startswith("a worker takes about 1e+03 TB of memory, but ")
    (several,) = memory_notes(config(tmp_path, executor="ray", workers=3), MemoryNeeds(1000, 10**15))
    assert several.startswith("3 workers take about 3e+03 TB")
    assert memory_notes(config(tmp_path, executor="ray", ray_address="10.0.0.1:6379"), MemoryNeeds(1000, 10**15)) == ()


def node(cpus: float, gpus: float, memory: float, *, draining: bool = False) -> Node:
    return Node("id", "10.0.0.5", Resources(cpus, gpus, memory), Resources(), draining)


NODES = [node(0, 0, 1e9), node(8, 4, 64e9), node(3, 2, 64e9), node(16, 0, 64e9), node(8, 4, 64e9, draining=True)]


@pytest.mark.parametrize(
    ("changes", "placed"),
    [
        ({}, (6, 1, 1.0)),  # one CPU each, as the node with 3 CPUs for 2 GPUs allows
        ({"gpus_per_worker": 2}, (3, 3, 2.0)),
        ({"gpus_per_worker": 0.5, "threads": 1}, (8 + 3, 1, 0.5)),
        ({"gpus_per_worker": 8}, (1, 1, 8.0)),  # waits for a larger node
        ({"device": "cpu"}, (8 + 3 + 16, 1, 0.0)),
        ({"device": "cpu", "threads": 4}, (2 + 4, 4, 0.0)),
        ({"device": "cpu", "workers": 3}, (3, 1, 0.0)),
    ],
)
def test_a_cluster_holds_what_fits_on_each_of_its_nodes(
    tmp_path: Path, changes: dict[str, object], placed: tuple[int, int, float]
) -> None:
    chosen = config(tmp_path, **{"device": "auto", "executor": "ray", "ray_address": "10.0.0.1:6379", **changes})
    assert placement(chosen, MemoryNeeds(1000, 1000), NODES) == placed


def test_memory_limits_the_workers_of_a_node(tmp_path: Path) -> None:
    chosen = config(tmp_path, executor="ray", ray_address="auto")
    assert placement(chosen, MemoryNeeds(10**12, 20 * 10**9), NODES)[0] == 3 + 3 + 3
    assert takes((1, 1, 0.0), MemoryNeeds(0, 20 * 10**9)).memory == 20e9
    assert takes((1, 1, 1.0), MemoryNeeds(0, 20 * 10**9)).memory < 1e9, "the network is on the GPU"


def test_a_cluster_that_was_not_asked_counts_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")  # in a Ray job
    chosen = config(tmp_path, executor="ray")
    assert on_cluster(chosen)
    assert placement(chosen, MemoryNeeds(1000, 1000)) == (1, 1, 0.0)
    assert not on_cluster(config(tmp_path, executor="ray", ray_address="local"))
    assert not on_cluster(config(tmp_path))
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265")
    assert not on_cluster(chosen), "where jobs are submitted"


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265", "10.0.0.1", "10.0.0.1:"])
def test_other_addresses_are_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"ray_address: expected auto, local, or HOST:PORT .*; got"):
        config(tmp_path, executor="ray", ray_address=address)


def test_a_study_in_the_folder_of_a_job_is_said(tmp_path: Path) -> None:
    inside = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_0a"
    assert folder_notes(config(tmp_path)) == ()
    (note,) = folder_notes(config(tmp_path, study=str(inside / "run")))
    assert "deleted with the cluster" in note
