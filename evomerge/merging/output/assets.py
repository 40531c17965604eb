"""The files of a model folder besides its weights: configuration, tokenizer, preprocessing."""

import json
import shutil
from codecs import BOM_UTF8
from pathlib import Path
from typing import Any

from evomerge.merging.models.model import Model
from evomerge.merging.models.shards import check_inside, read_json

_MODEL_FILES = (
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
_TOKENIZER_FILES = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)

#: All names that `companions` may copy.
COPIED = (*_MODEL_FILES, *_TOKENIZER_FILES)


def companions(base: Path, tokenizer: Path) -> dict[str, Path]:
    """Return the small files to copy along with merged weights, from the base's and the tokenizer's folder: name ->
    source.

    generation_config.json, which ends texts, comes with the tokenizer if its folder has one.
    """
    found: dict[str, Path] = {}
    for folder, names in ((base, _MODEL_FILES), (tokenizer, (*_TOKENIZER_FILES, "generation_config.json"))):
        if folder.is_dir():
            found |= {name: check_inside(folder, name) for name in names if (folder / name).is_file()}
    return found


def write_config(base: Model, folder: Path, dtype: str | None) -> None:
    """Write the base's config.json, if it has one, with the dtype of the weights (None: unchanged)."""
    if base.config is None:
        return
    if dtype is None and base.config == read_json(base.path, "config.json") and not has_mark(base.path):
        shutil.copyfile(base.path / "config.json", folder / "config.json")
        return
    config = dict(base.config) if dtype is None else _with_dtype(dict(base.config), dtype)
    if dtype is not None and not {"dtype", "torch_dtype"} & config.keys():
        config["dtype"] = dtype
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def has_mark(folder: Path) -> bool:
    """Return whether config.json begins with a byte order mark, which transformers cannot read."""
    file = folder / "config.json"
    return file.is_file() and file.read_bytes().startswith(BOM_UTF8)


def write_chat_template(folder: Path, template: str) -> None:
    """Set this chat template (Jinja) for the tokenizer in a folder, replacing any others."""
    (folder / "chat_template.json").unlink(missing_ok=True)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    settings = read_json(folder, "tokenizer_config.json")
    if settings is not None and settings.pop("chat_template", None) is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Return the configuration with every dtype replaced, including in its parts (text, vision)."""
    changed = dict(config)
    for key, value in config.items():
        if isinstance(value, dict) and key.endswith("_config"):
            changed[key] = _with_dtype(value, dtype)
        elif key in ("dtype", "torch_dtype") and isinstance(value, str):
            changed[key] = dtype
    return changed
