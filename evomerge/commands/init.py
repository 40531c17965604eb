"""`evomerge init`: inspection of the models and a commented search file with sensible defaults."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from evaluators._own_code import look_in
from evomerge import plugins
from evomerge.bench import build_evaluator
from evomerge.commands.tasks import guess_tasks
from evomerge.config import load_config
from evomerge.config.fields import PATH_OPTIONS
from evomerge.durable import write_text
from evomerge.launch.previews import as_text
from evomerge.merging.models.compatibility import tokenizer_differences
from evomerge.merging.models.model import Model
from evomerge.merging.output.single_file import check_file
from evomerge.merging.recipe_models import open_folders, open_models
from evomerge.plugins import PluginSpec
from evomerge.recipe import Input, Recipe
from evomerge.recipe.model_names import model_data, named_input, short_name
from evomerge.text.printable import is_name, one_line

#: Examples of each task that are shown.
SHOWN_EXAMPLES = 3
#: The budget that a search file gets by default.
BUDGET: Mapping[str, Any] = MappingProxyType({"trials": 200})


@dataclass(frozen=True)
class Draft:
    """A search file, not written yet, with facts about the models. notes: warnings for the user."""

    text: str
    facts: str
    notes: tuple[str, ...]


def draft(
    base: str,
    experts: Sequence[str],
    tasks: Sequence[str],
    file: Path,
    study: str,
    budget: Mapping[str, Any] = BUDGET,
) -> Draft:
    """Draft the search file `file` for these models and tasks.

    Raises CheckpointError for unsuitable models, DraftError for unknown tasks.
    """
    entries = guess_tasks(tasks)
    inputs, below = named_inputs(experts), named_input("base", base)
    named = open_folders(below, inputs)
    tokenizer = "union" if len(_rows(named.values())) > 1 else None
    open_models(Recipe(below, inputs, "task_arithmetic", tokenizer=tokenizer))
    opened = named.pop("base")
    differences = tuple(tokenizer_differences(opened, named))
    taken = tuple(
        f"task {text!r} is used as an lm-eval task, since no such file exists"
        for text, (_, entry) in zip(tasks, entries, strict=True)
        if entry.get("task") == text
    )
    facts = _facts(opened)
    folder = file.absolute().parent
    place = {
        "facts": facts,
        "notes": "".join(f"# Note: {one_line(note)}\n" for note in differences),
        "base": _inline(_model(below, folder)),
        "experts": _block({model.name: _model(model, folder) for model in inputs}),
        "dtype": _dtype(opened),
        "tokenizer": tokenizer or "null",
        "tasks": _block({name: _task(entry, folder) for name, entry in entries}),
        "optimizers": _listed("optimizer"),
        "weights": _inline({name: 1 if number else 2 for number, (name, _) in enumerate(entries)}),
        "lag": _inline({name: 0.01 for name, _ in entries[:1]}),
        "budget": _inline(dict(budget)),
        "study": _inline(study),
    }
    return Draft(_TEMPLATE.format(**place), facts, differences + taken)


def write_draft(
    base: str,
    experts: Sequence[str],
    tasks: Sequence[str],
    file: Path,
    study: str,
    *,
    budget: Mapping[str, Any] = BUDGET,
    overwrite: bool,
) -> Draft:
    """Draft the search file `file` and write it. Raises as `draft` does; OutputError for a file not to be replaced."""
    inputs = [Path(text) for text in (base, *experts, *tasks)]
    check_file(file, overwrite=overwrite, inputs=inputs)
    drafted = draft(base, experts, tasks, file, study, budget)
    write_text(file, drafted.text)
    load_config(file)
    return drafted


def show_tasks(tasks: Sequence[str]) -> dict[str, list[str]]:
    """Return lines that show the first examples of each task. Raises EvaluatorError or PluginError for invalid ones.

    Stock tasks of lm-eval are not loaded, because their data may have to be downloaded; those of local files are.
    """
    shown = {}
    look_in((Path.cwd(),))
    for name, entry in guess_tasks(tasks):
        own = ":" in entry["evaluator"] and len(entry) == 1  # `module:Class`, whose options are still to be written
        if own or (entry["evaluator"] == "lm_eval_task" and "include_path" not in entry):
            shown[name] = ["run `evomerge check` to see its examples: it loads the task"]
            continue
        evaluator = build_evaluator(PluginSpec.read(entry, "evaluator"))
        previews = [evaluator.preview(row) for row in range(min(SHOWN_EXAMPLES, len(evaluator.example_ids)))]
        lines = [line for preview in previews if preview is not None for line in as_text(preview)]
        shown[name] = [
            f"{len(previews)} of its {len(evaluator.example_ids)} examples" if lines else "no text to show",
            *lines,
        ]
    return shown


def _rows(models: Iterable[Model]) -> set[int]:
    """Return the numbers of embedding rows that occur in the models."""
    return {model.shape(name)[0] for model in models for name in model.vocabulary_matrices()}


def named_inputs(models: Sequence[str]) -> tuple[Input, ...]:
    """Name the models of a command line after their folders, with a number where two names are equal."""
    named: dict[str, Input] = {}
    for text in models:
        model = named_input("", text)
        name = own = "".join(letter if is_name(letter) else "_" for letter in short_name(model))
        number = 2
        while name in named or name == "base":
            name, number = f"{own}-{number}", number + 1
        named[name] = replace(model, name=name)
    return tuple(named.values())


def _model(model: Input, folder: Path) -> str | dict[str, Any]:
    """Return a model's entry for a search file in `folder`."""
    path = model.path if model.revision else _relative(model.path, folder)
    adapter = model.adapter and (model.adapter if model.adapter_revision else _relative(model.adapter, folder))
    return model_data(replace(model, path=path, adapter=adapter))


