"""`evomerge dashboard`: a live optuna-dashboard of a study, as a reader in a process of its own."""

import signal
import threading
import time
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from evomerge.config.fields import named_paths
from evomerge.durable import replacing
from evomerge.errors import EvomergeError
from evomerge.merging.output.single_file import check_file
from evomerge.report.axes import Axis, of_space
from evomerge.report.optuna_view import OptunaView
from evomerge.run import Run
from evomerge.study.follow import Follower
from search_spaces.base import SpaceError

#: Seconds between two polls of the ledger.
PAUSE = 1.0
SQLITE = (".db", ".sqlite", ".sqlite3")
JOURNAL = (".log", ".journal", ".jsonl")


class DashboardError(EvomergeError):
    """A dashboard that cannot be shown, or a file that cannot be written for one."""


class _Server(ThreadingMixIn, WSGIServer):
    """WSGI server that handles requests concurrently."""

    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the name is the base's
        """Log nothing: a line per request would only be noise."""


def view_of(run: Run) -> OptunaView:
    """Return the current state of the run as an Optuna study."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    follower = Follower(run.folder)
    view = OptunaView(follower, _axes(run))
    view.update()
    return view


def is_local(host: str) -> bool:
    """Whether only this machine can connect to a server that listens on `host`."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve(run: Run, host: str, port: int, *, browser: bool, say: Callable[[str, OptunaView], None]) -> None:
    """Serve the dashboard until Ctrl-C.

    port: 0 takes a free one. say: called with the address once the server is up. Raises DashboardError if it cannot
    be served.
    """
    try:
        from optuna_dashboard import wsgi  # an extra
    except ImportError as error:
        raise DashboardError("The dashboard needs optuna-dashboard: pip install 'evomerge[dashboard]'.") from error
    view = view_of(run)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # shells start background jobs with SIGINT ignored
    with _serving(wsgi(view.storage), host, port) as address, suppress(KeyboardInterrupt):
        say(address, view)
        if browser:
            webbrowser.open(address)
        while True:
            time.sleep(PAUSE)
            view.update()


def export_view(run: Run, file: Path, *, overwrite: bool = False) -> int:
    """Write the Optuna study as SQLite or Optuna's journal, by the file's suffix; return the number of trials.

    Raises DashboardError for another suffix and for a study without scores, OutputError for an existing file.
    """
    if file.suffix not in SQLITE + JOURNAL:
        raise DashboardError(
            f"{file}: expected a name that ends in {', '.join(SQLITE)} (SQLite) or {', '.join(JOURNAL)} "
            "(Optuna's journal, which is quicker to write)."
        )
    check_file(file, overwrite=overwrite, inputs=named_paths(run.study.configuration))
    view = view_of(run)
    if not view.size:
        raise DashboardError(f"The study in {run.folder} has no scored candidate yet: nothing to write.")
    with replacing(file) as part:
        optuna.copy_study(
            from_study_name=view.name, from_storage=view.storage, to_storage=_file_storage(part, file.suffix)
        )
    return view.size


def _file_storage(file: Path, suffix: str) -> BaseStorage:
    if suffix in SQLITE:
        return RDBStorage(f"sqlite:///{file}")
    return JournalStorage(JournalFileBackend(str(file)))


@contextmanager
def _serving(application: Any, host: str, port: int) -> Iterator[str]:
    try:
        server = make_server(host, port, application, server_class=_Server, handler_class=_Quiet)
    except OSError as error:
        raise DashboardError(
            f"Cannot listen on {host}:{port}: {error.strerror}. Give another --port (0 takes a free one) or --host."
        ) from error
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{host}:{server.server_port}/dashboard"
    finally:
        server.shutdown()
        server.server_close()


def _axes(run: Run) -> tuple[Axis, ...] | None:
    """Return names and ranges from the search space, or None if the models cannot be read any more."""
    try:
        return of_space(run.space)
    except (EvomergeError, SpaceError, OSError):
        return None
