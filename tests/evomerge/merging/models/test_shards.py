import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from evomerge.merging.models.header import CheckpointError
from evomerge.merging.models.shards import INDEX, check_inside, check_tokenizer, read_folder, read_json


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"a": torch.ones(2)}, folder / "one.safetensors")
    save_file({"b": torch.ones(2), "c": torch.ones(1)}, folder / "two.safetensors")
    return folder


def index(folder: Path, weight_map: object) -> Path:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder


SOUND = {"b": "two.safetensors", "a": "one.safetensors", "c": "two.safetensors"}


def test_reads_an_index(folder: Path) -> None:
    found = read_folder(index(folder, SOUND))
    assert [(path.name, sorted(header)) for path, header in found] == [
        ("one.safetensors", ["a"]),
        ("two.safetensors", ["b", "c"]),
    ]


def test_a_single_file_goes_before_an_index_as_in_transformers(folder: Path) -> None:
    save_file({"z": torch.ones(2)}, folder / "model.safetensors")
    assert [list(header) for _, header in read_folder(index(folder, SOUND))] == [["z"]]


@pytest.mark.parametrize(
    "place",
    [
        "../outside.safetensors",
        "sub/../../outside.safetensors",
        "/etc/outside.safetensors",
        "C:\\outside.safetensors",
        "..\\outside.safetensors",
        "\\\\host\\share\\x.safetensors",
        "nul\x00.safetensors",
    ],
)
@pytest.mark.fault("F26", "an index with `..`, absolute paths, drives, NUL", "refused")
def test_refuses_an_index_that_points_outside(folder: Path, place: str) -> None:
    save_file({"a": torch.ones(2)}, folder.parent / "outside.safetensors")
    with pytest.raises(CheckpointError, match=r"points outside the model folder: .* Refused \(possible attack\)"):
        read_folder(index(folder, {**SOUND, "a": place}))


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        (None, "needs a weight_map"),
        ({}, "needs a weight_map"),
        ({"a": "/dev/zero"}, "needs a .safetensors file; it has \"'/dev/zero'\""),
        ({"a": ["one.safetensors"]}, "needs a .safetensors file"),
        ({"a": "pytorch_model.bin"}, "needs a .safetensors file"),
        ({"a": "absent.safetensors"}, "lacks 'absent.safetensors': FileNotFoundError"),
        ({"a": "\ud800.safetensors"}, "lacks '.ud800.safetensors': Unicode"),
        ({"a": "one.safetensors", "x": "one.safetensors"}, "lacks 1 tensor \\('x'\\), which .* assigns to it"),
        ({"b": "two.safetensors"}, "contains 1 tensor \\('c'\\), which .* does not assign to it"),
    ],
)
def test_refuses_an_index(folder: Path, weight_map: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_folder(index(folder, weight_map))


@pytest.mark.fault("F26", "links that lead out of the folder", "refused")
def test_refuses_links_that_lead_outside(folder: Path) -> None:
    save_file({"a": torch.ones(2)}, folder.parent / "outside.safetensors")
    (folder / "link.safetensors").symlink_to("../outside.safetensors")
    with pytest.raises(CheckpointError, match=r"points outside .* is a link to"):
        read_folder(index(folder, {"a": "link.safetensors"}))
    (folder / "model.safetensors").symlink_to("../outside.safetensors")
    with pytest.raises(CheckpointError, match=r"points outside .* is a link to"):
        read_folder(folder)


@pytest.mark.fault("F26", "pipes, devices, folders and loops of links", "refused; nothing hangs")
def test_refuses_pipes_devices_folders_and_loops(folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "folder.safetensors").mkdir()
    (folder / "device.safetensors").symlink_to("/dev/zero")
    (folder / "loop.safetensors").symlink_to("loop.safetensors")
    for name in ("pipe", "folder", "device", "loop"):
        with pytest.raises(CheckpointError, match=r"not a regular file|points outside|lacks"):
            read_folder(index(folder, {"a": f"{name}.safetensors"}))


@pytest.mark.parametrize(
    "name",
    ["tokenizer.json", "tokenizer_config.json", "spiece.model", "merges.txt", "additional_chat_templates/tool.jinja"],
)
def test_tokenizer_files_stay_inside_the_folder(folder: Path, name: str) -> None:
    check_tokenizer(folder)
    (folder / "additional_chat_templates").mkdir()
    outside = folder.parent / "outside"
    outside.write_text("{}")
    (folder / name).symlink_to(outside)
    with pytest.raises(CheckpointError, match="points outside the model folder"):
        check_tokenizer(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    with pytest.raises(CheckpointError, match="is not a regular file"):
        check_tokenizer(folder)


def test_follows_links_inside_the_folder_and_into_the_blobs_of_a_cache(folder: Path) -> None:
    (folder / "link.safetensors").symlink_to("one.safetensors")
    assert list(read_folder(index(folder, {"a": "link.safetensors"}))[0][1]) == ["a"]
    repository = folder.parent / "models--x"
    snapshot = repository / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (repository / "blobs").mkdir()
    save_file({"a": torch.ones(2)}, repository / "blobs" / "4d7a")
    (snapshot / "model.safetensors").symlink_to("../../blobs/4d7a")
    assert list(read_folder(snapshot)[0][1]) == ["a"]
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(folder / "one.safetensors")
    with pytest.raises(CheckpointError, match="points outside"):
        read_folder(snapshot)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), "has neither model.safetensors nor model.safetensors.index.json.$"),
        (("pytorch_model.bin",), "only 'pytorch_model.bin': pickle can run code"),
        (("model.pt",), "only 'model.pt': pickle can run code"),
        (("adapter_model.safetensors",), "is an adapter"),
        (("weights.safetensors",), "has 'weights.safetensors': specify one of these files"),
    ],
)
def test_says_what_a_folder_without_weights_has(tmp_path: Path, files: tuple[str, ...], message: str) -> None:
    for file in files:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(CheckpointError, match=message):
        read_folder(tmp_path)


def test_json_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert read_json(folder, "config.json") is None
    (folder / "config.json").write_text('{"a": 1, "a": 2}')
    with pytest.raises(CheckpointError, match=r"config\.json has the key 'a' twice"):
        read_json(folder, "config.json")
    (folder / "tokenizer.json").symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match="points outside"):
        read_json(folder, "tokenizer.json")
    monkeypatch.setattr("evomerge.merging.models.shards.MAX_JSON_BYTES", 3)
    with pytest.raises(CheckpointError, match="has 16 bytes; at most 3 are allowed"):
        read_json(folder, "config.json")
    assert check_inside(folder, "one.safetensors") == folder / "one.safetensors"
