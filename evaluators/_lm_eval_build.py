"""Construction of lm-eval's task objects; every mistake in a task file is reported with its location."""

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import lm_eval.api.task
import lm_eval.tasks._factory
from lm_eval import utils
from lm_eval.api.registry import AGGREGATION_REGISTRY, FILTER_REGISTRY, METRIC_AGGREGATION_REGISTRY, METRIC_REGISTRY
from lm_eval.api.task import ALL_OUTPUT_TYPES, ConfigurableTask
from lm_eval.config.task import TaskConfig

from evaluators import _bounded
from evaluators._lm_eval_files import shown
from evaluators._lm_eval_sources import Found
from evaluators._nearest import did_you_mean
from evaluators.base import EvaluatorError

#: Keys that may hold a template, in the order in which a document's parts are rendered.
FIELDS = ("doc_to_text", "doc_to_choice", "doc_to_target")

_TYPES: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("dataset_kwargs", "generation_kwargs", "fewshot_config"), (dict,)),
    **dict.fromkeys(("metric_list", "filter_list"), (list,)),
    **dict.fromkeys(("dataset_path", "dataset_name", "training_split", "validation_split", "test_split"), (str,)),
    **dict.fromkeys(("fewshot_split", "target_delimiter", "fewshot_delimiter", "gen_prefix", "description"), (str,)),
    **dict.fromkeys(("num_fewshot", "repeats"), (int,)),
    "doc_to_text": (str, int),
    "doc_to_target": (str, int, list),
    "doc_to_choice": (str, list, dict),
    **dict.fromkeys(("process_docs", "process_results", "custom_dataset"), ()),
}
_FAR = (
    "its data set is not in the cache and cannot be downloaded: {error}. Download it once with network access and copy "
    "the cache (the folder HF_HOME), or write a task YAML file on local data (dataset_path: json) and name its folder "
    "with `include_path`. HF_HUB_OFFLINE=1 saves the waiting: without it the hub is tried six times."
)
#: Data sets of these names are files; where none is named, all files below the working folder would be searched.
_FILE_FORMATS = ("arrow", "audiofolder", "csv", "imagefolder", "json", "pandas", "parquet", "text", "webdataset", "xml")
_SPLITS = ("test_split", "validation_split", "training_split", "fewshot_split")


@dataclass(frozen=True)
class Places:
    """Locations of definitions, for error messages."""

    found: Found

    def refuse(self, task: str, path: tuple[str | int, ...], why: str, cause: Exception | None = None) -> NoReturn:
        """Raise EvaluatorError with file, line and task."""
        where = self.found.where(task, *path)
        raise EvaluatorError(f"{where + ': ' if where else ''}task {task!r}: {why}") from cause

    @contextlib.contextmanager
    def explained(self, task: str, *path: str | int, doing: str) -> Iterator[None]:
        """Turn any exception of lm-eval, datasets, Jinja or user functions into a one-line error with its location."""
        try:
            yield
        except EvaluatorError:
            raise
        except ConnectionError as error:
            self.refuse(task, ("dataset_path",), _FAR.format(error=shown(error)), error)
        except Exception as error:  # noqa: BLE001 - a mistake in a file can cause any exception below
            self.refuse(task, path, f"{doing} failed: {reason(error)}", error)


def reason(error: BaseException) -> str:
    """Describe an exception and its cause on one line."""
    said = [f"{type(error).__name__}: {shown(error)[:300]}" if str(error) else type(error).__name__]
    while (cause := error.__cause__) is not None:
        said.append(f"{type(cause).__name__}: {shown(cause)[:300]}")
        error = cause
    return "; ".join(dict.fromkeys(said))


def build(found: Found, allow_code: bool) -> tuple[dict[str, Any], Any]:
    """Build the task objects by name, with their data sets, and the group that was found, if it is one."""
    places = Places(found)
    name = found.asked.config.get("task", found.key) if found.asked else found.key
    name = name if isinstance(name, str) else found.key
    checked = partial(_CheckedTask, places=places, allow_code=allow_code) if found.files else ConfigurableTask
    with (
        _replaced(lm_eval.tasks._factory, "ConfigurableTask", checked),
        _replaced(lm_eval.api.task, "get_metric", _metrics(allow_code)),
        places.explained(name, doing="building it"),
    ):
        loaded = found.manager.load(found.key)
    tasks: dict[str, Any] = loaded["tasks"]
    if not tasks:
        raise EvaluatorError(
            f"{found.where(name, 'task') or name}: {name!r} has no tasks; list them under `task`. "
            "(In a task's own file, `tag` has replaced `group`.)"
        )
    return tasks, next(iter(loaded.get("groups", {}).values()), None)


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def _metrics(allow_code: bool) -> Callable[..., Any]:
    """Wrap lm-eval's get_metric without its fallback to Hugging Face's evaluate, which imports arbitrary files."""
    original = lm_eval.api.task.get_metric

    def get_metric(name: Any, hf_evaluate_metric: bool = False) -> Any:
        if not allow_code and (hf_evaluate_metric or name not in METRIC_REGISTRY):
            raise ValueError(
                f"the metric {name!r} is not one of lm-eval's; it would come from Hugging Face's evaluate, which runs "
                "code: set `allow_code: true` if you trust it"
            )
        metric = original(name, hf_evaluate_metric)
        if metric is None:
            raise ValueError(f"there is no metric {name!r}. {_nearest(name, METRIC_REGISTRY)}")
        return metric

    return get_metric


