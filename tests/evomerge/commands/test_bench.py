"""`evomerge bench`: the shares of a candidate's time add up, and what is counted is what was computed."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.commands.bench import bench_search
from evomerge.config import load_config
from evomerge.launch import launch
from evomerge.launch.plan import prepare
from evomerge.resident.forward_meter import ForwardMeter
from evomerge.resident.machine_limits import machine_limits
from tests.conftest import TinyModels
from tests.toys import search_file


def written(folder: Path, **changes: object) -> Path:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(folder, executor="serial", **changes)))
    return file


def test_the_time_of_a_real_candidate_is_divided_and_compared_with_limits(tiny: TinyModels, tmp_path: Path) -> None:
    tasks = {name: {"evaluator": "multiple_choice", "file": str(tiny.tasks[name])} for name in ("count", "largest")}
    models = {"base": str(tiny.base), "experts": {name: str(path) for name, path in tiny.experts.items()}}
    file = written(tmp_path, **models, tasks=tasks, optimizer="auto", space="auto", dtype="float32")
    data, lines = bench_search(file, 12)
    json.dumps(data, allow_nan=False)
    parts = [data[name] for name in ("merge", "forward", "around")]
    assert sum(part["share"] for part in parts) == pytest.approx(1)
    assert sum(part["seconds"] for part in parts) == pytest.approx(data["seconds"])
    assert all(0 < part["share"] < 1 for part in parts)
    assert data["examples"] == {"count": 12, "largest": 12}
    assert data["forward"]["passes"] >= 2
    assert data["forward"]["positions"] >= 24
    step = data["gradient_step"]
    assert step["examples"] == 16
    assert step["merge"] + step["forward"] + step["backward"] == pytest.approx(1)
    assert data["study"] is None
    assert "on 24 of" in lines[0]
    assert data["whole_seconds"] > data["seconds"]
    assert sum(data["tasks"].values()) == pytest.approx(data["seconds"] - data["merge"]["seconds"])
    assert any("FLOP/s" in line for line in lines)
    assert not (tmp_path / "study").exists(), "nothing is begun"


def test_a_run_says_how_busy_its_workers_were(tmp_path: Path) -> None:
    file = written(tmp_path, budget={"trials": 12})
    config = load_config(file)
    launch.run(config, prepare(config), resume=False)
    answer = CliRunner().invoke(app, ["bench", str(tmp_path / "study"), "--json", "--examples", "5"])
    assert answer.exit_code == 0, answer.output
    data = json.loads(answer.stdout)
    assert 0 < data["study"]["busy"] <= 1
    assert sum(data["study"]["stages"].values()) == pytest.approx(1)
    assert data["forward"]["passes"] == 0
    assert data["gradient_step"] is None


def test_a_meter_counts_positions_and_passes_only_while_it_measures() -> None:
    network, meter = nn.Embedding(7, 3), ForwardMeter()
    with meter.measured(network):
        network(torch.zeros((2, 5), dtype=torch.long))
        network(input=torch.zeros((1, 4), dtype=torch.long))
    network(torch.zeros((9, 9), dtype=torch.long))
    assert (meter.passes, meter.positions) == (2, 10)
    assert meter.seconds > 0


def test_measuring_limits_leaves_the_number_of_threads() -> None:
    before = torch.get_num_threads()
    found = machine_limits("cpu", torch.float32, before + 1)
    assert torch.get_num_threads() == before
    assert found.bandwidth > 1e8
    assert found.products > 1e8
