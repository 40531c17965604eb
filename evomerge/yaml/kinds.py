"""Configuration files of evomerge and mergekit, told apart by their keys, so that a refusal names the right command."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from evaluators._strict_yaml import Document

Kind = Literal["recipe", "search", "mergekit", "evolve", "moe", "bakllama", "architecture"]

#: Kind -> what it is called, and what to do with it.
_KINDS: dict[Kind, tuple[str, str]] = {
    "recipe": ("an evomerge recipe", "`evomerge merge {file} -o DIR` makes the weights"),
    "search": ("an evomerge search file", "`evomerge check {file}` and `evomerge search {file}` take it"),
    "mergekit": (
        "a mergekit configuration",
        "`evomerge merge {file} -o DIR` takes it as it is, `evomerge import {file}` makes a recipe of it",
    ),
    "evolve": ("a configuration of mergekit-evolve", "`evomerge import {file}` makes a search file of it"),
    "moe": (
        "a configuration of mergekit-moe",
        (
            "evomerge does not build a mixture of experts out of dense models. Build it with mergekit-moe; evomerge "
            "merges and searches the models that it writes. To merge the dense models into one, name them in a recipe"
        ),
    ),
    "bakllama": (
        "a configuration of bakllama",
        (
            "write each of its layer_slices as one of mergekit's `slices`, {{sources: [{{model: MODEL, layer_range: "
            "[START, END]}}]}}, with `merge_method: passthrough`"
        ),
    ),
    "architecture": (
        "a description of an architecture for mergekit",
        "evomerge needs none: it reads the names of tensors from the weights",
    ),
}


def kind_of(data: Any) -> Kind | None:
    """The kind of a document, or None where its keys do not say."""
    if not isinstance(data, dict):
        return None
    experts = data.get("experts")
    of_moe = isinstance(experts, list) and any(isinstance(each, dict) and "source_model" in each for each in experts)
    tests: tuple[tuple[Kind, bool], ...] = (
        ("mergekit", "merge_method" in data),
        ("evolve", "genome" in data),
        ("moe", "gate_mode" in data or of_moe),
        ("bakllama", "layer_slices" in data),
        ("architecture", "layer_templates" in data),
        ("recipe", "evomerge" in data),
        ("search", experts is not None and "base" in data),
    )
    return next((kind for kind, fits in tests if fits), None)


def refusal(file: Path, documents: Sequence[Document], *expected: Kind) -> str | None:
    """Why a file of other kinds than `expected` is refused; None for one of these, or of no known kind."""
    if len(documents) > 1:
        return _several(file, documents)
    kind = kind_of(documents[0].data) if documents else None
    if kind is None or kind in expected:
        return None
    name, instead = _KINDS[kind]
    return f"{file} is {name}: {instead.format(file=file)}."


def _several(file: Path, documents: Sequence[Document]) -> str:
    """mergekit-multi's files hold several merges, which may take each other's results by name."""
    if any(kind_of(document.data) != "mergekit" for document in documents):
        places = ", ".join(str(document.line()) for document in documents)
        return f"{file} holds {len(documents)} YAML documents, which begin at lines {places}; one is expected."
    names = {str(document.data["name"]): n for n, document in enumerate(documents) if "name" in document.data}
    takes = [
        {names[text] for text in _texts(document.data) if text in names} - {n} for n, document in enumerate(documents)
    ]
    order: list[int] = []
    while len(order) < len(documents):
        ready = [n for n in range(len(documents)) if n not in order and takes[n] <= set(order)]
        order += ready[:1] or [n for n in range(len(documents)) if n not in order]
    said = {n: ascii(name) for name, n in names.items()}
    listed = ", ".join(f"{said.get(n, 'the unnamed one')} (line {documents[n].line()})" for n in order)
    return (
        f"{file} is a configuration of mergekit-multi with {len(documents)} merges. Give each a file of its own and "
        f"merge them in this order: {listed}. `evomerge merge FILE -o NAME`, always in the same folder, writes each "
        "result where the later ones look for its name; `evomerge import` makes a recipe of each."
    )


def _texts(data: Any) -> set[str]:
    """Every text in the data that may name a model, without its revision and adapter."""
    if isinstance(data, str):
        return {data.partition("+")[0].partition("@")[0]}
    values = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return {text for value in values for text in _texts(value)}
