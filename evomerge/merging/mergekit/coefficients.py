"""Parameters and options of a merge in mergekit's terms: its names, its values, its filters."""

from functools import cached_property
from typing import Any

from evomerge import plugins
from evomerge.merging.mergekit.configuration import InteropError
from evomerge.merging.mergekit.methods import METHODS, NAMES, Key
from evomerge.merging.mergekit.places import Place, places
from evomerge.merging.mergekit.settings import write_setting
from evomerge.merging.method import MergeMethod
from evomerge.recipe import Merge


class Coefficients:
    """The parameters of mergekit's method. Raises InteropError for a method, option or parameter that it lacks.

    on_base: whether the method merges differences to the base. divided: whether DARE's own rescaling is written as
    weights divided by densities.
    """

    def __init__(self, merge: Merge) -> None:
        self.merge = merge
        if merge.recipe.method not in NAMES:
            raise InteropError(f"mergekit has no equivalent of the method {merge.recipe.method!r}.")
        self.name = NAMES[merge.recipe.method]
        self.row = METHODS[self.name]
        self.method: MergeMethod = plugins.load("merge method", merge.recipe.method, MergeMethod)
        self._options = {**self.method.options, **merge.recipe.options}
        self._parameters = {parameter.name: parameter for parameter in self.method.parameters}
        self._arguments: dict[str, dict[str, Any]] = {}
        self._inputs = [model.name for model in merge.recipe.inputs]
        self.divided = self.row.by_density and self._options["rescale"] == "paper"
        relative = self.row.with_base[True].items()
        self.on_base = self.row.base == "required" or (
            self.row.base == "optional" and all(self._options[name] == value for name, value in relative)
        )
        self._check()

    @cached_property
    def places(self) -> list[Place]:
        """Return the tensors of the table in their slices; a tensor that represents all appears in every slice."""
        names = [name for members in self.merge.table.groups.values() for name in members]
        blocks = [part.blocks for part in self.merge.recipe.slices] or None
        patterns = [name for name in names if any(character in name for character in "*?[")]
        if not patterns:
            return places(names, blocks)
        if len(self.merge.table.groups) > 1:
            raise InteropError(
                f"The group pattern {patterns[0]!r} is unsupported in mergekit: bind the table to tensor names."
            )
        return [Place(names[0], piece, 0.0) for piece in range(len(blocks or (1,)))]

    def options(self) -> dict[str, Any]:
        """Return mergekit's parameters that are options here."""
        found = {}
        for name, key in self.row.keys.items():
            if key.ours in self._options:
                value = "none" if self.divided and key.ours == "rescale" else self._options[key.ours]
                found[name] = self._foreign(key, value)
        return found

    def shared(self, piece: int) -> dict[str, Any]:
        """Return mergekit's parameters shared by all models of a slice: name -> setting."""
        keys = {name: key for name, key in self.row.keys.items() if not key.each and key.ours in self._parameters}
        return {
            name: write_setting({place.tensor: self._value(key, place, None) for place in self._in(piece)})
            for name, key in keys.items()
        }

    def per_input(self, piece: int, name: str, first: int) -> dict[str, Any]:
        """Return the parameters of one input, whose part of the slice begins with layer `first`."""
        keys = {key_name: key for key_name, key in self.row.keys.items() if key.each and key.ours in self._parameters}
        return {
            key_name: write_setting({p.in_source(first): self._value(key, p, name) for p in self._in(piece)})
            for key_name, key in keys.items()
        }

    def exact_weights(self) -> dict[str, Any]:
        """Return input -> the setting of its weights before they are divided by densities."""
        return {
            name: write_setting({place.tensor: self._exact(place)["weight"][index] for place in self.places})
            for index, name in enumerate(self._inputs)
        }

    def _in(self, piece: int) -> list[Place]:
        return [place for place in self.places if place.piece == piece]

    def _exact(self, place: Place) -> dict[str, Any]:
        """Return the method's arguments for a tensor; read-only."""
        if place.tensor not in self._arguments:
            found = self.method.arguments(self.merge.table.at(place.tensor), self._inputs)
            self._arguments[place.tensor] = found
        return self._arguments[place.tensor]

    def _value(self, key: Key, place: Place, name: str | None) -> Any:
        """Return mergekit's value for a tensor, of one input for a per-input parameter."""
        arguments = self._exact(place)
        value = arguments[key.ours]
        if self.divided and key.ours == "weight":
            pairs = zip(value, arguments["density"], strict=True)
            value = tuple(weight / density if density else 0.0 for weight, density in pairs)
        if isinstance(value, tuple):
            if name is None and len(set(value)) > 1:
                raise InteropError(f"mergekit's {self.name} has one {key.ours} for all models; here it is {value!r}.")
            value = value[0 if name is None else self._inputs.index(name)]
        return self._foreign(key, value)

    def _foreign(self, key: Key, value: Any) -> Any:
        try:
            return key.foreign(value)
        except KeyError as error:
            raise InteropError(f"mergekit's {self.name} cannot express {key.ours}: {value!r}.") from error

    def _check(self) -> None:
        """Raise InteropError for settings whose implied value in mergekit differs."""
        said = {key.ours for key in self.row.keys.values()}
        implied = {**self.method.options, **self.row.fixed, **self.row.with_base[self.on_base]}
        for name, value in self._options.items():
            if name not in said and value != implied[name]:
                raise InteropError(f"mergekit's {self.name} cannot express {name}: {value!r}.")
        if self.divided and self._options["normalize"]:
            raise InteropError("mergekit cannot combine normalize with DARE's own rescaling (rescale: paper).")
        if self.row.elects and self._options["normalize"]:
            weights = [weight for place in self.places for weight in self._exact(place)["weight"]]
            if min(weights) < 0:
                raise InteropError(
                    f"mergekit's {self.name} cannot express a negative weight ({min(weights)}) with normalize: it "
                    "divides by a sum in which weights cancel."
                )
        for name in [name for name in self._parameters if name not in said]:
            default = self._parameters[name].default
            for place in self.places:
                value = self._exact(place)[name]
                if set(value if isinstance(value, tuple) else (value,)) != {default}:
                    raise InteropError(f"mergekit's {self.name} cannot express {name}: {value!r}.")
