"""Conversion of a mergekit-evolve configuration to a search file, reporting unsupported settings.

https://github.com/arcee-ai/mergekit/blob/main/docs/evolve.md. There, genes without bounds are decoded as magnitudes;
embeddings belong to the first run of layers, final norm and head to the last.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from evomerge.merging.mergekit.configuration import Note, Reference
from evomerge.merging.mergekit.file import FileReader
from evomerge.merging.mergekit.settings import read_flag
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.recipe.model_names import model_data, portable
from search_spaces.base import Layout

#: Its method -> the method here. It sets normalize to true for the last three of them unless it is given.
_METHODS: Mapping[str, Mapping[str, Any]] = {
    "task_arithmetic": {"kind": "task_arithmetic", "normalize": False},
    "linear": {"kind": "linear", "normalize": True},
    "ties": {"kind": "ties", "normalize": True, "compat": "mergekit"},
    "dare_ties": {"kind": "dare_ties", "normalize": True, "rescale": "mergekit", "compat": "mergekit"},
    "slerp": {"kind": "slerp"},
}
_WITH_BASE = ("task_arithmetic", "ties", "dare_ties")
_GENOME = (
    *("models", "merge_method", "base_model", "tokenizer_source", "layer_granularity", "normalize"),
    *("allow_negative_weights", "filters", "smooth"),
)
_TOP = (
    *("genome", "tasks", "limit", "num_fewshot", "shuffle", "random_init"),
    *("apply_chat_template", "fewshot_as_multiturn"),
)
#: Number of candidates, unless set on its command line.
_TRIALS = 100


def read_evolve(document: strict_yaml.Document, folder: Path, *, lenient: bool, note: Note) -> dict[str, Any]:
    """Return the data of a search file in `folder`. note: called with a sentence for each setting unsupported here.

    Opens the model that defines the layers if coefficients differ between them. Raises InteropError, with the line,
    for errors and for settings that cannot be searched here, and CheckpointError.
    """
    return _Evolve(FileReader(document, lenient=lenient, note=note), folder).search()


class _Evolve:
    def __init__(self, reader: FileReader, folder: Path) -> None:
        self.folder = folder
        self.reader = reader
        self.data = reader.known(reader.document.data, (), _TOP)
        self.genome = reader.known(self.data.get("genome"), ("genome",), _GENOME)
        self.method = str(reader.choice(self.genome.get("merge_method"), ("genome", "merge_method"), tuple(_METHODS)))
        listed = reader.sequence(self.genome.get("models"), ("genome", "models"))
        self.models = [reader.reference(model, ("genome", "models", n)) for n, model in enumerate(listed)]
        base = self.genome.get("base_model")
        self.base = None if base is None else reader.reference(base, ("genome", "base_model"))

    def search(self) -> dict[str, Any]:
        base, experts = self.roles()
        tasks, weights = self.tasks()
        search: dict[str, Any] = {
            "base": _model(base, self.folder),
            "experts": {name: _model(model, self.folder) for name, model in experts.items()},
            "method": self.options(),
            "dtype": "bfloat16",
            "space": self.space(base),
            "tasks": tasks,
            "objective": "mean" if len(set(weights.values())) == 1 else weights,
            "optimizer": "cma_es",
            "budget": {"trials": _TRIALS},
            "study": "runs/search",
        }
        source = self.genome.get("tokenizer_source")
        if source is not None:
            search["tokenizer"] = self.tokenizer(source, base, experts)
        self.say_what_has_no_equal()
        return search

    def flag(self, key: str, *, default: bool = False, genome: bool = False) -> bool:
        """Return a boolean of the file, or of its genome."""
        data, path = (self.genome, ("genome", key)) if genome else (self.data, (key,))
        return default if data.get(key) is None else read_flag(self.reader, data[key], path)

    def roles(self) -> tuple[Reference, dict[str, Reference]]:
        """Return the base, and the experts by name."""
        models = self.models
        if self.method == "slerp":
            if len(models) != 2 or (self.base is not None and self.base not in models):
                self.reader.refuse(
                    ("genome", "models"),
                    "slerp with other than two models, or a base_model that is not one of them, is not supported: "
                    "mergekit-evolve selects two for each run of layers",
                )
            base = self.base or models[0]
            return base, _named([model for model in models if model != base])
        if self.base is None and self.method in _WITH_BASE:
            self.reader.refuse(("genome",), f"{self.method} needs a `base_model`")
        if self.method in _WITH_BASE:
            models = [model for model in models if model != self.base]
        return self.base or models[0], _named(models)

    def options(self) -> dict[str, Any]:
        options = dict(_METHODS[self.method])
        normalize = self.genome.get("normalize")
        if normalize is not None and "normalize" in options:
            options["normalize"] = read_flag(self.reader, normalize, ("genome", "normalize"))
        return options

    def space(self, base: Reference) -> dict[str, Any]:
        """Return runs of layers as tied groups, filters as components, gradients as polylines."""
        step, filters = self.genome.get("layer_granularity", 0), self.genome.get("filters") or []
        if type(step) is not int:
            self.reader.refuse(("genome", "layer_granularity"), f"expected an integer; got {step!r}")
        ranges = {"ranges": self.ranges()}
        if step < 1 and not filters:
            return {"kind": "uniform", **ranges}
        layout = Checkpoint.open(base.path, base.revision).layout()
        if step > 0 and layout.n_blocks % step:
            self.reader.refuse(
                ("genome", "layer_granularity"), f"{step} does not divide the {layout.n_blocks} layers of {base.path}"
            )
        if step > 0 and self.flag("smooth", genome=True):
            self.reader.note(
                "smooth: attention, mlp and norms get one curve each, whatever the filters; embeddings, final norm and "
                "head get one coefficient each"
            )
            return {"kind": "smooth", "points": layout.n_blocks // step, **ranges}
        return _tied(self.reader, layout, step or layout.n_blocks, filters) | ranges

    def ranges(self) -> dict[str, list[float]]:
        """Return ranges of the coefficients; mergekit-evolve has no bounds but starts near 1 / n in steps of 1 / 6."""
        if self.method == "slerp":
            return {"t": [0.0, 1.0]}
        low = -1.0 if self.flag("allow_negative_weights", genome=True) else 0.0
        density = {"density": [0.0, 1.0]} if self.method in ("ties", "dare_ties") else {}
        scale = {"scale": [1.0, 1.0]} if self.method in _WITH_BASE else {}
        return {"weight": [low, 1.0], **density, **scale}

    def tasks(self) -> tuple[dict[str, Any], dict[str, float]]:
        """Return the entries of `tasks`, and the weight of each."""
        entries, weights = {}, {}
        settings = {key: self.data[key] for key in ("limit", "num_fewshot") if self.data.get(key) is not None}
        settings["apply_chat_template"] = self.flag("apply_chat_template", default=True)
        settings["fewshot_as_multiturn"] = self.flag("fewshot_as_multiturn", default=True)
        for n, entry in enumerate(self.reader.sequence(self.data.get("tasks"), ("tasks",))):
            path = ("tasks", n)
            given = self.reader.known(
                {"name": entry} if isinstance(entry, str) else entry, path, ("name", "weight", "metric")
            )
            task = self.reader.text(given.get("name"), (*path, "name"))
            metric, _, chosen = self.reader.text(given.get("metric", "acc,none"), (*path, "metric")).partition(",")
            weight = self.reader.number(given.get("weight", 1.0), (*path, "weight"))
            if weight == 0:
                self.reader.note(f"task {task} has weight 0 and was omitted")
                continue
            if weight < 0:
                self.reader.note(
                    f"task {task} has a negative weight: here the direction of a task is known from its metric"
                )
            name = task if task not in entries else f"{task}-{metric}"
            entries[name] = {"evaluator": "lm_eval_task", "task": task, "metric": metric} | settings
            if chosen:
                entries[name]["filter"] = chosen
            weights[name] = abs(weight)
        return entries, weights

    def tokenizer(self, source: Any, base: Reference, experts: Mapping[str, Reference]) -> str:
        model = self.reader.vocabulary_of(source, ("genome", "tokenizer_source"))
        if isinstance(model, str):
            return model
        names = {base: "base"} | {model: name for name, model in experts.items()}
        if model not in names:
            self.reader.refuse(("genome", "tokenizer_source"), f"{model.path} is not in the merge")
        return names[model]

    def say_what_has_no_equal(self) -> None:
        note = self.reader.note
        note("it searches without bounds, on all examples; here coefficients have ranges, and examples are split")
        note("the search starts from the method's defaults, not from weights of 1 / n")
        for key in ("shuffle", "random_init"):
            if self.flag(key):
                note(f"{key} is unsupported here and was omitted")
        note(f"set the number of candidates ({_TRIALS}), and everything else that its command line sets, yourself")


def _named(models: Sequence[Reference]) -> dict[str, Reference]:
    named: dict[str, Reference] = {}
    for model in models:
        name = own = Path(model.path).name
        number = 2
        while name in (*named, "base", "union"):
            name, number = f"{own}-{number}", number + 1
        named[name] = model
    return named


def _model(model: Reference, folder: Path) -> str | dict[str, Any]:
    return model_data(portable(model.as_input("model"), folder))


def _tied(reader: FileReader, layout: Layout, step: int, filters: Sequence[Any]) -> dict[str, Any]:
    """Return a space whose groups are tied like the runs of layers and the filters."""
    last = layout.n_blocks // step - 1
    chosen = [reader.text(text, ("genome", "filters", n)) for n, text in enumerate(filters)]

    def shares(name: str, block: int | None, component: str) -> tuple[int, str]:
        run = (0 if component == "embedding" else last) if block is None else block // step
        return run, next((text for text in chosen if text in name), "")

    def label(block: int | None, component: str) -> str:
        return component if block is None else f"block.{block}.{component}" if chosen else f"block.{block}"

    places: dict[str, tuple[int, str]] = {}
    for name, block, component in zip(layout.names, layout.blocks, layout.components, strict=True):
        group, share = label(block, component), shares(name, block, component)
        if places.setdefault(group, share) != share:
            reader.refuse(
                ("genome", "filters"), f"filters may not divide the {component} tensors of a layer, as they do {name}"
            )
    ties: dict[tuple[int, str], list[str]] = {}
    for group, share in places.items():
        ties.setdefault(share, []).append(group)
    tie = [groups for groups in ties.values() if len(groups) > 1]
    return {"kind": "blockwise" if chosen else "layerwise"} | ({"tie": tie} if tie else {})
