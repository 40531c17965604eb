"""The model card of a merge: its models, method and scores. A license is never invented.

Format: https://huggingface.co/docs/hub/model-cards.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from evaluators import _strict_yaml as strict_yaml
from evomerge import __version__
from evomerge.merging.output.manifest import Manifest
from evomerge.recipe import Merge
from evomerge.text.printable import one_line
from search_spaces.base import FloatArray

_TAGS = ["merge", "mergekit", "evomerge"]
#: Longer coefficient tables are only in recipe.yaml.
MAX_ROWS = 64
#: Columns of scores whose names in `evomerge.json` do not say that they are ends of 95 % confidence intervals.
_HEADINGS = {"low": "95 % low", "high": "95 % high", "from": "difference 95 % low", "to": "difference 95 % high"}


def model_card(
    merge: Merge,
    title: str,
    manifest: Manifest,
    scores: Mapping[str, Any] | None,
    *,
    adapter: Sequence[str] = (),
    options: str = "",
) -> str:
    """Return README.md of an exported merge.

    manifest: provides the origins of the models.
    adapter: for a LoRA, sentences on how much of the merge it contains. options: of the command that creates it.
    scores: row -> column -> number or text. A text instead of a row, such as the verdict, is placed above the table.
    """
    sources = manifest.origins
    lines = [_front_matter(manifest, adapter=bool(adapter)), f"# {_text(title)}", "", _summary(merge, sources), ""]
    lines += _models(sources)
    if adapter:
        lines += ["## What the adapter holds", "", *(f"{_text(sentence)}  " for sentence in adapter), ""]
    if scores:
        lines += ["## Scores", "", *_score_table(scores)]
    lines += ["## Coefficients", "", *_coefficients(merge)]
    lines += [
        "## Reproduction",
        "",
        f"`evomerge merge recipe.yaml -o DIR{options}` reproduces the weights from the models above, bit for bit;",
        "`evomerge.json` records the SHA-256 of every input and output weight file.",
        "",
    ]
    return "\n".join(lines)


def _front_matter(manifest: Manifest, *, adapter: bool) -> str:
    """Return the metadata that the hub reads; it rejects base models that are not its repositories."""
    base = next(iter(manifest.inputs.values()))
    of_adapter = [base["source"]] if base["revision"] else []
    names = of_adapter if adapter else list(manifest.hub_names)
    data: dict[str, Any] = {}
    if names:
        data["base_model"] = names[0] if adapter else names
        data["base_model_relation"] = "adapter" if adapter else "merge"
    data |= {"library_name": "peft", "tags": ["lora", "merge", "evomerge"]} if adapter else {"tags": _TAGS}
    hint = "" if names else "# base_model: the models below were local folders; add their Hub repositories here\n"
    return f"---\n{hint}{strict_yaml.dump(data)}---\n"


def _summary(merge: Merge, sources: Mapping[str, str]) -> str:
    recipe = merge.recipe
    options = _text(", ".join(f"{name} {value}" for name, value in recipe.options.items()))
    return (
        f"A merge of {len(recipe.inputs)} models into {_code(next(iter(sources.values())))} with the method "
        f"{_code(recipe.method)}{f' ({options})' if options else ''}, made by evomerge {__version__} "
        f"with random seed {merge.seed}."
    )


def _models(sources: Mapping[str, str]) -> list[str]:
    """Return the models by name with their origins, unless these only repeat the names."""
    if all(name == source for name, source in sources.items()):
        base, *inputs = map(_code, sources)
        return [f"The base model is {base}; the models merged into it are {', '.join(inputs)}.", ""]
    return _table(("model", "from"), ([_code(name), _code(source)] for name, source in sources.items()))


def _score_table(scores: Mapping[str, Any]) -> list[str]:
    said = [f"{_text(text)}\n" for text in scores.values() if isinstance(text, str)]
    given = {name: row for name, row in scores.items() if not isinstance(row, str)}
    rows = {name: row if isinstance(row, Mapping) else {"score": row} for name, row in given.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    head = [_HEADINGS.get(column, column) for column in columns]
    cells = ([_text(name), *(_text(_cell(row.get(c))) for c in columns)] for name, row in rows.items())
    return said + _table(("", *map(_text, head)), cells)


def _coefficients(merge: Merge) -> list[str]:
    """Return one row per group of tensors and parameter; a parameter that is constant is one sentence."""
    values = merge.table.values
    constant = {name: array.flat[0] for name, array in values.items() if np.ptp(array) == 0}
    said = [f"`{name}` is {_cell(float(value))} for all tensors and models." for name, value in constant.items()]
    varied = {name: array for name, array in values.items() if name not in constant}
    lines = ["  \n".join(said), ""] if said else []
    n_groups = len(merge.table.groups)
    if n_groups * len(varied) > MAX_ROWS:
        text = f"{n_groups * len(varied)} rows of coefficients for {n_groups} groups of tensors: see `recipe.yaml`."
        return [*lines, text, ""]
    if not varied:
        return lines
    header = ("tensors", "parameter", *(_text(model.name) for model in merge.recipe.inputs))
    return lines + _table(header, _rows(merge, varied))


def _rows(merge: Merge, varied: Mapping[str, FloatArray]) -> Iterator[list[str]]:
    n_inputs = len(merge.recipe.inputs)
    for name, array in varied.items():
        for group, row in zip(merge.table.groups, array, strict=True):
            values = row if len(row) == n_inputs else [row[0]] * n_inputs
            yield [_text(group), name, *(_cell(float(value)) for value in values)]


def _text(text: str) -> str:
    """Escape a text so that Markdown shows it literally: no HTML, link, emphasis, code, list or heading."""
    plain = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    plain = re.sub(r"[\\`*]|(?<=\])\(|!(?=\[)|(?<!\w)_|_(?!\w)", r"\\\g<0>", plain)
    return re.sub(r"^(?=>|#{1,6}\s|[-+]\s|---|===|~~~|\d+[.)]\s)", r"\\", plain)


def _code(name: str) -> str:
    """Put a name into a code span, whatever backticks it contains."""
    plain = one_line(name)
    fence = "`" * (1 + max(map(len, re.findall("`+", plain)), default=0))
    space = " " if "`" in plain else ""
    return f"{fence}{space}{plain}{space}{fence}"


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(header)
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]
