"""The questions of `evomerge init` in a terminal: models, tasks and budget that the command line leaves open."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.commands.tasks import DraftError, guess_task, guess_tasks
from evomerge.config import ConfigError
from evomerge.launch.extension import Extension
from evomerge.recipe.model_names import hub_name
from evomerge.text.sizes import size

#: Tasks of lm-eval that are proposed beside the files of the folder.
STOCK_TASKS = ("gsm8k", "arc_easy", "hellaswag", "mmlu")
#: Keys of a model's configuration that are equal where models can be merged.
_SHAPE = ("model_type", "hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads")
_CARD_BASE = re.compile(r"^base_model:\s*(?:\n-\s*)?[\"']?([\w./-]+)", re.MULTILINE)
_HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w.-]+)?")
_TASK_FILES = ("*.jsonl", "*.ndjson", "*.yaml", "*/*.jsonl", "*/*.ndjson")


@dataclass(frozen=True)
class FoundModel:
    """A model on this machine. name: as a search file names it; bases: the models that it says it was tuned from."""

    name: str
    n_bytes: int
    shape: tuple[Any, ...]
    is_adapter: bool
    bases: tuple[str, ...]

    @property
    def text(self) -> str:
        """A line of the list."""
        kind = "LoRA" if self.is_adapter else str(self.shape[0] or "model")
        return f"{self.name} ({kind}, {size(self.n_bytes)})"


@dataclass(frozen=True)
class Answers:
    """What `init` needs to know."""

    base: str
    experts: tuple[str, ...]
    tasks: tuple[str, ...]
    budget: dict[str, Any]


def ask_for_missing(
    base: str | None,
    experts: Sequence[str],
    tasks: Sequence[str],
    ask: Callable[[str], str],
    say: Callable[[str], None],
    budget: str | None = None,
    cache: Path | None = None,
) -> Answers:
    """Ask for what the command line does not give, with proposals from this machine.

    ask: asks a question and returns the answer. say: prints a line. budget: as `read_budget` parses it. cache: the
    download cache of the Hugging Face hub, by default that of the environment.
    """
    if not base or not experts:
        models = found_models(Path(), cache or hub_cache())
        say("Models on this machine:" if models else "No models found here or in the Hugging Face cache.")
        for number, model in enumerate(models, 1):
            say(f"{number:>4}  {model.text}")
        names = [model.name for model in models]
        if not base:
            (base,) = _ask_for_models("Base: number, folder or ORG/NAME", _likely_base(models), names, ask, say, 1)
        if not experts:
            likely = ", ".join(_likely_experts(models, base))
            question = "Experts: numbers, folders or ORG/NAME, comma-separated"
            experts = _ask_for_models(question, likely, names, ask, say)
    if not tasks:
        tasks = _ask_for_tasks(ask, say)
    limits = _ask_for_budget(ask, say) if budget is None else read_budget(budget)
    return Answers(base, tuple(experts), tuple(tasks), limits)


def hub_cache() -> Path:
    """Return the download cache of the Hugging Face hub."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def found_models(folder: Path, cache: Path) -> list[FoundModel]:
    """Return the models in a folder, up to two levels below it, and in a cache of the hub.

    Exports of evomerge are left out: they were merged from the models that are wanted.
    """
    from evomerge.merging.output.staging import MARK  # imports torch, which nothing before the questions needs

    places = {file.parent for level in ("", "*/", "*/*/") for file in folder.glob(f"{level}*.safetensors")}
    own = [place for place in sorted(places) if not (place / MARK).exists()]
    found = [model for place in own if (model := _model(place, str(place))) is not None]
    for snapshot in sorted(cache.glob("models--*--*/snapshots/*")):
        named = hub_name(str(snapshot))
        main = snapshot.parents[1] / "refs" / "main"
        if named is None or not main.is_file() or main.read_text().strip() != named[1]:
            continue
        model = _model(snapshot, named[0])
        if model is not None:
            found.append(model)
    return found


def found_tasks(folder: Path) -> list[str]:
    """Return the files in a folder, and JSON lines one level below it, that can be tasks as they are."""
    found = []
    for file in sorted({file for pattern in _TASK_FILES for file in folder.glob(pattern)}):
        try:
            guess_task(str(file))
        except DraftError:
            continue
        found.append(str(file))
    return found


def read_budget(text: str) -> dict[str, Any]:
    """Parse `200` evaluations, or a time such as `8h`, as `budget` of a search file. Raises DraftError."""
    try:
        limit = Extension.read(text)
    except ConfigError:
        raise DraftError(f"Expected evaluations such as 200, or a time such as 8h or 30min; got {text!r}.") from None
    return {"trials": limit.trials} if limit.trials is not None else {"hours": limit.hours}


