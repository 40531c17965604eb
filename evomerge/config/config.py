"""The search file: strict YAML in, validated objects out. Its relative paths start at its folder."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from evaluators import _strict_yaml as strict_yaml
from evaluators._nearest import nearest
from evaluators._own_code import look_in
from evaluators._texts import read_text
from evomerge.config.checkpoints import with_models
from evomerge.config.fields import (
    REPORT_ONLY,
    Amount,
    Backend,
    Base,
    Checkpoints,
    Count,
    Device,
    Experts,
    FolderPath,
    Folders,
    Keep,
    Limits,
    Methods,
    ObjectiveEntry,
    Racing,
    RayAddress,
    Search,
    Section,
    Space,
    Split,
    Task,
    Weights,
    methods_data,
    paths_of,
    plugin_data,
    plugins_of,
)
from evomerge.durable import write_text
from evomerge.errors import EvomergeError
from evomerge.objective import Objective
from evomerge.objective.floor import keep_data
from evomerge.objective.spec import NO_SMOOTH, ObjectiveSpec, make_objective
from evomerge.plugins import PluginError, PluginSpec, check_name
from evomerge.recipe import Input, Recipe, RecipeError
from evomerge.recipe.model_names import model_data, near_path
from evomerge.study import SEARCH_FILE, Study
from evomerge.study.lines import FILE
from evomerge.text.printable import is_name
from evomerge.yaml.kinds import read_document
from evomerge.yaml.reader import sentence, unknown_key

#: Keys that may change on resume: none affects which candidates are proposed or how they score.
FREE = (
    "budget",
    "executor",
    "ray_address",
    "ray_insecure",
    "workers",
    "gpus_per_worker",
    "threads",
    "trial_timeout",
    "batch_tokens",
    "code",
    "learn_from",
    "report_only",
    "study",
)


#: Key of a search file that has several searches, see `evomerge.config.stages`.
STAGES = "stages"
#: Place in the file, and what is wrong there.
Mistake = tuple[strict_yaml.Path, str]


class ConfigError(EvomergeError):
    """A search file that cannot be used; one line per mistake, each with its place in the file."""


@dataclass(frozen=True)
class _Text:
    # Not compared: files with equal contents are equal, whatever their lines and folders.
    document: strict_yaml.Document | None = field(default=None, compare=False)
    folder: Path = field(default=Path(), compare=False)


class SearchConfig(Section):
    """A validated search file.

    checkpoints: paths of the checkpoints of one run in training order; the last is the base, the others the experts.
    Empty for a search over other models.
    dtype: of merged weights. compute_dtype: of the network that scores them; None for what suits the machine.
    backend: what generates text, None for transformers.
    report_only: tasks that are scored at the end only, on the report split, and that decide nothing.
    learn_from: folders of the runs of earlier studies, whose trials the search learns from when it begins.
    racing: whether candidates that are clearly worse than the best one so far are dropped before all examples are
    scored: "off", "safe" or "aggressive"; None for what the optimizer does by itself.
    ray_address: HOST:PORT of a running cluster, "auto" for the one of this machine or job, "local" for a private Ray.
    ray_insecure: join a cluster that has no authentication.
    trial_timeout: seconds that one candidate may take on a Ray worker; by default ten times the median of the trials
    so far, and at least ten minutes.
    batch_tokens: tokens per batch of tasks that set none; "auto" measures them once per study, None on GPUs only.
    code: folders of the user's own modules; by default the search file's and the working folder.
    """

    _text: _Text = PrivateAttr(default=_Text())

    base: Base
    experts: Experts
    checkpoints: Checkpoints = ()
    method: Methods = PluginSpec("task_arithmetic")
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    compute_dtype: Literal["float32", "stored"] | None = None
    backend: Backend = None
    tokenizer: str | None = None
    space: Space = PluginSpec("auto")
    tasks: Annotated[dict[str, Task], Field(min_length=1)]
    report_only: dict[str, Task] = Field(default_factory=dict)
    objective: ObjectiveEntry = ObjectiveSpec()
    prefer: Weights | None = None
    keep: Keep | None = None
    optimizer: Search = PluginSpec("auto")
    racing: Racing = None
    budget: Limits = Limits(trials=200)
    executor: Literal["ray", "serial"] = "ray"
    ray_address: RayAddress = None
    ray_insecure: bool = False
    workers: Count = "auto"
    gpus_per_worker: Amount = "auto"
    threads: Count = "auto"
    trial_timeout: Annotated[float | None, Field(gt=0)] = None
    batch_tokens: Count | None = None
    device: Device = "auto"
    split: Split = Split()
    seed: Annotated[int, Field(ge=0)] = 0
    learn_from: Folders = ()
    code: Folders = ()
    study: FolderPath

    @model_validator(mode="before")
    @classmethod
    def _with_models(cls, data: Any, info: ValidationInfo) -> Any:
        if not isinstance(data, Mapping) or "checkpoints" not in data or not isinstance(info.context, Path):
            return data
        try:
            return with_models(data, info.context)
        except ValueError as error:
            _refuse("checkpoints", str(error))

    @model_validator(mode="after")
    def _consistent(self) -> "SearchConfig":
        _one_for_each_task("objective", self.objective.weights, self.tasks)
        _one_for_each_task("prefer", self.prefer, self.tasks)
        if self.executor == "serial" and self.trial_timeout is not None:
            _refuse(
                "trial_timeout",
                "needs `executor: ray`; with `executor: serial` a trial runs in the process of the search, "
                "which cannot be stopped. Use `executor: ray` and `workers: 1`, or leave trial_timeout out",
            )
        if self.checkpoints:
            self._check_run()
        if self.prefer is not None and self.objective.kind != "pareto":
            _refuse("prefer", "needs `objective: pareto`; other objectives take weights themselves: {task: weight}")
        if isinstance(self.keep, Mapping) and not self.keep.keys() <= self.tasks.keys():
            _refuse(
                "keep", "; ".join(unknown_key(name, self.tasks, "task") for name in self.keep if name not in self.tasks)
            )
        for key, tasks in (("tasks", self.tasks), (REPORT_ONLY, self.report_only)):
            unfit = next((name for name in tasks if not is_name(name)), None)
            if unfit is not None:
                _refuse(key, f"the name {unfit!a} contains characters that cannot be displayed; rename the task")
        twice = next((name for name in self.report_only if name in self.tasks), None)
        if twice is not None:
            _refuse(
                REPORT_ONLY, f"{twice} is also one of the `tasks`, which are reported in any case; rename one of them"
            )
        names = ["base", "union", *(model.name for model in self.experts)]
        if self.tokenizer is not None and self.tokenizer not in names:
            _refuse("tokenizer", f"must be one of {', '.join(names)}; got {self.tokenizer!r}")
        try:
            self.recipe()
        except RecipeError as error:
            _refuse("experts", f"{error} Write them as a mapping name: path")
        return self

    def _check_run(self) -> None:
        """Refuse other sums of checkpoints than the last one plus multiples of the differences to it."""
        (spec, *others) = self.methods.values()
        if others or spec.kind != "task_arithmetic" or spec.options.get("normalize"):
            _refuse(
                "method",
                "must be task_arithmetic, without `normalize`, for the checkpoints of one run, whose coefficients have "
                f"either sign; got {methods_data((spec, *others))!r}. EMA, averages and metrics-weighted averages are "
                "among the baselines. For another method, give `base` and `experts`",
            )
        if any(model.adapter is not None for model in self.experts):
            _refuse("checkpoints", "must be whole models")

    def objective_for(
        self, lower_is_better: Collection[str], whole_model: Collection[str], smooth: Mapping[str, str] = NO_SMOOTH
    ) -> Objective:
        """Return the objective, given what the evaluators say of the tasks, as in `Objective`."""
        tasks = list(self.tasks)
        return make_objective(self.objective, tasks, self.prefer, self.keep, lower_is_better, whole_model, smooth)

    def where(self, *path: str | int) -> str:
        """Return the place of a key for error messages: `search.yaml:14: tasks.sort`; without a file only the key."""
        key, document = ".".join(map(str, path)), self._text.document
        return key if document is None else f"{document.where(*path)}: {key}"

    def where_task(self, name: str) -> str:
        """Return the place of a task for error messages, searched or only reported."""
        return self.where(REPORT_ONLY if name in self.report_only else "tasks", name)

    @property
    def where_learning(self) -> str:
        """The place of `learn_from` for error messages; where only the command line has it, its option."""
        document = self._text.document
        return self.where("learn_from") if document and "learn_from" in document.data else "--learn-from"

    def where_model(self, path: str) -> str:
        """Return the place of a model for error messages, by the path or hub name of it or of its adapter."""
        document = self._text.document
        if document is not None and "experts" not in document.data:
            return self.where("checkpoints")
        listed = document is not None and isinstance(document.data["experts"], list)
        named: dict[strict_yaml.Path, Input] = {("base",): self.base}
        named |= {("experts", n if listed else model.name): model for n, model in enumerate(self.experts)}
        return self.where(*next((at for at, m in named.items() if path in (m.path, m.adapter)), ("experts",)))

    def with_budget(self, trials: int | None, hours: float | None) -> "SearchConfig":
        """Return a copy with the given limits; None keeps the file's."""
        given = {name: value for name, value in (("trials", trials), ("hours", hours)) if value is not None}
        return self.model_copy(update={"budget": self.budget.model_copy(update=given)})

    def learning_from(self, folders: Sequence[Path]) -> "SearchConfig":
        """Return a copy that also learns from the runs in these folders."""
        named = dict.fromkeys((*self.learn_from, *(folder.absolute() for folder in folders)))
        return self.model_copy(update={"learn_from": tuple(named)})

    @property
    def code_folders(self) -> tuple[str, ...]:
        """The folders to import the user's own modules from; empty if the file names no such module."""
        tasks = (*self.tasks.values(), *self.report_only.values())
        specs = (*self.methods.values(), self.space, self.optimizer, *tasks)
        own = any(":" in spec.kind or ":" in str(spec.options.get("function", "")) for spec in specs)
        folders = self.code or (self._text.folder, Path.cwd())
        return tuple(dict.fromkeys(map(str, folders))) if own else ()

    def recipe(self) -> Recipe:
        """Return the recipe of the merge, without coefficients; of several methods that of the first one."""
        return next(iter(self.recipes().values()))

    def recipes(self) -> dict[str, Recipe]:
        """Return the recipe for each method that the search chooses from, by the method's name."""
        return {
            name: Recipe(self.base, self.experts, spec.kind, dict(spec.options), self.dtype, self.tokenizer)
            for name, spec in self.methods.items()
        }

    @property
    def methods(self) -> dict[str, PluginSpec]:
        """The methods that the search chooses from, by name; one that is listed n times has a number from 1 to n."""
        specs = (self.method,) if isinstance(self.method, PluginSpec) else self.method
        kinds = [spec.kind for spec in specs]
        return {
            kind if kinds.count(kind) == 1 else f"{kind}-{kinds[: index + 1].count(kind)}": spec
            for index, (kind, spec) in enumerate(zip(kinds, specs, strict=True))
        }

    def place_of_method(self, name: str) -> tuple[str | int, ...]:
        """Return the key of a method in the search file: `method`, or `method` and a number in the list."""
        return ("method",) if isinstance(self.method, PluginSpec) else ("method", list(self.methods).index(name))

    def as_dict(self) -> dict[str, Any]:
        """Return the search file as plain data, with absolute paths and defaults filled in."""
        data: dict[str, Any] = {
            "base": model_data(self.base),
            "experts": {model.name: model_data(model) for model in self.experts},
            "method": methods_data(tuple(self.methods.values())),
            "space": plugin_data(self.space),
            "tasks": _tasks_data(self.tasks),
            "objective": self.objective.data,
            "optimizer": plugin_data(self.optimizer),
            "budget": self.budget.model_dump(exclude_none=True),
            "split": self.split.model_dump(exclude_none=True),
            "study": str(self.study),
        }
        rest = {name: getattr(self, name) for name in _keys(type(self)) if name not in data}
        if self.keep is not None:
            rest["keep"] = keep_data(self.keep)
        if self.backend is not None:
            rest["backend"] = plugin_data(self.backend)
        rest["code"] = list(self.code_folders) or None
        rest["checkpoints"] = list(self.checkpoints) or None
        rest[REPORT_ONLY] = _tasks_data(self.report_only) or None
        rest["learn_from"] = [str(folder) for folder in self.learn_from] or None
        return data | {name: value for name, value in rest.items() if value is not None}

    def identity(self) -> dict[str, Any]:
        """Return the part of `as_dict` that must not change on resume."""
        return {name: value for name, value in self.as_dict().items() if name not in FREE}

    def write(self, path: Path) -> None:
        """Write a search file that `load_config` reads back from anywhere on this machine."""
        write_text(path, self.text())

    def text(self) -> str:
        """Return the text that `write` writes."""
        return strict_yaml.dump(self.as_dict())


