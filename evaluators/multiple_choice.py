"""Multiple choice over a JSON lines file: is the right answer the most likely one?

    tasks:
      capitals:
        evaluator: multiple_choice
        file: data/capitals.jsonl      # {"question": "…", "choices": ["…", "…"], "answer": 1}

Scored like `output_type: multiple_choice` of lm-evaluation-harness.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from string import ascii_uppercase
from typing import Any, get_args

import numpy as np
import torch

from evaluators._answers import AnswerIs, Labeled, right_choices
from evaluators._choices import (
    LOWER_IS_BETTER,
    Normalize,
    Score,
    averaged,
    check_score,
    divisors,
    orders,
    smooth_value,
)
from evaluators._examples import as_texts, check_limit, read_json_lines
from evaluators._likelihood import Likelihoods, Tokens
from evaluators._losses import of_choices
from evaluators._networks import check_continues_text
from evaluators._presentation import Presentation, draw_shots
from evaluators._seams import seam_notes
from evaluators._tokens import PerTokenizer, encode_pair, max_length
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

LETTERS = ascii_uppercase


class MultipleChoice(Evaluator):
    """1 if the answer is the most likely choice, else 0; log-likelihoods in `Scores.choices`.

    For a search, it can be a smooth `score`, which tells models apart on fewer examples; `Scores.metric` then has the
    accuracy.

    Args:
        file: JSON lines file.
        prompt: Field with the prompt; "prompt" or "question" by default.
        choices: Field with the list of choices.
        answer: Field with the answer: the index, the letter or the text of a choice.
        answer_is: Meaning of the answer field: "index" (from 0), "index_from_1", "letter" (A for the first choice) or
            "choice" (the choice itself). By default inferred from the whole file; a file whose numbers allow two
            readings is an error.
        template: Format string over the fields, instead of a prompt field.
        separator: Text between prompt and choice.
        normalize: Divisor of a choice's log-likelihood: 1, its number of characters, or its number of bytes.
        score: What the search follows: "accuracy"; "probability" of the right choice among all, or "logprob", its
            logarithm in nats, both normalized; or "bits_per_byte" of the right choice alone, of which less is better.
            Constraints, selection and report use the accuracy.
        lettered: Whether to list the choices after the prompt, each after a letter (A, B, ...), and to score the
            letters instead of the choices.
        permute_choices: Number of orders in which lettered choices are listed, whose probabilities are averaged; 1 for
            the file's. As many as there are choices show every choice after every letter.
        limit: Use at most N examples.
        num_fewshot: Number of solved examples before every prompt, selected by their content and never scored.
        system: Message before everything else.
        apply_chat_template: Whether to present prompts as a chat, with solved examples as its turns and no separator.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    def __init__(
        self,
        *,
        file: str,
        prompt: str | None = None,
        choices: str = "choices",
        answer: str = "answer",
        answer_is: AnswerIs | None = None,
        template: str | None = None,
        separator: str = " ",
        normalize: Normalize = "none",
        score: Score = "accuracy",
        lettered: bool = False,
        permute_choices: int = 1,
        limit: int | None = None,
        num_fewshot: int = 0,
        system: str | None = None,
        apply_chat_template: bool = False,
        batch_tokens: int | None = None,
    ) -> None:
        if normalize not in get_args(Normalize):
            raise EvaluatorError(f"normalize is {normalize!r}; expected one of {', '.join(get_args(Normalize))}.")
        check_limit(limit)
        self.smooth_score = check_score(score)
        self.higher_is_better = self.smooth_score not in LOWER_IS_BETTER
        _check_letters(lettered, permute_choices, normalize, score)
        lines = read_json_lines(file)
        labeled = [
            Labeled(line.where, line.field(answer), as_texts(line.field(choices), f"{line.where}, {choices}"))
            for line in lines
        ]
        gold, self._notes = right_choices(labeled, answer_is)  # for the whole file: `limit` must not change it
        prompts = [line.prompt(prompt, template) for line in lines]
        contents = ["\n".join((p, *example.choices)) for p, example in zip(prompts, labeled, strict=True)]
        shown, rest = draw_shots(contents, num_fewshot)
        self._prompts = [prompts[i] for i in rest[:limit]]
        self._choices = [labeled[i].choices for i in rest[:limit]]
        self._gold = [gold[i] for i in rest[:limit]]
        self._batch_tokens = batch_tokens
        self._ids = content_ids([contents[i] for i in rest[:limit]])
        self._orders = [
            orders(name, len(texts), permute_choices) for name, texts in zip(self._ids, self._choices, strict=True)
        ]
        if lettered:
            shots = tuple(_lettered(prompts[i], labeled[i].choices, gold[i]) for i in shown)
            self._prompts = [
                _lettered(prompt, [texts[i] for i in order], 0)[0]
                for prompt, texts, listed in zip(self._prompts, self._choices, self._orders, strict=True)
                for order in listed
            ]
            self._choices = [list(LETTERS[: len(texts)]) for texts in self._choices]
        else:
            shots = tuple((prompts[i], labeled[i].choices[gold[i]]) for i in shown)
        self._presentation = Presentation(system, shots, separator, apply_chat_template)
        self._lengths = [divisors(texts, normalize) for texts in self._choices]
        self._bytes = [divisors(texts, "bytes") if score == "bits_per_byte" else np.ones(0) for texts in self._choices]
        self._separator = self._presentation.before_answer
        #: The prompts as read; with a chat template, known once there is a tokenizer.
        self._presented = self._prompts
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per line, of its prompt and choices."""
        return self._ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize the choices and return warnings about answers and white space.

        Raises EvaluatorError for a choice that the model cannot read after its prompt.
        """
        engine, undecided = self._engine.of(model)
        seams = () if self._presentation.chat else seam_notes(self._prompts, self._separator, self._listed)
        return (*self._notes, *seams, *undecided, *engine.notes)

    def preview(self, row: int) -> Preview:
        """Return the prompt, and every choice preceded by the separator."""
        texts = tuple(self._separator + text for text in self._choices[row])
        first = self._orders[row][0]
        return Preview(self._presented[row * self._n_orders], texts, (first.index(self._gold[row]),))

    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Run one forward pass per batch of examples."""
        rows = self.rows(ids)
        engine, _ = self._engine.of(model)
        found = [
            self._averaged(row, each.loglikelihoods)
            for row, each in zip(rows, engine.run(model.network, rows), strict=True)
        ]
        values = np.array([self._value(row, each) for row, each in zip(rows, found, strict=True)])
        ids = tuple(self._ids[row] for row in rows)
        if self.smooth_score is None:
            return Scores(ids, values, tuple(found))
        smooth = [self._smooth(row, each) for row, each in zip(rows, found, strict=True)]
        return Scores(ids, np.array(smooth), tuple(found), metric=values)

    def why_no_loss(self) -> str | None:
        """Return None: every example has a loss."""
        return None

    def loss(
        self, model: LanguageModel, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES
    ) -> torch.Tensor:
        """Return the loss of the right choice among all of an example, normalized as in `score`."""
        rows = self.loss_rows(ids, references)
        engine, _ = self._engine.of(model)
        found = engine.with_gradients(model.network, rows)
        likely = [averaged(each, self._orders[row], self._lengths[row]) for row, each in zip(rows, found, strict=True)]
        return torch.stack(
            [of_choices(each, self._lengths[row], [self._gold[row]]) for row, each in zip(rows, likely, strict=True)]
        )

    def _prepare(self, model: LanguageModel) -> tuple[Likelihoods, tuple[str, ...]]:
        """Return the engine, and warnings about choices with identical tokens."""
        check_continues_text(model.network)
        self._presented = self._presentation.of_all(self._prompts, model.tokenizer)
        pairs = [
            [encode_pair(model.tokenizer, prompt, self._separator + text) for text in texts]
            for prompt, texts in zip(self._presented, self._listed, strict=True)
        ]
        count = self._n_orders
        merged = [list(chain.from_iterable(pairs[i : i + count])) for i in range(0, len(pairs), count)]
        engine = Likelihoods(merged, max_length(model.network, model.tokenizer), self._batch_tokens)
        return engine, () if count > 1 else self._undecided(pairs)

    @property
    def _n_orders(self) -> int:
        return len(self._orders[0])

    @property
    def _listed(self) -> list[Sequence[str]]:
        """The scored texts of every prompt; those of an example's orders follow each other."""
        return [texts for texts in self._choices for _ in range(self._n_orders)]

    def _averaged(self, row: int, likelihoods: FloatArray) -> FloatArray:
        """Return the log-likelihoods of an example's choices, or the logarithms of their means over several orders."""
        if self._n_orders == 1:
            return likelihoods
        return averaged(torch.from_numpy(likelihoods), self._orders[row], self._lengths[row]).numpy()

    def _smooth(self, row: int, likelihoods: FloatArray) -> float:
        score = self.smooth_score or ""
        return smooth_value(score, likelihoods, self._lengths[row], [self._gold[row]], self._bytes[row])

    def _undecided(self, pairs: Sequence[Sequence[tuple[Tokens, Tokens]]]) -> tuple[str, ...]:
        """Return a warning about examples whose right choice never wins, having the tokens of an earlier one."""
        lost = [row for row, each in enumerate(pairs) if each.index(each[self._gold[row]]) < self._gold[row]]
        if not lost:
            return ()
        seen = f"{len(lost)} of {len(pairs)} examples can only score 0"
        return (f"{seen}: their right choice has the same tokens as an earlier one, as in {self._choices[lost[0]]!r}",)

    def _value(self, row: int, likelihoods: FloatArray) -> float:
        if not np.isfinite(likelihoods).all():
            return float("nan")
        return float(np.argmax(likelihoods / self._lengths[row]) == self._gold[row])


