"""The chat template of a mergekit configuration."""

from collections import Counter
from collections.abc import Iterable

from evomerge.merging.mergekit.configuration import Reference
from evomerge.merging.mergekit.file import FileReader
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.shards import read_json, read_text

#: Templates shipped with mergekit.
_BUILT_IN = ("alpaca", "chatml", "exaone", "llama3", "mistral")
#: Minimum length of a template; a shorter text is a misspelled name.
_SHORTEST = 20
_PATH = ("chat_template",)


def chat_template(reader: FileReader, asked: str | None, models: Iterable[Reference]) -> str | None:
    """Return the template's text: as given, for `auto` the one that most models have; None if none is requested.

    Raises InteropError for names of templates and for text that is not a template.
    """
    if asked == "auto":
        found = [text for text in map(_template_of, models) if text]
        return Counter(found).most_common(1)[0][0] if found else None
    if asked in _BUILT_IN:
        reader.refuse(_PATH, f"{asked} is a file of mergekit's: specify the template's text (Jinja) instead")
    if asked is not None and (len(asked) < _SHORTEST or "{" not in asked):
        reader.refuse(_PATH, f"expected auto or the text of a template (Jinja); got {asked!r}")
    return asked


def _template_of(model: Reference) -> str | None:
    folder = Checkpoint.open(model.path, model.revision).path
    text = (read_json(folder, "tokenizer_config.json") or {}).get("chat_template") if folder.is_dir() else None
    if (folder / "chat_template.jinja").exists():
        text = read_text(folder, "chat_template.jinja")
    if isinstance(text, list):
        text = next((entry.get("template") for entry in text if entry.get("name") == "default"), None)
    return text.strip() if isinstance(text, str) else None
