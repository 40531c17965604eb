"""What fuzzing found stays mended: every kept input is read or refused, in time; and so are all valid seeds."""

from contextlib import suppress
from pathlib import Path

import pytest

from tests.fuzz.targets import CORPUS, TARGETS, Finding, Target, check

FOUND = sorted(file for file in CORPUS.glob("*/*") if file.is_file())


@pytest.mark.parametrize("file", FOUND, ids=lambda file: f"{file.parent.name}-{file.name}")
@pytest.mark.timeout(120)
@pytest.mark.fault("F27", "inputs that fuzzing found to fail", "read or refused, in time")
def test_a_finding_stays_mended(file: Path, tmp_path: Path) -> None:
    check(TARGETS[file.parent.name], file.read_bytes(), tmp_path)


#: Finding a task among those of lm-eval first reads all of them: 14,000 files.
SLOW = {"lm_eval_task"}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in TARGETS])
def test_a_valid_file_is_read(name: str, tmp_path: Path) -> None:
    """Otherwise, mutations of it would never get beyond the first check."""
    read = 0
    for number, data in enumerate(TARGETS[name].seeds()):
        folder = tmp_path / str(number)
        folder.mkdir()
        with suppress(ValueError):  # what a file names is not beside it
            TARGETS[name].run(data, folder)
            read += 1
    assert read


def test_an_error_that_is_not_ours_is_a_finding(tmp_path: Path) -> None:
    def broken(data: bytes, _folder: Path) -> None:
        data.decode("ascii")

    check(Target(broken, lambda: iter(())), b"fine", tmp_path)
    with pytest.raises(UnicodeDecodeError):
        check(Target(broken, lambda: iter(())), b"\xff", tmp_path)


def test_an_error_without_a_word_is_a_finding(tmp_path: Path) -> None:
    class Silent(ValueError):
        exit_code = 2

    def broken(_data: bytes, _folder: Path) -> None:
        raise Silent

    with pytest.raises(Finding, match="Silent without a message"):
        check(Target(broken, lambda: iter(())), b"", tmp_path)
