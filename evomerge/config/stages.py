"""Stages of a search file: searches in a row, where later ones use the winners of earlier ones as models."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluators import _strict_yaml as strict_yaml
from evaluators._nearest import nearest
from evomerge.config.config import STAGES, ConfigError, SearchConfig, checked_config, read_search_file
from evomerge.recipe.model_names import resolve_path

#: Folder of a stage's winner, within that of its run.
WINNER = "winner"
#: Pattern of the name of a stage, which is that of a folder.
STAGE_NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"
_NAME = re.compile(STAGE_NAME)


@dataclass(frozen=True)
class Stage:
    """One search of a search file.

    name: empty for a file without stages. config: of this search. winner: folder to export its winner to; None where no
    later stage uses it. waits_for: the earlier stages whose winners do not exist yet; the models that their searches
    have as bases represent them in `config`.
    """

    name: str
    config: SearchConfig
    winner: Path | None = None
    waits_for: tuple[str, ...] = ()


def load_stages(path: Path | str, *, files: bool = False) -> tuple[Stage, ...]:
    """Read and check a search file, with stages or without. Raises ConfigError with the line of every mistake.

    A stage has the keys of the file, except those that it gives itself. Its run is in the folder STUDY/NAME. The name
    of an earlier stage, as `base` or as one of `experts`, stands for its winner. files: as in `load_config`.
    """
    path = Path(path)
    document = read_search_file(path)
    folder = path.absolute().parent
    if STAGES not in document.data:
        return (Stage("", checked_config(document, folder, files=files)),)
    parts = _parts(document)
    study = document.data.get("study")
    if not isinstance(study, str) or any("study" in part for part in parts.values()):
        raise ConfigError(f"{document.where('study')}: a file with stages needs one `study`, the folder of their runs.")
    root = Path(resolve_path(study, folder))
    bases: dict[str, Any] = {}
    found: list[Stage] = []
    for name, part in parts.items():
        data = (
            {key: value for key, value in document.data.items() if key != STAGES} | part | {"study": str(root / name)}
        )
        bases[name] = data.get("base")
        uses = [each for each in _models(data) if each in bases and each != name]
        _refuse_misspelled(document, name, data, bases, folder)
        waiting = tuple(each for each in dict.fromkeys(uses) if not (root / each / WINNER / "config.json").is_file())
        models = {each: bases[each] if each in waiting else str(root / each / WINNER) for each in uses}
        bases[name] = data["base"] = models.get(str(data.get("base")), data.get("base"))
        data["experts"] = _with_winners(data.get("experts"), models)
        lines = _lines(document, name, part)
        config = checked_config(strict_yaml.Document(data, document.source, lines), folder, files=files)
        found = [_exported(stage, root) if stage.name in uses else stage for stage in found]
        found.append(Stage(name, config, waits_for=waiting))
    return tuple(found)


def _refuse_misspelled(
    document: strict_yaml.Document, name: str, data: Mapping[str, Any], earlier: Collection[str], folder: Path
) -> None:
    """Refuse a model that is no path and almost the name of an earlier stage."""
    for model in _models(data):
        near = nearest(model, [stage for stage in earlier if stage != name])
        if near not in (None, model) and "/" not in model and not Path(resolve_path(model, folder)).exists():
            raise ConfigError(
                f"{document.where(STAGES, name)}: {name} takes {model!r}, which is neither a folder nor an earlier "
                f"stage. Did you mean {near!r}?"
            )


def _exported(stage: Stage, root: Path) -> Stage:
    return Stage(stage.name, stage.config, root / stage.name / WINNER, stage.waits_for)


def _parts(document: strict_yaml.Document) -> dict[str, dict[str, Any]]:
    """Return the keys of every stage, by name. Raises ConfigError."""
    parts = document.data[STAGES]
    if not isinstance(parts, Mapping) or not parts or not all(isinstance(part, Mapping) for part in parts.values()):
        raise ConfigError(
            f"{document.where(STAGES)}: stages needs a mapping NAME: {{keys of its search}}; got {parts!r}."
        )
    for name in parts:
        if not _NAME.fullmatch(str(name)):
            raise ConfigError(f"{document.where(STAGES, name)}: a stage's name is that of a folder; got {name!r}.")
    return {str(name): dict(part) for name, part in parts.items()}


def _models(data: Mapping[str, Any]) -> list[str]:
    experts = data.get("experts")
    listed = experts if isinstance(experts, list) else list(experts.values()) if isinstance(experts, Mapping) else []
    return [model for model in (data.get("base"), *listed) if isinstance(model, str)]


def _with_winners(experts: Any, models: Mapping[str, Any]) -> Any:
    """Return the experts with those that are stages replaced by models."""

    def replaced(model: Any) -> Any:
        return models.get(model, model) if isinstance(model, str) else model

    if isinstance(experts, list):
        return [replaced(model) for model in experts]
    return {name: replaced(model) for name, model in experts.items()} if isinstance(experts, Mapping) else experts


def _lines(document: strict_yaml.Document, name: str, part: Mapping[str, Any]) -> dict[strict_yaml.Path, int]:
    """Return the lines of a stage's keys: its own, and the file's for the others."""
    lines = {place: line for place, line in document.lines.items() if not place or place[0] not in (*part, STAGES)}
    own = {place[2:]: line for place, line in document.lines.items() if place[:2] == (STAGES, name) and len(place) > 2}
    return lines | own