def load_config(path: Path | str, *, files: bool = False) -> SearchConfig:
    """Read and check a search file. Raises ConfigError with the line of every mistake.

    files: whether missing models and task files are mistakes, too; finished studies are read without them.
    """
    path = Path(path)
    document = read_search_file(path)
    if STAGES in document.data:
        raise ConfigError(
            f"{document.where(STAGES)}: stages are for `evomerge search` and `evomerge check`; other commands take the "
            "folder of the run of one stage, STUDY/NAME, or the search file in it."
        )
    return checked_config(document, path.absolute().parent, files=files)


def read_search_file(path: Path) -> strict_yaml.Document:
    """Read a search file as plain data with lines. Raises ConfigError."""
    if path.is_dir():
        own = path / SEARCH_FILE
        there = f"; the one of this run is {own}" if own.is_file() else ""
        raise ConfigError(f"{path} is a folder; expected a search file{there}.")
    missing = "expected a search file. `evomerge init BASE EXPERT... --task TASK` writes one."
    document = read_document(path, "search", missing=missing, error=ConfigError, read=_text_of)
    if not isinstance(document.data, dict):
        raise ConfigError(f"{document.where()}: a search file is a mapping (base: ..., experts: ...).")
    return document


def checked_config(document: strict_yaml.Document, folder: Path, *, files: bool = False) -> SearchConfig:
    """Return the search file in a document. Raises ConfigError with the line of every mistake.

    folder: start of relative paths. files: as in `load_config`.
    """
    config, mistakes = _validated(document, folder)
    mistakes += _plugin_mistakes(document) + (_missing_files(document, folder) if files else [])
    if config is None or mistakes:
        ordered = sorted(mistakes, key=lambda each: document.line(*each[0]) or 0)
        said = [sentence(f"{document.where(*at)}: {why}") for at, why in ordered]
        raise ConfigError("\n".join(dict.fromkeys(said)))
    config._text = _Text(document, folder)
    look_in(config.code_folders)
    return config


