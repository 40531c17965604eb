"""Vocabularies: embedding rows matched by token if the models' tokenizers differ.

Every model is wrapped in `Aligned`: its embeddings have one row per token of the result's tokenizer, in that
order. A token that a model lacks gets the row of a model that has it, so that no model distorts it; see
`recipe.Vocabulary` for which.
"""

import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from evomerge.merging.models.aligned import Aligned, Alignment, Donors
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.models.model import Model
from evomerge.merging.models.shards import check_inside, check_tokenizer
from evomerge.recipe import TokenRow, Vocabulary

Vocab = Mapping[str, int]
_SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclass(frozen=True)
class Tokens:
    """The result's tokenizer: the folder of its files, deleted with this object if it was created for it."""

    folder: Path


def align(
    models: Mapping[str, Model], base: str, tokenizer: str, vocabulary: Vocabulary
) -> tuple[dict[str, Model], Tokens]:
    """Match the models' rows to the tokenizer `base`, `union` or an input's; return them and that tokenizer.

    base: the base's name among the models. Models with equal vocabularies are returned unchanged, unless
    `vocabulary` requests another number of rows. Raises CheckpointError.
    """
    given = {label: read_vocabulary(model) for label, model in models.items()}
    first = given[base]
    chosen = base if tokenizer in ("base", "union") else tokenizer
    if first is None or given[chosen] is None:
        raise CheckpointError(
            f"{models[base if first is None else chosen].path} has no tokenizer.json: rows cannot be matched by token "
            f"(tokenizer: {tokenizer})."
        )
    vocabs = {label: first if vocab is None else vocab for label, vocab in given.items()}
    tokens = Tokens(models[chosen].path)
    wanted = vocabs[chosen]
    adding = vocabs if tokenizer == "union" else {}
    made = [token for token, rule in vocabulary.tokens.items() if rule.token is not None or rule.id is not None]
    if any(vocab.keys() - wanted.keys() for vocab in (*adding.values(), dict.fromkeys(made, 0))):
        tokens = _extended(models[chosen].path, {models[label].path: vocab for label, vocab in adding.items()}, made)
        wanted = _read(tokens.folder)
    wanted = _with_tokens(wanted, vocabulary)
    n_rows = _n_rows(models, vocabs, wanted, vocabulary)
    if n_rows is None:
        return dict(models), tokens
    alignment = _alignment(models, vocabs, base, wanted, n_rows, vocabulary)
    return {
        label: Aligned(label, models, alignment, _config(model, models[chosen], n_rows))
        for label, model in models.items()
    }, tokens


def read_vocabulary(model: Model) -> dict[str, int] | None:
    """Return token -> id of the tokens with a row in the model's embeddings; None without a tokenizer.json."""
    if not model.path.is_dir() or not (model.path / "tokenizer.json").is_file():
        return None
    matrices = model.vocabulary_matrices()
    n_rows = model.shape(matrices[0])[0] if matrices else 0
    return {token: row for token, row in _read(model.path).items() if row < n_rows}


def _read(folder: Path) -> dict[str, int]:
    vocab: dict[str, int] = _load(folder).get_vocab()
    return dict(sorted(vocab.items(), key=lambda item: item[1]))


def _load(folder: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(check_inside(folder, "tokenizer.json")))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{folder}/tokenizer.json cannot be read: {error}.") from error


def _extended(start: Path, vocabs: Mapping[Path, Vocab], made: Sequence[str]) -> Tokens:
    """Extend a tokenizer with the tokens of others, model by model, in the order of their ids, then with those `made`
    new.

    A token that was added to its own tokenizer keeps its settings: special ones stay special.
    """
    # Only this needs transformers, which saves a tokenizer with its settings.
    from transformers import AutoTokenizer

    tokens = Tokens(Path(tempfile.mkdtemp(prefix="evomerge-tokenizer-")))
    weakref.finalize(tokens, shutil.rmtree, tokens.folder, ignore_errors=True)
    check_tokenizer(start)
    tokenizer = AutoTokenizer.from_pretrained(str(start), trust_remote_code=False, local_files_only=True)
    known = dict.fromkeys(tokenizer.get_vocab())
    for folder, vocab in vocabs.items():
        added = [token for token in vocab if token not in known]
        settings = (
            {token.content: token for token in _load(folder).get_added_tokens_decoder().values()} if added else {}
        )
        tokenizer.add_tokens([settings.get(token, token) for token in added])
        known |= dict.fromkeys(added)
    tokenizer.add_tokens([token for token in made if token not in known])
    tokenizer.save_pretrained(tokens.folder)
    return tokens


