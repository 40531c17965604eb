"""Weights & Biases offline: the contract, read back from the files that `wandb sync` sends."""

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from wandb.proto import wandb_internal_pb2

from evomerge.trackers.wandb import Wandb
from tests.contracts.tracker import TrackerContract
from tests.waiting import CEILING, wait_until

#: Behind 7 bytes, a file is a log of records as LevelDB's: https://github.com/google/leveldb/blob/main/doc/log_format.md
HEADER, BLOCK, START = 7, 1 << 15, 7


def records(file: Path) -> Iterator[bytes]:
    data, at, parts = file.read_bytes(), START, b""
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts += data[at + HEADER : at + HEADER + length]
        at += HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def sessions(folder: Path) -> list[list[Any]]:
    found = []
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        session = [wandb_internal_pb2.Record()]
        for data in records(file):
            session.append(wandb_internal_pb2.Record())
            session[-1].ParseFromString(data)
        found.append(session)
    return found


def read_offline(folder: Path) -> tuple[dict[int, dict[str, Any]], dict[str, Any], dict[str, Any], set[str]]:
    """Values by step, summary, configuration and run ids of all sessions under `folder`, in their order."""
    values: dict[int, dict[str, Any]] = {}
    summary: dict[str, Any] = {}
    configuration: dict[str, Any] = {}
    ids: set[str] = set()
    # wandb's own process writes on for a moment after `finish` has returned.
    wait_until(lambda: all(session[-1].HasField("exit") for session in sessions(folder)), seconds=20)
    for session in sessions(folder):
        for record in session:
            kind = record.WhichOneof("record_type")
            if kind == "history":
                items = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
                values.setdefault(items["_step"], {}).update(items)
            elif kind == "summary":
                summary |= {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in record.summary.update}
            elif kind == "run":
                ids.add(record.run.run_id)
                configuration |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
    return dict(sorted(values.items())), summary, configuration, ids


class TestWandb(TrackerContract):
    tracker = Wandb

    @pytest.fixture(autouse=True)
    def _offline(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("WANDB_MODE", "offline")

    def target(self, tmp_path: Path) -> str:
        return "team/merges"

    def read(self, tmp_path: Path) -> tuple[dict[int, dict[str, float]], dict[str, Any], dict[str, Any]]:
        values, summary, configuration, ids = read_offline(tmp_path / "sinks")
        assert ids == {"abc123"}
        return values, summary, configuration


TWICE = """
import pathlib, sys
import evomerge.trackers.wandb as module
from evomerge.trackers.base import RunInfo, TrackerError
module.PATIENCE = 1.0
tracker = module.Wandb("merges", RunInfo("abc123", "night", pathlib.Path(sys.argv[1]), {}))
for _ in range(2):
    try:
        tracker.open()
    except TrackerError as error:
        print(type(error).__name__)
"""


def opened_twice(folder: Path, **environment: str) -> list[str]:
    """In a process of its own: wandb remembers settings as long as it lives. What each try came to."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WANDB")}
    command = [sys.executable, "-c", TWICE, str(folder)]
    environment |= {"HOME": str(folder)}
    done = subprocess.run(
        command, capture_output=True, text=True, env=clean | environment, check=False, timeout=CEILING
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.slow
def test_a_server_that_never_answers_is_an_error_every_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        assert opened_twice(tmp_path, WANDB_BASE_URL=address, WANDB_API_KEY="0" * 40) == ["SinkError"] * 2


def test_without_a_key_nothing_is_tried_again(tmp_path: Path) -> None:
    assert opened_twice(tmp_path) == ["TrackerRefused"] * 2
