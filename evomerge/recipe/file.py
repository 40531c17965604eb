"""Recipe files: a merge as plain data, written and read back; every error names its line."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from evaluators import _strict_yaml as strict_yaml
from evomerge.durable import write_text
from evomerge.plugins import PluginError, check_name
from evomerge.recipe.model_names import model_data, portable
from evomerge.recipe.reader import FORMAT, RecipeReader
from evomerge.recipe.recipe import Input, Merge, RecipeError
from evomerge.yaml.kinds import kind_of, read_document

#: Groups that name every tensor of a large mixture of experts take several megabytes.
MAX_BYTES = 64_000_000


def merge_to_dict(merge: Merge) -> dict[str, Any]:
    """Convert a merge to plain data (JSON, YAML); floats survive bit for bit."""
    slices = [
        {"blocks": part.blocks, "base": dict([part.base]), "inputs": dict(part.inputs)} for part in merge.recipe.slices
    ]
    return {
        "evomerge": FORMAT,
        "base": _input_to_dict(merge.recipe.base),
        "inputs": [_input_to_dict(model) for model in merge.recipe.inputs],
        **({"slices": slices} if slices else {}),
        "method": merge.recipe.method,
        "options": dict(merge.recipe.options),
        "dtype": merge.recipe.dtype,
        "tokenizer": merge.recipe.tokenizer,
        **({"vocabulary": asdict(merge.recipe.vocabulary)} if merge.recipe.vocabulary else {}),
        **({"chat_template": merge.recipe.chat_template} if merge.recipe.chat_template else {}),
        "seed": merge.seed,
        "groups": {group: list(members) for group, members in merge.table.groups.items()},
        "coefficients": {
            name: {group: [float(value) for value in row] for group, row in zip(merge.table.groups, array, strict=True)}
            for name, array in merge.table.values.items()
        },
    }


def merge_from_dict(data: Any) -> Merge:
    """Read a merge written by `merge_to_dict`, or a shorter one written by hand. Raises RecipeError.

    Only `evomerge`, `base`, `inputs` and `method` are required. `inputs` is a list of models or a mapping
    name -> model; a model is a path or {name, path, revision, adapter, statistics}. A slice is {blocks, inputs: {name:
    first block}, base: {name: first block}}; its base defaults to the first of its inputs. Without `groups` there is
    a single one, `all`, with every tensor. A coefficient is a number, a list with one number per input, or a mapping
    input -> number; with `groups`, a number or list for all of them, or a mapping group -> one of these three.
    """
    return RecipeReader(strict_yaml.Document(data, "recipe")).merge()


@dataclass(frozen=True)
class RecipeFile:
    """A recipe file after reading: the merge, and the location of each of its values in the text."""

    merge: Merge
    document: strict_yaml.Document

    def refuse(self, place: tuple[str, ...], why: str) -> NoReturn:
        """Raise RecipeError with the line of a value. place: keys, or ("coefficients", parameter, group, input)."""
        ways: list[strict_yaml.Path] = [place]
        if len(place) == 4:
            *start, group, name = place
            number = [model.name for model in self.merge.recipe.inputs].index(name)
            ways += [(*start, group, number), (*start, name), (*start, number)]
        found = next((way for way in ways if way in self.document.lines), place)
        raise RecipeError(f"{self.document.where(*found)}: {why}")


def read_merge(path: Path, *, allow_code: bool = False) -> Merge:
    """Read a recipe file; relative model paths are relative to the file. Raises RecipeError with the line.

    allow_code: whether its method may be an external module, `module:name`, whose code runs on import.
    """
    return _read(path, _load(path), allow_code=allow_code).merge


def read_own(path: Path, *, allow_code: bool = False) -> RecipeFile | None:
    """Read a recipe file with the locations of its values; None for a mergekit configuration."""
    document = _load(path)
    return None if kind_of(document.data) == "mergekit" else _read(path, document, allow_code=allow_code)


def _read(path: Path, document: strict_yaml.Document, *, allow_code: bool) -> RecipeFile:
    read = RecipeFile(RecipeReader(document, path.absolute().parent).merge(), document)
    method = read.merge.recipe.method
    if ":" in method and not allow_code:
        read.refuse(
            ("method",),
            f"the method {method!r} is an external module, whose code runs when it is imported. If you trust this "
            "recipe and that module: `evomerge merge RECIPE --allow-code`.",
        )
    try:
        check_name("merge method", method)
    except PluginError as error:
        read.refuse(("method",), str(error))
    return read


def _load(path: Path) -> strict_yaml.Document:
    missing = "expected a recipe file or a mergekit configuration. The folder of an export contains one, recipe.yaml."
    return read_document(path, "recipe", "mergekit", missing=missing, error=RecipeError, max_bytes=MAX_BYTES)


def write_merge(merge: Merge, path: Path, folder: Path | None = None) -> None:
    """Write a recipe file that `read_merge` reads back; local model paths are relative to its folder.

    folder: final folder of the file, if it will be moved.
    """
    write_text(path, dump_merge(merge, folder or path.parent))


def dump_merge(merge: Merge, folder: Path | None) -> str:
    """Return the text of a recipe file in `folder`, or for any folder (None)."""
    return strict_yaml.dump(merge_to_dict(portable_merge(merge, folder)))


def portable_merge(merge: Merge, folder: Path | None) -> Merge:
    """Return the merge with its models named relative to `folder`, see `model_names.portable`."""
    base, inputs = merge.recipe.base, merge.recipe.inputs
    recipe = replace(merge.recipe, base=portable(base, folder), inputs=tuple(portable(m, folder) for m in inputs))
    return replace(merge, recipe=recipe)


def _input_to_dict(model: Input) -> dict[str, Any]:
    data = model_data(model)
    return {"name": model.name} | ({"path": data} if isinstance(data, str) else data)
