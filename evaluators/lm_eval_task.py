"""Any task of lm-evaluation-harness, stock or a local YAML file, one value per document.

    tasks:
      logic:
        evaluator: lm_eval_task
        task: logiqa                   # or: task: mine, include_path: my_tasks
        num_fewshot: 5

Numbers equal those of `lm_eval --model hf --model_args dtype=float32` (for 16-bit weights: with
softmax_dtype=float32). https://github.com/EleutherAI/lm-evaluation-harness
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

from evaluators._examples import check_limit
from evaluators._isolation import fast_templates, preserved_random_states, quiet
from evaluators._lm_eval_metrics import choose, choose_filter
from evaluators._lm_eval_requests import Requests, Response, Settings
from evaluators._lm_eval_sources import find, refuse_code
from evaluators._tokens import PerTokenizer
from evaluators.base import Evaluator, EvaluatorError, FloatArray, LanguageModel, Scores, content_ids

#: lm-eval's own default for drawing few-shot examples.
FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class _Document:
    task: Any
    number: int
    content: Any


@dataclass(frozen=True)
class _Frozen:
    """For one tokenizer: each document's lm-eval Instances, and the engine that answers them."""

    instances: list[list[Any]]
    requests: Requests


class LmEvalTask(Evaluator):
    """One metric of a task, or of all tasks of a group or tag (their mean is weighted by size).

    task: name or path of a YAML file. include_path: folder of task YAML files. num_fewshot, limit (documents
    per task), gen_kwargs, system_instruction, apply_chat_template, fewshot_as_multiturn, max_length: as
    lm-eval's. metric, filter: which of the task's (default: the first that is a mean over documents).
    metadata: given to the tasks. seed: of the few-shot examples and of sampled generations.
    allow_code: let local task files run the Python code that they name.
    """

    def __init__(
        self,
        *,
        task: str,
        include_path: str | None = None,
        num_fewshot: int | None = None,
        limit: int | None = None,
        metric: str | None = None,
        filter: str | None = None,  # noqa: A002 - lm-eval's name for it
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = True,
        system_instruction: str | None = None,
        gen_kwargs: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        seed: int = FEWSHOT_SEED,
        allow_code: bool = False,
    ) -> None:
        check_limit(limit)
        self._limit, self._seed = limit, seed
        self._chat, self._multiturn = apply_chat_template, fewshot_as_multiturn
        self._system = system_instruction
        self._settings = Settings(max_length, batch_tokens, seed)
        self._tasks, self._trusted = _load(task, include_path, metadata or {}, allow_code)
        for loaded in self._tasks:
            _configure(loaded, num_fewshot, gen_kwargs)
        self._metric = choose(self._tasks, metric)
        self._filter = choose_filter(self._tasks, filter)
        self.higher_is_better = self._metric.higher_is_better
        with fast_templates(self._trusted):
            self._documents = [
                _Document(loaded, number, content)
                for loaded in self._tasks
                for number, content in loaded.doc_iterator(limit=limit)
            ]
            self._ids = content_ids([_text(document) for document in self._documents])
        self._frozen = PerTokenizer(self._freeze)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per document, of its prompt without few-shot examples, its choices and target."""
        return self._ids

    def rehearse(self, model: Any) -> tuple[str, ...]:
        """Build the requests; notes of prompts that are too long. Raises EvaluatorError for what cannot be read."""
        with fast_templates(self._trusted), preserved_random_states():
            return self._frozen.of(model).requests.notes

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Forward passes, the tasks' own filters and process_results, and nothing else."""
        rows = self.rows(ids)
        with fast_templates(self._trusted), preserved_random_states():
            frozen = self._frozen.of(model)
            responses = frozen.requests.run(model.network, rows)
            self._fill(frozen, rows, responses)
            values = [
                self._value(row, frozen.instances[row]) if response.finite else float("nan")
                for row, response in zip(rows, responses, strict=True)
            ]
        kinds = {task.OUTPUT_TYPE for task in self._tasks}
        return Scores(
            example_ids=tuple(self._ids[row] for row in rows),
            values=np.array(values, dtype=np.float64),
            choices=tuple(map(_loglikelihoods, responses)) if kinds == {"multiple_choice"} else None,
            truncated=sum(r.truncated for r in responses) if "generate_until" in kinds else None,
        )

    def _freeze(self, model: LanguageModel) -> _Frozen:
        """Builds all requests as lm-eval does; few-shot examples are drawn here and never again."""
        if self._chat and not model.tokenizer.chat_template:
            raise EvaluatorError("apply_chat_template is set, but the model's tokenizer has no chat template.")
        instances: list[list[Any]] = [[] for _ in self._documents]
        position = {(id(d.task), d.number): row for row, d in enumerate(self._documents)}
        for task in self._tasks:
            task.set_fewshot_seed(seed=self._seed)
            with quiet():
                task.build_all_requests(
                    limit=self._limit,
                    system_instruction=self._system,
                    apply_chat_template=self._chat,
                    fewshot_as_multiturn=self._multiturn,
                    chat_template=_chat_template(model.tokenizer) if self._chat else None,
                )
            for instance in task.instances:
                instances[position[id(task), instance.doc_id]].append(instance)
        for listed in instances:
            listed.sort(key=lambda instance: instance.idx)
        return _Frozen(instances, Requests(model, instances, self._settings))

    def _fill(self, frozen: _Frozen, rows: Sequence[int], responses: Sequence[Response]) -> None:
        """Puts the answers into the Instances and runs the tasks' filters over them."""
        for row, response in zip(rows, responses, strict=True):
            for instance, answers in zip(frozen.instances[row], response.answers, strict=True):
                instance.resps, instance.filtered_resps = answers, {}
        for task in self._tasks:
            asked = [i for row in rows if self._documents[row].task is task for i in frozen.instances[row]]
            for ensemble in task._filters:
                if asked and ensemble.name == self._filter:
                    ensemble.apply(asked)

    def _value(self, row: int, instances: Sequence[Any]) -> float:
        document = self._documents[row]
        answers = [instance.filtered_resps[self._filter] for instance in instances]
        return self._metric.value(document.task.process_results(document.content, answers))