def _text_of(path: Path) -> str:
    """Read a search file; where a study has lost its copy, restore the text from its ledger."""
    lost = not path.exists() or path.stat().st_size == 0
    if lost and path.name == SEARCH_FILE and (path.parent / FILE).is_file():
        configuration = Study.read(path.parent).configuration
        return strict_yaml.dump({**configuration, "study": str(path.parent.absolute())})
    return read_text(path)


def _validated(document: strict_yaml.Document, folder: Path) -> tuple[SearchConfig | None, list[Mistake]]:
    """Return the search file as an object, if valid, and its mistakes.

    Validation is repeated without unknown keys, because these hide mistakes in the combination of keys.
    """
    data = document.data
    mistakes: list[Mistake] = []
    while True:
        try:
            return SearchConfig.model_validate(data, context=folder), mistakes
        except ValidationError as error:
            found = error.errors(include_url=False)
        mistakes += [_mistake(details) for details in found]
        unknown = [details["loc"] for details in found if details["type"] == "extra_forbidden"]
        if len(unknown) < len(found):
            return None, mistakes
        data = _repaired(data, unknown)


def _repaired(data: Mapping[str, Any], unknown: Sequence[strict_yaml.Path]) -> dict[str, Any]:
    """Return the data with unknown keys renamed to the nearest known ones, or dropped."""
    repaired = dict(data)
    for *outer, name in unknown:
        holder: dict[Any, Any] = repaired
        for key in outer:
            holder[key] = holder = dict(holder[key])
        value, near = holder.pop(name), nearest(name, _keys_at(outer))
        if near is not None:
            holder.setdefault(near, value)
    return repaired


