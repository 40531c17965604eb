"""A base and two fine-tunes of each kind on disk, and one merge of them: resident, exported, loaded by transformers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import transformers as tf
from torch import Tensor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Evaluator, EvaluatorError
from evomerge import plugins
from evomerge.cli import app
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.output.materialize import materialize
from evomerge.merging.recipe_models import open_models
from evomerge.plugins import PluginSpec
from evomerge.recipe import Input, Merge, Recipe
from evomerge.resident.resident import load_resident
from search_spaces.base import CoefficientTable
from tests.architectures.kinds import KINDS, VOCABULARY

#: Options of tasks that are paths.
_PATHS = ("file", "folder", "processor", "queries", "corpus")
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


def tasks_of(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Write small data of each sort to a folder, and return a task of a kind by evaluator; paths are relative."""
    lines = [f"{n} lazy dogs saw {n * 37 % 100} cats run" for n in range(30)]
    (folder / "text.txt").write_text("".join(f"{line}\n" for line in lines))
    rows: dict[str, list[dict[str, Any]]] = {
        "labels": [{"text": line, "label": n % 2} for n, line in enumerate(lines)],
        "queries": [{"query": line[:12], "positive": [str(n)]} for n, line in enumerate(lines)],
        "corpus": [{"id": str(n), "text": line} for n, line in enumerate(lines)],
    }
    for name, found in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in found))
    write_images(folder / "images")
    write_processor(folder / "processor")
    # Smooth scores: random networks may agree on the likeliest label.
    images = {"evaluator": "image_classification", "folder": "images", "processor": "processor", "score": "logprob"}
    labels = {"evaluator": "sequence_classification", "file": "labels.jsonl", "score": "logprob"}
    # The tiny CLIP reads the first token of a prompt only, as it has no end of text.
    prompts = {"templates": "{} car", "names": {"LABEL_0": "red", "LABEL_1": "blue"}}
    heads = KINDS[kind].architecture.endswith("ForImageClassification")
    return {
        "perplexity": {"evaluator": "perplexity", "window": 40, "file": "text.txt"},
        "sequence_classification": labels,
        "image_classification": images if heads else {**images, **prompts},
        "embedding_retrieval": {
            "evaluator": "embedding_retrieval",
            "queries": "queries.jsonl",
            "corpus": "corpus.jsonl",
        },
        "callable": {"evaluator": "callable", "function": "tests.architectures.models:mean_output", "kind": kind},
    }


def write_images(folder: Path, per_class: int = 15) -> None:
    """Noisy images of two classes, named after outputs of a head without names."""
    draw = np.random.default_rng(0)
    for number in range(2):
        place = folder / f"LABEL_{number}"
        place.mkdir(parents=True, exist_ok=True)
        for n in range(per_class):
            values = np.clip(draw.normal(60 + 120 * number, 60, (36, 40, 3)), 0, 255).astype(np.uint8)
            PIL.Image.fromarray(values).save(place / f"{n}.png")


def write_processor(folder: Path) -> None:
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    write_tokenizer(folder)


def evaluators_of(kind: str, base: Path, folder: Path) -> tuple[str, ...]:
    """The evaluators that score a kind on real data; `callable`, which takes every network, if there is no other."""
    opened = Checkpoint.open(base)
    model = load_resident(opened, base, None, "cpu")
    found = []
    for name, settings in tasks_of(folder, kind).items():
        if name == "callable":
            continue
        placed = {key: str(folder / value) if key in _PATHS else value for key, value in settings.items()}
        evaluator = plugins.build("evaluator", PluginSpec.read(placed, "evaluator"), Evaluator)
        try:
            evaluator.preflight(model)
            scores = evaluator.score(model)
        except EvaluatorError:
            continue
        assert np.isfinite(scores.values).all(), f"{kind}: {name} gives no finite scores"
        found.append(name)
    return tuple(found) or ("callable",)


def write_search(folder: Path, kind: str, trials: int = 3) -> Path:
    """A search of a kind over its two fine-tunes, with the evaluator that fits it."""
    settings = {
        "base": "base",
        "experts": {"a": "a", "b": "b"},
        "method": "task_arithmetic",
        "space": "layerwise",
        "tasks": {"task": tasks_of(folder, kind)[KINDS[kind].task]},
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
