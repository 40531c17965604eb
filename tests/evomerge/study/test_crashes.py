"""What is left of a study after torn writes, full disks, failing calls, SIGKILL and a lost lock."""

import errno
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import zlib
from collections.abc import Iterable
from pathlib import Path

import pytest

from evomerge.study import Study, StudyBusy, StudyError, StudyPaused
from evomerge.study.lines import FILE, encode
from evomerge.study.state import SCHEMA
from evomerge.study.writer import LOCK, RESERVE, Files
from tests.contracts.study import Unsynced, describe, failed, outcome, trial


def small_study(folder: Path, files: Files | None = None) -> Study:
    study = Study.create(folder, {}, {}, files=files)
    for number in range(3):
        study.ask(trial(number))
        study.tell(outcome(number) if number else failed(number), [float(number)] if number else None)
    return study


@pytest.mark.parametrize("step", [pytest.param(1, marks=pytest.mark.slow), 11])
@pytest.mark.fault(
    "F4", "the ledger is cut at every byte of its last records", "it loads, is continued, and loads again"
)
def test_cut_at_every_byte_of_the_last_records(tmp_path: Path, step: int) -> None:
    """step: bytes from one cut to the next; around the end of every record it is one byte."""
    whole = tmp_path / "whole"
    small_study(whole).close()
    content = (whole / FILE).read_bytes()
    lines = content.splitlines(keepends=True)
    ends = [sum(map(len, lines[: n + 1])) for n in range(len(lines))]
    cut = tmp_path / "cut"
    cut.mkdir()
    around = {end + shift for end in ends[-4:] for shift in (-1, 0, 1)}
    for size in sorted(around & set(range(ends[-4], ends[-1] + 1)) | set(range(ends[-4], ends[-1] + 1, step))):
        (cut / FILE).write_bytes(content[:size])
        kept = max(end for end in ends if end <= size)
        before = describe(Study.read(cut))
        study = Study.open(cut, files=Unsynced())
        assert describe(study) == before
        assert study.resumed is not None
        assert study.resumed.torn_bytes == size - kept
        assert (cut / FILE).read_bytes()[:kept] == content[:kept]
        torn = cut / "ledger.torn-1"
        assert (torn.read_bytes() if torn.exists() else b"") == content[kept:size]
        torn.unlink(missing_ok=True)
        study.ask(trial(9))
        study.close()
        assert describe(Study.read(cut)) == describe(study)
        assert [pending.number for pending in Study.read(cut).pending][-1] == 9


@pytest.mark.fault("F4", "two writes in a row are cut off", "both ends are kept beside the ledger")
def test_torn_ends_are_never_overwritten(tmp_path: Path) -> None:
    small_study(tmp_path).close()
    for end in (b"{", b"\0\0\0\n", b'{"crc32":"00000000","x":1}\n'):
        with (tmp_path / FILE).open("ab") as file:
            file.write(end)
        Study.open(tmp_path).close()
    assert [(tmp_path / f"ledger.torn-{n}").read_bytes() for n in (1, 2, 3)] == [
        b"{",
        b"\0\0\0\n",
        b'{"crc32":"00000000","x":1}\n',
    ]


@pytest.mark.parametrize("line", [0, 2])
def test_damage_in_the_middle_is_an_error_that_names_the_line(tmp_path: Path, line: int) -> None:
    small_study(tmp_path).close()
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    place = len(lines[line]) // 2
    lines[line] = lines[line][:place] + bytes([lines[line][place] ^ 1]) + lines[line][place + 1 :]
    (tmp_path / FILE).write_bytes(b"".join(lines))
    for way in (Study.read, Study.open):
        with pytest.raises(StudyError, match=f"line {line + 1} is damaged"):
            way(tmp_path)
    assert (tmp_path / FILE).read_bytes() == b"".join(lines)