def _plugin_mistakes(document: strict_yaml.Document) -> list[Mistake]:
    """Find missing plug-ins without importing any."""
    mistakes: list[Mistake] = []
    for path, what, spec in plugins_of(document.data):
        try:
            check_name(what, spec.kind)
        except PluginError as error:
            mistakes.append((path, f"{'.'.join(map(str, path))}: {error}"))
    return mistakes


def _missing_files(document: strict_yaml.Document, folder: Path) -> list[Mistake]:
    """Find missing models, and missing files and folders of plug-ins."""
    return [
        (at, f"{'.'.join(map(str, at))}: {_missing(text, path, folder)}")
        for at, text, path in paths_of(document.data, folder)
        if not path.exists()
    ]


def _missing(text: str, path: Path, folder: Path) -> str:
    """Describe a missing path, with one of a similar name. text: as the file has it."""
    written = "" if text == str(path) else f" (in the file: {text})"
    near = near_path(text, folder)
    said = f"{path} does not exist{written}"
    remedy = "correct the path, which starts at this file's folder if it is relative"
    return f"{said}: {remedy}" if near is None else f"{said}. Did you mean {near}? Otherwise {remedy}"


def _tasks_data(tasks: Mapping[str, PluginSpec]) -> dict[str, Any]:
    return {name: plugin_data(spec, "evaluator") for name, spec in tasks.items()}


