"""Conversion of a mergekit configuration to a merge: models named, every tensor's coefficients resolved.

mergekit casts the inputs to `dtype` and merges in that dtype; here the arithmetic is in float32, and the result is
rounded once, to `out_dtype`, or else `dtype`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from evaluators import _strict_yaml as strict_yaml
from evomerge import plugins
from evomerge.merging.mergekit.arrangement import Part, arrange
from evomerge.merging.mergekit.configuration import OWN, Configuration, Note, Reference, Settings, Taken
from evomerge.merging.mergekit.extension import read_own, restored
from evomerge.merging.mergekit.file import FileReader, load_file
from evomerge.merging.mergekit.methods import REQUIRED, Key
from evomerge.merging.mergekit.models import reference
from evomerge.merging.mergekit.places import Place, Row, grouped, places
from evomerge.merging.method import MergeMethod
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.model import Model
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Merge, Recipe
from search_spaces.base import CoefficientTable


def ignore(_sentence: str) -> None:
    """Ignore a note."""


def read_mergekit(path: Path, *, lenient: bool = False, note: Note = ignore) -> Merge:
    """Read the merge described by a mergekit configuration; relative paths in it start at the working folder.

    lenient: keys unknown to mergekit are reported, not errors. note: called with sentences about ignored settings.
    Opens the models only if coefficients differ between tensors. Raises InteropError, with the line, for errors
    and unsupported settings, and CheckpointError for models that cannot be opened.
    """
    reader = FileReader(load_file(path), lenient=lenient, note=note)
    configuration = reader.configuration()
    own = read_own(reader, configuration.own)
    base = None if own is None else reader.reference(reference(own.merge.recipe.base), (OWN, "base"))

    def resolved(data: Mapping[str, Any]) -> Merge:
        again = FileReader(strict_yaml.Document(data), lenient=False, note=ignore)
        return _Resolver(again, again.configuration(), base).merge()

    found = _Resolver(reader, configuration, base).merge()
    return found if own is None else restored(found, own, resolved, note)


class _Resolver:
    """Resolves each parameter's value for each tensor: from the source, the slice, the whole merge, or the default."""

    def __init__(self, reader: FileReader, configuration: Configuration, base: Reference | None) -> None:
        self.reader = reader
        self.configuration = configuration
        self.row = configuration.row
        self.method: MergeMethod = plugins.load("merge method", self.row.ours, MergeMethod)
        arrangement = arrange(reader, configuration, base)
        self.recipe, self.parts = arrangement.recipe, arrangement.parts
        self.inputs = tuple(model.name for model in self.recipe.inputs)
        #: Option -> the value found wherever it was resolved so far.
        self.options: dict[str, Any] = {}

    def merge(self) -> Merge:
        """Return the whole merge, grouped by tensors that share coefficients."""
        self.check_numbers()
        values = self.everywhere() if self.constant() else None
        if values is None:
            self.options.clear()
            names = _mergeable(_base_of(self.recipe))
            blocks = [part.base.blocks or 0 for part in self.parts] if self.recipe.slices else None
            values = {place.tensor: self.values(place) for place in places(names, blocks)}
        groups = grouped(values) if len(values) > 1 else {"all": tuple(values)}
        rows = [values[members[0]] for members in groups.values()]
        table = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        if self.row.elects and self.options["normalize"] and (table["weight"] < 0).any():
            self.reader.refuse(
                (),
                f"mergekit's {self.configuration.method} with `normalize` and a negative weight is not supported: it "
                "divides by a sum in which weights cancel; set `normalize: false`",
            )
        fixed = {**self.row.fixed, **self.row.with_base[self.parts[0].on_base]}
        recipe = replace(self.recipe, options={**fixed, **self.options})
        return Merge(recipe, CoefficientTable(groups, table))

    def check_numbers(self) -> None:
        """Raise an error for an unsupported number of models, including a base that replaces missing inputs."""
        for part in self.parts:
            alone = [source.model for source in part.inputs.values()] == [part.base.model] and part.on_base
            if alone and self.method.max_inputs is not None:
                self.reader.refuse(part.piece.at, f"{self.configuration.method} needs a model besides the base")
        if len({part.on_base for part in self.parts}) > 1:
            self.reader.refuse(("slices",), "some slices have a base_model and others do not")

    def constant(self) -> bool:
        """Return whether nothing differs between the tensors of a slice."""
        return all(setting.constant for settings in self.all_settings() for setting in settings.values())

    def all_settings(self) -> Iterable[Settings]:
        """Return all `parameters` of the file."""
        yield from (self.configuration.settings, self.configuration.module)
        for part in self.parts:
            yield part.piece.settings
            yield from (source.settings for source in part.inputs.values())

    def everywhere(self) -> dict[str, Mapping[str, Row]] | None:
        """Return the values of all tensors, if slices do not differ either."""
        first, *others = (self.values(Place("*", n, 0.0)) for n in range(len(self.parts)))
        return {"*": first} if all(other == first for other in others) else None

    def values(self, place: Place) -> dict[str, Row]:
        """Return the parameters of one tensor, collecting options on the way."""
        part = self.parts[place.piece]
        found: dict[str, Row] = {}
        for name, key in self.row.keys.items():
            if key.each:
                each = {label: self.value(name, key, place, part, source) for label, source in part.inputs.items()}
                found |= self.per_input(key, each)
            else:
                found |= self.shared(key, self.value(name, key, place, part, None))
        return found

    def value(self, name: str, key: Key, place: Place, part: Part, source: Taken | None) -> Any:
        """Return our value of mergekit's parameter `name` for a tensor, in a source for a per-source parameter."""
        tensor = place.tensor if source is None else place.in_source(source.first)
        settings = [part.piece.settings, self.configuration.module, self.configuration.settings]
        if source is not None:
            settings.insert(0, source.settings)
        given = (s[name].at(tensor, place.depth) for s in settings if name in s)
        value = next((v for v in given if v is not None), key.default)
        at = part.piece.at if source is None else source.at
        if value is REQUIRED:
            of = "" if source is None else f" for {source.model.path}"
            missing = f"{self.configuration.method} needs `{name}`{of}; none is set for {tensor}"
            if source is not None and source not in part.piece.sources:
                missing += (
                    f". As `base_model` it counts as an additional model: list it under `models` with its own `{name}` "
                    "(0 excludes it), or remove `base_model`"
                )
            self.reader.refuse(at, missing)
        if key.kind == "whole":
            if value != int(value):
                self.reader.refuse(at, f"{name} must be an integer; it is {value!r} for {tensor}")
            value = int(value)
        try:
            return key.native(value)
        except KeyError:
            self.reader.refuse(at, f"mergekit's {self.configuration.method} with {name}: {value!r} is not supported")

    def per_input(self, key: Key, values: Mapping[str, Any]) -> dict[str, Row]:
        """Return a per-input parameter; inputs outside the slice get the default."""
        parameter = next((p for p in self.method.parameters if p.name == key.ours), None)
        if parameter is None or not parameter.per_input:
            first, *others = dict.fromkeys(values.values())
            if others and key.ours:
                self.reader.refuse(
                    (), f"{key.ours} must be the same for all models here; it is {list(values.values())}"
                )
            return self.shared(key, first)
        return {key.ours: tuple(values.get(name, parameter.default) for name in self.inputs)}

    def shared(self, key: Key, value: Any) -> dict[str, Row]:
        """Return a parameter shared by all inputs, or an option."""
        if any(parameter.name == key.ours for parameter in self.method.parameters):
            return {key.ours: (value,)}
        if key.ours and self.options.setdefault(key.ours, value) != value:
            self.reader.refuse((), f"{key.ours} must be the same for all tensors here; it differs")
        return {}


def _base_of(recipe: Recipe) -> Model:
    if recipe.slices:
        return open_models(recipe).base
    return Checkpoint.open(recipe.base.path, recipe.base.revision)


def _mergeable(base: Model) -> Sequence[str]:
    return [name for name in base.names if base.mergeable(name)]