def _ask_for_models(
    question: str,
    proposal: str,
    names: Sequence[str],
    ask: Callable[[str], str],
    say: Callable[[str], None],
    most: int | None = None,
) -> list[str]:
    """Return the models of an answer; asks again for those that are neither here nor names of the hub."""
    while True:
        answers = _several(_asked(question, proposal, ask))
        try:
            found = [_one(each, names) for each in answers]
            wrong = next((each for each in found if not Path(each).exists() and not _HUB_NAME.fullmatch(each)), None)
            if wrong is not None:
                raise DraftError(f"There is no model {wrong!r}: expected a number of the list, a folder or ORG/NAME.")
            if most is not None and len(found) > most:
                raise DraftError(f"Expected one model; got {len(found)}: {', '.join(found)}.")
        except DraftError as error:
            say(str(error))
            continue
        return found


def _ask_for_tasks(ask: Callable[[str], str], say: Callable[[str], None]) -> list[str]:
    files = found_tasks(Path())
    proposed = [*files, *STOCK_TASKS]
    say("Tasks: files here, and some of lm-eval (downloaded when they are checked):")
    for number, task in enumerate(proposed, 1):
        say(f"{number:>4}  {task}")
    while True:
        answer = _asked("Tasks: numbers, files or lm-eval tasks, comma-separated", ", ".join(files), ask)
        try:
            tasks = [_one(each, proposed) for each in _several(answer)]
            guess_tasks(tasks)
        except DraftError as error:
            say(str(error))
            continue
        return tasks


def _ask_for_budget(ask: Callable[[str], str], say: Callable[[str], None]) -> dict[str, Any]:
    while True:
        try:
            return read_budget(_asked("Budget: evaluations, or a time such as 8h", "200", ask))
        except DraftError as error:
            say(str(error))


def _asked(question: str, proposal: str, ask: Callable[[str], str]) -> str:
    """Return the answer to a question, or the proposal for an empty one; asks again where there is neither."""
    while True:
        answer = ask(f"{question} [{proposal}]" if proposal else question).strip() or proposal
        if answer:
            return answer


def _one(answer: str, names: Sequence[str]) -> str:
    """Return the name that a number of a list stands for; other answers as they are.

    Raises DraftError for a number that the list does not have.
    """
    answer = answer.strip()
    if not answer.isdecimal():
        return answer
    if not 0 < int(answer) <= len(names):
        raise DraftError(f"There is no number {answer} in the list of {len(names)}.")
    return names[int(answer) - 1]


def _several(answer: str) -> list[str]:
    return [each.strip() for each in answer.split(",") if each.strip()]


def _likely_base(models: Sequence[FoundModel]) -> str:
    """Return the model that most others say they were tuned from, else the first of the most frequent shape."""
    named = Counter(name for model in models for base in model.bases for name in _called(base, models))
    if named:
        return named.most_common(1)[0][0]
    whole = [model for model in models if not model.is_adapter]
    shapes = Counter(model.shape for model in whole)
    likely = [model.name for model in whole if shapes[model.shape] > 1 and model.shape == shapes.most_common(1)[0][0]]
    return next((name for name in likely if "base" in name.lower()), likely[0] if likely else "")


def _likely_experts(models: Sequence[FoundModel], base: str) -> list[str]:
    """Return the models that say they were tuned from the base, else those of its shape."""
    others = [model for model in models if model.name != base]
    tuned = [model.name for model in others if any(base in _called(name, models) for name in model.bases)]
    shape = next((model.shape for model in models if model.name == base), None)
    return tuned or [model.name for model in others if model.shape == shape and not model.is_adapter]


def _called(base: str, models: Sequence[FoundModel]) -> list[str]:
    """Return the names of the models that a card calls `base`: a repository, or a folder by its last part."""
    exact = [model.name for model in models if model.name == base]
    return exact or [model.name for model in models if Path(model.name).name == Path(base).name]


def _model(folder: Path, name: str) -> FoundModel | None:
    """Return the model in a folder; None where there are no safetensors, or no configuration."""
    adapter, config = _json(folder / "adapter_config.json"), _json(folder / "config.json")
    weights = list(folder.glob("*.safetensors"))
    if not weights or not (adapter or config):
        return None
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    bases = [adapter.get("base_model_name_or_path"), *_CARD_BASE.findall(text.partition("\n---")[0])]
    return FoundModel(
        name,
        sum(file.stat().st_size for file in weights),
        tuple(config.get(key) for key in _SHAPE),
        bool(adapter),
        tuple(dict.fromkeys(each for each in bases if each)),
    )


def _json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
