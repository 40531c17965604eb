"""Requests of lm-eval tasks, frozen: tokens and batches are built once and answered under any weights."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from lm_eval import utils
from lm_eval.models.utils import normalize_gen_kwargs
from torch import Tensor

from evaluators._generation import Generator
from evaluators._image_generation import ImageGenerator, images, read_processor
from evaluators._isolation import preserved_random_states
from evaluators._likelihood import Likelihoods, Tokens
from evaluators._lm_eval_losses import Aim
from evaluators._networks import check_continues_text
from evaluators._teacher import FileAnswer, Teacher
from evaluators._tokens import encode, encode_pair, max_length, prefix_token
from evaluators.base import EvaluatorError, LanguageModel

#: The default of lm-eval's own Hugging Face backend.
DEFAULT_MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class Settings:
    """Settings for answering requests.

    length: context length in tokens, None = the model's own limit. processor: model folder with the processor of
    images. chat: whether prompts are presented as a chat.
    """

    length: int | None
    batch_tokens: int | None
    seed: int
    processor: str | None = None
    chat: bool = False


@dataclass
class Response:
    """Answers to one document's requests, in order, each repeated as often as the task requires."""

    answers: list[list[Any]]
    finite: bool = True
    truncated: int = 0
    generated: list[tuple[Teacher, int, Tokens]] = field(default_factory=list)

    @property
    def verbatim(self) -> str | None:
        """The only generated answer with what ended it, as a reference; None if there are more, or none."""
        if len(self.generated) != 1:
            return None
        teacher, prompt, tokens = self.generated[0]
        return teacher.verbatim(prompt, tokens)


