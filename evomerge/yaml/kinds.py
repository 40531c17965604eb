"""Configuration files of evomerge and mergekit, identified by their keys so that an error names the right command."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from evaluators import _strict_yaml as strict_yaml
from evaluators._strict_yaml import Document
from evaluators._texts import TextError, read_text

Kind = Literal["recipe", "search", "mergekit", "evolve", "moe", "bakllama", "architecture"]

#: Kind -> its name, and how to use it.
_KINDS: dict[Kind, tuple[str, str]] = {
    "recipe": ("an evomerge recipe", "`evomerge merge {file} -o DIR` makes the weights"),
    "search": ("an evomerge search file", "use it with `evomerge check {file}` and `evomerge search {file}`"),
    "mergekit": (
        "a mergekit configuration",
        "`evomerge merge {file} -o DIR` merges it as it is, `evomerge import {file}` converts it to a recipe",
    ),
    "evolve": ("a configuration of mergekit-evolve", "`evomerge import {file}` converts it to a search file"),
    "moe": (
        "a configuration of mergekit-moe",
        (
            "evomerge does not build a mixture of experts from dense models. Build it with mergekit-moe; evomerge "
            "merges and searches the models that it writes. To merge the dense models into one, list them in a recipe"
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
    """Return the kind of a document, or None if its keys do not tell."""
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


def read_document(
    file: Path,
    *expected: Kind,
    missing: str,
    error: type[ValueError],
    max_bytes: int = strict_yaml.MAX_BYTES,
    read: Callable[[Path], str] = read_text,
) -> Document:
    """Read the only document of a file, empty for an empty file.

    Args:
        file: The file.
        expected: The kinds of it that are accepted, and those that its keys do not tell.
        missing: What to say after "FILE does not exist: ".
        error: Raised for a file that is missing, no text, no YAML, or of another kind.
        max_bytes: The largest file that is read.
        read: How its text is read. Raises FileNotFoundError or TextError.
    """
    try:
        documents = strict_yaml.load_all(read(file), source=str(file), max_bytes=max_bytes)
    except FileNotFoundError as found:
        raise error(f"{file} does not exist: {missing}") from found
    except (TextError, strict_yaml.StrictYamlError) as found:
        raise error(str(found)) from found
    why = _refusal(file, documents, expected)
    if why is not None:
        raise error(why)
    return documents[0] if documents else Document(None, str(file))


def _refusal(file: Path, documents: Sequence[Document], expected: Sequence[Kind]) -> str | None:
    """Return why a file is not of the `expected` kinds; None if it is, or if its kind is unknown."""
    if len(documents) > 1:
        return _several(file, documents)
    kind = kind_of(documents[0].data) if documents else None
    if kind is None or kind in expected:
        return None
    name, instead = _KINDS[kind]
    return f"{file} is {name}: {instead.format(file=file)}."


def _several(file: Path, documents: Sequence[Document]) -> str:
    """Explain a mergekit-multi file, which holds several merges that may use each other's results by name."""
    if any(kind_of(document.data) != "mergekit" for document in documents):
        places = ", ".join(str(document.line()) for document in documents)
        return f"{file} holds {len(documents)} YAML documents, at lines {places}; expected one."
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
        f"{file} is a configuration of mergekit-multi with {len(documents)} merges. Put each into its own file and "
        f"merge them in this order: {listed}. `evomerge merge FILE -o NAME`, always in the same folder, writes each "
        "result where the later ones look for its name; `evomerge import` converts each to a recipe."
    )


def _texts(data: Any) -> set[str]:
    """Return every text in the data that may name a model, without its revision and adapter."""
    if isinstance(data, str):
        return {data.partition("+")[0].partition("@")[0]}
    values = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    return {text for value in values for text in _texts(value)}
