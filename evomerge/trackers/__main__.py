"""`python -m evomerge.trackers KIND TARGET RUN`: started by `evomerge search`, of whose end it hears on standard input.

Lines that people should see begin with SAID on standard output, which is the log in the run's folder.
"""

import hashlib
import os
import sys
from pathlib import Path

from evomerge import plugins
from evomerge.config.fields import named_paths
from evomerge.plugins import PluginSpec
from evomerge.run import Run
from evomerge.study.follow import Follower
from evomerge.study.lines import FILE
from evomerge.text.masking import shareable
from evomerge.trackers import FOLDER, SAID
from evomerge.trackers._following import TheEnd, follow
from evomerge.trackers.base import RunInfo, Tracker


def main(kind: str, target: str, folder: Path) -> int:
    """Follow the study in `folder`; the exit code."""
    os.nice(10)  # whatever this costs, a candidate costs more

    def say(text: str) -> None:
        sys.stdout.write(f"{SAID}{text}\n")
        sys.stdout.flush()

    end = TheEnd(sys.stdin.buffer, say)
    run = run_in(folder)
    tracker: Tracker = plugins.build("tracker", PluginSpec(kind), Tracker, target=target, run=run)
    return 0 if follow(tracker, Follower(folder), end, say) else 1


def run_in(folder: Path) -> RunInfo:
    """Data of a run that trackers may see: no secrets, and names instead of paths."""
    configuration = Run(folder).study.configuration
    shared = shareable(configuration, named_paths(configuration))
    return RunInfo(identity(folder), folder.resolve().name, folder / FOLDER, shared)


def identity(folder: Path) -> str:
    """The same for every session of a study: of the first record of its ledger, and where it lies."""
    with (folder / FILE).open("rb") as ledger:
        first = ledger.readline()
    return hashlib.sha256(first + bytes(folder.resolve())).hexdigest()[:16]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], Path(sys.argv[3])))
