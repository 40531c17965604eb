"""Two processes write to one study: the first is stopped, loses its lock, as over an expired lease, and goes on."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from evomerge.study import Study, StudyBusy
from evomerge.study.lines import FILE, LOCK
from evomerge.study.writer import Ledger
from tests.waiting import wait_until


def writer(folder: Path, name: str) -> int:
    """Start a process that records marks and notes each one that was recorded; it ends with 4 if it is fenced off."""
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        study = Study.open(folder)
        with (folder / name).open("a", buffering=1) as notes:
            for number in range(10**9):
                study.event("mark", writer=name, number=number)
                notes.write(f"{number}\n")
    except StudyBusy as error:
        code = error.exit_code
    finally:
        os._exit(code)


def noted(folder: Path, name: str) -> int:
    return (folder / name).read_bytes().count(b"\n") if (folder / name).exists() else 0


def fight(folder: Path, rounds: int) -> None:
    Study.create(folder, {}, {}).close()
    rng = random.Random(7)
    for number in range(rounds):
        names = f"first-{number}", f"second-{number}"
        first = writer(folder, names[0])
        wait_until(lambda name=names[0]: noted(folder, name) > 0)
        time.sleep(rng.random() * 0.005)  # anywhere in a write, or between two
        os.kill(first, signal.SIGSTOP)
        os.waitpid(first, os.WUNTRACED)
        before = noted(folder, names[0])
        (folder / LOCK).unlink()
        second = writer(folder, names[1])
        wait_until(lambda name=names[1]: noted(folder, name) > 1)
        os.kill(first, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == 4
        after = noted(folder, names[1])
        wait_until(lambda name=names[1], least=after: noted(folder, name) > least + 1)
        os.kill(second, signal.SIGKILL)
        os.waitpid(second, 0)
        marks = [data for kind, data in Study.read(folder).events if kind == "mark"]
        of = {name: [data["number"] for data in marks if data["writer"] == name] for name in names}
        assert len(of[names[0]]) >= before, "nothing that was recorded before is lost"
        assert of[names[0]] == list(range(len(of[names[0]])))
        assert of[names[1]] == list(range(len(of[names[1]])))
        assert len(of[names[1]]) >= noted(folder, names[1])
        order = [data["writer"] for data in marks if data["writer"] in names]
        assert order == sorted(order, key=names.index), "after the second one has begun, the first one writes nothing"


@pytest.mark.fault("F34", "the owner is stopped by SIGSTOP, replaced, and continued", "it never writes again")
def test_a_stopped_owner_never_writes_again_once_it_was_replaced(tmp_path: Path) -> None:
    fight(tmp_path, rounds=3)


@pytest.mark.slow
@pytest.mark.fault("F34", "two hundred times, the owner is stopped, replaced and continued", "never two writers")
def test_two_hundred_stopped_owners(tmp_path: Path) -> None:
    fight(tmp_path, rounds=200)


def test_an_owner_replaced_in_the_middle_of_a_write_removes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment between the look at the lock and the write takes microseconds; here everything happens in it."""
    Study.create(tmp_path, {}, {}).close()
    old = Study.open(tmp_path)
    old.event("mark", writer="old")
    look, others = Ledger._check_fence, []

    def look_and_lose(ledger: Ledger) -> None:
        look(ledger)
        if not others:
            others.append(None)
            (tmp_path / LOCK).unlink()
            others[0] = Study.open(tmp_path)
            others[0].event("mark", writer="new")

    monkeypatch.setattr(Ledger, "_check_fence", look_and_lose)
    with pytest.raises(StudyBusy):
        old.event("mark", writer="late")
    others[0].event("mark", writer="new")
    marks = [data["writer"] for kind, data in Study.read(tmp_path).events if kind == "mark"]
    assert marks == ["old", "new", "new"]
    assert (tmp_path / FILE).read_bytes().endswith(b"\n")
    others[0].close()
    old.close()
