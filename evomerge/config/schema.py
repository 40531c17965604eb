"""The JSON schema of search files, for editors; `check` knows more, such as which options a plug-in takes."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from evomerge.config.config import STAGES, SearchConfig
from evomerge.config.fields import plugin_data
from evomerge.config.stages import STAGE_NAME
from evomerge.objective.spec import ObjectiveSpec
from evomerge.plugins import PluginSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
#: Key -> its meaning, in the words of the table in `docs/search-files.md`.
MEANINGS: Mapping[str, str] = {
    "base": "the model that the experts were fine-tuned from",
    "experts": "the models to merge: a mapping of names to models, or a list",
    "checkpoints": "in place of `base` and `experts`: the checkpoints of one run",
    "method": "merge method, or `{kind: NAME, OPTION: VALUE}`; a list of several: the search chooses one",
    "dtype": "type of the merged weights: `float32`, `bfloat16` or `float16`",
    "compute_dtype": "type of the network that scores candidates: `float32` or `stored`",
    "backend": (
        "what generates text: `transformers` or `vllm`; with options: `{kind: vllm, gpu_memory_utilization: 0.5}`"
    ),
    "tokenizer": "`union`, `base` or an expert's name; embedding rows are then matched by token",
    "space": "which coefficients are searched",
    "tasks": "what a merge is scored on",
    "report_only": "tasks that are scored at the end only and decide nothing, written as in `tasks`",
    "objective": "how the tasks are combined",
    "prefer": "with `objective: pareto`, the trade-off that is recommended and selected",
    "keep": "how far a task may fall below its best parent",
    "optimizer": "what proposes candidates",
    "racing": (
        "`off`, `safe` or `aggressive`: whether to drop candidates that are clearly worse before all examples are "
        "scored"
    ),
    "budget": "`trials`, `hours`, `until` (a time, or a date and time), `money` with `price_per_hour`; the first limit "
    "reached ends the search",
    "executor": "`ray` (several workers) or `serial` (in this process)",
    "ray_address": "a running Ray cluster: `HOST:PORT` or `auto`; `local`: a private Ray on this machine",
    "ray_insecure": "`true`: join a Ray cluster that has no authentication",
    "workers": "number of workers",
    "gpus_per_worker": "GPUs of each worker",
    "threads": "CPU threads of each worker",
    "trial_timeout": "seconds that one candidate may take on a Ray worker",
    "device": "`auto`, `cpu`, `mps`, `cuda` or `cuda:N`",
    "split": "shares of each task's examples: search, select, report; `salt`, any text, divides them otherwise",
    "seed": "seed of the search",
    "batch_tokens": "tokens per forward pass of tasks that set none: a number, or `auto`",
    "code": "one folder or several for your own Python modules",
    "learn_from": "folders of earlier runs to learn from",
    "study": "the folder of the run",
    STAGES: "several searches in a row; each has the keys of the file, except those that it gives itself",
}
#: Keys that the searches of a file with stages may have each for themselves; `study` is the folder of all.
_OF_THE_FILE = ("study",)


class _Generator(GenerateJsonSchema):
    """Writes defaults as a search file does, and no titles."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - keys are titles enough
        return False

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        inner = self.generate_inner(schema["schema"])
        default = _entry(schema.get("default"))
        return inner if default in (None, (), {}) else {**inner, "default": default}


def search_schema() -> dict[str, Any]:
    """Return the JSON schema (draft 2020-12) of search files, with stages or without."""
    generated = SearchConfig.model_json_schema(schema_generator=_Generator)
    keys = {key: {"description": _sentence(MEANINGS[key]), **value} for key, value in generated["properties"].items()}
    references = {key: {"$ref": f"#/$defs/{key}"} for key in keys}
    stage = {
        "type": "object",
        "properties": {key: value for key, value in references.items() if key not in _OF_THE_FILE},
        "additionalProperties": False,
    }
    stages = {
        "description": _sentence(MEANINGS[STAGES]),
        "type": "object",
        "minProperties": 1,
        "propertyNames": {"pattern": f"^{STAGE_NAME}$"},
        "additionalProperties": stage,
    }
    models = [{"required": ["base", "experts"]}, {"required": ["checkpoints"]}]
    return {
        "$schema": DIALECT,
        "title": "evomerge search file",
        "type": "object",
        "properties": {**references, STAGES: stages},
        "additionalProperties": False,
        "required": ["study"],
        # Stages may give the models and tasks themselves.
        "anyOf": [{"required": [STAGES]}, {"required": ["tasks"], "anyOf": models}],
        "$defs": keys | generated["$defs"],
    }


def _entry(value: Any) -> Any:
    """Return a default as it is written in a search file."""
    if isinstance(value, PluginSpec):
        return plugin_data(value)
    if isinstance(value, ObjectiveSpec):
        return value.data
    return value.model_dump(exclude_none=True) if isinstance(value, BaseModel) else value


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
