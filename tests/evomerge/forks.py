"""The command line in processes of their own that share one start: forks of a process which has imported everything.

Importing torch and transformers takes seconds; a fork takes milliseconds, and from there on it is a process as any
other: its own signals, session, terminal, descriptors and exit. All forks share one hash seed, which is not ours.
"""

import atexit
import fcntl
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn

from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = ("evomerge.commands.search", "evomerge.commands.status", "evomerge.optimizers.cma_es")
#: Bytes of a request, at most, and of a process id or exit code.
REQUEST, NUMBER = 1 << 17, 4


class Fork:
    """`evomerge ARGUMENTS` in a fork, with the part of `subprocess.Popen` that tests use; its block waits for its end.

    call: another function without arguments, as `module:name`; ARGUMENTS are in `sys.argv`.

    terminal: a descriptor; all three streams are there and it controls the process, which leads a session of its own.
    Without one, stdin is empty, and stdout and stderr are pipes to read text from; silent: stdout leads nowhere.
    environment: beside ours.
    """

    def __init__(
        self,
        *arguments: object,
        call: str = "evomerge.cli:main",
        terminal: int | None = None,
        silent: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.returncode: int | None = None
        self.stdout = self.stderr = None
        if terminal is None:
            self.stdout, out = (None, os.open(os.devnull, os.O_WRONLY)) if silent else _pipe()
            self.stderr, err = _pipe()
            streams = [os.open(os.devnull, os.O_RDONLY), out, err]
        else:
            streams = [os.dup(terminal) for _ in range(3)]
        self._status, status = socket.socketpair()
        request = {
            "call": call,
            "arguments": list(map(str, arguments)),
            "environment": {**os.environ, **(environment or {})},
            "folder": str(Path.cwd()),
        }
        socket.send_fds(_server(), [json.dumps(request).encode()], [*streams, status.fileno()])
        status.close()
        for descriptor in streams:
            os.close(descriptor)
        self.pid = int.from_bytes(self._status.recv(NUMBER), sys.byteorder)

    def __enter__(self) -> "Fork":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.kill()
        self.wait()
        for file in (self.stdout, self.stderr):
            if file is not None:
                file.close()

    def poll(self) -> int | None:
        """How it ended, as `Popen.returncode`; None while it runs."""
        return self._await(0.0)

    def wait(self, timeout: float = CEILING) -> int:
        """The same, once it has ended."""
        code = self._await(timeout)
        assert code is not None, f"not within {timeout:g} seconds"
        return code

    def communicate(self, timeout: float = CEILING) -> tuple[str, str]:
        """What is left to read from its pipes, once it has ended."""
        said = ["", ""]

        def read(place: int, file: IO[str]) -> None:
            said[place] = file.read()

        files = [(place, file) for place, file in enumerate((self.stdout, self.stderr)) if file and not file.closed]
        readers = [threading.Thread(target=read, args=args, daemon=True) for args in files]
        for reader in readers:
            reader.start()
        until = time.monotonic() + timeout
        for reader in readers:
            reader.join(max(0.0, until - time.monotonic()))
        self.wait(max(0.0, until - time.monotonic()))
        return said[0], said[1]

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _await(self, timeout: float) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int.from_bytes(self._status.recv(NUMBER), sys.byteorder, signed=True)
            self._status.close()
        return self.returncode


def _pipe() -> tuple[IO[str], int]:
    reading, writing = os.pipe()
    return os.fdopen(reading, encoding="utf-8"), writing


@cache
def _server() -> socket.socket:
    """The way to the process that forks; it ends when this one does."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    command = [sys.executable, "-m", "tests.evomerge.forks", str(theirs.fileno())]
    with theirs:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()], start_new_session=True
        )
    process.returncode = 0  # nobody waits for it: it ends when `ours` is closed
    atexit.register(ours.close)
    return ours


def serve(requests: socket.socket) -> str | None:
    """Fork for every request. In a fork, what it is to call; None when there are no more requests."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that wait for the forks
    while True:
        said, descriptors, _, _ = socket.recv_fds(requests, REQUEST, 4)
        if not said:
            requests.close()
            return None
        if os.fork() == 0:
            requests.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            child = os.fork()
            if child == 0:
                request = json.loads(said)
                _become(request, descriptors)
                return str(request["call"])
            _report(child, descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _report(child: int, descriptors: list[int]) -> NoReturn:
    """Send the id of the child and how it ends."""
    *streams, status = descriptors
    for descriptor in streams:
        os.close(descriptor)
    with socket.socket(fileno=status) as to:
        to.send(child.to_bytes(NUMBER, sys.byteorder))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        to.send(code.to_bytes(NUMBER, sys.byteorder, signed=True))
    os._exit(0)


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Lead a session of its own with the streams, folder, environment and arguments that were asked for."""
    os.setsid()
    for place, descriptor in enumerate(descriptors[:3]):
        os.dup2(descriptor, place)
    for descriptor in descriptors:
        os.close(descriptor)
    if os.isatty(0):
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["evomerge", *request["arguments"]]
    # As the interpreter makes them at its start.
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", buffering=1 if os.isatty(1) else -1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115


def _run(main: Callable[[], object]) -> NoReturn:
    """Call and exit as the interpreter does, but for taking apart what has been imported, which takes a second."""
    code: object = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    except BaseException as error:  # noqa: BLE001 - the end of a process
        sys.excepthook(type(error), error, error.__traceback__)
        code = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    for module in PRELOADED:
        importlib.import_module(module)
    gc.freeze()  # forks look through none of it, and so need no copies
    called = serve(socket.socket(fileno=int(sys.argv[1])))
    if called is not None:
        place, _, function = called.partition(":")
        _run(getattr(importlib.import_module(place), function))
