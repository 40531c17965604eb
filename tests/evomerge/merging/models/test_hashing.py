import hashlib
from pathlib import Path

import pytest

from evomerge.merging.models.hashing import Hashing, digest_of


def test_hashes_of_several_files_in_any_order(tmp_path: Path) -> None:
    contents = {"a": b"", "b": b"x" * 9_000_001, "c": b"evomerge"}
    files = [tmp_path / name for name in contents]
    for file, content in zip(files, contents.values(), strict=True):
        file.write_bytes(content)
    expected = [hashlib.sha256(content).hexdigest() for content in contents.values()]
    assert [digest_of(file) for file in files] == expected
    with Hashing(files) as digest:
        assert [digest(file) for file in reversed(files)] == expected[::-1]


def test_leaving_the_block_stops_within_a_file(tmp_path: Path) -> None:
    endless = tmp_path / "endless"
    with endless.open("wb") as file:
        file.truncate(1 << 43)  # hashing all of it would take hours
    with pytest.raises(RuntimeError, match="merge failed"), Hashing([endless, tmp_path / "missing"]):
        raise RuntimeError("merge failed")


def test_a_missing_file_is_an_error_only_if_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    with Hashing([tmp_path / "missing", tmp_path / "a"]) as digest:
        assert digest(tmp_path / "a") == hashlib.sha256(b"a").hexdigest()
        with pytest.raises(FileNotFoundError):
            digest(tmp_path / "missing")
