"""How many workers: as many as cores and memory allow, or what the file says."""

import os
from pathlib import Path

import pytest

from evomerge import strict_yaml
from evomerge.config import ConfigError, SearchConfig, load_config
from evomerge.execution.serial import SerialExecutor
from evomerge.placement import check_device, placement, start_executor
from evomerge.trial import BenchSpec
from tests.toys import search_file


def config(folder: Path, **changes: object) -> SearchConfig:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, **{"device": "cpu", **changes})))
    return load_config(file)


def test_one_worker_per_core_when_memory_allows(tmp_path: Path) -> None:
    workers, cpus, gpus = placement(config(tmp_path), model_bytes=1000)
    assert 1 <= workers <= len(os.sched_getaffinity(0))
    assert (cpus, gpus) == (1, 0.0)


def test_threads_take_cores_from_workers(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    workers, cpus, _ = placement(config(tmp_path, threads=cores), model_bytes=1000)
    assert (workers, cpus) == (1, cores)


def test_a_model_larger_than_memory_still_gets_one_worker(tmp_path: Path) -> None:
    assert placement(config(tmp_path), model_bytes=10**15)[0] == 1


def test_the_file_has_the_last_word(tmp_path: Path) -> None:
    assert placement(config(tmp_path, workers=7, threads=2), model_bytes=10**15) == (7, 2, 0.0)


@pytest.mark.parametrize("device", ["cuda:999", "mps"])
def test_a_gpu_that_is_not_there_is_refused_unless_it_may_be_elsewhere(tmp_path: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=rf"device: {device} was asked for, .* Use device: auto"):
        check_device(config(tmp_path, device=device))
    check_device(config(tmp_path, device=device, ray_address="10.0.0.1:6379"))


def test_a_device_is_there_as_often_as_torch_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    for device in ("auto", "cpu", "cuda", "cuda:1"):
        check_device(config(tmp_path, device=device))
    with pytest.raises(ConfigError, match="finds 2 of that kind"):
        check_device(config(tmp_path, device="cuda:2"))


def test_serial_runs_in_this_process(tmp_path: Path) -> None:
    chosen = config(tmp_path)
    spec = BenchSpec(chosen.recipe(), chosen.space, dict(chosen.tasks))
    executor = start_executor(chosen, spec, 1000)
    assert isinstance(executor, SerialExecutor)
    assert executor.slots == 1
