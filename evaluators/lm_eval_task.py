"""Any task of lm-evaluation-harness, stock or from a local YAML file, with one value per document.

    tasks:
      logic:
        evaluator: lm_eval_task
        task: logiqa                   # or: task: mine, include_path: my_tasks
        num_fewshot: 5

Values equal those of `lm_eval --model hf --model_args dtype=float32` (for 16-bit weights: with
softmax_dtype=float32). Perplexities are reported as logarithms. Metrics computed from all documents at once (f1, mcc,
bleu, ...) have no value per document and are unsupported. https://github.com/EleutherAI/lm-evaluation-harness
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from evaluators import _bounded
from evaluators._choices import LOWER_IS_BETTER, Score, check_score
from evaluators._examples import check_limit
from evaluators._image_generation import chat_renderer, images, read_processor
from evaluators._images import digest
from evaluators._isolation import fast_templates, preserved_random_states, quiet
from evaluators._lm_eval_build import FIELDS
from evaluators._lm_eval_documents import Document, made_up, reach_notes
from evaluators._lm_eval_files import shown
from evaluators._lm_eval_loading import check_images, check_options, configure, load
from evaluators._lm_eval_losses import Aim, aim, objection
from evaluators._lm_eval_marks import Marks
from evaluators._lm_eval_metrics import choose, choose_filter, with_lengths
from evaluators._lm_eval_requests import Requests, Response, Settings
from evaluators._lm_eval_smooth import Smooth
from evaluators._presentation import rendered
from evaluators._tokens import PerTokenizer
from evaluators.base import (
    NO_REFERENCES,
    Evaluator,
    EvaluatorError,
    FloatArray,
    LanguageModel,
    Preview,
    Scores,
    content_ids,
)

#: lm-eval's own default for drawing few-shot examples.
FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class _Frozen:
    """For one tokenizer: each document's lm-eval Instances, and the engine that answers them."""

    instances: list[list[Any]]
    requests: Requests


