"""Progress of long operations: a bar on a terminal, occasional JSON lines elsewhere."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from evomerge.report.live import QUIET
from evomerge.report.terminal import Terminal


def counted(progress: Callable[[int, int], None], total: float) -> Callable[[float], None]:
    """Return a function that adds to what is done, of `total`, and reports it."""
    done = 0.0

    def step(amount: float) -> None:
        nonlocal done
        done += amount
        progress(round(done), round(total))

    return step


@contextmanager
def progress_bar(title: str, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[[int, int], None]]:
    """Show the completed share and the time left on stderr; yield a callback that takes (done, total).

    Without a terminal: a JSON line at most every QUIET seconds. clock: seconds of a monotonic clock.
    """
    console = Terminal(stderr=True)
    if not console.is_terminal:
        written = [clock()]

        def note(done: int, total: int) -> None:
            if clock() - written[0] >= QUIET:
                written[0] = clock()
                console.file.write(json.dumps({"event": "progress", "message": title, "done": done, "total": total}))
                console.file.write("\n")
                console.file.flush()

        yield note
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.percentage:>3.0f}%"))
    times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
    with Progress(*columns, *times, console=console, transient=True) as shown:
        task = shown.add_task(title, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)
