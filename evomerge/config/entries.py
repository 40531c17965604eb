"""JSON schemas of the entries of a search file whose fields have validators of their own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from evomerge import plugins
from evomerge.objective.spec import KINDS, WEIGHED
from evomerge.recipe.model_names import MODEL_KEYS

TEXT: JsonSchemaValue = {"type": "string", "minLength": 1}
#: One or several.
TEXTS: JsonSchemaValue = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
DEVICE: JsonSchemaValue = {"type": "string", "pattern": r"^(auto|cpu|mps|cuda(:\d+)?)$"}
RAY_ADDRESS: JsonSchemaValue = {
    "anyOf": [{"type": "string", "pattern": r"^(auto|local|[^/\s]+:\d+)$"}, {"type": "null"}]
}
CHECKPOINTS: JsonSchemaValue = {"anyOf": [TEXT, {"type": "array", "items": TEXT, "minItems": 2}]}
#: YAML 1.1 reads a bare `off` as false.
RACING: JsonSchemaValue = {"enum": ["off", "safe", "aggressive", False, None]}
COUNT: JsonSchemaValue = {"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1}]}
AMOUNT: JsonSchemaValue = {"anyOf": [{"const": "auto"}, {"type": "number", "exclusiveMinimum": 0}]}
WEIGHTS: JsonSchemaValue = {
    "type": "object",
    "minProperties": 1,
    "additionalProperties": {"type": "number", "exclusiveMinimum": 0},
}


def _closed(properties: JsonSchemaValue, *required: str) -> JsonSchemaValue:
    """Return a mapping with no other keys than these."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


_REVISION: JsonSchemaValue = {"type": ["string", "number", "null"]}
MODEL: JsonSchemaValue = {
    "anyOf": [
        TEXT,
        _closed(
            dict.fromkeys(MODEL_KEYS, TEXT)
            | {
                "revision": _REVISION,
                "adapter": {"anyOf": [TEXT, _closed({"path": TEXT, "revision": _REVISION}, "path")]},
            },
            "path",
        ),
    ]
}
MODELS: JsonSchemaValue = {
    "anyOf": [
        {"type": "object", "minProperties": 1, "additionalProperties": MODEL},
        {"type": "array", "minItems": 1, "items": MODEL},
    ]
}
OBJECTIVE: JsonSchemaValue = {
    "anyOf": [
        {"enum": list(KINDS)},
        WEIGHTS,
        _closed({"kind": {"enum": list(KINDS)}}, "kind"),
        _closed({"kind": {"enum": list(WEIGHED)}, "weights": WEIGHTS}, "kind"),
    ]
}
BACKEND: JsonSchemaValue = {
    "anyOf": [
        {"enum": ["transformers", "vllm"]},
        _closed({"kind": {"const": "transformers"}}, "kind"),
        {"type": "object", "properties": {"kind": {"const": "vllm"}}, "required": ["kind"]},
    ]
}
_FALL: JsonSchemaValue = {
    "anyOf": [{"type": "number", "minimum": 0}, {"type": "string", "pattern": r"^\s*-?[\d.][\d.eE-]*\s*(pt|%)?\s*$"}]
}
_SHARE: JsonSchemaValue = {
    "anyOf": [
        {"type": "number", "minimum": 0, "exclusiveMaximum": 1},
        {"type": "string", "pattern": r"^\s*[\d.][\d.eE-]*\s*%\s*$"},
    ]
}
KEEP: JsonSchemaValue = {
    "anyOf": [
        *_FALL["anyOf"],
        {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {"anyOf": [*_FALL["anyOf"], _closed({"flips": _SHARE}, "flips")]},
        },
    ]
}


def plugin(what: str, key: str = "kind") -> JsonSchemaValue:
    """Return the schema of a plug-in of this kind: its name, or a mapping with the name at `key`, and any options."""
    name = {"anyOf": [{"enum": list(plugins.names(what))}, {"type": "string", "pattern": r"^[\w.]+:\w+$"}]}
    return {"anyOf": [*name["anyOf"], {"type": "object", "properties": {key: name}, "required": [key]}]}


def methods() -> JsonSchemaValue:
    """Return the schema of one merge method or several."""
    one = plugin("merge method")
    return {"anyOf": [*one["anyOf"], {"type": "array", "minItems": 1, "items": one}]}


@dataclass(frozen=True)
class Schema:
    """Annotation of a field with the JSON schema of its entry, made on request: the names of plug-ins are files."""

    make: Callable[[], JsonSchemaValue]

    def __get_pydantic_json_schema__(self, _core: CoreSchema, _handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return self.make()


def schema(value: JsonSchemaValue) -> Schema:
    """Return the annotation of a field whose schema is known beforehand."""
    return Schema(lambda: dict[str, Any](value))
