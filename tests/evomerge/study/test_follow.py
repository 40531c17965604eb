"""A mirror sees what a reader sees, as it is written, and says when the ledger is not what it was."""

from pathlib import Path

import pytest

from evomerge.report.snapshot import take
from evomerge.run import Run
from evomerge.study import Study
from evomerge.study.follow import Follower
from evomerge.study.lines import FILE, StudyError, decode, encode
from evomerge.trial import Trial
from tests.evomerge.report.studies import fail, write_study


def test_a_follower_agrees_with_a_reader_after_every_byte(tmp_path: Path) -> None:
    write_study(tmp_path / "whole").close()
    data = (tmp_path / "whole" / FILE).read_bytes()
    (tmp_path / "part").mkdir()
    part = tmp_path / "part" / FILE
    part.touch()
    follower, seen = Follower(tmp_path / "part"), []
    with part.open("ab", buffering=0) as file:
        for start in range(0, len(data), 97):
            file.write(data[start : start + 97])
            seen += follower.poll()
            assert take(Run.of(follower.study)).as_dict() == take(Run.of(Study.read(tmp_path / "part"))).as_dict()
    records = [decode(line) for line in data.splitlines(keepends=True)]
    assert [(c.kind, c.at.isoformat()) for c in seen] == [(r.kind, r.wall) for r in records if r is not None]
    assert [c.number for c in seen if c.kind == "told"] == [0, 1, 2, 3, 4, 5, 6]
    assert follower.poll() == []


def test_poll_reads_only_new_records(tmp_path: Path) -> None:
    study = write_study(tmp_path)
    follower = Follower(tmp_path)
    follower.poll()
    ledger = tmp_path / FILE
    size = ledger.stat().st_size
    study.event("hello", who="you")
    study.close()
    whole = ledger.read_bytes()
    ledger.write_bytes(b"x" * size + whole[size:])  # what was read before is not looked at again
    assert [(change.kind, dict(change.data)) for change in follower.poll()] == [("hello", {"who": "you"})]


def test_a_torn_end_is_waited_for_and_a_resumed_study_followed(tmp_path: Path) -> None:
    write_study(tmp_path).close()
    follower = Follower(tmp_path)
    follower.poll()
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'{"crc32":"00000000","sequ')
    assert follower.poll() == []
    with_tail = Study.open(tmp_path)
    fail(with_tail, Trial(8, None, label="x"), "Broken")
    with_tail.close()
    assert [(change.kind, change.number) for change in follower.poll()] == [("opened", None), ("asked", 8), ("told", 8)]


@pytest.mark.parametrize("keep", [1, 6])
def test_records_taken_back_and_damage_are_refused(tmp_path: Path, keep: int) -> None:
    write_study(tmp_path).close()
    ledger = tmp_path / FILE
    lines = ledger.read_bytes().splitlines(keepends=True)
    follower = Follower(tmp_path)
    follower.poll()
    ledger.write_bytes(b"".join(lines[:keep]))
    with pytest.raises(StudyError, match="has changed"):
        follower.poll()
    ledger.write_bytes(b"".join([*lines[:keep], lines[keep][:-9] + b"\n", *lines[keep + 1 :]]))
    with pytest.raises(StudyError, match=f"line {keep + 1} is damaged"):
        Follower(tmp_path).poll()
    with pytest.raises(StudyError, match="There is no study"):
        Follower(tmp_path / "nothing")


def test_records_of_a_writer_that_was_fenced_off_are_skipped_as_a_reader_skips_them(tmp_path: Path) -> None:
    write_study(tmp_path).close()
    Study.open(tmp_path).close()  # a second epoch
    ledger = tmp_path / FILE
    last = decode(ledger.read_bytes().splitlines(keepends=True)[-1])
    assert last is not None
    with ledger.open("ab") as file:
        file.write(encode(last.sequence, last.epoch - 1, "late", {}, wall=last.wall))
        file.write(encode(last.sequence + 1, last.epoch, "next", {}, wall=last.wall))
    assert [change.kind for change in Follower(tmp_path).poll()][-2:] == ["opened", "next"]
    assert Study.read(tmp_path).events[-1][0] == "next"