def _refuse(field: str, why: str) -> NoReturn:
    raise PydanticCustomError("inconsistent", "{why}", {"why": why, "at": field})


def _one_for_each_task(field: str, weights: Mapping[str, float] | None, tasks: Mapping[str, PluginSpec]) -> None:
    if weights is not None and weights.keys() != tasks.keys():
        missing = [task for task in tasks if task not in weights]
        what_to_do = [unknown_key(name, tasks, "task") for name in weights if name not in tasks] or [
            (
                f"none is given for {', '.join(missing)}: write `{missing[0]}: 1`, or less for a minor task; "
                "only `evomerge pick --prefer` treats omitted tasks as weight 0"
            )
        ]
        _refuse(field, f"needs one weight for each task ({', '.join(tasks)}); {'; '.join(what_to_do)}")


_SECTIONS: dict[str, type[Section]] = {"budget": Limits, "split": Split}


def _mistake(details: ErrorDetails) -> Mistake:
    """Return the place of an error, and its text: `budget.trials: must be a valid integer; got 1.5`."""
    context = details.get("ctx", {})
    path: strict_yaml.Path = (context["at"],) if "at" in context else details["loc"]
    shown, kind, why = path, details["type"], details["msg"]
    if kind == "extra_forbidden":
        shown, why = path[:-1], unknown_key(str(path[-1]), _keys_at(path[:-1]))
    elif kind == "missing":
        why = "missing"
    elif kind == "value_error":
        why = str(context["error"])
    elif kind != "inconsistent":
        why = f"{why[:1].lower()}{why[1:]}; got {details['input']!r}".replace("input should", "must", 1)
    return path, "".join(f"{part}." for part in shown)[:-1] + (": " if shown else "") + why


def _keys_at(path: Sequence[str | int]) -> list[str]:
    """Return the valid keys of the file, or of its section at `path`."""
    return _keys(_SECTIONS[str(path[0])]) if path else [*_keys(SearchConfig), STAGES]


def _keys(section: type[Section]) -> list[str]:
    return list(section.__pydantic_fields__)
