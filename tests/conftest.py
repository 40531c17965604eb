"""What all tests share: an offline, quiet, single-threaded environment, and the tiny trained models."""

import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"

# Before anything imports torch, tokenizers or datasets: they read these at import.
os.environ.update(
    {
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str(CACHE / "datasets"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", os.environ["OMP_NUM_THREADS"])

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.contracts.other_process import OtherProcess  # noqa: E402

# Shells ignore Ctrl-C in background jobs, nohup ignores SIGHUP, and child processes would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# The same examples in every run, however busy the machine is.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")


@dataclass(frozen=True)
class TinyModels:
    """Folders of a small trained base and three experts (float32; one sharded, one bfloat16) and their tasks.

    tasks: JSON lines by task name (`count` and `largest` are multiple choice, `sort` is exact match).
    lm_eval: folder of the same tasks for lm-eval's `include_path`.
    """

    root: Path
    base: Path
    experts: Mapping[str, Path]
    tasks: Mapping[str, Path]
    lm_eval: Path


@pytest.fixture(scope="session")
def tiny() -> TinyModels:
    """Trained in seconds at first use, then found in `.cache/` until the program that makes them changes."""
    from experiments.tiny_models.prepare import prepare
    from experiments.tiny_models.sets import TINY

    root = CACHE / "tiny-models"
    prepare(root, TINY, say=print)
    return TinyModels(
        root=root,
        base=root / "base",
        experts={name: root / name for name in TINY.experts},
        tasks={task.name: root / "data" / f"{task.name}.jsonl" for task in TINY.tasks},
        lm_eval=root / "lm_eval",
    )


@pytest.fixture(scope="session")
def other_process() -> Iterator[OtherProcess]:
    """A process with another hash seed and another number of threads."""
    process = OtherProcess()
    yield process
    process.close()
