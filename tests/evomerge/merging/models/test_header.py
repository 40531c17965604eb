import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file

from evomerge.merging.models.header import CheckpointError, read_header
from tests.evomerge.merging.folders import container, entry

SOUND = {"a": entry([2, 3], 0, 24), "b": entry([], 24, 28)}


def written(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    return path


def test_reads_what_safetensors_writes_in_the_order_of_the_data(tmp_path: Path) -> None:
    tensors = {"b": torch.ones(3, dtype=torch.float16), "a": torch.zeros(2, 5), "e": torch.empty(0, 4)}
    save_file(tensors, tmp_path / "x.safetensors")
    header = read_header(tmp_path / "x.safetensors")
    assert {name: header[name].shape for name in header} == {"a": (2, 5), "e": (0, 4), "b": (3,)}
    assert [header[name].begin for name in header] == sorted(header[name].begin for name in header)
    content = (tmp_path / "x.safetensors").read_bytes()
    assert content[header["b"].begin : header["b"].end] == tensors["b"].numpy().tobytes()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 132\n"
DEEP = b'{"a":' + b"[" * 100_000 + b"}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"abc", "too short"),
        (LFS, "Git LFS pointer .* run 'git lfs pull'"),
        (b"  <!DOCTYPE html><html>404</html>", "web page"),
        (pickle.dumps({"weight": [1.0] * 9}), "pickle file, which can run code"),
        (b"PK\x03\x04" + bytes(40), "pickle file, which can run code"),
        (b"GGUF" + bytes(40), "GGUF"),
        ((1 << 60).to_bytes(8, "little") + b"{}" + bytes(50), "declares 1152921504606846976 bytes; the file has 60"),
        (container(b"[]"), "does not begin with '{'"),
        (container(b"{]"), "not valid JSON"),
        (container(b'{"\xff": 1}'), "not valid JSON"),
        (container(b'{"\\ud800": 1}'), "not valid JSON"),
        (container(DEEP), "not valid JSON"),
        (container(b'{"a": ' + b"9" * 5000 + b"}"), "not valid JSON"),
        (container(b'{"a": 1, "a": 2}'), "the key 'a' twice"),
        (container({"a": {**entry([1], 0, 4), "x": {}}}, bytes(5)), "1 bytes after its last tensor"),
        (container({"__metadata__": {"a": 1}}), "__metadata__"),
        (container({"a": 3}), "needs dtype, shape and data_offsets"),
        (container({"a": entry([1], 0, 4, "F4")}, bytes(4)), "type .*F4.* merging needs full weights"),
        (container({"a": entry([1], 0, 4, ["F32"])}, bytes(4)), "merging needs full weights"),  # type: ignore[arg-type]
        (container({"a": entry([True], 0, 4)}, bytes(4)), "an invalid shape"),
        (container({"a": entry([-1], 0, 4)}, bytes(4)), "an invalid shape"),
        (container({"a": entry([1] * 65, 0, 4)}, bytes(4)), "an invalid shape"),
        (container({"a": entry([2**62, 2**62], 0, 4)}, bytes(4)), "needs 8507059.* bytes"),
        (container({"a": {**entry([1], 0, 4), "data_offsets": [4]}}, bytes(4)), "invalid data_offsets"),
        (container({"a": entry([2], 0, 4)}, bytes(4)), "needs 8 bytes; .* give 4"),
        (container({"a": entry([1], 4, 0)}, bytes(4)), "give -4"),
        (container(SOUND, bytes(27)), "is truncated: tensor 'b' ends at byte"),
        (container({"a": entry([1], 0, 4), "b": entry([1], 2, 6)}, bytes(6)), "'b' .* overlaps"),
        (container({"a": entry([1], 0, 4), "b": entry([1], 6, 10)}, bytes(10)), "'b' .* leaves a hole"),
        (container({"a": entry([1], 4, 8)}, bytes(8)), "'a' .* leaves a hole"),
        (container({"n\x00\x1b[31m": 3}), r"'n\\x00\\x1b\[31m'"),
        (container({"n" * 2000: entry([1], 0, 4)}, bytes(4)), "a name of 2000 characters"),
    ],
)
@pytest.mark.fault(
    "F20", "cut files, pointers, pages, pickles under another name", "refused; the message says what it is"
)
def test_refuses(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        read_header(written(tmp_path, content))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.fault("F27", "more tensors than are allowed", "refused before they are read")
def test_refuses_more_tensors_than_the_cap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.merging.models.header.MAX_TENSORS", 1)
    with pytest.raises(CheckpointError, match="declares 2 tensors; at most 1"):
        read_header(written(tmp_path, container(SOUND, bytes(28))))


def test_refuses_a_header_over_the_cap_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomerge.merging.models.header.MAX_HEADER_BYTES", 10)
    with pytest.raises(CheckpointError, match="at most 10 are allowed"):
        read_header(written(tmp_path, container(SOUND, bytes(28))))


@pytest.mark.parametrize("name", ["/dev/zero", "/nowhere/x.safetensors"])
def test_refuses_what_is_no_regular_file(name: str) -> None:
    with pytest.raises(CheckpointError, match=r"not a regular file|cannot be read"):
        read_header(Path(name))


def _accepted_as_safetensors_does(path: Path) -> None:
    """Either CheckpointError, or the same tensors that safetensors finds."""
    try:
        header = read_header(path)
    except CheckpointError:
        return
    with safe_open(path, framework="pt") as file:
        assert sorted(file.keys()) == sorted(header)
        for name, found in header.items():
            assert tuple(file.get_tensor(name).shape) == found.shape


quiet = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@quiet
@given(content=st.binary(max_size=200))
def test_any_bytes(tmp_path: Path, content: bytes) -> None:
    _accepted_as_safetensors_does(written(tmp_path, content))


@quiet
@given(text=st.binary(max_size=80), data=st.binary(max_size=40))
def test_any_header(tmp_path: Path, text: bytes, data: bytes) -> None:
    _accepted_as_safetensors_does(written(tmp_path, container(b"{" + text, data)))


numbers = st.one_of(st.integers(-1, 12), st.integers(2**60, 2**70), st.booleans(), st.floats(), st.text(max_size=3))
lists = st.one_of(st.lists(numbers, max_size=4), st.none(), numbers)
entries = st.fixed_dictionaries(
    {"dtype": st.sampled_from(["F32", "BF16", "U8", "F4", 3, None]), "shape": lists, "data_offsets": lists}
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
headers = st.dictionaries(
    st.one_of(st.text(max_size=4), st.just("__metadata__")), st.one_of(entries, json_values), max_size=4
)


@quiet
@given(header=headers, data=st.binary(max_size=40))
@pytest.mark.fault("F27", "random headers", "read as by safetensors, or refused")
def test_any_entries(tmp_path: Path, header: dict[str, Any], data: bytes) -> None:
    _accepted_as_safetensors_does(written(tmp_path, container(header, data)))


@quiet
@given(data=st.data())
def test_a_changed_byte_is_judged_as_by_safetensors(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(container(SOUND, bytes(28)))
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] = data.draw(st.integers(0, 255))
    _accepted_as_safetensors_does(written(tmp_path, bytes(content)))


def test_a_valid_file_is_read(tmp_path: Path) -> None:
    header = read_header(written(tmp_path, container(json.dumps(SOUND).encode() + b"   ", bytes(28))))
    assert list(header) == ["a", "b"]
