"""The searches that are disturbed: one candidate at a time; two workers on toys, on the demo's models; a cluster."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from tests.soak.nodes import Nodes
from tests.toys import search_file

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "experiments" / "00-quickstart" / "search.yaml"

#: A task whose next reply is nonsense of the kind that the file `corrupt` asks for, which it takes away.
REPLIES = '''
"""Scores of toys; what a damaged evaluator might return instead."""
import os, time
from pathlib import Path

import numpy as np

FLAG = Path(__file__).with_name("corrupt")


def score(model, ids):
    time.sleep(0.2)
    try:
        kind = FLAG.read_text()
        FLAG.unlink()
    except FileNotFoundError:
        kind = ""
    if kind == "nan":
        return [float("nan")] * len(ids)
    if kind == "short":
        return [0.5]
    if kind == "text":
        return "no numbers"
    if kind == "raise":
        raise RuntimeError("x" * 100_000)
    if kind == "exit":
        os._exit(7)
    mean = sum(float(tensor.double().abs().mean()) for tensor in model.tensors.values())
    return [float(np.sin(mean * 50 + number)) for number, _ in enumerate(ids)]
'''
KINDS = ("nan", "short", "text", "raise", "exit")


@dataclass(frozen=True)
class Search:
    """A search to disturb.

    file: its search file. study: its run. exact: whether a disturbed one gives the same. corrupt: a file that asks for
    a corrupt reply. nodes: of the cluster it runs on, None if it runs on this machine alone.
    """

    kind: str
    file: Path
    study: Path
    exact: bool
    corrupt: Path | None = None
    nodes: Nodes | None = None


def write_search(
    kind: str, folder: Path, disk: Path, number: int, *, delay: float, nodes: Nodes | None = None
) -> Search:
    """Write a search file. disk: where its run goes. delay: seconds of a candidate of the toys."""
    folder.mkdir(parents=True)
    study = disk / kind
    if kind == "demo":
        data: dict[str, Any] = strict_yaml.load(DEMO.read_text(encoding="utf-8")).data
        for place in (data, data["experts"], *data["tasks"].values()):
            for key in place:
                if isinstance(place[key], str) and place[key].startswith("../../"):
                    place[key] = str(ROOT / place[key].removeprefix("../../"))
        data |= {"workers": 2, "ray_address": "local", "seed": number, "study": str(study)}
        return _written(kind, folder, data, study)
    changes: dict[str, Any] = {"seed": number, "study": str(study), "budget": {"trials": 150}}
    tasks: dict[str, Any] = {"one": {"evaluator": "synthetic", "n_examples": 60, "delay": delay, "fail": 0.05}}
    if kind in ("workers", "cluster"):
        (folder / "replies.py").write_text(REPLIES, encoding="utf-8")
        tasks["two"] = {"evaluator": "callable", "function": "replies:score", "examples": [f"e{n}" for n in range(40)]}
        changes |= {"executor": "ray", "ray_address": "local", "workers": 2, "trial_timeout": 60}
    if kind == "cluster":
        changes |= {"ray_address": "auto", "ray_insecure": True, "workers": "auto", "budget": {"trials": 400}}
    return _written(kind, folder, search_file(folder, tasks=tasks, **changes), study, nodes)


def _written(kind: str, folder: Path, data: dict[str, Any], study: Path, nodes: Nodes | None = None) -> Search:
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(data), encoding="utf-8")
    corrupt = folder / "corrupt" if kind in ("workers", "cluster") else None
    return Search(kind, file, study, exact=kind == "one_slot", corrupt=corrupt, nodes=nodes)