def _check_letters(lettered: bool, permute_choices: int, normalize: str, score: str) -> None:
    """Raise EvaluatorError for options that contradict `lettered`, and for a number of orders below 1."""
    if isinstance(permute_choices, bool) or not isinstance(permute_choices, int) or permute_choices < 1:
        raise EvaluatorError(f"permute_choices is {permute_choices!r}; expected a number of orders, at least 1.")
    if permute_choices > 1 and not lettered:
        raise EvaluatorError("permute_choices needs `lettered: true`: only listed choices have an order.")
    if lettered and (normalize != "none" or score == "bits_per_byte"):
        raise EvaluatorError(
            "lettered choices are scored by their letters: leave out `normalize`, and use another `score` than "
            "bits_per_byte."
        )


def _lettered(prompt: str, choices: Sequence[str], right: int) -> tuple[str, str]:
    """Return a prompt that lists choices after letters, and the letter of the right one. Raises EvaluatorError."""
    if len(choices) > len(LETTERS):
        raise EvaluatorError(f"lettered takes at most {len(LETTERS)} choices; {prompt[:40]!r} has {len(choices)}.")
    lines = [f"{letter}. {text}" for letter, text in zip(LETTERS, choices, strict=False)]
    return "\n".join([prompt, *lines, "Answer:"]), LETTERS[right]
