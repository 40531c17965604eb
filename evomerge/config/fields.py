"""Fields of the search file: validation, and conversion to objects."""

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    ValidationInfo,
    field_validator,
    model_validator,
)

from evaluators.base import SPLITS
from evomerge.config import entries
from evomerge.config.entries import Schema, schema
from evomerge.objective.floor import Floor, read_keep
from evomerge.objective.spec import ObjectiveSpec, read_objective, read_weights
from evomerge.plugins import PluginSpec
from evomerge.recipe import Input
from evomerge.recipe.model_names import MODEL_KEYS, locate_name, resolve_path
from evomerge.yaml.reader import unknown_key

#: Options of plug-ins that name a file or folder.
PATH_OPTIONS = ("file", "include_path", "examples", "start", "folder", "processor", "queries", "corpus")
#: Backends that generate: the network itself, and others.
BACKENDS = ("transformers", "vllm")
#: Arguments of `vllm.LLM` that follow from the models, or that a merge in place rules out.
SET_BY_US = (
    "model", "tokenizer", "dtype", "load_format", "hf_overrides", "trust_remote_code", "skip_tokenizer_init",
    "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size", "quantization", "cpu_offload_gb",
    "max_loras", "max_lora_rank", "max_cpu_loras", "default_mm_loras", "lora_target_modules",
)  # fmt: skip
#: Key of the tasks that are only reported.
REPORT_ONLY = "report_only"
#: Ends of names that are files of lm-eval tasks.
TASK_FILES = (".yaml", ".yml")

_CLOCK = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)")


class Section(BaseModel):
    """A mapping of the file: strict types, no unknown keys, read-only."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid", allow_inf_nan=False)


class Limits(Section):
    """When to stop: whichever limit is reached first."""

    trials: Annotated[int | None, Field(ge=1, description="Candidates, baselines included.")] = None
    hours: Annotated[float | None, Field(gt=0, description="Hours of searching.")] = None
    until: Annotated[str | None, Field(description="A time such as 07:00, or a date and time.")] = None
    money: Annotated[float | None, Field(gt=0, description="What the search may cost; needs price_per_hour.")] = None
    price_per_hour: Annotated[float | None, Field(gt=0, description="Price of an hour of all its machines.")] = None

    @field_validator("until")
    @classmethod
    def _a_time(cls, text: str | None) -> str | None:
        if text is not None and not _CLOCK.fullmatch(text):
            try:
                datetime.fromisoformat(text)
            except ValueError as error:
                raise ValueError(
                    f"expected a time such as 07:00, or a date and time such as 2030-01-31 07:00; got {text!r}"
                ) from error
        return text

    @model_validator(mode="after")
    def _some(self) -> "Limits":
        if (self.money is None) != (self.price_per_hour is None):
            given, missing = ("price_per_hour", "money") if self.money is None else ("money", "price_per_hour")
            raise ValueError(
                f"{given} needs {missing} beside it, such as {{money: 25, price_per_hour: 3.2}}: the search ends after "
                "money / price_per_hour hours"
            )
        if self.trials is None and self.most_hours is None and self.until is None:
            raise ValueError("a budget needs trials, hours, until or money")
        return self

    @property
    def most_hours(self) -> float | None:
        """The hours of run time over all sessions: `hours`, or those that the money pays for if they are fewer."""
        paid = None if self.money is None or self.price_per_hour is None else self.money / self.price_per_hour
        return min((hours for hours in (self.hours, paid) if hours is not None), default=None)

    def deadline(self, now: datetime) -> datetime | None:
        """Return `until` with its time zone: the next such local time after `now`, or the given date and time."""
        if self.until is None:
            return None
        clock = _CLOCK.fullmatch(self.until)
        if clock is None:
            return datetime.fromisoformat(self.until).astimezone()
        today = now.astimezone().replace(tzinfo=None, second=0, microsecond=0)
        moment = today.replace(hour=int(clock.group(1)), minute=int(clock.group(2)))
        if moment.astimezone() <= now.astimezone():
            moment += timedelta(days=1)
        return moment.astimezone()


class Split(Section):
    """Shares of each task's examples for search, selection and report. salt: key of another division by hash."""

    search: Annotated[float, Field(gt=0, lt=1, description="Share that candidates are scored on.")] = 0.5
    select: Annotated[float, Field(gt=0, lt=1, description="Share that the winner is selected on.")] = 0.2
    report: Annotated[float, Field(gt=0, lt=1, description="Share that results are reported on.")] = 0.3
    salt: Annotated[str | None, Field(min_length=1, description="Any text; another one divides otherwise.")] = None

    @model_validator(mode="after")
    def _whole(self) -> "Split":
        if not math.isclose(sum(self.shares), 1.0):
            shares = ", ".join(f"{name} {share:g}" for name, share in zip(SPLITS, self.shares, strict=True))
            raise ValueError(f"the shares must sum to 1; {shares} sum to {sum(self.shares):g}")
        return self

    @property
    def shares(self) -> tuple[float, float, float]:
        """(search, select, report)."""
        return self.search, self.select, self.report


