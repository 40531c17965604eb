"""Ledgers of every schema hold the same study. `python -m tests.evomerge.study.test_schemas FILE` writes one."""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from evaluators.base import Scores
from evomerge.study import Study
from evomerge.study.lines import FILE
from evomerge.study.state import SCHEMA
from evomerge.trial import CANARY, Failure, Outcome, Trial
from tests.contracts.study import Unsynced, baseline, describe

IDS = tuple(f"e{n:02d}" for n in range(12))
FOLDER = Path(__file__).parent
SCHEMAS = (2, 3)


def scores(ids: tuple[str, ...], *values: float, **rest: object) -> Scores:
    return Scores(ids, np.array([values[n % len(values)] for n in range(len(ids))]), **rest)  # type: ignore[arg-type]


def written(folder: Path) -> Study:
    """A study with all that records may hold; log-likelihoods have few digits, which every schema keeps."""
    study = Study.create(folder, {"seed": 0}, {"python": "3"}, files=Unsynced())
    x = np.array([1 / 3, 0.0, 1.0])
    study.ask(Trial(0, x, label=CANARY))
    study.tell(Outcome(0, {"math": scores(IDS, 1.0)}), None)
    study.ask(Trial(1, None, baseline(), label="parent:add"))
    texts = tuple(text for _ in range(6) for text in (" 7\n", None))
    judged = scores(IDS, 1.0, 0.0, truncated=1, accepted=texts)
    study.tell(Outcome(1, {"math": judged}, seconds={"merge": 0.1 + 0.2}, worker="w"), [-0.5])
    study.ask(Trial(2, x, seed=5))
    same = tuple(np.array([-1.5, -n / 4]) for n in range(12))
    ragged = tuple(np.full(1 + n % 3, -1.25) for n in range(3))
    smooth = scores(IDS[:3], -1 / 3, np.nan, -np.inf, choices=ragged, metric=np.array([1.0, 0.0, -0.0]))
    study.tell(Outcome(2, {"math": scores(IDS, 0.0, 1.0, choices=same), "chat": smooth}), [0.1 + 0.2, -0.0])
    study.ask(Trial(3, x, examples={"math": IDS[::5]}, cost=0.25))
    event = {"event": "worker_died", "trial": 3, "attempt": 1}
    study.tell(Outcome(3, {"math": scores(IDS[::5], 0.5)}, events=(event,)), None)
    study.ask(Trial(4, x, extends=3, cost=0.75))
    study.tell(Outcome(4, failure=Failure("ValueError", "bad \u2603", "trace")), None)
    study.ask(Trial(5, x, examples={"math": IDS[::-1]}, gradient={"math": 0.5}, cost=3.0))
    slope = np.array([1e-300, -1 / 3, np.nan])
    study.tell(Outcome(5, {"math": scores(IDS[::-1], 1.5, np.inf)}, gradient=slope), None)
    study.ask(Trial(6, np.array([0.5, 0.25, 0.125])))
    study.event("paused", reason="it is late")
    return study


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.fault("F40", "stored ledgers of every schema are opened", "the same numbers; resumed")
def test_a_ledger_of_each_schema_is_read_and_resumed(schema: int, tmp_path: Path) -> None:
    study = written(tmp_path / "now")
    study.close()
    (tmp_path / "then").mkdir()
    (tmp_path / "then" / FILE).write_bytes((FOLDER / f"schema_{schema}.jsonl").read_bytes())
    assert describe(Study.read(tmp_path / "then")) == describe(study)
    resumed = Study.open(tmp_path / "then", {"seed": 0}, files=Unsynced())
    resumed.tell(Outcome(6, {"math": scores(IDS, 1.0, 0.0, 0.5)}), [0.25])
    resumed.close()
    assert describe(Study.read(tmp_path / "then")) == describe(resumed)


def test_the_newest_schema_has_a_frozen_ledger() -> None:
    assert max(SCHEMAS) == SCHEMA


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        written(Path(made)).close()
        Path(sys.argv[1]).write_bytes((Path(made) / FILE).read_bytes())
