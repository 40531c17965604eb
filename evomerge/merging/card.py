"""The model card of a merge: what it was made from, how, and how it scored. A licence is never invented.

Format: https://huggingface.co/docs/hub/model-cards.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from evomerge import __version__, strict_yaml
from evomerge.recipe import Merge

#: Coefficient tables longer than this stay in recipe.yaml.
MAX_ROWS = 64


def model_card(merge: Merge, title: str, sources: Mapping[str, str], scores: Mapping[str, Any] | None) -> str:
    """README.md of an exported merge.

    sources: model name -> where it comes from, the base first. scores: row -> column -> number or text.
    """
    lines = [_front_matter(sources), f"# {title}", "", _summary(merge, sources), ""]
    lines += _table(("model", "from"), ([f"`{name}`", f"`{source}`"] for name, source in sources.items()))
    if scores:
        lines += ["## Scores", "", *_score_table(scores)]
    lines += ["## Coefficients", "", *_coefficients(merge)]
    lines += [
        "## The same weights again",
        "",
        "`evomerge merge recipe.yaml -o DIR` makes them from the models above, bit for bit;",
        "`evomerge.json` holds the SHA-256 of every file of weights that went in and came out.",
        "",
    ]
    return "\n".join(lines)


def _front_matter(sources: Mapping[str, str]) -> str:
    data = {
        "base_model": list(dict.fromkeys(sources.values())),
        "base_model_relation": "merge",
        "tags": ["merge", "mergekit", "evomerge"],
    }
    return f"---\n{strict_yaml.dump(data)}---\n"


def _summary(merge: Merge, sources: Mapping[str, str]) -> str:
    recipe = merge.recipe
    options = ", ".join(f"{name} {value}" for name, value in recipe.options.items())
    return (
        f"A merge of {len(recipe.inputs)} models into `{next(iter(sources.values()))}` with the method "
        f"`{recipe.method}`{f' ({options})' if options else ''}, made by evomerge {__version__} "
        f"with random seed {merge.seed}."
    )


def _score_table(scores: Mapping[str, Any]) -> list[str]:
    rows = {name: row if isinstance(row, Mapping) else {"score": row} for name, row in scores.items()}
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    return _table(("", *columns), ([name, *(_cell(row.get(c)) for c in columns)] for name, row in rows.items()))


def _coefficients(merge: Merge) -> list[str]:
    table = merge.table
    rows = len(table.groups) * len(table.values)
    if rows > MAX_ROWS:
        return [
            f"{rows} rows of coefficients for {len(table.groups)} groups of tensors: see `recipe.yaml`.",
            "",
        ]
    return _table(("tensors", "parameter", *(model.name for model in merge.recipe.inputs)), _rows(merge))


def _rows(merge: Merge) -> Iterator[list[str]]:
    n_inputs = len(merge.recipe.inputs)
    for name, array in merge.table.values.items():
        for group, row in zip(merge.table.groups, array, strict=True):
            values = row if len(row) == n_inputs else [row[0]] * n_inputs
            yield [group, name, *(_cell(float(value)) for value in values)]


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    head = list(header)
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines] + [""]
