"""Compatibility checks before a merge: same tensors, same tokenizer, finite weights."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from evomerge.merging.models.header import CheckpointError, counted, shown
from evomerge.merging.models.model import Model
from evomerge.merging.models.shards import read_json, read_text
from search_spaces.base import Layout, block_of, in_block

_DOT = re.compile(r"\.")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
#: Parts of the prefixes that wrappers add to names, and the wrappers.
_WRAPPERS = {
    "_orig_mod.": "torch.compile",
    "base_model.model.": "PEFT",
    "_fsdp_wrapped_module.": "FSDP",
    "module.": "DataParallel",
}
_OWN_WORDS = ("head", "embedding")
_SIZES = (
    "hidden_size",
    "n_embd",
    "d_model",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
)


def check_compatible(base: Model, inputs: Mapping[str, Model], *, partial: bool = False) -> None:
    """Compare the mergeable tensors of every input with the base's: same names, same shapes.

    partial: an input may lack tensors, as in a recipe with slices.

    Raises CheckpointError with the first five differences, their number, and the likely cause.
    """
    for label, model in inputs.items():
        _check_same_tensors(base, label, model, partial=partial)
        _check_same_shapes(base, label, model)


def check_blocks(base: Model, inputs: Mapping[str, Model]) -> None:
    """Compare the tensors of every input, without their block numbers, with the base's: same names, same shapes.

    Raises CheckpointError.
    """
    shapes = {name: base.shape(name) for name in base.names if base.mergeable(name)}
    for label, model in inputs.items():
        if _templates(base) != _templates(model):
            _check_same_tensors(base, label, model, partial=False)
        for name in (name for name in model.names if model.mergeable(name)):
            same = name if block_of(name) is None else in_block(name, 0)
            if same in shapes and model.shape(name) != shapes[same]:
                raise CheckpointError(
                    f"{label} ({model.path}): {shown(name)} has shape {model.shape(name)}, and the base's "
                    f"{shown(same)} {shapes[same]}: blocks of other sizes cannot follow each other."
                )


def check_names(base: Model, inputs: Mapping[str, Model], *, sliced: bool) -> None:
    """Compare the names of mergeable tensors as far as they must agree before rows or blocks are rearranged.

    sliced: blocks are rearranged, so names are compared without their block numbers.
    Raises CheckpointError like `check_compatible`.
    """
    for label, model in inputs.items():
        ours, theirs = _templates(base), _templates(model)
        if not sliced or (ours - theirs and theirs - ours):
            _check_same_tensors(base, label, model, partial=False)


def check_finite(models: Mapping[str, Model]) -> None:
    """Raise CheckpointError for the first mergeable tensor with NaN or infinite values; reads all weights."""
    for label, model in models.items():
        for name in model.names:
            tensor = model.tensor(name)
            if model.mergeable(name) and not _all_finite(tensor):
                count = int(tensor.numel() - torch.isfinite(tensor).sum())
                raise CheckpointError(
                    f"{label} ({model.path}): {shown(name)} holds {count} NaN or infinite values. "
                    "A merge would spread them: get an intact copy of the model."
                )


def _all_finite(tensor: torch.Tensor) -> bool:
    # Minimum and maximum are NaN or infinite if any value is, and need no mask of the tensor's size.
    return tensor.numel() == 0 or all(bool(torch.isfinite(end)) for end in torch.aminmax(tensor))


def tokenizer_differences(base: Model, inputs: Mapping[str, Model]) -> list[str]:
    """Return one sentence for each way in which an input's tokenizer files differ from the base's.

    Models without tokenizer files are skipped. Raises CheckpointError for unreadable files.
    """
    ours = _tokenizer(base)
    found: list[str] = []
    for label, model in inputs.items():
        theirs = _tokenizer(model)
        if ours and theirs:
            found.extend(f"{label}: {difference}" for difference in _differences(ours, theirs))
    return found


def _check_same_tensors(base: Model, label: str, model: Model, *, partial: bool) -> None:
    ours = [name for name in base.names if base.mergeable(name)]
    theirs = [name for name in model.names if model.mergeable(name)]
    known = set(base.names), set(model.names)
    lacks = [] if partial else [name for name in ours if name not in known[1]]
    adds = [name for name in theirs if name not in known[0]]
    if not lacks and not adds:
        return
    parts = [f"{verb} {counted(names)}" for verb, names in (("lacks", lacks), ("adds", adds)) if names]
    raise CheckpointError(
        f"{label} ({model.path}) does not have the base's tensors: it {' and '.join(parts)}. "
        f"{_cause_of_names(base, model, lacks, adds)}"
    )


def _cause_of_names(base: Model, model: Model, lacks: list[str], adds: list[str]) -> str:
    if any("lora_" in name for name in adds):
        return "It is an adapter (LoRA): use its folder, with adapter_config.json, as an input or a model's `adapter`."
    if set(Layout.from_names([*lacks, *adds]).components) == {"head"}:
        tied, other = ("The input", "the base") if lacks else ("The base", "the input")
        return (
            f"{tied} has its output embeddings tied to its input embeddings (or no head), {other} has them "
            "apart: save both the same way; a missing head is never created."
        )
    depths = base.layout().n_blocks, model.layout().n_blocks
    if depths[0] != depths[1] and _templates(base) == _templates(model):
        return f"Another depth: the base has {depths[0]} blocks, the input {depths[1]}."
    prefix = _prefix(lacks, adds)
    if prefix is not None:
        whose, text = prefix
        writer = next((by for start, by in _WRAPPERS.items() if start in text), None)
        added = f"as {writer} leaves them" if writer else "as another class saves them"
        return f"The names differ by a prefix: the {whose}'s begin with {shown(text)}, {added}; save both alike."
    return f"Another architecture? The base is {_architecture(base)}, the input {_architecture(model)}."


def _templates(model: Model) -> set[str]:
    """Return the names of mergeable tensors without their numbers (of blocks, of experts)."""
    return {_NUMBER.sub("", name) for name in model.names if model.mergeable(name)}


def _prefix(lacks: list[str], adds: list[str]) -> tuple[str, str] | None:
    """Return which model's names begin with a prefix that the other's lack, and that prefix."""
    for whose, longer, shorter in (("input", adds, set(lacks)), ("base", lacks, set(adds))):
        starts = {name[: dot.end()] for name in longer for dot in _DOT.finditer(name) if name[dot.end() :] in shorter}
        for text in sorted(starts, key=lambda start: (len(start), start)):
            if sum(name.removeprefix(text) in shorter for name in longer if name.startswith(text)) * 2 > len(longer):
                return whose, text
    return None


def _architecture(model: Model) -> str:
    config: Mapping[str, Any] = model.config or {}
    names = config.get("architectures")
    return ascii(names[0])[:100] if isinstance(names, list) and names else "of an unnamed architecture"


def _check_same_shapes(base: Model, label: str, model: Model) -> None:
    theirs = set(model.names)
    names = [n for n in base.names if n in theirs and base.mergeable(n) and base.shape(n) != model.shape(n)]
    if not names:
        return
    first = ", ".join(f"{shown(n)} {base.shape(n)} vs {model.shape(n)}" for n in names[:5])
    noun = "tensor differs" if len(names) == 1 else "tensors differ"
    raise CheckpointError(
        f"{len(names)} {noun} in shape between the base and {label} ({model.path}): "
        f"{first}{', ...' if len(names) > 5 else ''}. {_cause_of_shapes(base, model, names)}"
    )


def _cause_of_shapes(base: Model, model: Model, names: list[str]) -> str:
    components = Layout.from_names(names).components
    pairs = [(base.shape(n), model.shape(n)) for n in names]
    if all(c in _OWN_WORDS for c in components) and all(a[1:] == b[1:] and a and b for a, b in pairs):
        rows = pairs[0][1][0] - pairs[0][0][0]
        return (
            f"The vocabulary differs: the input has {abs(rows)} {'more' if rows > 0 else 'fewer'} tokens "
            "than the base. Choose the tokenizer of the result, and rows are matched by token: "
            "`tokenizer: union` (all tokens), `tokenizer: base`, or `tokenizer: NAME` of an input."
        )
    ours: Mapping[str, Any] = base.config or {}
    theirs: Mapping[str, Any] = model.config or {}
    sizes = [f"{k} {ours[k]} vs {theirs[k]}" for k in _SIZES if k in ours and k in theirs and ours[k] != theirs[k]]
    return f"Another model size: {', '.join(sizes)}." if sizes else "Another architecture or size of model?"


def _tokenizer(model: Model) -> dict[str, Any]:
    """Return the parts of a tokenizer that determine its tokens, part -> value, as far as its files define them."""
    if not model.path.is_dir():
        return {}
    tokenizer = read_json(model.path, "tokenizer.json") or {}
    settings = read_json(model.path, "tokenizer_config.json") or {}
    parts = {key: _content(settings[key]) for key in settings if re.fullmatch(r"[a-z]+_token", key)}
    core = tokenizer.get("model")
    if isinstance(core, dict):
        parts["vocabulary"] = core.get("vocab")
        parts["merges"] = core.get("merges")
        added = tokenizer.get("added_tokens")
        parts["added tokens"] = [_content(token) for token in added] if isinstance(added, list) else added
    for key in ("normalizer", "pre_tokenizer"):
        if key in tokenizer:
            parts[key] = tokenizer[key]
    if parts:
        parts["chat template"] = _chat_template(model, settings)
        parts |= _endings(model, core.get("vocab") if isinstance(core, dict) else None)
    return parts


def _endings(model: Model, vocabulary: Any) -> dict[str, Any]:
    """Return the end-of-text tokens of generation: eos_token_id, as tokens where the vocabulary has them."""
    generation = read_json(model.path, "generation_config.json") or {}
    ids = generation.get("eos_token_id", (model.config or {}).get("eos_token_id"))
    if ids is None:
        return {}
    tokens = {row: token for token, row in vocabulary.items()} if isinstance(vocabulary, dict) else {}
    listed = ids if isinstance(ids, list) else [ids]
    return {"end of text (eos_token_id)": ", ".join(str(tokens.get(row, row)) for row in listed)}


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def _chat_template(model: Model, settings: Mapping[str, Any]) -> Any:
    if not (model.path / "chat_template.jinja").exists():
        return settings.get("chat_template")
    return read_text(model.path, "chat_template.jinja")


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[str]:
    for part in dict.fromkeys((*ours, *theirs)):
        a, b = ours.get(part), theirs.get(part)
        if a == b:
            continue
        if isinstance(a, str) and isinstance(b, str) and len(a) + len(b) < 200:
            yield f"{part} is {b!a}, the base's is {a!a}"
        elif part == "vocabulary" and isinstance(a, (dict, list)) and isinstance(b, (dict, list)):
            yield f"vocabulary of {len(b)} tokens differs from the base's of {len(a)}"
        else:
            yield (
                f"{part} differs from the base's"
                if a and b
                else f"only {'the base' if a else 'the input'} has a {part}"
            )
