"""A base and two fine-tunes of each kind on disk, and one merge of them: resident, exported, loaded by transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as tf
from torch import Tensor
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.merging.output.materialize import materialize
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Merge, Recipe
from evomerge.resident.resident import load_resident
from search_spaces.base import CoefficientTable
from tests.architectures.kinds import KINDS, VOCABULARY

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789 "[: VOCABULARY - 3]


def write_models(kind: str, folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Path]:
    """base, a and b in folders of these names, each with a tokenizer that has one token per character."""
    torch.manual_seed(0)
    network = KINDS[kind].network().to(dtype)
    start = {name: value.clone() for name, value in network.state_dict().items()}
    places = {name: folder / name for name in ("base", "a", "b")}
    for seed, place in enumerate(places.values()):
        network.load_state_dict(start)
        torch.manual_seed(100 + seed)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter, dtype=torch.float32) * 0.02)
        network.save_pretrained(place)
        write_tokenizer(place)
    return places


def write_tokenizer(folder: Path) -> None:
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<bos>", "<eos>", *CHARACTERS])}
    body = {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated", "invert": False},
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<pad>"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(body))
    names = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def a_merge(places: Mapping[str, Path], dtype: str | None = None) -> Merge:
    """Task arithmetic with other weights for every tensor: one in another's place is seen."""
    models = [Input(name, str(place)) for name, place in places.items()]
    recipe = Recipe(models[0], tuple(models[1:]), "task_arithmetic", dtype=dtype)
    base = open_models(recipe).base
    names = [name for name in base.names if base.mergeable(name)]
    first = np.linspace(0.1, 0.9, len(names))
    table = CoefficientTable({name: (name,) for name in names}, {"weight": np.stack([first, 1 - first], 1)})
    return Merge(recipe, table, seed=1)


def plain(folder: Path) -> Any:
    """A folder as its users load it."""
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    # For weights that want gradients torch picks another convolution in FalconMamba: other last bits.
    return getattr(tf, architecture).from_pretrained(folder, dtype="auto").eval().requires_grad_(False)


def outputs(network: Any, kind: str) -> list[Tensor]:
    """Every tensor that a forward pass gives, in the network's type."""
    given = {
        name: value.to(network.dtype) if value.is_floating_point() else value
        for name, value in KINDS[kind].inputs().items()
    }
    torch.manual_seed(0)
    with torch.no_grad():
        found = network(**given)
    return [value for value in found.values() if isinstance(value, Tensor)]


def differences(kind: str, places: Mapping[str, Path], out: Path, dtype: str | None = None) -> list[str]:
    """Where a merged network in memory differs from its export, written to `out` and loaded by transformers."""
    merge = a_merge(places, dtype)
    materialize(merge, out)
    sources = open_models(merge.recipe)
    wanted = None if dtype is None else getattr(torch, dtype)
    resident = load_resident(sources.base, sources.tokenizer, wanted, "cpu")
    sources.engine(dtype=wanted).apply(merge, resident.tensors)
    resident.settle()
    loaded = plain(out)
    ours, theirs = resident.network.state_dict(), loaded.state_dict()
    found = [
        name
        for name in {*ours, *theirs}
        if name not in ours or name not in theirs or not _same(ours[name], theirs[name])
    ]
    both = outputs(resident.network, kind), outputs(loaded, kind)
    found += [f"output {n}" for n, (a, b) in enumerate(zip(*both, strict=True)) if not _same(a, b)]
    assert both[0], "a forward pass gave no tensor"
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a, b) and bool(torch.isfinite(a.double()).all())


def mean_output(model: Any, kind: str) -> float:
    """A score for kinds that read no text: the mean of all that a forward pass gives."""
    return float(torch.stack([value.double().mean() for value in outputs(model.network, kind)]).mean())


def write_search(folder: Path, kind: str, trials: int = 3) -> Path:
    """A search of a kind over its two fine-tunes, with the evaluator that fits it."""
    text = "".join(f"{n} lazy dogs saw {n * 37 % 100} cats run\n" for n in range(30))
    (folder / "text.txt").write_text(text)
    tasks = {
        "perplexity": {"evaluator": "perplexity", "window": 40, "file": "text.txt"},
        "callable": {"evaluator": "callable", "function": "tests.architectures.models:mean_output", "kind": kind},
    }
    settings = {
        "base": "base",
        "experts": {"a": "a", "b": "b"},
        "method": "task_arithmetic",
        "space": "layerwise",
        "tasks": {"task": tasks[KINDS[kind].task]},
        "optimizer": "random",
        "budget": {"trials": trials},
        "executor": "serial",
        "device": "cpu",
        "seed": 0,
        "study": "study",
    }
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings))
    return file


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return done.exit_code, done.output