def named_paths(configuration: Mapping[str, Any], folder: Path | None = None) -> list[Path]:
    """Return the paths of models and task files in a configuration, such as that of a study.

    folder: start of relative paths; without it, relative paths are left out.
    """
    named = [path for _, _, path in paths_of(configuration, folder or Path())]
    return [path for path in named if folder is not None or path.is_absolute()]


def paths_of(data: Mapping[str, Any], folder: Path) -> list[tuple[tuple[str | int, ...], str, Path]]:
    """Return the paths of models, and of plug-ins' files and folders: place in a search file, as written, resolved.

    data: contents of a search file, which may have mistakes. folder: start of relative paths.
    """
    texts: list[tuple[tuple[str | int, ...], Any]] = []
    experts = data.get("experts")
    listed = enumerate(experts) if isinstance(experts, list) else _mapping(experts).items()
    for place, model in [(("base",), data.get("base")), *((("experts", key), model) for key, model in listed)]:
        for key in ("path", "adapter", "statistics"):
            part = model if key == "path" and isinstance(model, str) else _mapping(model).get(key)
            revision = _mapping(model).get("revision") if key == "path" else _mapping(part).get("revision")
            text = _mapping(part).get("path") if isinstance(part, Mapping) else part
            if isinstance(text, str) and revision is None and locate_name(text, folder)[1] is None:
                texts.append(((*place, key) if isinstance(model, Mapping) else place, text))
    run = data.get("checkpoints")
    texts += [(("checkpoints", index), path) for index, path in enumerate(run if isinstance(run, list) else [])]
    for place, what, spec in plugins_of(data):
        if what in ("search space", "evaluator"):
            texts += [((*place, key), spec.options.get(key)) for key in PATH_OPTIONS]
            task = spec.options.get("task")
            texts += [((*place, "task"), task)] if isinstance(task, str) and task.endswith(TASK_FILES) else []
    return [(place, text, Path(resolve_path(text, folder))) for place, text in texts if isinstance(text, str)]


def plugins_of(data: Mapping[str, Any]) -> list[tuple[tuple[str | int, ...], str, PluginSpec]]:
    """Return place, kind, and name with options of each plug-in in a search file; malformed ones are left out."""
    given = data.get("method")
    methods: list[tuple[tuple[str | int, ...], Any]] = [(("method",), given)]
    if isinstance(given, list):
        methods = [(("method", index), method) for index, method in enumerate(given)]
    named: list[tuple[tuple[str | int, ...], str, Any, str]] = [
        *((place, "merge method", method, "kind") for place, method in methods),
        (("space",), "search space", data.get("space"), "kind"),
        *(
            ((key, str(name)), "evaluator", task, "evaluator")
            for key in ("tasks", REPORT_ONLY)
            for name, task in _mapping(data.get(key)).items()
        ),
        (("optimizer",), "optimizer", data.get("optimizer"), "kind"),
    ]
    return [
        (place, what, PluginSpec.read(spec, key))
        for place, what, spec, key in named
        if isinstance(spec, str) or isinstance(_mapping(spec).get(key), str)
    ]


def _mapping(data: Any) -> Mapping[str, Any]:
    return data if isinstance(data, Mapping) else {}


def plugin_data(spec: PluginSpec, key: str = "kind") -> str | dict[str, Any]:
    """Return a plug-in's entry in a search file, in its shortest form."""
    return {key: spec.kind, **spec.options} if spec.options else spec.kind


