"""Makes a set of models and tasks in a folder, or finds it there: what is up to date is not made again."""

import fcntl
import hashlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random

import torch
from transformers import LlamaForCausalLM

from .files import lm_eval_task, write_examples
from .tasks import Task
from .train import Network, Schedule, character_tokenizer, fit, new_model

KEY_FILE = ".content-key"


@dataclass(frozen=True)
class Expert:
    """How one expert is made from the base, and how it is saved."""

    schedule: Schedule
    dtype: torch.dtype = torch.float32
    shard_size: str = "5GB"


@dataclass(frozen=True)
class ModelSet:
    """Everything that decides what a set of models and tasks is. An expert is trained on the task of its name."""

    network: Network
    tasks: tuple[Task, ...]
    base: Schedule
    experts: Mapping[str, Expert]
    n_examples: Mapping[str, int]


def prepare(root: Path, models: ModelSet, say: Callable[[str], None]) -> None:
    """Make what is missing or out of date in `root`: base/, one folder per expert, data/ and lm_eval/.

    Raises FileExistsError where a folder to be written holds something that was not made here.
    """
    root.mkdir(parents=True, exist_ok=True)
    with _only_one(root):
        data_key = _key("data", {task.name: models.n_examples[task.name] for task in models.tasks})
        _publish(root / "data", data_key, lambda folder: _write_data(folder, models), say)
        _write_lm_eval(root, models)
        base_key = _key(models.network, models.base, [task.name for task in models.tasks])
        _publish(root / "base", base_key, lambda folder: _make_base(folder, models, say), say)
        for name, expert in models.experts.items():
            make = partial(_make_expert, base=root / "base", name=name, models=models, say=say)
            _publish(root / name, _key(base_key, name, expert), make, say)


def _key(*settings: object) -> str:
    """Hash of the settings and of this program's own text."""
    digest = hashlib.sha256(repr(settings).encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


@contextmanager
def _only_one(root: Path) -> Iterator[None]:
    """Hold the folder: another process that wants to make the same waits, and then finds it made."""
    with (root / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _publish(folder: Path, key: str, make: Callable[[Path], None], say: Callable[[str], None]) -> None:
    """Make `folder` in a temporary folder beside it and rename, unless it is there with the same key."""
    marker = folder / KEY_FILE
    if marker.exists() and marker.read_text() == key:
        say(f"{folder.name}: up to date")
        return
    if folder.exists() and not marker.exists():
        raise FileExistsError(f"{folder} was not made by this program; move it away or give another --out.")
    unfinished = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    make(unfinished)
    (unfinished / KEY_FILE).write_text(key)
    if folder.exists():
        shutil.rmtree(folder)
    unfinished.rename(folder)


def _write_data(folder: Path, models: ModelSet) -> None:
    for task in models.tasks:
        rng = Random(f"evaluation {task.name}")
        examples = task.evaluation(rng, models.n_examples[task.name])
        write_examples(folder / f"{task.name}.jsonl", examples)


def _write_lm_eval(root: Path, models: ModelSet) -> None:
    """Written at every call, since the files name their data by absolute path and folders are moved."""
    (root / "lm_eval").mkdir(exist_ok=True)
    for task in models.tasks:
        file = root / "lm_eval" / f"{task.name}.yaml"
        text = lm_eval_task(task, root / "data" / f"{task.name}.jsonl")
        if not file.exists() or file.read_text() != text:
            unfinished = file.with_suffix(".partial")
            unfinished.write_text(text)
            unfinished.replace(file)


def _make_base(folder: Path, models: ModelSet, say: Callable[[str], None]) -> None:
    model = new_model(models.network, seed=0)
    fit(model, models.tasks, models.base, seed=1, progress=_Progress("base", models.base.steps, say))
    _save(model, folder, Expert(models.base))


def _make_expert(folder: Path, base: Path, name: str, models: ModelSet, say: Callable[[str], None]) -> None:
    expert = models.experts[name]
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    (task,) = (task for task in models.tasks if task.name == name)
    fit(model, [task], expert.schedule, seed=2, progress=_Progress(name, expert.schedule.steps, say))
    _save(model, folder, expert)


def _save(model: LlamaForCausalLM, folder: Path, expert: Expert) -> None:
    model.to(expert.dtype).save_pretrained(folder, max_shard_size=expert.shard_size)
    character_tokenizer().save_pretrained(folder)


class _Progress:
    """Says every few seconds how far one training is."""

    def __init__(self, name: str, steps: int, say: Callable[[str], None], every: float = 5.0) -> None:
        self._name, self._steps, self._say, self._every = name, steps, say, every
        self._start = self._said = time.monotonic()

    def __call__(self, step: int, loss: float) -> None:
        now = time.monotonic()
        if now - self._said < self._every and step != self._steps:
            return
        self._said = now
        left = (now - self._start) / step * (self._steps - step)
        self._say(f"{self._name}: step {step} of {self._steps}, loss {loss:.3f}, {left:.0f} s left")
