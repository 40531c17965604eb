"""Ray clusters of several nodes on this machine, in networks of their own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import CEILING, wait_until

ROOT = Path(__file__).parents[2]
#: Memory of a node: enough for two of the workers in these tests.
MEMORY = 2e9


def why_not() -> str:
    """Return why this machine cannot hold such clusters; empty if it can."""
    tools = [tool for tool in ("unshare", "nsenter", "ip") if shutil.which(tool) is None]
    if tools or os.geteuid():
        return f"needs root and {', '.join(tools) or 'nothing else'}"
    done = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    return done.stderr.strip() if done.returncode else ""


needs_namespaces = pytest.mark.skipif(bool(why_not()), reason=f"network namespaces: {why_not()}")


class Driver:
    """A process that writes to files, which never make it wait. place: their name without the ending."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], place: Path) -> None:
        self._out: Path | None = place.with_suffix(".out")
        self._err, self._all = place.with_suffix(".err"), ""
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=err, env=environment, start_new_session=True
            )

    @property
    def out(self) -> str:
        """The output so far."""
        return self._all if self._out is None else self._out.read_text(encoding="utf-8")

    @property
    def ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    @property
    def words(self) -> str:
        """Return the ends of both outputs, for messages."""
        return self._err.read_text(encoding="utf-8", errors="replace")[-3000:] + self.out[-3000:]

    def wait(self) -> int:
        """Wait for its end; return its exit code."""
        return self._process.wait(CEILING)

    def wait_until(self, there: Callable[[], object]) -> None:
        """Wait until something is so. Fails if the process ends before."""
        wait_until(lambda: self.ended or there())
        assert not self.ended, self.words

    def write(self, line: str) -> None:
        """Write a line to its input."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def signal(self, number: int) -> None:
        """Send a signal to all of its session, as `ray job stop` does."""
        os.killpg(self._process.pid, number)

    def signal_first(self, number: int) -> None:
        """Send a signal to the process alone."""
        self._process.send_signal(number)

    def close(self) -> None:
        """End it, if it runs; its folder may be deleted then."""
        if not self.ended:
            self._process.kill()
        self._process.wait(60)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._all, self._out = self.out, None


class TestCluster:
    """A cluster whose head has no CPUs; `call` changes it, see `Host`.

    token: of the cluster; empty for one without authentication. environment: for processes on its network.
    """

    __test__ = False

    def __init__(self, folder: Path, token: str) -> None:
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_") or "USAGE" in name
        }
        self.environment |= {"RAY_TMPDIR": str(folder), "HOME": str(folder), "PYTHONPATH": str(ROOT)}
        settings = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token} if token else {"RAY_AUTH_MODE": "disabled"}
        self._log = (folder / "host.log").open("wb")
        self.process = subprocess.Popen(
            ["unshare", "--net", sys.executable, "-m", "tests.cluster.host"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=self.environment | settings,
        )
        self.folder = folder
        self._started: list[Driver] = []
        self.address = self._reply()

    def call(self, name: str, *arguments: object) -> Any:
        """Ask the host to do something, and wait until it is done."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([name, *arguments]) + "\n")
        self.process.stdin.flush()
        return self._reply()

    def command(self, *arguments: object) -> list[str]:
        """Return the command that runs Python with these arguments on the cluster's network."""
        return ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", sys.executable, *map(str, arguments)]

    def start(self, *arguments: object, **environment: str) -> "Driver":
        """Start Python with these arguments on the cluster's network; without its token, unless it is given."""
        place = self.folder / f"driver-{len(self._started)}"
        driver = Driver(self.command(*arguments), self.environment | environment, place)
        self._started.append(driver)
        return driver

    def evomerge(self, *arguments: object, **environment: str) -> "Driver":
        """Start the command line on the cluster's network."""
        return self.start("-m", "evomerge.cli", *arguments, **environment)

    def answers(self, port: int) -> bool:
        """Return whether something listens on a port of the cluster's network."""
        files = [Path(f"/proc/{self.process.pid}/net/{name}") for name in ("tcp", "tcp6")]
        rows = [row.split() for file in files for row in file.read_text().splitlines()[1:]]
        return any(row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port for row in rows)

    def close(self) -> None:
        """End all of it, also what a test has stopped."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        for pid in self._members():
            os.kill(pid, signal.SIGKILL)
        for driver in self._started:
            driver.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        self._log.close()

    def _members(self) -> list[int]:
        """Process ids whose environment names this cluster's folder."""
        marked = f"RAY_TMPDIR={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and marked in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
            except OSError:
                continue
        return found

    def _reply(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait(60)
            pytest.fail((self.folder / "host.log").read_text(errors="replace")[-3000:])
        return json.loads(line)


@contextmanager
def cluster(nodes: int, *, token: str = "", cpus: float = 1, memory: float = MEMORY) -> Iterator[TestCluster]:
    """A cluster with this many nodes besides the head."""
    folder = Path(tempfile.mkdtemp(prefix="ray"))  # sockets have short names
    made = TestCluster(folder, token)
    try:
        for _ in range(nodes):
            made.call("add", cpus, memory)
        yield made
    finally:
        made.close()
        shutil.rmtree(folder, ignore_errors=True)


def lines_of(out: str) -> list[Mapping[str, Any]]:
    """Return the JSON lines that a search has printed."""
    return [json.loads(line) for line in out.splitlines() if line.startswith("{")]
