"""Write a merge as a mergekit configuration, if mergekit can express it.

Schema: https://github.com/arcee-ai/mergekit/blob/main/README.md. Information that its keys cannot express (names of
models, the seed, equivalent options) is stored in an additional key, `evomerge`, which mergekit ignores.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from evomerge.merging.mergekit.coefficients import Coefficients
from evomerge.merging.mergekit.configuration import OWN
from evomerge.merging.mergekit.configuration import InteropError as InteropError
from evomerge.merging.mergekit.models import Reference, references, tokenizer
from evomerge.recipe import Input, Merge, Slice
from evomerge.recipe.file import merge_to_dict, portable_merge
from evomerge.recipe.model_names import cached_by_name

#: The dtype that mergekit computes in, and writes unless another one is requested.
_ARITHMETIC = "float32"


def to_mergekit(merge: Merge, *, out_dtype: str | None = None, folder: Path | None = None) -> dict[str, Any]:
    """Return mergekit's configuration of a merge whose table names its tensors (`CoefficientTable.bind`).

    out_dtype: dtype of the merged weights if the recipe leaves it to the base. Arithmetic is in float32.
    folder: folder of the file that it is written to, for relative paths; None leaves paths unchanged.
    Raises InteropError for a merge that mergekit cannot express.
    """
    return _Writer(merge, out_dtype, folder).configuration()


def dump(merge: Merge, folder: Path | None = None, *, out_dtype: str | None = None) -> str:
    """Return the text of `mergekit_config.yml` in `folder`; None leaves paths unchanged.

    Raises InteropError for a merge that mergekit cannot express.
    """
    writer = _Writer(merge, out_dtype, folder)
    text = strict_yaml.dump({**writer.configuration(), OWN: writer.own()})
    return "\n".join([*(f"# {note}" for note in writer.notes()), text])


class _Writer:
    def __init__(self, merge: Merge, out_dtype: str | None, folder: Path | None) -> None:
        self.folder = folder
        self.merge, self.recipe = merge, merge.recipe
        self.out_dtype = merge.recipe.dtype or out_dtype
        self.models = references(self.recipe, folder)
        self.base = self.models[self.recipe.base.name]
        self.coefficients = Coefficients(merge)
        self.on_base = self.coefficients.on_base
        no_base = self.coefficients.row.base == "none"
        is_input = self.base in [self.models[model.name] for model in self.recipe.inputs]
        self.merges_base = self.on_base or (no_base and is_input)
        # If no base is needed, mergekit would merge it like any other model, except in slices, which list their models.
        self.names_base = self.merges_base or (no_base and bool(self.recipe.slices))

    def configuration(self) -> dict[str, Any]:
        """Return all keys but evomerge's own."""
        config: dict[str, Any] = {"merge_method": self.coefficients.name}
        if self.names_base:
            config["base_model"] = self.base
        config |= self.slices() if self.recipe.slices else self.whole_models()
        config["dtype"] = _ARITHMETIC
        extras = {
            "out_dtype": self.out_dtype,
            "tokenizer": tokenizer(self.recipe, self.models, with_base=self.merges_base),
            "chat_template": self.recipe.chat_template,
        }
        return config | {key: value for key, value in extras.items() if value is not None}

    def own(self) -> dict[str, Any]:
        """Return the information that mergekit's keys cannot express: the recipe without coefficients."""
        data = merge_to_dict(self.merge if self.folder is None else portable_merge(self.merge, self.folder))
        said = {key: data[key] for key in data if key not in (OWN, "groups", "coefficients")}
        if self.recipe.dtype is None:
            said["out_dtype"] = self.out_dtype or _ARITHMETIC
        if self.coefficients.divided:
            said["weight"] = self.coefficients.exact_weights()
        return said

    def notes(self) -> list[str]:
        """Return sentences on how mergekit's weights would differ."""
        said = ["Run it with mergekit-yaml or `evomerge merge`. recipe.yaml is the exact record of this merge."]
        local = [path for model in (self.recipe.base, *self.recipe.inputs) for path in _local(model)]
        if local and self.folder is not None:
            said.append("Relative paths start at this file's folder: run mergekit-yaml there. `~` is your home folder.")
        if self.coefficients.method.random:
            said.append("mergekit draws other random masks: the weights agree in distribution, not one by one.")
        if len({len(part.inputs) for part in self.recipe.slices}) > 1:
            said.append("mergekit takes the final norm and the head from as many models as the first slice has.")
        if self.recipe.tokenizer and not (self.recipe.vocabulary and self.recipe.vocabulary.multiple_of):
            said.append("mergekit drops rows of embeddings that belong to no token.")
        return said

    def whole_models(self) -> dict[str, Any]:
        """Return `models` and `parameters`."""
        everything = Slice(0, (self.recipe.base.name, 0), {model.name: 0 for model in self.recipe.inputs})
        parameters = self.coefficients.options() | self.coefficients.shared(0)
        return {"models": self.sources(0, everything)} | _if_any("parameters", parameters)

    def slices(self) -> dict[str, Any]:
        """Return `slices`, and the `parameters` that are equal in all of them."""
        shared = [self.coefficients.shared(number) for number in range(len(self.recipe.slices))]
        same = {
            name: value
            for name, value in shared[0].items()
            if not isinstance(value, list) and all(other[name] == value for other in shared)
        }
        written = []
        for number, part in enumerate(self.recipe.slices):
            entry: dict[str, Any] = {"sources": self.sources(number, part)}
            if self.on_base and part.base[0] != self.recipe.base.name:
                entry["base_model"] = self.models[part.base[0]]
            rest = {name: value for name, value in shared[number].items() if name not in same}
            written.append(entry | _if_any("parameters", rest))
        self.check_used()
        return {"slices": written} | _if_any("parameters", self.coefficients.options() | same)

    def check_used(self) -> None:
        """Raise InteropError for a model that is in no slice."""
        used = {
            name for part in self.recipe.slices for name in (*part.inputs, *([part.base[0]] if self.on_base else []))
        }
        idle = next((model.name for model in self.recipe.inputs if model.name not in used), None)
        if idle is not None:
            raise InteropError(f"mergekit cannot list a model that is in no slice: {idle!r}.")

    def sources(self, number: int, part: Slice) -> list[dict[str, Any]]:
        """Return the models of a slice, and the base if mergekit does not add it by itself."""
        base, inputs = self.models[part.base[0]], dict(part.inputs)
        if self.on_base and [self.models[name] for name in inputs] == [base]:
            inputs = {}  # the base merged with itself
        named = [*([base] if self.on_base else []), *(self.models[name] for name in inputs)]
        twice = next((model for n, model in enumerate(named) if model in named[:n]), None)
        if twice is not None:
            raise InteropError(f"mergekit accepts a model only once, but this merge has {twice!r} twice.")
        sources = [
            self.entry(self.models[name], part, first, self.coefficients.per_input(number, name, first))
            for name, first in inputs.items()
        ]
        if self.on_base and (self.recipe.slices or self.coefficients.method.max_inputs == 1 or not inputs):
            sources.insert(0, self.entry(base, part, part.base[1], {}))
        return sources

    def entry(self, model: Reference, part: Slice, first: int, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return one entry of `models` or `sources`."""
        layers = {"layer_range": [first, first + part.blocks]} if self.recipe.slices else {}
        return {"model": model, **layers} | _if_any("parameters", parameters)


def _local(given: Input) -> Iterator[str]:
    model = cached_by_name(given)
    if model.revision is None:
        yield model.path
    if model.adapter is not None and model.adapter_revision is None:
        yield model.adapter


def _if_any(key: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: dict(values)} if values else {}
