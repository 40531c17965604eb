"""Parents whose folders tokenize or generate differently: scored with their own tokenizer, or reported."""

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

from transformers import GenerationConfig

from evaluators._tokens import encode, max_length, prefix_token
from evaluators.base import Evaluator, EvaluatorError
from evomerge.merging.baselines import parent_label
from evomerge.merging.models.model import Model
from evomerge.merging.models.network import NetworkError, configuration, outline
from evomerge.merging.recipe_models import RecipeModels
from evomerge.recipe import Recipe
from evomerge.resident.resident import ModelError, ResidentModel, generation_settings, read_tokenizer

#: Generation settings that do not affect a greedy continuation with a given prompt and length.
_COSMETIC = re.compile(
    r"_.*|(bos|pad)_token_id|do_sample|temperature|(top|min|typical)_[kph]|(epsilon|eta)_cutoff|max_(length|new_tokens)"
    r"|use_cache|cache_implementation|output_.*|return_dict_in_generate|num_return_sequences|early_stopping"
    r"|length_penalty|trust_remote_code|transformers_version"
)


@dataclass(frozen=True)
class OwnTokenizers:
    """Models that tokenize or generate differently from the merge, by name, each with sentences that explain how.

    scored: as parents with their own tokenizer and generation settings. refused: with the merge's, since their own
    is incompatible; the last sentence explains why.
    """

    scored: Mapping[str, tuple[str, ...]]
    refused: Mapping[str, tuple[str, ...]]

    def borrowed(self, recipe: Recipe) -> dict[str, str]:
        """Return, by trial label, why it is scored with the merge's tokenizer although its own differs."""
        return {parent_label(recipe, label): "; ".join(said) for label, said in self.refused.items()}

    def notes(self, recipe: Recipe) -> list[str]:
        """Return warnings about these parents."""
        ways = (
            (self.scored, "is scored with its own tokenizer and generation settings, every merge with the merge's"),
            (self.refused, "is scored with the merge's tokenizer, and may score otherwise in its own folder"),
        )
        return [
            f"{label}: {'; '.join(sentences)}: {parent_label(recipe, label)} {how}"
            for found, how in ways
            for label, sentences in found.items()
        ]


@dataclass(frozen=True)
class _Reading:
    """Tokens of every example by task; other effects of a tokenizer on the tasks, as meaning -> value."""

    tokens: Mapping[str, Sequence[Sequence[tuple[int, ...]]]]
    parts: Mapping[str, Any]

    @property
    def longest(self) -> int:
        """Largest number of tokens of a text."""
        return max((len(t) for rows in self.tokens.values() for texts in rows for t in texts), default=0)


def own_tokenizers(
    merge: ResidentModel | None,
    sources: RecipeModels,
    recipe: Recipe,
    evaluators: Mapping[str, Evaluator],
    configured: Collection[str],
) -> OwnTokenizers:
    """Compare the effects of the models' own tokenizers and generation settings on the tasks with the merge's.

    merge: its tokenizer and its network without weights, for which the evaluators were prepared last; None for bare
    weights. configured: models with a configuration of their own. A model without a tokenizer has the merge's.
    """
    if merge is None or not merge.has_tokenizer:
        return OwnTokenizers({}, {})
    generation = generation_settings(sources.base, sources.tokenizer)
    scored: dict[str, tuple[str, ...]] = {}
    refused: dict[str, tuple[str, ...]] = {}
    ours = cache(lambda: _reading(evaluators, merge.tokenizer))
    writes = _writes(evaluators)
    for label, model in {recipe.base.name: sources.base, **sources.inputs}.items():
        tokenizer = read_tokenizer(model.path)
        if tokenizer is None or isinstance(tokenizer, ModelError):
            continue
        found = list(_settings(generation, generation_settings(model, model.path))) if writes else []
        found += _context(merge, model, tokenizer, ours)
        if not _same(tokenizer, merge.tokenizer):
            try:
                network = outline(model).network if label in configured else merge.network
                found += _different(ours(), _reading_after_preflight(evaluators, ResidentModel({}, network, tokenizer)))
            except (EvaluatorError, NetworkError) as error:
                refused[label] = (*found, f"its own tokenizer does not fit the tasks ({error})")
                continue
        if found and recipe.tokenizer is not None and not _same_rows(merge.tokenizer, tokenizer):
            refused[label] = (*found, "the rows of its embeddings are in the order of the merge's tokenizer")
        elif found:
            scored[label] = tuple(found)
    return OwnTokenizers(scored, refused)


def _reading_after_preflight(evaluators: Mapping[str, Evaluator], reader: ResidentModel) -> _Reading:
    for evaluator in evaluators.values():
        if evaluator.needs_language_model:
            evaluator.preflight(reader)
    return _reading(evaluators, reader.tokenizer)


