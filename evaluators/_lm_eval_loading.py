"""The tasks that a name stands for, loaded and configured as lm-eval does, and checks of what they need."""

from collections.abc import Mapping
from typing import Any

from evaluators._images import check_pillow
from evaluators._isolation import fast_templates, preserved_random_states, quiet
from evaluators._lm_eval_build import Places, build
from evaluators._lm_eval_sources import find
from evaluators.base import EvaluatorError


def check_options(**options: Any) -> None:
    """Raise EvaluatorError for names that are not text and mappings that are not mappings."""
    for name, value in options.items():
        kind: Any = Mapping if name in ("metadata", "gen_kwargs") else str
        if not isinstance(value, kind) and (value is not None or name == "task"):
            expected = "a mapping" if kind is Mapping else "text"
            raise EvaluatorError(f"{name} is {value!r}; expected {expected}.")


def load(
    name: str, include_path: str | None, metadata: Mapping[str, Any], allow_code: bool
) -> tuple[dict[str, Any], Any, Places, bool]:
    """Return the task objects of a name, their group, their locations, and whether their templates are trusted."""
    with quiet(), preserved_random_states():
        found = find(name, include_path, metadata, allow_code)
        trusted = allow_code or not found.files
        with fast_templates(trusted):
            tasks, group = build(found, allow_code)
    for key, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False) and not allow_code:
            raise EvaluatorError(f"The task {key!r} runs generated code; set `allow_code: true` to allow it.")
    return tasks, group, Places(found), trusted


def check_images(name: str, task: Any, processor: str | None) -> bool:
    """Return whether a task has images. Raises EvaluatorError for one that lm-eval itself cannot run, or not so."""
    if not getattr(task, "MULTIMODAL", False):
        return False
    if task.get_config("doc_to_audio"):
        raise EvaluatorError(f"The task {name!r} has sound (doc_to_audio); expected text and images.")
    if task.OUTPUT_TYPE != "generate_until":
        raise EvaluatorError(
            f"The task {name!r} has images, and output_type {task.OUTPUT_TYPE}; lm-eval shows images only where "
            "models generate (generate_until)."
        )
    if processor is None:
        raise EvaluatorError(
            f"The task {name!r} has images: set `processor` to the folder of a model with its processor, such as the "
            "base (processor_config.json or preprocessor_config.json)."
        )
    check_pillow()
    return True


def configure(task: Any, num_fewshot: int | None, gen_kwargs: Mapping[str, Any] | None) -> None:
    """Configure as lm-eval does: a task that requires zero examples keeps zero."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    if gen_kwargs and task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(gen_kwargs), update=True)
