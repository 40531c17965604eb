import errno
import hashlib
import json
import os
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.shards import INDEX
from evomerge.merging.output import write_behind
from evomerge.merging.output.writer import Planned, WriteError, check_weights, plan_tensors, write_weights
from tests.contracts.other_process import OtherProcess
from tests.evomerge.merging.folders import bare


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "flags": torch.tensor([True, False, True]),
        "half": torch.randn(3, 5, generator=generator).half(),
        "brain": torch.randn(7, generator=generator).bfloat16(),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.empty(0, 4),
        "count": torch.tensor([1, 2], dtype=torch.int64),
        "matrix": torch.randn(8, 4, generator=generator),
        "view": torch.randn(4, 6, generator=generator).t(),
    }


def plan(values: dict[str, torch.Tensor]) -> list[Planned]:
    return [Planned(name, tuple(value.shape), value.dtype) for name, value in values.items()]


def test_safetensors_reads_what_is_written(tmp_path: Path) -> None:
    values = tensors()
    sums = write_weights(tmp_path, plan(values), reversed(values.items()))
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    found = load_file(tmp_path / "model.safetensors")
    assert found.keys() == values.keys()
    for name, value in values.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)
    check_weights(Checkpoint.open(tmp_path), plan(values), sums)


def test_every_tensor_is_aligned_to_its_elements(tmp_path: Path) -> None:
    values = tensors()
    write_weights(tmp_path, plan(values), values.items())
    content = (tmp_path / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert header.pop("__metadata__") == {"format": "pt"}
    assert length % 8 == 0
    assert all(header[name]["data_offsets"][0] % value.element_size() == 0 for name, value in values.items())


def test_shards_and_index_as_transformers_names_them(tmp_path: Path) -> None:
    values = {f"t{n}": torch.full((4,), float(n)) for n in range(5)} | {"big": torch.ones(40)}
    write_weights(tmp_path, plan(values), values.items(), max_shard_bytes=40)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *(f"model-{n:05d}-of-00004.safetensors" for n in (1, 2, 3, 4)),
        INDEX,
    ]
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in values.values())
    for name, file in index["weight_map"].items():
        assert torch.equal(load_file(tmp_path / file)[name], values[name])
    sizes = [sum(v.nbytes for v in load_file(tmp_path / f).values()) for f in sorted(set(index["weight_map"].values()))]
    assert sizes == [32, 32, 16, 160], "a shard ends before it would exceed the limit; a larger tensor has its own"


def write_sorted(folder: str) -> str:
    """Write the tensors in another order; their hashes."""
    values = tensors()
    write_weights(Path(folder), plan(values), sorted(values.items()), max_shard_bytes=100)
    return hashes(Path(folder))


def hashes(folder: Path) -> str:
    return json.dumps({p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())})


def test_same_bytes_in_any_order_and_any_process(tmp_path: Path, other_process: OtherProcess) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    values = tensors()
    write_weights(tmp_path / "here", plan(values), values.items(), max_shard_bytes=100)
    assert other_process.call(write_sorted, tmp_path / "there") == hashes(tmp_path / "here")
    assert len(list((tmp_path / "here").iterdir())) > 2


def test_a_slow_disk_keeps_few_tensors_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_behind, "WAITING_BYTES", 40)
    monkeypatch.setattr(write_behind, "SYNC_BYTES", 1)
    monkeypatch.setattr(os, "fdatasync", lambda _: time.sleep(0.01))
    made: list[weakref.ref[torch.Tensor]] = []
    alive = []

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for n in range(12):
            tensor = torch.ones(4)
            made.append(weakref.ref(tensor))
            yield f"t{n}", tensor
            alive.append(sum(reference() is not None for reference in made))

    write_weights(tmp_path, [Planned(f"t{n}", (4,), torch.float32) for n in range(12)], stream())
    assert len(made) == 12
    assert max(alive) <= 4, "two that wait, one that the thread is about to release, and the last one"


def test_the_next_tensor_is_merged_while_one_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_behind, "SYNC_BYTES", 1)
    second = threading.Event()
    overlapped = []
    monkeypatch.setattr(os, "fdatasync", lambda _: overlapped.append(second.wait(60)))

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        yield "a", torch.ones(2)
        second.set()
        yield "b", torch.ones(2)

    write_weights(tmp_path, plan({"a": torch.ones(2), "b": torch.ones(2)}), stream())
    assert overlapped == [True, True]


def test_a_full_disk_stops_the_merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(write_behind, "WAITING_BYTES", 1)
    monkeypatch.setattr(write_behind, "SYNC_BYTES", 1)
    monkeypatch.setattr(os, "fdatasync", full)
    merged = []

    def stream() -> Iterator[tuple[str, torch.Tensor]]:
        for n in range(12):
            merged.append(n)
            yield f"t{n}", torch.ones(4)

    with pytest.raises(OSError, match="No space left"):
        write_weights(tmp_path, [Planned(f"t{n}", (4,), torch.float32) for n in range(12)], stream())
    assert len(merged) == 2, "the tensor that could not be written, and the one merged in the meantime"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("writing")]


def test_progress_counts_bytes(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    values = {"a": torch.ones(2), "b": torch.ones(3)}
    write_weights(tmp_path, plan(values), values.items(), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(8, 20), (20, 20)]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([("a", torch.ones(2))], "1 tensors were not merged, the first being 'b'"),
        ([("a", torch.ones(2)), ("a", torch.ones(2))], "'a' was merged twice"),
        ([("c", torch.ones(2))], "'c' was merged without a plan"),
        ([("a", torch.ones(3))], r"'a' was merged as torch.float32 \(3,\); expected torch.float32 \(2,\)"),
        ([("a", torch.ones(2).half())], r"'a' was merged as torch.float16"),
    ],
)
def test_refuses_tensors_that_were_not_planned(
    tmp_path: Path, given: list[tuple[str, torch.Tensor]], message: str
) -> None:
    with pytest.raises(WriteError, match=message):
        write_weights(tmp_path, plan({"a": torch.ones(2), "b": torch.ones(1)}), given)


def test_reading_back_finds_one_changed_bit(tmp_path: Path) -> None:
    values = tensors()
    sums = write_weights(tmp_path, plan(values), values.items())
    path = tmp_path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    with pytest.raises(WriteError, match="was read back differently"):
        check_weights(Checkpoint.open(tmp_path), plan(values), sums)
    with pytest.raises(WriteError, match="contains 8 of 9 tensors"):
        check_weights(Checkpoint.open(tmp_path), [*plan(values), Planned("x", (), torch.float32)], sums)


def test_only_merged_tensors_change_their_type(tmp_path: Path) -> None:
    tensors = {"w": torch.ones(2), "ids": torch.arange(2), "inv_freq": torch.ones(2), "h": torch.ones(2).half()}
    base = Checkpoint.open(bare(tmp_path, tensors))
    planned = {tensor.name: tensor.dtype for tensor in plan_tensors(base, torch.bfloat16)}
    assert planned == {"w": torch.bfloat16, "ids": torch.int64, "inv_freq": torch.float32, "h": torch.bfloat16}
    assert {t.name: t.dtype for t in plan_tensors(base, None)} == {n: v.dtype for n, v in tensors.items()}