def _load(name: str, include_path: str | None, metadata: Mapping[str, Any], allow_code: bool) -> tuple[list[Any], bool]:
    """The task objects behind a name, and whether their templates are trusted."""
    with quiet(), preserved_random_states():
        manager, local_files = find(name, include_path, metadata)
        if not allow_code:
            refuse_code(local_files)
        trusted = allow_code or not local_files
        with fast_templates(trusted):
            tasks = _built(manager, name)
    for task in tasks:
        if getattr(task, "UNSAFE_CODE", False) and not allow_code:
            raise EvaluatorError(f"The task {task.task_name} runs generated code; set `allow_code: true` to let it.")
        if getattr(task, "MULTIMODAL", False):
            raise EvaluatorError(f"The task {task.task_name} needs images or sound; only text is supported.")
    return tasks, trusted


def _built(manager: Any, name: str) -> list[Any]:
    """The task objects, with their datasets. Raises EvaluatorError for one that no network brings."""
    try:
        return list(manager.load(name)["tasks"].values())
    except ConnectionError as error:
        raise EvaluatorError(
            f"The dataset of the lm-eval task {name!r} is not in the cache and cannot be fetched: {error}. "
            "Fetch it once where there is a network and bring the cache (the folder HF_HOME), or write a task "
            "YAML file on local data (dataset_path: json) and name its folder with `include_path`. "
            "HF_HUB_OFFLINE=1 saves the waiting: without it the hub is tried six times."
        ) from error


def _configure(task: Any, num_fewshot: int | None, gen_kwargs: Mapping[str, Any] | None) -> None:
    """As lm-eval does: a task that insists on zero examples keeps zero."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config(key="num_fewshot", value=num_fewshot or 0)
    if gen_kwargs and task.get_config("output_type") == "generate_until":
        task.set_config(key="generation_kwargs", value=dict(gen_kwargs), update=True)


def _text(document: _Document) -> str:
    task, content = document.task, document.content
    choices = task.doc_to_choice(content) if task.get_config("doc_to_choice") is not None else ()
    return "\n".join(map(str, (task.doc_to_text(content), *choices, task.doc_to_target(content))))


def _chat_template(tokenizer: Any) -> Callable[..., str]:
    """Renders messages; a template that refuses the system role gets them without it, as in lm-eval."""

    def render(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        options = {
            "tokenize": False,
            "add_generation_prompt": add_generation_prompt,
            "continue_final_message": not add_generation_prompt,
        }
        try:
            return str(tokenizer.apply_chat_template(list(messages), **options))
        except jinja2.TemplateError:
            rest = [message for message in messages if message["role"] != "system"]
            return str(tokenizer.apply_chat_template(rest, **options))

    return render


def _loglikelihoods(response: Response) -> FloatArray:
    return np.array([answers[0][0] for answers in response.answers], dtype=np.float64)
