import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.merging.output.staging import MARK, OutputError, check_output, staged
from tests.evomerge.forks import Fork
from tests.evomerge.merging.folders import bare


@pytest.fixture
def model(tmp_path: Path) -> Checkpoint:
    return Checkpoint.open(bare(tmp_path / "models" / "base", {"a": torch.ones(1)}))


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    before = os.umask(0)
    os.umask(before)
    yield lambda mask: [None, os.umask(mask)][0]
    os.umask(before)


@pytest.mark.parametrize("place", ["models/base", "models", ".", "models/base/out", "link", "models/x/../base"])
@pytest.mark.fault("F44", "outputs that are inputs, in them, above them or links to them", "refused")
def test_an_output_touches_no_input(tmp_path: Path, model: Checkpoint, place: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "models" / "base")
    for given in (model, Checkpoint.open(model.files[0])):
        if place == "models/base/out" and given is not model:
            continue
        with pytest.raises(CheckpointError, match="is, contains or is inside the input"):
            check_output(tmp_path / place, [given], overwrite=True)


def test_an_output_may_lie_beside_a_file_or_a_folder(tmp_path: Path, model: Checkpoint) -> None:
    check_output(tmp_path / "models" / "out", [model], overwrite=False)
    check_output(tmp_path / "models" / "base" / "out", [Checkpoint.open(model.files[0])], overwrite=False)


def test_existing_folders_are_replaced_on_demand_and_only_our_own(tmp_path: Path, model: Checkpoint) -> None:
    out = tmp_path / "out"
    out.mkdir()
    check_output(out, [model], overwrite=False)
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"exists and is not empty\. Choose another folder\.$"):
        check_output(out, [model], overwrite=False)
    with pytest.raises(OutputError, match=f"was not written by evomerge .it has no {MARK}"):
        check_output(out, [model], overwrite=True)
    (out / MARK).write_text("{}")
    with pytest.raises(OutputError, match="Choose another folder, or replace this export with --overwrite"):
        check_output(out, [model], overwrite=False)
    with pytest.raises(OutputError, match=r"holds 1 file \('thesis.txt'\) that evomerge did not write"):
        check_output(out, [model], overwrite=True)
    (out / "thesis.txt").rename(out / "README.md")
    check_output(out, [model], overwrite=True)
    (tmp_path / "file").write_text("")
    (tmp_path / "lost").symlink_to("nowhere")
    for place in ("file", "lost"):
        with pytest.raises(OutputError, match="is not a folder"):
            check_output(tmp_path / place, [model], overwrite=True)


def test_appears_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "er" / "out"
    with staged(out, 0) as partial:
        (partial / "a").write_text("1")
        assert not out.exists()
        assert partial.parent == out.parent, "a rename must stay on one file system"
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert (out / "a").read_text() == "1"


def test_replaces_a_folder_completely(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "old").write_text("1")
    with staged(out, 0) as partial:
        (partial / "new").write_text("2")
        assert (out / "old").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt()])
def test_leaves_nothing_after_an_error(tmp_path: Path, error: BaseException) -> None:
    def write() -> None:
        with staged(tmp_path / "out", 0) as partial:
            (partial / "a").write_text("1")
            raise error

    with pytest.raises(type(error)):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault("F18", "an export needs more than is free", "refused beforehand with both numbers")
def test_says_how_much_space_is_missing(tmp_path: Path) -> None:
    def write() -> None:
        with staged(tmp_path / "out", 10**18):
            pytest.fail("nothing is written without space")

    with pytest.raises(OutputError, match=r"needs 1e\+06 TB, and [\d.]+ [GT]B are free on "):
        write()
    assert list(tmp_path.iterdir()) == []


def write_killed() -> None:
    """Write a folder in a process that is killed; `sys.argv` says which, and when."""
    _, out, moment = sys.argv

    def killed(*_: object) -> NoReturn:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("is dead")

    if moment == "replacing":
        rename, renames = Path.rename, []

        def second(self: Path, target: Path) -> Path:
            if renames:
                killed()
            renames.append(rename(self, target))
            return renames[0]

        Path.rename = second
    if moment == "cleaning":
        shutil.rmtree = killed
    with staged(Path(out), 0) as partial:
        (partial / "a").write_text("new")
        if moment == "writing":
            killed()


def returncode_of_killed(out: Path, moment: str) -> int:
    with Fork(out, moment, call=f"{__name__}:write_killed") as process:
        return process.wait()


@pytest.mark.parametrize("moment", ["writing", "replacing"])
def test_a_killed_process_leaves_the_old_or_nothing_and_the_next_one_cleans_up(tmp_path: Path, moment: str) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    assert returncode_of_killed(out, moment) == -signal.SIGKILL
    assert out.exists() == (moment == "writing")
    assert len(list(tmp_path.iterdir())) == 2, "the test must see a leftover"

    def fail() -> None:
        with staged(out, 0) as partial:
            assert list(partial.iterdir()) == []
            assert (out / "a").read_text() == "old", "back before anything new is written"
            raise ValueError("again")

    with pytest.raises(ValueError, match="again"):
        fail()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "a").read_text() == "old"


def test_a_process_killed_while_it_cleans_up_has_written_the_new_folder(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a").write_text("old")
    assert returncode_of_killed(out, "cleaning") == -signal.SIGKILL
    assert (out / "a").read_text() == "new"
    assert len(list(tmp_path.iterdir())) == 2, "the test must see a leftover"
    with staged(out, 0) as partial:
        (partial / "a").write_text("newest")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "a").read_text() == "newest"


def test_two_processes_do_not_write_one_folder(tmp_path: Path) -> None:
    def second() -> None:
        with staged(tmp_path / "out", 0):
            pytest.fail("the first one writes")

    with staged(tmp_path / "out", 0) as partial:
        (partial / "a").write_text("1")
        with pytest.raises(OutputError, match="Another process is writing"):
            second()
    assert (tmp_path / "out" / "a").read_text() == "1"


@pytest.mark.parametrize(("mask", "folder_mode"), [(0o022, 0o755), (0o027, 0o750), (0o002, 0o775)])
def test_the_folder_follows_the_umask(
    tmp_path: Path, umask: Callable[[int], None], mask: int, folder_mode: int
) -> None:
    umask(mask)
    with staged(tmp_path / "out", 0):
        pass
    assert (tmp_path / "out").stat().st_mode & 0o777 == folder_mode
