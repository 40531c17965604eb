"""One reader fed with mutated files until the time is up, or until an input fails: `python -m tests.fuzz.worker`."""

import argparse
import hashlib
import resource
import shutil
import signal
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

if "atheris" in sys.argv:
    import atheris  # an optional tool, which counts the branches of modules that are imported under it

    counted = atheris.instrument_imports(include=["evaluators", "evomerge", "yaml"])
else:
    counted = nullcontext()
with counted:
    from tests.fuzz.targets import CORPUS, TARGETS, TOKENS, check

#: Seconds of a processor that one input may take; of the clock, since it may wait for something: on a busy machine, a
#: process may stand still for minutes; and memory that reading it may add, in bytes.
SECONDS, CLOCK, MEMORY = 10, 600, 1 << 30
#: Inputs between two looks at the clock.
ROUND = 400


class Hang(Exception):
    """An input that took too long."""


def mutated(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Valid files with a few pieces cut out, replaced, repeated or inserted; and small ones from nothing."""
    piece = st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8), st.sampled_from(seeds).map(lambda s: s[:40]))
    edit = st.tuples(st.integers(0, 1 << 16), st.integers(0, 24), piece, st.sampled_from((1, 1, 1, 2, 60)))

    def apply(start: bytes, edits: list[tuple[int, int, bytes, int]]) -> bytes:
        found = bytearray(start)
        for place, length, new, times in edits:
            at = place % (len(found) + 1)
            found[at : at + length] = new * times
        return bytes(found)

    return st.builds(apply, st.sampled_from([b"", *seeds]), st.lists(edit, min_size=1, max_size=6))


def _late(_number: int, _frame: FrameType | None) -> None:
    raise Hang(f"more than {SECONDS} s of a processor, or {CLOCK} s")


def _limit() -> None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    signal.signal(signal.SIGALRM, _late)  # libFuzzer has a handler of its own


def run_once(name: str, data: bytes, folder: Path) -> None:
    """Read one input in an empty folder, within the time."""
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.alarm(CLOCK)
    try:
        check(TARGETS[name], data, folder)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)


def keep(name: str, data: bytes) -> Path:
    """Add an input to the corpus."""
    file = CORPUS / name / hashlib.sha256(data).hexdigest()[:12]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def by_hypothesis(name: str, seconds: float, number: int, folder: Path) -> int:
    """Return how many inputs were read; the smallest one that fails is kept, and its error raised."""
    seeds = list(TARGETS[name].seeds())
    end, count, last = time.monotonic() + seconds, 0, b""
    rules = settings(
        max_examples=ROUND,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    while time.monotonic() < end:

        @seed(number + count)
        @rules
        @given(data=mutated(seeds))
        def read(data: bytes) -> None:
            nonlocal count, last
            count, last = count + 1, data
            run_once(name, data, folder)

        try:
            read()
        except BaseException:
            print(f"{name}: kept {keep(name, last)}", file=sys.stderr)
            raise
    return count


def by_atheris(name: str, seconds: float, number: int, folder: Path) -> None:
    """Run libFuzzer, which follows the coverage of our modules, and ends the process."""
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    start = Path(tempfile.mkdtemp(dir=folder.parent))
    for index, data in enumerate(TARGETS[name].seeds()):
        (start / str(index)).write_bytes(data)
    words = folder.parent / "words"
    escaped = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS)
    words.write_text("".join(f'"{word}"\n' for word in escaped), encoding="ascii")
    options = [
        f"-max_total_time={int(seconds)}",
        f"-timeout={CLOCK}",
        f"-seed={number or 1}",
        "-rss_limit_mb=0",
        "-report_slow_units=3600",
    ]
    options += ["-max_len=20000", f"-dict={words}", f"-artifact_prefix={kept}/", "-verbosity=0", "-print_final_stats=1"]

    def read(data: bytes) -> None:
        run_once(name, data, folder)

    atheris.Setup([sys.argv[0], *options, str(start)], read)
    atheris.Fuzz()


def main() -> None:
    """Fuzz one reader."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--engine", choices=("hypothesis", "atheris"), default="hypothesis")
    given_ = parser.parse_args()
    signal.signal(signal.SIGPROF, _late)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "input")
        folder.mkdir()
        if given_.engine == "atheris":
            by_atheris(given_.target, given_.seconds, given_.seed, folder)
        else:
            _limit()
            print(f"{given_.target}: {by_hypothesis(given_.target, given_.seconds, given_.seed, folder)} inputs")


if __name__ == "__main__":
    main()
