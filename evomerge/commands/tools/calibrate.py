"""`evomerge tools calibrate`: Fisher information and second moments of models on data, as files for merges."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from evaluators import _strict_yaml as strict_yaml
from evomerge.commands.progress import progress_bar
from evomerge.durable import OutputError
from evomerge.merging.models.adapter import Adapted
from evomerge.merging.models.model import Model
from evomerge.merging.models.network import outline
from evomerge.merging.output.single_file import RECIPE, STATISTICS, check_file
from evomerge.merging.recipe_models import open_folders, open_models
from evomerge.prepare.calibration import collect
from evomerge.prepare.calibration.data import CollectionError, Example, Text, encode_texts, read_texts, readable_length
from evomerge.prepare.calibration.merged_layers import check_merge, collect_through
from evomerge.recipe import DTYPES, Input
from evomerge.recipe.file import read_merge, write_merge
from evomerge.recipe.model_names import model_data, published
from evomerge.resident.resident import ResidentModel, check_reads_text, choose_device, load_resident
from evomerge.text.sizes import size

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 _.+-]{0,99}")


@dataclass(frozen=True)
class Reading:
    """Options for reading data with a model.

    examples: their maximum number; None for all. length: maximum tokens per example; None for 512. dtype, device: of
    the model. separator: between prompt and answer.
    """

    examples: int | None = None
    length: int | None = None
    dtype: str | None = None
    device: str = "auto"
    separator: str = " "

    def __post_init__(self) -> None:
        if self.dtype not in (None, *DTYPES):
            raise CollectionError(f"dtype is {self.dtype!r}; expected {', '.join(DTYPES)}.")

    def encode(self, texts: Sequence[Text], model: ResidentModel) -> list[Example]:
        """Tokenize the texts for a model, within the limits of these options. Raises CollectionError."""
        length = readable_length(model.network, model.tokenizer, self.length)
        return encode_texts(texts, model.tokenizer, length, self.examples)


def collect_statistics(
    model: Input, data: Path, output: Path, settings: collect.Settings, reading: Reading, *, overwrite: bool
) -> tuple[dict[str, Any], list[str]]:
    """Write the statistics of one model, with its adapter, to the file `output`; return data and lines to print.

    Raises EvaluatorError or CollectionError for the data, CheckpointError, ModelError or CollectionError for the
    model, OutputError for the output; where possible before the first forward pass.
    """
    check_file(output, ours=STATISTICS, overwrite=overwrite, inputs=[*model.paths, data])
    texts = read_texts(data, reading.separator)
    checkpoint = open_folders(model, ())[model.name]
    check_continues_text(checkpoint, checkpoint.path)
    resident = load(checkpoint, checkpoint.path, reading.dtype or "float32", reading.device)
    examples = reading.encode(texts, resident)
    shapes = collect.planned(resident, settings.kinds)
    collect.check_disk(sum(collect.sizes(shapes).values()), output.absolute().parent)
    with progress_bar(f"{len(examples)} examples, {_sizes(shapes)}") as progress:
        statistics = collect.collect(resident, examples, settings, progress)
    collect.write(statistics, output, checkpoint, published(model))
    named = strict_yaml.dump(model_data(replace(model, statistics=str(output))), inline=True)
    facts = {**amounts(examples), "bytes": collect.sizes(shapes), "kinds": list(settings.kinds)}
    lines = [
        f"{facts['examples']} examples, {facts['tokens']} tokens; {_sizes(shapes)}",
        f"Wrote {output}. In a recipe: {named}",
    ]
    return {"output": str(output), **facts}, lines


def collect_through_recipe(
    recipe: Path, data: Mapping[str, Path], output: Path, batch_tokens: int, reading: Reading, *, overwrite: bool
) -> tuple[dict[str, Any], list[str]]:
    """Write the Gram matrices of a recipe's inputs, collected through merged layers, to the folder `output`.

    The folder gets one file per input, and recipe.yaml, which names them. Raises RecipeError, and the errors of
    `collect_statistics`.
    """
    merge = read_merge(recipe)
    check_merge(merge, list(data))
    check_folder(output, overwrite=overwrite)
    bare = replace(merge.recipe, inputs=tuple(replace(model, statistics=None) for model in merge.recipe.inputs))
    files = {name: output / file_name(name, number) for number, name in enumerate(data)}
    if output.is_dir():
        read = [*bare.paths, *data.values()]
        for file in files.values():
            check_file(file, ours=STATISTICS, overwrite=overwrite, inputs=read)
        check_file(output / "recipe.yaml", ours=RECIPE, overwrite=overwrite, inputs=read)
    texts = {model.name: read_texts(data[model.name], reading.separator) for model in merge.recipe.inputs}
    sources = open_models(bare)
    check_continues_text(sources.base, sources.tokenizer)
    # The dtype of the written merge, in which its layers will run.
    resident = load(sources.base, sources.tokenizer, merge.recipe.dtype, reading.device)
    examples = {name: reading.encode(part, resident) for name, part in texts.items()}
    output.mkdir(parents=True, exist_ok=True)
    shapes = collect.planned(resident, ("gram",))
    collect.check_disk(len(texts) * sum(collect.sizes(shapes).values()), output)
    with progress_bar(f"{len(texts)} inputs, {_sizes(shapes)} each") as progress:
        found = collect_through(replace(merge, recipe=bare), sources, resident, examples, batch_tokens, progress)
    models = open_folders(bare.base, bare.inputs)
    for model in bare.inputs:
        collect.write(found[model.name], files[model.name], models[model.name], published(model))
    inputs = tuple(replace(model, statistics=str(files[model.name])) for model in merge.recipe.inputs)
    write_merge(replace(merge, recipe=replace(merge.recipe, inputs=inputs)), output / "recipe.yaml")
    facts = {"output": str(output), "inputs": {name: amounts(part) for name, part in examples.items()}}
    return facts, [f"Wrote {len(files)} statistics. Next: evomerge merge {output / 'recipe.yaml'} -o DIR"]


def check_folder(output: Path, *, overwrite: bool) -> None:
    """Check that files may be written to a folder. Raises OutputError if it is a file, or has files to replace."""
    if output.exists() and not (output.is_dir() and (overwrite or not any(output.iterdir()))):
        raise OutputError(f"The output {output} exists. Choose another folder, or replace its files (--overwrite).")


def file_name(name: str, number: int) -> str:
    """Return a file name for an input: its own name, unless that could be more than a file name, such as a path."""
    return f"{name if _PLAIN.fullmatch(name) else f'input-{number}'}.safetensors"


def name_data(pairs: Sequence[str]) -> dict[str, Path]:
    """Parse `NAME=FILE` for each input. Raises CollectionError for an invalid or repeated one."""
    found = {}
    for pair in pairs:
        name, equals, file = pair.partition("=")
        if not (name and equals and file) or name in found:
            raise CollectionError(f"--data is {pair!r}; expected NAME=FILE once for each input of the recipe.")
        found[name] = Path(file)
    return found


def check_continues_text(base: Model, tokenizer: Path) -> None:
    """Check that a model is a causal language model with a tokenizer, without reading weights.

    Raises ModelError, CheckpointError or CollectionError if not.
    """
    check_reads_text(base, tokenizer)
    collect.check_network(outline(base).network)


def load(base: Model, tokenizer: Path, dtype: str | None, device: str) -> ResidentModel:
    """Load a model to collect statistics from. Raises CollectionError if memory does not suffice, or ModelError."""
    place, wanted = torch.device(choose_device(device)), None if dtype is None else getattr(torch, dtype)
    nbytes = sum(prod(base.shape(name)) * (wanted or base.dtype(name)).itemsize for name in base.names)
    collect.check_memory(nbytes, place, "The weights")
    resident = load_resident(base, tokenizer, wanted, str(place))
    if isinstance(base, Adapted):
        for name, tensor in resident.tensors.items():
            tensor.copy_(base.tensor(name))
        resident.settle()
    return resident


def amounts(examples: Sequence[Example]) -> dict[str, int]:
    """Return the numbers of examples and tokens."""
    return {"examples": len(examples), "tokens": sum(example.length for example in examples)}


def _sizes(shapes: collect.Shapes) -> str:
    found = {kind: nbytes for kind, nbytes in collect.sizes(shapes).items() if kind in collect.KINDS}
    return ", ".join(f"{kind} {size(nbytes)}" for kind, nbytes in found.items())