def _same_rows(tokenizer: Any, other: Any) -> bool:
    """Return whether every token of the other has the same row in both."""
    rows = tokenizer.get_vocab()
    return all(rows.get(token) == row for token, row in other.get_vocab().items())


def _settings(ours: GenerationConfig, theirs: GenerationConfig) -> Iterator[str]:
    """Yield settings that affect a greedy continuation and differ, unset ones counting as their defaults."""
    defaults = GenerationConfig._get_default_generation_params()
    a, b = ({k: v for k, v in each.to_dict().items() if v is not None} for each in (ours, theirs))
    for key in sorted({*a, *b}):
        mine, its = (found.get(key, defaults.get(key)) for found in (a, b))
        if key == "eos_token_id":
            mine, its = (set(x if isinstance(x, list) else [x]) for x in (mine, its))
        if mine != its and not _COSMETIC.fullmatch(key):
            yield f"{key} of generation is {_shown(its)}, the merge's is {_shown(mine)}"


def _shown(value: Any) -> str:
    listed = ", ".join(map(str, sorted(value, key=str))) if isinstance(value, set) else str(value)
    return "not set" if listed == "None" else listed


def _context(merge: ResidentModel, model: Model, tokenizer: Any, ours: Callable[[], _Reading]) -> Iterator[str]:
    """Yield a sentence if the context length differs and examples are long enough for that to matter."""
    try:
        theirs = max_length(SimpleNamespace(config=configuration(model)), tokenizer)
    except NetworkError:
        return
    mine = max_length(merge.network, merge.tokenizer)
    # A continuation of unknown length follows the prompts.
    if mine != theirs and 2 * ours().longest > min(mine, theirs):
        yield f"its context has {theirs} tokens, the merge's {mine}, and examples have up to {ours().longest}"


def _writes(evaluators: Mapping[str, Evaluator]) -> bool:
    """Return whether a task may generate text; unknown for one without a preview."""
    shown = (evaluator.preview(0) for evaluator in evaluators.values())
    return any(preview is None or preview.generated for preview in shown)


def _same(tokenizer: Any, other: Any) -> bool:
    return _structure(tokenizer) == _structure(other) and tokenizer.chat_template == other.chat_template


def _structure(tokenizer: Any) -> tuple[Any, ...]:
    """Return everything that determines tokens, except padding and truncation, which the tasks set themselves."""
    core: Any = tokenizer.get_vocab()
    if tokenizer.is_fast:
        core = json.loads(tokenizer.backend_tokenizer.to_str())
        core = {key: value for key, value in core.items() if key not in ("padding", "truncation", "version")}
    return core, prefix_token(tokenizer), tokenizer.bos_token, tokenizer.eos_token, tokenizer.all_special_ids


def _reading(evaluators: Mapping[str, Evaluator], tokenizer: Any) -> _Reading:
    """Return how a tokenizer, for which the evaluators were prepared last, encodes every example."""
    tokens: dict[str, list[list[tuple[int, ...]]]] = {}
    parts: dict[str, Any] = {"another token precedes a text without context": prefix_token(tokenizer)}
    for task, evaluator in evaluators.items():
        if evaluator.preview(0) is None:  # its use of the tokenizer is unknown
            parts[f"its tokenizer or chat template is another, which task {task!r} may use"] = (
                _structure(tokenizer),
                tokenizer.chat_template,
            )
            continue
        tokens[task] = [_tokens(evaluator, row, tokenizer) for row in range(len(evaluator.example_ids))]
    if _writes(evaluators):
        parts["its tokenizer decodes the same tokens to other text"] = tokenizer.get_vocab(), tokenizer.all_special_ids
        parts["its tokenizer ends a text with another token"] = tokenizer.eos_token_id
    return _Reading(tokens, parts)


def _tokens(evaluator: Evaluator, row: int, tokenizer: Any) -> list[tuple[int, ...]]:
    """Return the tokens of an example: of its prompt, and of the prompt with each text that is scored after it."""
    shown = evaluator.preview(row)
    if shown is None:
        return []
    scored = () if shown.generated else shown.continuations
    return [encode(tokenizer, text) for text in (shown.prompt, *(shown.prompt + text for text in scored))]


def _different(ours: _Reading, theirs: _Reading) -> Iterator[str]:
    for task, examples in theirs.tokens.items():
        count = sum(a != b for a, b in zip(ours.tokens[task], examples, strict=True))
        if count:
            yield f"its tokenizer encodes {count} of {len(examples)} examples of task {task!r} differently"
    yield from (what for what, value in theirs.parts.items() if ours.parts[what] != value)