def test_a_missing_record_is_an_error(tmp_path: Path) -> None:
    small_study(tmp_path).close()
    lines = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    (tmp_path / FILE).write_bytes(b"".join(lines[:2] + lines[3:]))
    with pytest.raises(StudyError, match="line 3 is record 3; expected record 2"):
        Study.read(tmp_path)


class ListingFiles(Files):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def write(self, descriptor: int, data: bytes) -> int:
        self.calls.append("write")
        return os.write(descriptor, data)

    def fsync(self, descriptor: int) -> None:
        is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        self.calls.append("fsync folder" if is_folder else "fsync")
        os.fsync(descriptor)


@pytest.mark.fault("F6", "the order of writes and syncs is recorded", "every record is synced before the call returns")
def test_every_record_is_synced_before_the_call_returns(tmp_path: Path) -> None:
    files = ListingFiles()
    study = Study.create(tmp_path / "new", {}, {}, files=files)
    assert files.calls == ["write", "fsync", "fsync folder", "fsync folder"]
    files.calls.clear()
    study.ask(trial(0))
    assert files.calls == ["write", "fsync"]
    study.tell(failed(0), None)
    assert files.calls == ["write", "fsync"] * 2
    study.close()


class FailingFiles(Files):
    """The N-th call fails with `code`; a failing write leaves some bytes behind, as real ones do."""

    def __init__(self, fail_at: int, code: int) -> None:
        self.calls = 0
        self.fail_at = fail_at
        self.code = code

    def _count(self) -> None:
        self.calls += 1
        if self.calls == self.fail_at:
            raise OSError(self.code, os.strerror(self.code))

    def write(self, descriptor: int, data: bytes) -> int:
        try:
            self._count()
        except OSError:
            os.write(descriptor, data[: len(data) // 3])
            raise
        return os.write(descriptor, data[: max(1, 2 * len(data) // 3)])

    def fsync(self, descriptor: int) -> None:
        self._count()
        os.fsync(descriptor)

    def truncate(self, descriptor: int, size: int) -> None:
        self._count()
        os.ftruncate(descriptor, size)

    def allocate(self, descriptor: int, size: int) -> None:
        self._count()
        os.posix_fallocate(descriptor, 0, size)


def _attempt(folder: Path, files: Files) -> tuple[list[int], bool]:
    """Ask and tell until a call fails; which asks were acknowledged, and whether all went well."""
    acknowledged: list[int] = []
    study = None
    try:
        study = Study.create(folder, {}, {}, files=files)
        for number in range(3):
            study.ask(trial(number))
            acknowledged.append(number)
            study.tell(outcome(number), [1.0])
    except StudyPaused:
        if study is None:
            return acknowledged, False
        assert describe(Study.read(folder)) == describe(study)
        study.event("paused")  # the failure was for once; the ledger goes on behind its last good record
        assert describe(Study.read(folder)) == describe(study)
        return acknowledged, False
    finally:
        if study is not None:
            study.close()
    return acknowledged, True


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_any_one_failing_call_loses_nothing_that_was_acknowledged(tmp_path: Path, code: int) -> None:
    for fail_at in range(1, 200):
        folder = tmp_path / str(fail_at)
        acknowledged, whole = _attempt(folder, FailingFiles(fail_at, code))
        if whole:
            break
        if not (folder / FILE).exists():
            assert not acknowledged
            Study.create(folder, {}, {}).close()
        study = Study.open(folder)
        numbers = list(study.entries)
        assert numbers[: len(acknowledged)] == acknowledged
        assert (folder / RESERVE).stat().st_size > 0
        study.close()
    assert whole
    assert fail_at > 20


def test_an_interrupted_append_leaves_nothing_behind(tmp_path: Path) -> None:
    class InterruptedFiles(Files):
        interrupt = False

        def write(self, descriptor: int, data: bytes) -> int:
            if self.interrupt:
                os.write(descriptor, data)  # whole, but not yet acknowledged
                raise KeyboardInterrupt
            return os.write(descriptor, data)

    files = InterruptedFiles()
    study = Study.create(tmp_path, {}, {}, files=files)
    files.interrupt = True
    with pytest.raises(KeyboardInterrupt):
        study.ask(trial(0))
    files.interrupt = False
    study.event("stopped")
    study.close()
    assert describe(Study.read(tmp_path)) == describe(study)
    assert not Study.read(tmp_path).entries


class FullFiles(Files):
    """A disk that takes nothing more while `full`, but what the reserve gives back."""

    def __init__(self, folder: Path) -> None:
        self.reserve = folder / RESERVE
        self.full = False
        self.reserve_helps = True

    def write(self, descriptor: int, data: bytes) -> int:
        if self.full and not (self.reserve_helps and not self.reserve.exists()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(descriptor, data)


@pytest.mark.fault("F17", "the disk refuses writes from some record on", "paused; the running result is still saved")
def test_a_full_disk_pauses_with_the_last_results_saved(tmp_path: Path) -> None:
    files = FullFiles(tmp_path)
    study = Study.create(tmp_path, {}, {}, files=files)
    study.ask(trial(0))
    study.ask(trial(1))
    files.full = True
    with pytest.raises(StudyPaused, match=r"still saved.*--resume") as caught:
        study.tell(outcome(0), [1.0])
    assert "trials completed: 1" in str(caught.value)
    assert study.tell(outcome(1), [2.0])
    files.reserve_helps = False
    with pytest.raises(StudyPaused, match="was not saved"):
        study.event("paused")
    assert len(Study.read(tmp_path).told) == 2
    assert describe(Study.read(tmp_path)) == describe(study)
    study.close()
    again = Study.open(tmp_path)
    assert (tmp_path / RESERVE).exists()
    assert len(again.told) == 2
    again.close()


WRITER = """
import sys
import zlib
from pathlib import Path
from evomerge.study import Study
from tests.contracts.study import outcome, trial

study = Study.open(Path(sys.argv[1]))
while True:
    number = study.next_number
    study.ask(trial(number))
    print("asked", number, flush=True)
    study.tell(outcome(number, 40), [float(number)])
    print("told", number, flush=True)
"""


def test_sigkill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    Study.create(tmp_path, {}, {}).close()
    asked: list[int] = []
    told: list[int] = []
    for acknowledged in (1, 4, 7, 12, 18):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(acknowledged)]
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
        process.wait()
        process.stdout.close()
        for line in lines:
            if line.endswith("\n"):
                (asked if line.startswith("asked") else told).append(int(line.split()[1]))
        study = Study.open(tmp_path)  # at once: the lock died with its owner
        assert set(asked) <= set(study.entries)
        assert set(told) <= {entry.trial.number for entry in study.told}
        assert len(study.told) == len({entry.trial.number for entry in study.told})
        assert all(entry.losses == (float(entry.trial.number),) for entry in study.told)
        study.close()
    assert len(told) > 10


@pytest.mark.fault("F34", "a second writer opens the study", "refused with 4, naming the owner's process")
def test_busy_names_the_owner_and_ends_with_it(tmp_path: Path) -> None:
    Study.create(tmp_path, {}, {}).close()
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(StudyBusy, match=f"process {process.pid}"):
        Study.open(tmp_path)
    assert Study.read(tmp_path).entries  # while it is written
    process.kill()
    process.wait()
    process.stdout.close()
    Study.open(tmp_path).close()


@pytest.mark.fault("F34", "the lock is taken over", "the old owner cannot write any more")
def test_a_writer_that_lost_the_lock_cannot_write(tmp_path: Path) -> None:
    old = small_study(tmp_path)
    (tmp_path / LOCK).unlink()
    new = Study.open(tmp_path)
    size = (tmp_path / FILE).stat().st_size
    with pytest.raises(StudyBusy):
        old.event("late")
    assert (tmp_path / FILE).stat().st_size == size
    new.event("fine")
    old.close()
    new.close()


@pytest.mark.fault("F34", "records of the old owner arrive late", "they are skipped")
def test_records_of_an_old_epoch_are_not_read(tmp_path: Path) -> None:
    small_study(tmp_path).close()
    Study.open(tmp_path).close()
    n_records = len((tmp_path / FILE).read_bytes().splitlines())
    with (tmp_path / FILE).open("ab") as file:
        file.write(encode(n_records, 1, "late", {}))
    study = Study.open(tmp_path)
    study.event("fine")
    study.close()
    assert [kind for kind, _ in Study.read(tmp_path).events] == ["worker_died"] * 2 + ["opened", "opened", "fine"]


@pytest.mark.fault("F40", "the ledger has a newer schema", "refused; unknown events are kept")
def test_a_newer_schema_is_refused_and_unknown_events_are_kept(tmp_path: Path) -> None:
    Study.create(tmp_path, {}, {}).close()
    unknown = json.loads(encode(1, 1, "from_the_future", {"a": [1, {"b": None}]}))
    del unknown["crc32"]
    unknown["a_new_field"] = 1
    body = json.dumps(unknown).encode()[1:]
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"crc32":"%08x",%b\n' % (zlib.crc32(body), body))
    assert Study.read(tmp_path).events == [("from_the_future", {"a": [1, {"b": None}]})]
    first = {"schema": SCHEMA + 1, "configuration": {}, "environment": {}}
    (tmp_path / FILE).write_bytes(encode(0, 1, "created", first))
    for way in (Study.read, Study.open):
        with pytest.raises(StudyError, match=f"schema {SCHEMA + 1}"):
            way(tmp_path)


@pytest.mark.fault("F1", "the creation fails at its rename", "the next one succeeds")
def test_an_interrupted_creation_can_be_repeated(tmp_path: Path) -> None:
    Study.create(tmp_path, {}, {}).close()
    (tmp_path / FILE).rename(tmp_path / "ledger.new")
    Study.create(tmp_path, {"a": 1}, {}).close()
    assert dict(Study.read(tmp_path).configuration) == {"a": 1}


def test_example_ids_are_stored_once(tmp_path: Path) -> None:
    study = Study.create(tmp_path, {}, {})
    for number in range(4):
        study.ask(trial(number))
        study.tell(outcome(number, 3 if number < 3 else 4), None)
    study.close()
    assert (tmp_path / FILE).read_bytes().count(b'"e0"') == 2
    again = Study.open(tmp_path)
    again.ask(trial(9))
    again.tell(outcome(9), None)
    again.close()
    assert (tmp_path / FILE).read_bytes().count(b'"e0"') == 2
    last = Study.read(tmp_path).entries[3].outcome
    assert last is not None
    assert last.scores["add"].example_ids == ("e0", "e1", "e2", "e3")


def test_a_folder_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    class NoRoom(Files):
        def allocate(self, descriptor: int, size: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StudyPaused, match="No space left"):
        Study.create(tmp_path / "a", {}, {}, files=NoRoom())
    assert not (tmp_path / "a" / FILE).exists()
    small_study(tmp_path / "b").close()
    shutil.copytree(tmp_path / "b", tmp_path / "c")
    with pytest.raises(StudyPaused, match="No space left"):
        Study.open(tmp_path / "b", files=NoRoom())
    assert (tmp_path / "b" / FILE).read_bytes() == (tmp_path / "c" / FILE).read_bytes()


def ask_at_once(study: Study, numbers: Iterable[int]) -> None:
    with study.batch():
        for number in numbers:
            study.ask(trial(number))


def batch_of_four(folder: Path) -> tuple[bytes, list[bytes]]:
    """Write two records one by one and four at once in a new study; return the former and the lines of the latter."""
    study = Study.create(folder, {}, {})
    study.ask(trial(0))
    before = (folder / FILE).read_bytes()
    ask_at_once(study, range(1, 5))
    study.close()
    return before, (folder / FILE).read_bytes()[len(before) :].splitlines(keepends=True)


def test_a_batch_is_written_and_synced_once(tmp_path: Path) -> None:
    files = ListingFiles()
    study = Study.create(tmp_path, {}, {}, files=files)
    study.ask(trial(0))
    files.calls.clear()
    with study.batch():
        assert study.tell(outcome(0), [1.0])
        study.ask(trial(1))
        assert (len(study.told), study.next_number) == (1, 2)
        assert not files.calls
    assert files.calls == ["write", "fsync"]
    with study.batch():
        pass
    assert files.calls == ["write", "fsync"]
    assert describe(Study.read(tmp_path)) == describe(study)
    study.close()


def test_a_batch_that_the_disk_refuses_leaves_nothing_behind(tmp_path: Path) -> None:
    files = FullFiles(tmp_path)
    files.reserve_helps = False
    study = Study.create(tmp_path, {}, {}, files=files)
    study.ask(trial(0))
    before = describe(study)
    files.full = True
    with pytest.raises(StudyPaused, match="the last records were not saved"):
        ask_at_once(study, (1, 2))
    assert describe(Study.read(tmp_path)) == describe(study) == before
    files.full = False
    with pytest.raises(StudyPaused, match="still saved"):  # the reserve is gone
        study.tell(outcome(0), [2.0])
    assert describe(Study.read(tmp_path)) == describe(study)
    assert study.told[0].losses == (2.0,)
    study.close()


def test_a_batch_that_takes_the_reserve_is_saved(tmp_path: Path) -> None:
    files = FullFiles(tmp_path)
    study = Study.create(tmp_path, {}, {}, files=files)
    files.full = True
    with pytest.raises(StudyPaused, match="still saved"):
        ask_at_once(study, (0, 1))
    assert [pending.number for pending in Study.read(tmp_path).pending] == [0, 1]
    study.close()


@pytest.mark.parametrize("lost", range(4))
@pytest.mark.fault("F6", "any of the records that are saved at once is damaged", "those before it stay")
def test_any_part_of_a_batch_may_be_lost_with_the_machine(tmp_path: Path, lost: int) -> None:
    """Pages of one write may reach the disk in any order."""
    before, lines = batch_of_four(tmp_path)
    lines[lost] = b"\0" * len(lines[lost])
    (tmp_path / FILE).write_bytes(before + b"".join(lines))
    reader = describe(Study.read(tmp_path))
    study = Study.open(tmp_path)
    assert describe(study) == reader
    assert study.next_number == 1 + lost
    assert study.resumed is not None
    assert study.resumed.torn_bytes == sum(map(len, lines[lost:]))
    assert (tmp_path / "ledger.torn-1").read_bytes() == b"".join(lines[lost:])
    study.ask(trial(9))
    study.close()
    assert describe(Study.read(tmp_path)) == describe(study)


def test_damage_before_the_last_batch_is_an_error(tmp_path: Path) -> None:
    before, lines = batch_of_four(tmp_path)
    (tmp_path / FILE).write_bytes(before[:-20] + b"X" + before[-19:] + b"".join(lines))
    with pytest.raises(StudyError, match="line 2 is damaged"):
        Study.open(tmp_path)
    (tmp_path / FILE).write_bytes(before[:-20] + b"X" + before[-19:] + b"X" + b"".join(lines)[1:])
    with pytest.raises(StudyError, match=r"line 2 is damaged .*, but line 4 is intact"):
        Study.open(tmp_path)
    with_more = tmp_path / "more"
    batch_of_four(with_more)
    Study.open(with_more).close()  # which adds an event
    lines = (with_more / FILE).read_bytes().splitlines(keepends=True)
    lines[3] = b"X" + lines[3][1:]
    (with_more / FILE).write_bytes(b"".join(lines))
    with pytest.raises(StudyError, match="line 4 is damaged"):
        Study.read(with_more)
