"""What `evomerge plan` predicts against what a search takes: `python -m tests.benchmarks.bench_plan [--most 350]`.

Random Llamas in bfloat16, from 10 million parameters to 1 billion, with 2 to 8 experts and 1 to 4 workers; one task of
multiple choice. For each, `plan --measure` is run, then the search, by the command line as a user runs it. Printed:
predicted by measured seconds per candidate, seconds of the whole command, and bytes of memory at the peak of all
processes (each page once), without the driver and Ray's own. `--most`: millions of parameters of the largest model.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
import yaml
from safetensors.torch import save_file

from evomerge.study import Study
from tests.evaluators.tiny_llama import character_tokenizer, write_lines

#: Numbers for small models, and for those that take minutes per candidate (from LARGE million parameters on).
N_QUESTIONS, FEW_QUESTIONS = 20, 6
N_CANDIDATES, FEW_CANDIDATES = 6, 3
LARGE = 350
#: The start and the baselines besides the experts: the base, the uniform average, five sums.
N_BASELINES = 8
#: Environment variable that all processes of a search inherit, Ray's too.
MARK = "EVOMERGE_BENCHMARK"


@dataclass(frozen=True)
class Case:
    """Size of a model, and who merges and scores it. millions: of parameters, about."""

    millions: int
    layers: int
    hidden: int
    experts: int
    workers: int

    @property
    def is_large(self) -> bool:
        """Whether a candidate takes minutes."""
        return self.millions >= LARGE


CASES = (
    Case(10, 12, 256, 2, 1),
    Case(10, 12, 256, 8, 2),
    Case(10, 12, 256, 4, 4),
    Case(110, 15, 768, 2, 1),
    Case(110, 15, 768, 4, 2),
    Case(110, 15, 768, 8, 1),
    Case(350, 25, 1056, 3, 1),
    Case(1000, 20, 2048, 2, 1),
)


def write_models(folder: Path, case: Case) -> None:
    """A base with a network and a tokenizer, and experts, whose deltas are a twentieth of its weights."""
    torch.manual_seed(0)
    tokenizer = character_tokenizer()
    config = transformers.LlamaConfig(
        hidden_size=case.hidden,
        intermediate_size=8 * case.hidden // 3,
        num_hidden_layers=case.layers,
        num_attention_heads=case.hidden // 32,
        vocab_size=len(tokenizer),
    )
    network = transformers.LlamaForCausalLM(config).to(torch.bfloat16)
    for name in ("base", *names(case)):
        network.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    for name in names(case):
        tensors = {n: t.detach() + 0.001 * torch.randn_like(t) for n, t in network.named_parameters()}
        save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})


def names(case: Case) -> Sequence[str]:
    return "abcdefgh"[: case.experts]


def write_search(folder: Path, case: Case) -> Path:
    """A search file of a per-layer search, and its questions."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrst", k=5)) for _ in range(100)]
    rows = [
        {
            "question": " ".join(draw.choices(words, k=8)),
            "choices": draw.sample(words, k=4),
            "answer": draw.randrange(4),
        }
        for _ in range(2 * (FEW_QUESTIONS if case.is_large else N_QUESTIONS))
    ]
    write_lines(folder / "questions.jsonl", rows)
    search = {
        "base": str(folder / "base"),
        "experts": {name: str(folder / name) for name in names(case)},
        "method": "task_arithmetic",
        "space": {"kind": "blockwise"},
        "tasks": {"choice": {"evaluator": "multiple_choice", "file": str(folder / "questions.jsonl")}},
        "optimizer": "random",
        "budget": {
            "trials": case.experts + N_BASELINES + (FEW_CANDIDATES if case.is_large else N_CANDIDATES) * case.workers
        },
        "split": {"search": 0.5, "select": 0.25, "report": 0.25},
        "executor": "ray",
        "workers": case.workers,
        "study": str(folder / "run"),
    }
    file = folder / "search.yaml"
    file.write_text(yaml.safe_dump(search))
    return file


@dataclass
class Memory:
    """Peak of the memory of a search's workers, each shared page counted once."""

    mark: str
    peak: int = 0
    _done: threading.Event = field(default_factory=threading.Event)

    def watch(self) -> None:
        while not self._done.wait(0.25):
            self.peak = max(self.peak, sum(map(proportional, workers_of(self.mark))))

    def stop(self) -> None:
        self._done.set()


def workers_of(mark: str) -> list[Path]:
    """The folders in /proc of a search's workers."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found += [process] if (process / "cmdline").read_bytes().startswith(b"ray::Actor") else []
        except OSError:
            continue
    return found


def proportional(process: Path) -> int:
    """Bytes of a process, in which a page that several processes share counts by its share; 0 if it ended."""
    try:
        lines = (process / "smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def command(*words: str, **variables: str) -> str:
    """The standard output of a command of evomerge."""
    environment = os.environ | variables
    done = subprocess.run(
        [sys.executable, "-m", "evomerge.cli", *words], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return done.stdout


def compare(case: Case) -> str:
    """Run `plan` and the search, and return a row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), case)
        file = write_search(Path(folder), case)
        said = json.loads(command("plan", str(file), "--measure", "--json"))
        memory = Memory(uuid.uuid4().hex)
        thread = threading.Thread(target=memory.watch)
        thread.start()
        begun = time.monotonic()
        command("search", str(file), **{MARK: memory.mark})
        seconds = time.monotonic() - begun
        memory.stop()
        thread.join()
        study = Study.read(Path(folder) / "run")
        outcomes = [e.outcome for e in study.told if e.outcome and e.trial.split == "search" and e.outcome.seconds]
        each = statistics.median(sum(outcome.seconds.values()) for outcome in outcomes[case.workers :])
    spent = said["time"]
    pairs = (
        (spent["candidate_seconds"], each, "s"),
        (spent["start_seconds"] + spent["search_seconds"] + spent["selection_seconds"], seconds, "s"),
        (said["memory"]["bytes"] / 1e6, memory.peak / 1e6, "MB"),
    )
    cells = [
        f"{predicted:.4g} / {measured:.4g} {unit} = {predicted / measured:.2f}" for predicted, measured, unit in pairs
    ]
    return " | ".join([f"| {case.millions} M", str(case.experts), str(case.workers), *cells]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=110, help="millions of parameters of the largest model")
    parser.add_argument("--least", type=int, default=0, help="millions of parameters of the smallest model")
    given = parser.parse_args()
    print("| parameters | experts | workers | a candidate | the search | memory |\n|---|---|---|---|---|---|")
    for case in CASES:
        if given.least <= case.millions <= given.most:
            print(compare(case), flush=True)


if __name__ == "__main__":
    main()
