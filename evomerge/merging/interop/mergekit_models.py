"""How mergekit names models, tokenizers and tokens in its files."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.merging.interop.mergekit_configuration import InteropError
from evomerge.merging.models.adapter import is_adapter
from evomerge.recipe import Input, Recipe, TokenRow, Vocabulary

#: A model in a download cache of the Hugging Face hub.
_CACHED = re.compile(r"/models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?$")

#: A model in a file: text, or a mapping where the text would be taken apart.
Reference = str | dict[str, Any]


def reference(model: Input) -> Reference:
    """`path@revision+adapter`; a model in a hub's download cache by its name and commit."""
    path, revision = model.path, model.revision
    cached = _CACHED.search(path)
    if cached is not None and revision is None:
        path, revision = f"{cached[1]}/{cached[2]}", cached[3]
    if not any(sign in text for text in (path, model.adapter or "") for sign in "@+"):
        at = "" if revision is None else f"@{revision}"
        return f"{path}{at}" + ("" if model.adapter is None else f"+{model.adapter}")
    where = {"path": path} | ({} if revision is None else {"revision": revision})
    return {"model": where} | ({} if model.adapter is None else {"lora": {"path": model.adapter}})


def references(recipe: Recipe) -> dict[str, Reference]:
    """Every model of a recipe by name; an input that is nothing but an adapter is on the base. Raises InteropError."""
    return {model.name: reference(_whole(model, recipe.base)) for model in (recipe.base, *recipe.inputs)}


def _whole(model: Input, base: Input) -> Input:
    if not is_adapter(Path(model.path)):
        return model
    if base.adapter is not None:
        raise InteropError(f"mergekit puts one adapter on a model, and {model.path} is one on top of {base.adapter}.")
    return replace(base, name=model.name, adapter=model.path)


def tokenizer(recipe: Recipe, *, with_base: bool) -> dict[str, Any] | None:
    """mergekit's `tokenizer`, or None where the recipe leaves tokens alone.

    with_base: whether the base is one of the models that mergekit merges. Raises InteropError.
    """
    if recipe.tokenizer is None:
        return None
    vocabulary = recipe.vocabulary or Vocabulary()
    if vocabulary.missing != ("base" if with_base else "inputs"):
        raise InteropError(f"mergekit's {recipe.method} cannot express vocabulary.missing: {vocabulary.missing!r}.")
    models = references(recipe)
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