def _relative(path: str, folder: Path) -> str:
    """Return the path relative to the search file's folder if it is inside, else absolute."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(folder) if absolute.is_relative_to(folder) else absolute)


def _task(entry: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    return {k: _relative(v, folder) if k in PATH_OPTIONS else v for k, v in entry.items()}


def _facts(base: Model) -> str:
    layout = base.layout()
    parameters = sum(math.prod(base.shape(name)) for name in layout.names)
    config: Mapping[str, Any] = base.config or {}
    architecture = ascii((config.get("architectures") or ["bare weights"])[0]).strip("'")
    return f"{architecture}, {parameters / 1e6:.4g}M parameters, {layout.n_blocks} blocks, {_dtype(base)}"


def _dtype(base: Model) -> str:
    """Return the data type of most of the base's parameters."""
    sizes: dict[str, int] = {}
    for name in base.layout().names:
        dtype = str(base.dtype(name)).removeprefix("torch.")
        sizes[dtype] = sizes.get(dtype, 0) + math.prod(base.shape(name))
    most = max(sizes, key=lambda dtype: sizes[dtype], default="float32")
    return most if most in ("float32", "bfloat16", "float16") else "float32"


def _listed(what: str) -> str:
    """List the available plug-ins of a kind as comment lines."""
    text = f"Available: {', '.join(plugins.names(what))}."
    return "".join(f"# {line}\n" for line in textwrap.wrap(text, 110))


def _inline(data: object) -> str:
    return strict_yaml.dump(data, inline=True)


def _block(data: Mapping[str, object]) -> str:
    return "".join(f"  {_inline(key)}: {_inline(value)}\n" for key, value in data.items())


_TEMPLATE = """\
# Search file of evomerge. Validate it with `evomerge check FILE`, run it with `evomerge search FILE`.
# The base: {facts}. Relative paths are resolved against this file's folder.
{notes}
# The model that the experts were fine-tuned from.
base: {base}

# The models to merge into it, each under a short name; a LoRA adapter is applied to the base.
# An adapter of another model: NAME: {{path: MODEL, adapter: ADAPTER}}
experts:
{experts}
# The merge method, see `evomerge list methods`. With options: {{kind: ties, normalize: true}}
method: task_arithmetic

# Data type of the merged weights: float32, bfloat16 or float16.
dtype: {dtype}

# Tokenizer of the result, to which embedding rows are matched by token: union (of all), base, or an expert's
# name. null: the base's, without matching rows.
tokenizer: {tokenizer}

# The search space: auto (tensorwise for gradients, else layerwise), uniform (one coefficient per expert), layerwise,
# blockwise (separate for attention, mlp, norms), expertwise (separate for every expert of a mixture), tensorwise,
# smooth (a few control points along the depth), simplex (non-negative weights that sum to 1).
# With options: {{kind: smooth, points: 4}}
# ranges: bounds of each coefficient; a weight below 0 subtracts an expert's task vector, one above 1 amplifies it.
space: {{kind: auto, ranges: {{weight: [0, 1]}}}}

# The tasks that score a merge. The examples of each are split by content, see `split`.
tasks:
{tasks}
# mean: the mean of the tasks. chebyshev, retention: the worst task, as its difference from or its ratio to the best
# parent. borda: the share of parents and baselines that a merge beats, averaged over the tasks.
# pareto: one objective per task, which yields a front to choose from.
# With weights: {weights}
# Weights with a kind: {{kind: chebyshev, weights: {weights}}}
objective: mean
# prefer: {weights}    # with pareto: the trade-off to recommend and select
# keep: -1pt                   # constraint: no task more than 0.01 below its best parent; or 98%, or {lag}
# search: used by the optimizer (train). select: chooses the winner (validation). report: held out (test).
split: {{search: 0.5, select: 0.2, report: 0.3}}

# The optimizer that proposes candidates. auto: gradients where the tasks have losses, black-box search elsewhere.
{optimizers}optimizer: auto

# The search stops at the first limit reached: trials (evaluations of all search examples, baselines included), hours,
# until (a time such as 07:00), money. With the last: {{trials: 200, money: 25, price_per_hour: 3.2}}, of all machines.
budget: {budget}

# ray (several workers) or serial (this process). device: auto uses a GPU if available.
executor: ray
workers: auto
device: auto
seed: 0

# The run folder: configuration and ledger of all trials. Resume with `evomerge search FILE --resume`.
study: {study}
"""