def methods_data(specs: Sequence[PluginSpec]) -> Any:
    """Return the entry `method` of a search file: one plug-in, or a list of several."""
    found = [plugin_data(spec) for spec in specs]
    return found if len(found) > 1 else found[0]


def _folder(info: ValidationInfo) -> Path:
    if not isinstance(info.context, Path):
        raise TypeError("A search file is validated with its folder as context.")
    return info.context


def _model(data: Any, info: ValidationInfo, name: str | None = None) -> Input:
    data = _with_path(data, "a model", MODEL_KEYS)
    path, revision = _place(data, info)
    adapter, adapter_revision = None, None
    if "adapter" in data:
        adapter, adapter_revision = _place(_with_path(data["adapter"], "an adapter", ("path", "revision")), info)
    statistics = data.get("statistics")
    if "statistics" in data:
        if not isinstance(statistics, str) or not statistics:
            raise ValueError(f"expected the path of statistics; got {statistics!r}")
        statistics = resolve_path(statistics, _folder(info))
    return Input(name or Path(path).name, path, revision, adapter, statistics, adapter_revision)


def _with_path(data: Any, what: str, keys: Sequence[str]) -> dict[str, Any]:
    """Return a model or adapter as a mapping of `keys`; a string is its path. Raises ValueError for anything else."""
    if isinstance(data, str):
        data = {"path": data}
    if not isinstance(data, dict) or not isinstance(data.get("path"), str) or not data["path"]:
        raise ValueError(f"expected the path of {what}; got {data!r}")
    for key in data:
        if key not in keys:
            raise ValueError(unknown_key(key, keys))
    return data


def _place(data: Mapping[str, Any], info: ValidationInfo) -> tuple[str, str | None]:
    """Return a local path with None, or a repository of the hub with its revision."""
    if data.get("revision") is not None:
        return data["path"], str(data["revision"])
    return locate_name(data["path"], _folder(info))


def _base(data: Any, info: ValidationInfo) -> Input:
    return _model(data, info, "base")


def _experts(data: Any, info: ValidationInfo) -> tuple[Input, ...]:
    if isinstance(data, list) and data:
        return tuple(_model(value, info) for value in data)
    if isinstance(data, dict) and data:
        return tuple(_model(value, info, name) for name, value in data.items())
    raise ValueError(f"expected a list of model paths, or a mapping name: path; got {data!r}")


def _plugin(data: Any, info: ValidationInfo, key: str = "kind") -> PluginSpec:
    if not (isinstance(data, str) and data) and not (isinstance(data, dict) and isinstance(data.get(key), str)):
        raise ValueError(f"expected a name, or {{{key}: NAME, ...options}}; got {data!r}")
    spec = PluginSpec.read(data, key)
    options = dict(spec.options)
    for name in PATH_OPTIONS:
        if isinstance(options.get(name), str):
            options[name] = resolve_path(options[name], _folder(info))
    return PluginSpec(spec.kind, options)


def _methods(data: Any, info: ValidationInfo) -> PluginSpec | tuple[PluginSpec, ...]:
    """Return one merge method, or several to choose from."""
    if not isinstance(data, list):
        return _plugin(data, info)
    if not data:
        raise ValueError("expected a merge method, or a list of several to choose from; got []")
    specs = tuple(_plugin(each, info) for each in data)
    twice = next((spec for index, spec in enumerate(specs) if spec in specs[:index]), None)
    if twice is not None:
        raise ValueError(f"{plugin_data(twice)!r} is listed twice; give each method once, or with other options")
    return specs if len(specs) > 1 else specs[0]


def _task(data: Any, info: ValidationInfo) -> PluginSpec:
    spec = _plugin(data, info, "evaluator")
    if REPORT_ONLY in spec.options:
        raise ValueError(f"{REPORT_ONLY} is a key of the file, beside `tasks`: move the task there")
    task = spec.options.get("task")
    if isinstance(task, str) and task.endswith(TASK_FILES):
        options = {**spec.options, "task": resolve_path(task, _folder(info))}
        return PluginSpec(spec.kind, options)
    return spec


def _ray_address(text: str) -> str:
    if text not in ("auto", "local") and not re.fullmatch(r"[^/\s]+:\d+", text):
        hint = " (Ray Client has no place here: run the command on the cluster)" if text.startswith("ray://") else ""
        raise ValueError(f"expected auto, local, or HOST:PORT of the head of a Ray cluster; got {text!r}{hint}")
    return text