def _with_tokens(wanted: dict[str, int], vocabulary: Vocabulary) -> dict[str, int]:
    unknown = next((token for token in vocabulary.tokens if token not in wanted), None)
    if unknown is not None:
        raise CheckpointError(
            f"vocabulary.tokens names {unknown!r}, which the result's tokenizer does not have: specify with `token` or "
            "`id` whose row a new token gets, or use `tokenizer: union`."
        )
    return wanted


def _n_rows(
    models: Mapping[str, Model], vocabs: Mapping[str, Vocab], wanted: Vocab, vocabulary: Vocabulary
) -> int | None:
    """Return the number of rows of the result's embeddings, or None if nothing changes."""
    n_tokens = max(wanted.values()) + 1
    multiple = vocabulary.multiple_of or 1
    n_rows = -(-n_tokens // multiple) * multiple
    sizes = {model.shape(name)[0] for model in models.values() for name in model.vocabulary_matrices()}
    same = all(vocab == wanted for vocab in vocabs.values()) and not vocabulary.tokens
    fits = sizes == {n_rows} if vocabulary.multiple_of else len(sizes) == 1
    return None if same and fits else n_rows


def _alignment(
    models: Mapping[str, Model],
    vocabs: Mapping[str, Vocab],
    base: str,
    wanted: Vocab,
    n_rows: int,
    vocabulary: Vocabulary,
) -> Alignment:
    rows = {label: np.full(n_rows, -1, dtype=np.int64) for label in models}
    for label, vocab in vocabs.items():
        for token, row in wanted.items():
            rows[label][row] = vocab.get(token, -1)
    # A base that is also an input counts once.
    twin = any(models[label].files == models[base].files for label in models if label != base)
    copies = {base} if twin and vocabulary.missing == "mean" else set()
    donors = {}
    for token, row in wanted.items():
        rule = vocabulary.tokens.get(token)
        if rule is not None:
            donors[row] = _told(token, rule, vocabs)
        elif any(rows[label][row] < 0 for label in models):
            at = {label: int(rows[label][row]) for label in models if label not in copies}
            donors[row] = _found(at, base, vocabulary.missing)
    forced = frozenset(wanted[token] for token, rule in vocabulary.tokens.items() if rule.force)
    return Alignment(max(wanted.values()) + 1, n_rows, rows, donors, forced)


def _told(token: str, rule: TokenRow, vocabs: Mapping[str, Vocab]) -> Donors:
    if rule.model is None:
        return ()
    row = vocabs[rule.model].get(rule.token or token) if rule.id is None else rule.id
    if row is None:
        raise CheckpointError(f"vocabulary.tokens: {rule.model!r} has no token {rule.token or token!r}.")
    return ((rule.model, row),)


def _found(at: Mapping[str, int], base: str, missing: str) -> Donors:
    """Return the source of a token's row for models without it; `at`: its row in each model, or -1."""
    having = tuple((label, row) for label, row in at.items() if row >= 0 and (label != base or missing != "inputs"))
    if len(having) > 1 and missing == "base" and at.get(base, -1) >= 0:
        return ((base, at[base]),)
    return having


def _config(model: Model, chosen: Model, n_rows: int) -> dict[str, Any]:
    """Return a model's configuration with the new number of rows and the tokenizer's special tokens."""
    config = dict(model.config or {})
    special = {key: value for key, value in (chosen.config or {}).items() if key in _SPECIAL}
    text = config.get("text_config")
    if isinstance(text, dict) and "vocab_size" in text:
        config["text_config"] = {**text, "vocab_size": n_rows}
    if "vocab_size" in config or not isinstance(text, dict):
        config["vocab_size"] = n_rows
    return config | special