class LmEvalTask(Evaluator):
    """One metric of a task, or of all tasks of a group or tag (mean weighted by size, as in most groups).

    Options not explained here are those of lm-eval.

    Args:
        task: Name of a task, group or tag, or path of a YAML file.
        include_path: Folder of task YAML files.
        num_fewshot: As in lm-eval.
        limit: Maximum number of documents per task.
        metric: Metric to report; by default the first that is a mean over documents.
        score: What the search follows: "accuracy", the metric; or of tasks scored by likelihoods "probability" of the
            right choice (among all, normalized as in the metric) or continuation, "logprob", its logarithm in nats, or
            "bits_per_byte" of the right text alone, of which less is better. Constraints, selection and report use the
            metric.
        filter: Answer filter to use; by default the first.
        apply_chat_template: As in lm-eval.
        fewshot_as_multiturn: As in lm-eval.
        system_instruction: As in lm-eval.
        gen_kwargs: As in lm-eval.
        max_length: Context length in tokens, as in lm-eval.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
        metadata: Metadata passed to the tasks.
        processor: Model folder with the processor of images (processor_config.json or preprocessor_config.json), for
            tasks with `doc_to_image`; these generate, as with `lm_eval --model hf-multimodal`.
        seed: Seed of the few-shot examples and of sampled generations.
        allow_code: Whether local task files may run the Python code that they name.
    """

    def __init__(
        self,
        *,
        task: str,
        include_path: str | None = None,
        num_fewshot: int | None = None,
        limit: int | None = None,
        metric: str | None = None,
        score: Score = "accuracy",
        filter: str | None = None,  # noqa: A002 - lm-eval's name for it
        apply_chat_template: bool = False,
        fewshot_as_multiturn: bool = True,
        system_instruction: str | None = None,
        gen_kwargs: Mapping[str, Any] | None = None,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        processor: str | None = None,
        seed: int = FEWSHOT_SEED,
        allow_code: bool = False,
    ) -> None:
        check_limit(limit)
        check_options(task=task, include_path=include_path, metadata=metadata, gen_kwargs=gen_kwargs)
        check_options(processor=processor)
        if num_fewshot is not None and (
            isinstance(num_fewshot, bool) or not isinstance(num_fewshot, int) or num_fewshot < 0
        ):
            raise EvaluatorError(f"num_fewshot is {num_fewshot!r}; expected a number of examples, 0 or more.")
        self._limit, self._seed = limit, seed
        self._chat, self._multiturn = apply_chat_template, fewshot_as_multiturn
        self._system = system_instruction
        self._settings = Settings(max_length, batch_tokens, seed, processor, apply_chat_template)
        self._tasks, group, self._places, self._trusted = load(task, include_path, metadata or {}, allow_code)
        self._images = any(check_images(name, loaded, processor) for name, loaded in self._tasks.items())
        for loaded in self._tasks.values():
            configure(loaded, num_fewshot, gen_kwargs)
        self._documents = [
            Document(name, loaded, number, content)
            for name, loaded in self._tasks.items()
            for number, content in loaded.doc_iterator(limit=limit)
        ]
        contents = {name: [d.content for d in self._documents if d.name == name] for name in self._tasks}
        self._metric = choose(self._tasks, group, metric, [len(found) for found in contents.values()])
        self._filter = choose_filter(self._tasks, group, self._metric.name, filter)
        self.smooth_score = check_score(score)
        all_write = all(each.OUTPUT_TYPE == "generate_until" for each in self._tasks.values())
        self.needs_weights = self._images or not all_write  # the network itself reads images
        self.higher_is_better = self._metric.higher_is_better and self.smooth_score not in LOWER_IS_BETTER
        with fast_templates(self._trusted):
            self._ids = content_ids([self._text(document) for document in self._documents])
            with self._places.explained(task, doing="measuring its documents"):
                self._metric = with_lengths(self._metric, self._tasks, contents)
        self._marks = Marks(self._documents, self._metric, self._filter, chat=self._chat)
        self._smooth = Smooth(self._documents, self._metric, self.smooth_score)
        self._instances: list[list[Any]] = []
        self._frozen = PerTokenizer(self._freeze)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per document, of its prompt without few-shot examples, its choices and its target."""
        return self._ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Build the requests, score made-up answers, and return warnings about long prompts.

        Raises EvaluatorError for unreadable input, and for documents of any split that cannot be scored.
        """
        with fast_templates(self._trusted), preserved_random_states():
            if self._chat:
                self._try_chat_template(model)
            frozen = self._frozen.of(model)
            self._score_made_up(frozen)
            return (*frozen.requests.notes, *reach_notes(self._documents))

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Run only forward passes, the tasks' own filters and process_results."""
        rows = self.rows(ids)
        with fast_templates(self._trusted), preserved_random_states():
            frozen = self._frozen.of(model)
            responses = frozen.requests.run(model.network, rows)
            self._marks.fill(frozen.instances, rows, responses)
            values = [
                self._marks.value(row, frozen.instances[row]) if response.finite else float("nan")
                for row, response in zip(rows, responses, strict=True)
            ]
            accepted = self._marks.accepted(rows, responses, values)
            smooth = self._smooth.values(rows, frozen.instances, responses)
        kinds = {task.OUTPUT_TYPE for task in self._tasks.values()}
        return Scores(
            example_ids=tuple(self._ids[row] for row in rows),
            values=np.array(values if smooth is None else smooth, dtype=np.float64),
            choices=tuple(map(_loglikelihoods, responses)) if kinds == {"multiple_choice"} else None,
            truncated=sum(r.truncated for r in responses) if "generate_until" in kinds else None,
            accepted=accepted,
            metric=None if smooth is None else np.array(values, dtype=np.float64),
        )

    def why_no_loss(self) -> str | None:
        """Return why the metric of one of the tasks cannot be followed; None if all can."""
        if self._images:
            return "its prompts have images, and losses are of texts."
        found = (objection(name, task, self._metric) for name, task in self._tasks.items())
        return next((why for why in found if why is not None), None)

    def loss_ids(self, references: Mapping[str, str] = NO_REFERENCES) -> tuple[str, ...]:
        """Return the ids of documents with a right choice, a reference, or a target that the metric accepts."""
        if self.why_no_loss() is not None:
            return ()
        with fast_templates(self._trusted), preserved_random_states():
            targets = self._marks.targets(self._marks.generating)
            own = self._aims.keys() | {row for row, target in targets.items() if target.answer is not None}
        referred = {row for row in self._marks.generating if self._ids[row] in references}
        return tuple(self._ids[row] for row in sorted(own | referred))

    def loss(
        self, model: LanguageModel, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES
    ) -> torch.Tensor:
        """Return the loss of the right choice, continuation or generated answer; of whole texts, the nats per token."""
        rows = self.loss_rows(ids, references)
        with fast_templates(self._trusted), preserved_random_states():
            frozen = self._frozen.of(model)
            aims = {row: self._aims[row] for row in rows if row in self._aims}
            targets = self._marks.targets(self._marks.generating.intersection(rows))
            texts = {row: references.get(self._ids[row], target.answer) for row, target in targets.items()}
            found = frozen.requests.losses(model.network, aims, texts)
        return torch.stack([found[row] for row in rows])

    def preview(self, row: int) -> Preview:
        """Return the prompt with its few-shot examples, and the texts scored after it or accepted as answers."""
        with fast_templates(self._trusted), preserved_random_states():
            self._instances = self._instances or self._requests(None)
            document, instances = self._documents[row], self._instances[row]
            target = document.target
        first = instances[0]
        if first.request_type == "generate_until":
            return Preview(
                first.args[0], tuple(map(str, target if isinstance(target, list) else [target])), generated=True
            )
        if first.request_type == "loglikelihood_rolling":
            return Preview("", (first.args[0],))
        texts = tuple(instance.args[1] for instance in instances if instance.args[0] == first.args[0])
        marked = isinstance(target, int) and len(texts) > 1 and 0 <= target < len(texts)
        return Preview(first.args[0], texts, (target,) if marked else ())

    def _freeze(self, model: LanguageModel) -> _Frozen:
        """Build all requests as lm-eval does; few-shot examples are drawn here, once."""
        if self._chat and not self._templated(model).chat_template:
            raise EvaluatorError("apply_chat_template is set, but the model's tokenizer has no chat template.")
        self._instances = self._requests(self._renderer(model) if self._chat else None)
        return _Frozen(self._instances, Requests(model, self._instances, self._settings))

    def _templated(self, model: LanguageModel) -> Any:
        """Return what has the chat template: the tokenizer, or the processor of prompts with images."""
        folder = self._settings.processor
        return read_processor(folder, model.tokenizer) if self._images and folder else model.tokenizer

    def _renderer(self, model: LanguageModel) -> Callable[..., str]:
        """Return a function that renders messages in the form that lm-eval expects."""
        templated = self._templated(model)
        return chat_renderer(templated) if self._images else _chat_template(templated)

    def _requests(self, chat_template: Callable[..., str] | None) -> list[list[Any]]:
        """Return each document's lm-eval Instances, in their order."""
        instances: list[list[Any]] = [[] for _ in self._documents]
        position = {(id(d.task), d.number): row for row, d in enumerate(self._documents)}
        self._build(chat_template)
        for task in self._tasks.values():
            for instance in task.instances:
                instances[position[id(task), instance.doc_id]].append(instance)
        for document, listed in zip(self._documents, instances, strict=True):
            listed.sort(key=lambda instance: instance.idx)
            for instance in listed:
                if not all(isinstance(text, str) for text in instance.args if not isinstance(text, dict)):
                    why = f"must be text; it is {shown(repr(instance.args))[:100]}."
                    self._places.refuse(document.name, ("doc_to_target",), f"{document}: what the model reads {why}")
        return instances

    def _build(self, chat_template: Callable[..., str] | None) -> None:
        """Let lm-eval build the requests of all tasks."""
        for name, task in self._tasks.items():
            task.set_fewshot_seed(seed=self._seed)
            with quiet(), self._places.explained(name, doing="building its prompts"):
                task.build_all_requests(
                    limit=self._limit,
                    system_instruction=self._system,
                    apply_chat_template=self._chat,
                    fewshot_as_multiturn=self._multiturn,
                    chat_template=chat_template,
                )

    def _try_chat_template(self, model: LanguageModel) -> None:
        """Raise EvaluatorError for a chat template of the model that does not terminate."""
        render = self._renderer(model)

        def work(step: Callable[[str], None]) -> None:
            def rendered(*arguments: Any, **options: Any) -> str:
                text = render(*arguments, **options)
                step(text)
                return text

            self._build(rendered)

        over = _bounded.excess(work, len(self._documents)) if self._templated(model).chat_template else None
        if over is not None:
            raise EvaluatorError(
                f"The chat template of the model's tokenizer ({model.tokenizer.name_or_path}, chat_template.jinja or "
                f"tokenizer_config.json) {over.why} for prompt {over.index}: it never ends, or nearly."
            )

    def _score_made_up(self, frozen: _Frozen) -> None:
        """Raise EvaluatorError with the documents that cannot be scored for a right or an empty answer."""
        rows = [row for row, d in enumerate(self._documents) if not getattr(d.task, "UNSAFE_CODE", False)]
        failed = self._failures(frozen, rows, empty=False)
        if failed:
            failed = self._failures(frozen, list(failed), empty=True)
        for name in dict.fromkeys(self._documents[row].name for row in failed):
            errors = [error for row, error in failed.items() if self._documents[row].name == name]
            why = f"{len(errors)} of its documents cannot be scored; correct or remove them: "
            more = " ..." if errors[5:] else ""
            self._places.refuse(name, ("doc_to_target",), why + " ".join(errors[:5]) + more)

    def _failures(self, frozen: _Frozen, rows: Sequence[int], *, empty: bool) -> dict[int, str]:
        """Return the errors of documents whose made-up answers cannot be scored, by row."""
        responses = [
            Response([[made_up(i, self._documents[row], empty=empty)] * i.repeats for i in frozen.instances[row]])
            for row in rows
        ]
        with self._places.explained(self._documents[0].name, "filter_list", doing="filtering made-up answers"):
            self._marks.fill(frozen.instances, rows, responses)
        failed = {}
        for row in rows:
            try:
                self._marks.value(row, frozen.instances[row])
            except EvaluatorError as error:
                failed[row] = str(error)
            else:
                if self._documents[row].unanswered:
                    failed[row] = f"{self._documents[row]}."
        return failed

    @cached_property
    def _aims(self) -> dict[int, Aim]:
        """The losses of the documents that are scored by likelihoods and have a right answer."""
        rows = sorted(set(range(len(self._documents))).difference(self._marks.generating))
        aims = {row: aim(self._documents[row], self._metric.name) for row in rows}
        return {row: found for row, found in aims.items() if found is not None}

    def _text(self, document: Document) -> str:
        """Return the text that identifies a document: its prompt without few-shot examples, its choices and target."""
        task = document.task
        parts: list[Any] = []
        for name in FIELDS:
            if name != "doc_to_choice" or task.get_config("doc_to_choice") is not None:
                with self._places.explained(document.name, name, doing=f"rendering document {document.number}"):
                    part = getattr(task, name)(document.content)
                    parts += part if name == "doc_to_choice" else [part]
        if getattr(task, "MULTIMODAL", False):
            with self._places.explained(document.name, "doc_to_image", doing=f"reading document {document.number}"):
                parts += map(digest, images(task.doc_to_image(document.content)))
        return "\n".join(map(str, parts))


def _chat_template(tokenizer: Any) -> Callable[..., str]:
    """Return a function that renders messages in the form that lm-eval expects."""

    def render(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        return rendered(tokenizer, messages, answer_follows=add_generation_prompt)

    return render


def _loglikelihoods(response: Response) -> FloatArray:
    return np.array([answers[0][0] for answers in response.answers], dtype=np.float64)