def _device(text: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", text):
        raise ValueError(f"expected auto, cpu, mps, cuda or cuda:N; got {text!r}")
    return text


def _auto_or(kind: type[int] | type[float], expected: str) -> PlainValidator:
    """Accepts `auto` or a positive number of this kind."""

    def check(data: Any) -> Any:
        if data == "auto":
            return data
        if type(data) not in (int, float) or data <= 0 or kind(data) != data:
            raise ValueError(f"expected auto or {expected}; got {data!r}")
        return kind(data)

    return PlainValidator(check)


def _located(text: Any, info: ValidationInfo) -> Path:
    if not isinstance(text, str) or not text:
        raise ValueError(f"expected a path; got {text!r}")
    return Path(resolve_path(text, _folder(info)))


def _folders(data: Any, info: ValidationInfo) -> tuple[Path, ...]:
    return tuple(_located(text, info) for text in (data if isinstance(data, list) else [data]))


def _backend(data: Any) -> PluginSpec | None:
    """Return another backend than transformers with its options; None for transformers, the default."""
    spec = PluginSpec.read(data) if isinstance(data, str) or isinstance(_mapping(data).get("kind"), str) else None
    if spec is None or spec.kind not in BACKENDS:
        raise ValueError(f"expected {' or '.join(BACKENDS)}, or {{kind: vllm, OPTION: VALUE}}; got {data!r}")
    if spec.kind == BACKENDS[0]:
        if spec.options:
            raise ValueError(f"{BACKENDS[0]} takes no options; got {', '.join(spec.options)}")
        return None
    own = [name for name in spec.options if name in SET_BY_US]
    if own:
        raise ValueError(f"{own[0]} of vLLM follows from the search, or is not supported; remove it")
    return spec


def _racing(given: Any) -> str | None:
    # YAML reads a bare `off` as false.
    if given is None:
        return None
    if given is False or given == "off":
        return "off"
    if given not in ("safe", "aggressive"):
        raise ValueError(f"expected off, safe or aggressive; got {given!r}")
    return str(given)


def _plugin_entry(what: str, key: str = "kind") -> Schema:
    return Schema(partial(entries.plugin, what, key))


Backend = Annotated[PluginSpec | None, PlainValidator(_backend), schema(entries.BACKEND)]
Racing = Annotated[str | None, PlainValidator(_racing), schema(entries.RACING)]
Base = Annotated[Input, PlainValidator(_base), schema(entries.MODEL)]
Experts = Annotated[tuple[Input, ...], PlainValidator(_experts), schema(entries.MODELS)]
Space = Annotated[PluginSpec, PlainValidator(_plugin), _plugin_entry("search space")]
Search = Annotated[PluginSpec, PlainValidator(_plugin), _plugin_entry("optimizer")]
Methods = Annotated[PluginSpec | tuple[PluginSpec, ...], PlainValidator(_methods), Schema(entries.methods)]
Task = Annotated[PluginSpec, PlainValidator(_task), _plugin_entry("evaluator", "evaluator")]
ObjectiveEntry = Annotated[ObjectiveSpec, PlainValidator(read_objective), schema(entries.OBJECTIVE)]
Weights = Annotated[dict[str, float], PlainValidator(read_weights), schema(entries.WEIGHTS)]
Keep = Annotated[Floor | dict[str, Floor], PlainValidator(read_keep), schema(entries.KEEP)]
Checkpoints = Annotated[tuple[str, ...], PlainValidator(tuple), schema(entries.CHECKPOINTS)]
RayAddress = Annotated[Annotated[str, AfterValidator(_ray_address)] | None, schema(entries.RAY_ADDRESS)]
Device = Annotated[str, AfterValidator(_device), schema(entries.DEVICE)]
Folders = Annotated[tuple[Path, ...], PlainValidator(_folders), schema(entries.TEXTS)]
FolderPath = Annotated[Path, PlainValidator(_located), schema(entries.TEXT)]
Count = Annotated[Literal["auto"] | int, _auto_or(int, "a whole number from 1"), schema(entries.COUNT)]
Amount = Annotated[Literal["auto"] | float, _auto_or(float, "a number above 0"), schema(entries.AMOUNT)]