class _CheckedTask(ConfigurableTask):  # type: ignore[misc]  # lm-eval has no types
    """A task that a local file defines at least in part; checked before and during construction."""

    def __init__(self, config: dict[str, Any], *, places: Places, allow_code: bool) -> None:
        self._places, self._allow_code, self._name = places, allow_code, str(config.get("task"))
        refuse = partial(places.refuse, self._name)
        config = _located(_checked(config, refuse, allow_code), places.found.folders(self._name), refuse)
        with places.explained(self._name, doing="building it"):
            super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Load the data, then check splits and templates before lm-eval uses them."""
        refuse = partial(self._places.refuse, self._name)
        key = "dataset_kwargs" if dataset_kwargs else "dataset_path"
        try:
            super().download(dataset_kwargs, **kwargs)
        except (ConnectionError, EvaluatorError):
            raise
        except Exception as error:  # noqa: BLE001 - datasets and its readers raise many kinds
            refuse((key,), f"its data cannot be read: {reason(error)}", error)
        _check_splits(self, refuse)
        with self._places.explained(self._name, "process_docs", doing="reading its documents"):
            documents = list(self.eval_docs)
            self.prompt, self.features = None, list(self.eval_docs.features)
        if not documents:
            refuse(("test_split" if self.has_test_docs() else "validation_split",), "its data has no documents.")
        if not self._allow_code:
            split, samples = self.fewshot_cfg.split, self.fewshot_cfg.samples
            shots = self.dataset[split] if split is not None else samples if isinstance(samples, list) else ()
            _try_templates(self.config, [*documents, *shots], refuse)
        if self.config.use_prompt is None:
            self._render(documents[0])

    def _render(self, document: Any) -> None:
        """Render the parts of a document that lm-eval renders first, to report those that fail."""
        doing = f"rendering its first document, which has the fields {shown(', '.join(map(repr, self.features)))},"
        for name in FIELDS:
            if name != "doc_to_choice" or self.config.doc_to_choice is not None:
                with self._places.explained(self._name, name, doing=doing):
                    getattr(self, name)(document)


Refuse = Callable[..., NoReturn]


def _checked(config: dict[str, Any], refuse: Refuse, allow_code: bool) -> dict[str, Any]:
    """Return the configuration after checking that lm-eval knows every part of it."""
    known = {field.name for field in fields(TaskConfig)}
    for key, value in config.items():
        if key not in known:
            refuse((key,), f"lm-eval has no key {shown(key)!r} for tasks. {_nearest(key, known)}")
        types = _TYPES.get(key)
        if types is not None and value is not None and not callable(value) and not isinstance(value, types):
            expected = " or ".join(kind.__name__ for kind in types) or "!function module.name"
            refuse((key,), f"{key} is {shown(repr(value))[:100]}; expected {expected}.")
    output = config.get("output_type", "generate_until")
    if output not in ALL_OUTPUT_TYPES:
        refuse(("output_type",), f"output_type is {output!r}; expected one of {', '.join(ALL_OUTPUT_TYPES)}.")
    for index, metric in enumerate(config.get("metric_list") or []):
        _check_metric(
            metric, ("metric_list", index), refuse, allow_code, free=config.get("process_results") is not None
        )
    for index, pipeline in enumerate(config.get("filter_list") or []):
        _check_filter(pipeline, ("filter_list", index), refuse)
    return config


def _check_metric(metric: Any, path: tuple[Any, ...], refuse: Refuse, allow_code: bool, *, free: bool) -> None:
    """free: whether the task's own function computes the metrics, which may then have any name."""
    name = metric.get("metric") if isinstance(metric, dict) else None
    if not isinstance(name, str) and not callable(name):
        refuse(path, f"{shown(repr(metric))[:100]} is not a metric; expected {{metric: NAME, aggregation: mean, ...}}.")
    where = (*path, "metric")
    if isinstance(name, str) and name not in METRIC_REGISTRY and not free and not allow_code:
        refuse(where, f"there is no metric {shown(name)!r}. {_nearest(name, METRIC_REGISTRY)}")
    aggregation = metric.get("aggregation")
    if isinstance(aggregation, str) and aggregation not in AGGREGATION_REGISTRY:
        where = (*path, "aggregation")
        refuse(where, f"there is no aggregation {shown(aggregation)!r}. {_nearest(aggregation, AGGREGATION_REGISTRY)}")
    if not isinstance(aggregation, str) and not callable(aggregation) and name not in METRIC_AGGREGATION_REGISTRY:
        refuse(where, f"the metric {shown(name)!r} needs an `aggregation`, such as mean.")


