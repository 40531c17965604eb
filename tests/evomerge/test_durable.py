"""Files appear whole or not at all, with the umask's modes, and a disk that refuses them is explained."""

import errno
import os
from pathlib import Path

import pytest

from evomerge import durable
from evomerge.commands.command_group import _said
from evomerge.durable import OutputError, replacing, write_text
from evomerge.study import Study, StudyPaused
from evomerge.study.writer import Files


def test_a_file_is_replaced_only_when_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")

    def interrupted() -> None:
        with replacing(file) as part:
            part.write_text("half of the new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert (file.read_text(), list(tmp_path.iterdir())) == ("old", [file])
    write_text(file, "new")
    assert (file.read_text(), list(tmp_path.iterdir())) == ("new", [file])


@pytest.mark.fault("F6", "the order of system calls is recorded", "file, then rename, then folder")
def test_text_is_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def synced(descriptor: int) -> None:
        calls.append("folder" if os.path.samestat(os.fstat(descriptor), tmp_path.stat()) else "file")
        fsync(descriptor)

    def renamed(part: Path, file: Path) -> Path:
        calls.append("rename")
        return replace(part, file)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", renamed)
    write_text(tmp_path / "file", "text")
    assert calls == ["file", "rename", "folder"]


def test_modes_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "text")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


def test_a_link_is_replaced_and_what_it_points_to_stays(tmp_path: Path) -> None:
    (tmp_path / "model").write_text("weights")
    (tmp_path / "link").symlink_to(tmp_path / "model")
    write_text(tmp_path / "link", "text")
    assert ((tmp_path / "model").read_text(), (tmp_path / "link").is_symlink()) == ("weights", False)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.fault("F18", "the disk refuses a write", "one sentence with the bytes that are free")
def test_what_the_disk_refuses_is_said_with_the_bytes_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def refused(_path: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(durable, "sync", refused)
    with pytest.raises(OutputError, match=rf"{os.strerror(code).lower()} \([\d,]+ bytes free on ") as caught:
        write_text(tmp_path / "file", "text")
    assert str(tmp_path / "file") in str(caught.value)
    assert str(caught.value).count(". ") == 1, "what to do is said"
    assert list(tmp_path.iterdir()) == []


def test_a_study_on_a_full_disk_says_how_many_bytes_are_free(tmp_path: Path) -> None:
    class Full(Files):
        full = False

        def write(self, descriptor: int, data: bytes) -> int:
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(descriptor, data)

    files = Full()
    study = Study.create(tmp_path / "a", {}, {}, files=files)
    files.full = True
    with pytest.raises(StudyPaused, match=r"No space left on device \([\d,]+ bytes free on .*\); a 'x' record was not"):
        study.event("x")
    study.close()
    with pytest.raises(StudyPaused, match=r"Cannot write to the study in .*: No space left .* bytes free"):
        Study.create(tmp_path / "b", {}, {}, files=files)


def test_a_search_file_that_the_disk_refuses_pauses_as_a_ledger_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_path: Path) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(durable, "sync", refused)
    with pytest.raises(StudyPaused, match=r"read-only file system \([\d,]+ bytes free"):
        Study.create(tmp_path / "a", {}, {}, search_file="seed: 1")
    assert not (tmp_path / "a" / "ledger.jsonl").exists()


def test_a_bare_error_of_the_disk_becomes_a_sentence() -> None:
    said = _said(OSError(errno.EACCES, "Permission denied", "/tmp/x/y"))
    assert said.startswith("Cannot write /tmp/x/y: permission denied (")
    assert "permissions of the folder" in said
    assert _said(FileNotFoundError(errno.ENOENT, "No such file", "z")).endswith("No such file: 'z'")
