"""Names of models, tokenizers and tokens in mergekit's files."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.merging.mergekit.configuration import InteropError
from evomerge.merging.models.adapter import is_adapter
from evomerge.merging.models.checkpoint import CheckpointError, locate
from evomerge.recipe import Input, Recipe, TokenRow, Vocabulary
from evomerge.recipe.model_names import cached_by_name, portable

#: A model in a file: text, or a mapping if the text would be parsed differently.
Reference = str | dict[str, Any]


def reference(given: Input, folder: Path | None = None) -> Reference:
    """Return `path@revision+adapter@revision`; a model in a hub's download cache by its name and commit.

    folder: folder of the file that it is written to, for relative paths; None leaves paths unchanged.
    """
    model = cached_by_name(given) if folder is None else portable(given, folder)
    adapter = None if model.adapter is None else _place(model.adapter, model.adapter_revision)
    where = _place(model.path, model.revision)
    if not any(sign in text for text in (model.path, model.adapter or "") for sign in "@+"):
        return "+".join("@".join(place.values()) for place in (where, adapter) if place is not None)
    return {"model": where} | ({} if adapter is None else {"lora": adapter})


def _place(path: str, revision: str | None) -> dict[str, str]:
    return {"path": path} if revision is None else {"path": path, "revision": revision}


def references(recipe: Recipe, folder: Path | None = None) -> dict[str, Reference]:
    """Return every model of a recipe by name; an adapter-only input is applied to the base. Raises InteropError.

    folder: see `reference`.
    """
    return {model.name: reference(_whole(model, recipe.base), folder) for model in (recipe.base, *recipe.inputs)}


def _only_adapter(model: Input) -> bool:
    try:
        return is_adapter(locate(model.path, model.revision))
    except CheckpointError:  # a merge may be written without access to its models
        return False


def _whole(model: Input, base: Input) -> Input:
    if model is base or model.adapter is not None or not _only_adapter(model):
        return model
    if base.adapter is not None:
        raise InteropError(f"mergekit supports one adapter per model, but {model.path} comes on top of {base.adapter}.")
    return replace(base, name=model.name, adapter=model.path, adapter_revision=model.revision)


def tokenizer(recipe: Recipe, models: Mapping[str, Reference], *, with_base: bool) -> dict[str, Any] | None:
    """Return mergekit's `tokenizer`, or None if the recipe does not change tokens.

    models: names of the models.
    with_base: whether the base is one of the models that mergekit merges. Raises InteropError.
    """
    if recipe.tokenizer is None:
        return None
    vocabulary = recipe.vocabulary or Vocabulary()
    if vocabulary.missing != ("base" if with_base else "inputs"):
        raise InteropError(f"mergekit's {recipe.method} cannot express vocabulary.missing: {vocabulary.missing!r}.")
    source: Reference = recipe.tokenizer
    if source not in ("base", "union") or (source == "base" and not with_base):
        source = models[recipe.base.name if source == "base" else recipe.tokenizer]
    written: dict[str, Any] = {"source": source}
    if vocabulary.tokens:
        written["tokens"] = {token: _token(rule, models) for token, rule in vocabulary.tokens.items()}
    if (vocabulary.multiple_of or 1) > 1:
        written["pad_to_multiple_of"] = vocabulary.multiple_of
    return written


def _token(rule: TokenRow, models: Mapping[str, Reference]) -> dict[str, Any]:
    source: Reference
    if rule.model is None:
        source = {"kind": "zero"}
    elif rule.token is None and rule.id is None:
        source = models[rule.model]
    else:
        which = {"token": rule.token} if rule.id is None else {"token_id": rule.id}
        source = {"kind": "model_token", "model": models[rule.model], **which}
    return {"source": source} | ({"force": True} if rule.force else {})