def _check_filter(pipeline: Any, path: tuple[Any, ...], refuse: Refuse) -> None:
    steps = pipeline.get("filter") if isinstance(pipeline, dict) else None
    if not isinstance(steps, list) or not isinstance(pipeline.get("name"), str):
        got = shown(repr(pipeline))[:100]
        refuse(path, f"{got} is not a filter; expected {{name: NAME, filter: [{{function: NAME}}]}}.")
    for index, step in enumerate(steps):
        name = step.get("function") if isinstance(step, dict) else None
        if not callable(name) and (not isinstance(name, str) or name not in FILTER_REGISTRY):
            where = (*path, "filter", index, "function")
            refuse(where, f"there is no filter {shown(name)!r}. {_nearest(str(name), FILTER_REGISTRY)}")


def _located(config: dict[str, Any], folders: Collection[Path], refuse: Refuse) -> dict[str, Any]:
    """Resolve relative data paths in the working folder, as lm-eval does, or else next to the task file."""
    options = dict(config.get("dataset_kwargs") or {})
    if options.get("streaming"):
        refuse(("dataset_kwargs", "streaming"), "streamed documents have neither an end nor numbers; remove it.")

    def located(name: Any, *path: str | int) -> Any:
        if isinstance(name, dict | list):
            items = name.items() if isinstance(name, dict) else enumerate(name)
            found = {key: located(value, *path, key) for key, value in items}
            return found if isinstance(name, dict) else list(found.values())
        if not isinstance(name, str) or "://" in name or any(c in name for c in "*?["):
            return name
        places = [Path(name), *(folder / name for folder in folders)]
        file = next((place for place in places if place.exists()), None)
        if file is None:
            looked = " and ".join(dict.fromkeys(shown(place.absolute()) for place in places))
            refuse(("dataset_kwargs", *path), f"there is no file {shown(name)!r}; looked for {looked}.")
        if not (file.is_file() and file.stat().st_size) and not file.is_dir():
            kind = "is empty" if file.is_file() else "is not a regular file"
            refuse(("dataset_kwargs", *path), f"the data file {shown(file)} {kind}.")
        return name if file == places[0] else str(file.absolute())

    for key in ("data_files", "data_dir"):
        if options.get(key) is not None:
            options[key] = located(options[key], key)
    path = config.get("dataset_path")
    named = any(options.get(key) for key in ("data_files", "data_dir"))
    if isinstance(path, str) and not (named and path in _FILE_FORMATS) and not Path(path).exists():
        beside = (folder / path for folder in folders if (folder / path).is_dir())
        config = config | {"dataset_path": str(next(beside, path))}
    if config.get("dataset_path") in _FILE_FORMATS and not named and config.get("custom_dataset") is None:
        where = "dataset_kwargs" if config.get("dataset_kwargs") else "dataset_path"
        refuse((where,), f"dataset_path is {path!r}, a format, and no file is named; add dataset_kwargs.data_files.")
    return config | {"dataset_kwargs": options} if options else config


def _check_splits(task: Any, refuse: Refuse) -> None:
    there = list(task.dataset) if isinstance(task.dataset, dict) else None
    if there is None:
        refuse(("dataset_kwargs",), "its data is a single split; remove `split`, so that splits have names.")
    for key in _SPLITS:
        wanted = getattr(task.config, key)
        if wanted is not None and wanted not in there:
            refuse((key,), f"{key} is {wanted!r}; its data has {', '.join(map(repr, there))}.")
    if not (task.has_test_docs() or task.has_validation_docs()):
        have = ", ".join(map(repr, there))
        refuse(("dataset_path",), f"neither test_split nor validation_split is set; its data has {have}.")


def _try_templates(config: Any, documents: list[Any], refuse: Refuse) -> None:
    """Render every template of every document once in a process where an endless one does no harm."""
    found: dict[str, tuple[Any, ...]] = {}
    for path, template in _templates({**vars(config), "fewshot_config": vars(config.fewshot_config)}):
        found.setdefault(template, path)  # few-shot examples use the documents' templates unless set
    templates = [(path, template) for template, path in found.items()]

    def work(step: Callable[[str], None]) -> None:
        for _, template in templates:
            for document in documents:
                try:
                    text = utils.apply_template(template, document)
                except MemoryError:
                    raise
                except Exception:  # noqa: BLE001 - reported at the actual rendering
                    text = ""
                step(text)

    over = _bounded.excess(work, len(templates) * len(documents)) if templates else None
    if over is not None:
        path, _ = templates[min(over.index // len(documents), len(templates) - 1)]
        refuse(path, f"this template {over.why} for document {over.index % len(documents)}: it never ends, or nearly.")


def _templates(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    if isinstance(data, str) and "{" in data:
        yield path, data
    elif isinstance(data, Mapping | list):
        for key, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from _templates(value, (*path, key))


def _nearest(name: str, known: Collection[str]) -> str:
    return f"There are {', '.join(sorted(known))}.{did_you_mean(name, known)}"