class Requests:
    """Answers the requests of documents. documents: the lm-eval Instances of each, in order."""

    def __init__(self, model: LanguageModel, documents: Sequence[Sequence[Any]], settings: Settings) -> None:
        check_continues_text(model.network)
        self._documents = documents
        self._settings = settings
        self._length = max_length(model.network, model.tokenizer, settings.length)
        kinds = {instance.request_type for instances in documents for instance in instances}
        unknown = sorted(kinds - {"loglikelihood", "loglikelihood_rolling", "generate_until"})
        if unknown:
            raise EvaluatorError(f"A task requests {unknown[0]!r}; expected likelihoods or generations.")
        self._places = _places(documents)
        self._likelihood = self._prepare_likelihood(model)
        self._rolling = self._prepare_rolling(model)
        self._generators = self._prepare_generators(model)

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the prompts to continue."""
        return (*self._likelihood.notes, *(note for generator, _ in self._generators for note in generator.notes))

    def run(self, network: Any, which: Sequence[int]) -> list[Response]:
        """Return responses to the documents `which`, in that order."""
        responses = {document: Response([[] for _ in self._documents[document]]) for document in which}
        self._run_likelihood(network, responses)
        self._run_rolling(network, responses)
        with preserved_random_states(self._settings.seed):
            self._run_generators(network, responses)
        return [responses[document] for document in which]

    def losses(
        self, network: Any, aims: Mapping[int, Aim], answers: Mapping[int, str | FileAnswer | None]
    ) -> dict[int, Tensor]:
        """Return document -> differentiable loss, (). aims: of likelihoods. answers: of generations."""
        found: dict[int, Tensor] = {}
        rolling = [document for document, places in self._places["loglikelihood_rolling"].items() for _ in places]
        for engine, order in ((self._likelihood, list(self._places["loglikelihood"])), (self._rolling, rolling)):
            wanted = [k for k, document in enumerate(order) if document in aims]
            values = engine.with_gradients(network, wanted) if wanted else []
            for k, each in zip(wanted, values, strict=True):
                found[order[k]] = aims[order[k]](each, engine.sizes(k))
        for generator, requests in self._generators:
            asked = {k: document for k, (document, _) in enumerate(requests) if document in answers}
            if asked and isinstance(generator, Generator):
                texts = [answers[document] for document in asked.values()]
                found.update(zip(asked.values(), generator.teacher.losses(network, list(asked), texts), strict=True))
        return found

    def _prepare_likelihood(self, model: LanguageModel) -> Likelihoods:
        pairs = [
            [encode_pair(model.tokenizer, *self._documents[document][i].args) for i in places]
            for document, places in self._places["loglikelihood"].items()
        ]
        return Likelihoods(pairs, self._length, self._settings.batch_tokens)

    def _prepare_rolling(self, model: LanguageModel) -> Likelihoods:
        pairs = [
            _windows(model.tokenizer, self._documents[document][i].args[0], self._length)
            for document, places in self._places["loglikelihood_rolling"].items()
            for i in places
        ]
        return Likelihoods(pairs, self._length, self._settings.batch_tokens)

    def _prepare_generators(
        self, model: LanguageModel
    ) -> list[tuple[Generator | ImageGenerator, list[tuple[int, int]]]]:
        """Return a generator per set of generation arguments, with its requests (document, position)."""
        groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for document, places in self._places["generate_until"].items():
            for i in places:
                instance = self._documents[document][i]
                groups[f"{len(instance.args)}: {instance.args[1]!r}"].append((document, i))
        return [(self._generator(model, requests), requests) for requests in groups.values()]

    def _generator(self, model: LanguageModel, requests: Sequence[tuple[int, int]]) -> Generator | ImageGenerator:
        instances = [self._documents[document][i] for document, i in requests]
        options: dict[str, Any] = dict(normalize_gen_kwargs(instances[0].args[1], DEFAULT_MAX_NEW_TOKENS))
        stop = list(options.pop("until"))
        if model.tokenizer.eos_token is not None:
            stop.append(model.tokenizer.eos_token)
        if not options["do_sample"]:
            options.pop("temperature", None)
        prompts = [instance.args[0] for instance in instances]
        n_new, limited_by = options.pop("max_gen_toks"), "gen_kwargs.max_gen_toks"
        if self._settings.processor is not None and len(instances[0].args) > 2:
            return ImageGenerator(
                model,
                read_processor(self._settings.processor, model.tokenizer),
                prompts,
                [images(instance.args[2]["visual"]) for instance in instances],
                n_new,
                stop,
                chat=self._settings.chat,
                length=self._length,
                limited_by=limited_by,
                options=options,
            )
        return Generator(
            model,
            prompts,
            n_new,
            stop,
            length=self._length,
            limited_by=limited_by,
            batch_tokens=self._settings.batch_tokens,
            options=options,
        )

    def _run_likelihood(self, network: Any, responses: Mapping[int, Response]) -> None:
        documents = self._places["loglikelihood"]
        order = {document: k for k, document in enumerate(documents)}
        wanted = [document for document in responses if document in order]
        found = self._likelihood.run(network, [order[document] for document in wanted])
        for document, answers in zip(wanted, found, strict=True):
            response = responses[document]
            response.finite &= bool(np.isfinite(answers.loglikelihoods).all())
            for place, likelihood, greedy in zip(
                documents[document], answers.loglikelihoods.tolist(), answers.greedy.tolist(), strict=True
            ):
                response.answers[place] = [(likelihood, greedy)] * self._documents[document][place].repeats

    def _run_rolling(self, network: Any, responses: Mapping[int, Response]) -> None:
        requests = [(d, i) for d, places in self._places["loglikelihood_rolling"].items() for i in places]
        wanted = [k for k, (document, _) in enumerate(requests) if document in responses]
        for k, answers in zip(wanted, self._rolling.run(network, wanted), strict=True):
            document, place = requests[k]
            total = float(answers.loglikelihoods.sum())
            responses[document].finite &= bool(np.isfinite(total))
            responses[document].answers[place] = [total] * self._documents[document][place].repeats

    def _run_generators(self, network: Any, responses: Mapping[int, Response]) -> None:
        for generator, requests in self._generators:
            wanted = [k for k, (document, _) in enumerate(requests) if document in responses]
            repeats = max((self._documents[d][i].repeats for d, i in requests), default=1)
            rounds = repeats if generator.samples else 1
            for _ in range(rounds):
                for k, found in zip(wanted, generator.run(network, wanted), strict=True):
                    document, place = requests[k]
                    response = responses[document]
                    response.answers[place] += [found.text] * (repeats // rounds)
                    if isinstance(generator, Generator):
                        response.generated.append((generator.teacher, k, found.tokens))
                    response.finite &= found.finite
                    response.truncated += found.truncated


def _places(documents: Sequence[Sequence[Any]]) -> dict[str, dict[int, list[int]]]:
    """Return request type -> document -> positions of its requests of that type."""
    found: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for document, instances in enumerate(documents):
        for place, instance in enumerate(instances):
            found[instance.request_type][document].append(place)
    return found


def _windows(tokenizer: Any, text: str, length: int) -> list[tuple[Tokens, Tokens]]:
    """Split a text into disjoint windows that score each token once, the first one after BOS or EOS."""
    prefix = prefix_token(tokenizer)
    if prefix is None:
        raise EvaluatorError("The tokenizer has neither BOS nor EOS to precede a text without context.")
    windows = utils.get_rolling_token_windows(
        token_list=list(encode(tokenizer, text)), prefix_token=prefix, max_seq_len=length, context_len=1
    )
    pairs = map(utils.make_disjoint_window, windows)
    return [(tuple(context), tuple(continuation)) for context, continuation in pairs]
