"""Retrieval by embeddings: are the right documents of a query the most similar ones of a corpus?

tasks:
  manuals:
    evaluator: embedding_retrieval
    queries: data/queries.jsonl    # {"query": "…", "positive": ["d17"]}
    corpus: data/corpus.jsonl      # {"id": "d17", "text": "…"}
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from evaluators._encoded import Encoded, collated, encoded, pad_token
from evaluators._examples import Line, as_texts, read_json_lines
from evaluators._forward import numbers
from evaluators._tokens import PerTokenizer, batch_limit, batches
from evaluators.base import Evaluator, EvaluatorError, FloatArray, LanguageModel, Preview, Scores, content_ids

Pooling = Literal["mean", "last", "first"]
Metric = Literal["ndcg", "recall"]


@dataclass(frozen=True)
class _Texts:
    """Queries and documents for one tokenizer."""

    queries: Encoded
    documents: Encoded


class EmbeddingRetrieval(Evaluator):
    """nDCG or recall of each query among the k documents whose embeddings are most similar to its own (cosine).

    Embeddings are pooled from the final hidden states of the network without its head. Every candidate reads the whole
    corpus, whatever the number of queries.

    Args:
        queries: JSON lines file with a query and the ids of its right documents in each line.
        corpus: JSON lines file with an id and a text in each line.
        query: Field of `queries` with the text.
        positive: Field of `queries` with an id, or a list of ids.
        id: Field of `corpus` with the id.
        text: Field of `corpus` with the text.
        pooling: Token, or "mean" of all tokens, whose final hidden state is the embedding: "first" or "last".
        metric: "ndcg", where documents further down count less, or "recall", the share of the right ones.
        k: Number of documents that are looked at.
        query_prefix: Text before every query, such as an instruction.
        text_prefix: Text before every document.
        limit: Use at most N queries.
        batch_tokens: Maximum tokens per batch; by default the search file's `batch_tokens`.
    """

    def __init__(
        self,
        *,
        queries: str,
        corpus: str,
        query: str = "query",
        positive: str = "positive",
        id: str = "id",  # noqa: A002 - the name of the field in BEIR is _id, in most files id
        text: str = "text",
        pooling: Pooling = "mean",
        metric: Metric = "ndcg",
        k: int = 10,
        query_prefix: str = "",
        text_prefix: str = "",
        limit: int | None = None,
        batch_tokens: int | None = None,
    ) -> None:
        for name, value, kinds in (("pooling", pooling, get_args(Pooling)), ("metric", metric, get_args(Metric))):
            if value not in kinds:
                raise EvaluatorError(f"{name} is {value!r}; expected one of {', '.join(kinds)}.")
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise EvaluatorError(f"k is {k!r}; expected a number of documents, at least 1.")
        self._pooling, self._metric, self._k, self._batch_tokens = pooling, metric, k, batch_tokens
        places, documents = _read_corpus(corpus, id, text)
        lines = read_json_lines(queries, limit)
        self._positive = [_positions(line, positive, places, corpus) for line in lines]
        self._queries = [query_prefix + str(line.field(query)) for line in lines]
        self._documents = [text_prefix + each for each in documents]
        self._ids = content_ids(self._queries)
        self._engine = PerTokenizer(self._prepare)

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per query."""
        return self._ids

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Tokenize queries and corpus, and return warnings about truncated ones.

        Raises EvaluatorError for a network that does not read text alone.
        """
        texts = self._engine.of(model)
        return (*texts.queries.notes, *texts.documents.notes)

    def preview(self, row: int) -> Preview:
        """Return the query."""
        return Preview(self._queries[row])

    @torch.no_grad()
    def score(self, model: LanguageModel, ids: Sequence[str] | None = None) -> Scores:
        """Embed the whole corpus and the queries, in batches."""
        rows, texts = self.rows(ids), self._engine.of(model)
        documents = self._embeddings(model.network, texts.documents, range(len(self._documents)))
        queries = self._embeddings(model.network, texts.queries, rows)
        values = [
            self._value(numbers(documents @ query), self._positive[row])
            for row, query in zip(rows, queries, strict=True)
        ]
        return Scores(tuple(self._ids[row] for row in rows), np.array(values))

    def why_no_loss(self) -> str | None:
        """Return that ranks have no loss."""
        return (
            "embedding_retrieval has no differentiable loss: it is about the order of all documents. Use an optimizer "
            "that needs no gradients for this task."
        )

    def _value(self, similarities: FloatArray, positive: frozenset[int]) -> float:
        """Return the metric of one query; NaN where similarities are not finite. similarities: (n_documents,)."""
        if not np.isfinite(similarities).all():
            return float("nan")
        right = np.zeros(len(similarities))
        right[list(positive)] = 1
        # Wrong documents precede right ones of the same similarity: a collapsed model finds nothing.
        found = right[np.lexsort((right, -similarities))[: self._k]]
        if self._metric == "recall":
            return float(found.sum() / len(positive))
        gains = 1 / np.log2(np.arange(2, 2 + self._k))
        return float(found @ gains[: len(found)] / gains[: len(positive)].sum())

    def _embeddings(self, network: Any, texts: Encoded, rows: Sequence[int]) -> Tensor:
        """Return embeddings of some texts, of length 1, (n_texts, width), in float32."""
        body = _body(network)
        pad = pad_token(network.config) or 0
        groups = batches([texts.sizes[row] for row in rows], batch_limit(self._batch_tokens, network))
        parts = []
        for group in groups:
            examples = [texts.inputs[rows[i]] for i in group]
            inputs = collated(examples, pad, body)
            states = body(**inputs).last_hidden_state.float()
            sizes = torch.tensor([len(each["input_ids"]) for each in examples], device=states.device)
            parts.append(normalize(self._pooled(states, sizes), dim=-1))
        order = torch.tensor([i for group in groups for i in group], device=parts[0].device)
        return torch.cat(parts)[order.argsort()]

    def _pooled(self, states: Tensor, sizes: Tensor) -> Tensor:
        """Return one state per text. states: (n_texts, length, width), padded on the right. sizes: their lengths."""
        if self._pooling == "first":
            return states[:, 0]
        if self._pooling == "last":
            return states[torch.arange(len(sizes), device=sizes.device), sizes - 1]
        inside = torch.arange(states.shape[1], device=sizes.device) < sizes[:, None]
        return states.masked_fill(~inside[..., None], 0).sum(1) / sizes[:, None]

    def _prepare(self, model: LanguageModel) -> _Texts:
        _check_reads_text(model.network)
        queries, documents = [[each] for each in self._queries], [[each] for each in self._documents]
        return _Texts(
            encoded(model.network, model.tokenizer, queries, "queries"),
            encoded(model.network, model.tokenizer, documents, "documents"),
        )


def _body(network: Any) -> Any:
    """Return the part of a network that turns tokens into hidden states, without its head."""
    body = network.base_model
    # Some classes, such as Llama4ForCausalLM, name another part as their body than they have.
    return network.model if body is network and hasattr(network, "model") else body


def _check_reads_text(network: Any) -> None:
    """Raise EvaluatorError for a network without a body that turns one text into hidden states."""
    if not hasattr(network, "can_generate"):
        return
    several = _body(network) is network and hasattr(network.config, "vision_config")  # CLIP, SigLIP
    if network.main_input_name != "input_ids" or network.config.is_encoder_decoder or several:
        raise EvaluatorError(
            f"{type(network).__name__} does not turn one text into hidden states; expected an encoder such as "
            "BertModel, or a decoder such as LlamaForCausalLM."
        )


def _read_corpus(file: str, id: str, text: str) -> tuple[dict[str, int], list[str]]:  # noqa: A002 - as the option
    """Return id -> position, and the texts. Raises EvaluatorError for an id that is there twice."""
    places: dict[str, int] = {}
    texts: list[str] = []
    for line in read_json_lines(file):
        name = str(line.field(id))
        if name in places:
            raise EvaluatorError(f"{line.where}: the id {name!r} is there twice; expected one document for each id.")
        places[name] = len(texts)
        texts.append(str(line.field(text)))
    return places, texts


def _positions(line: Line, field: str, places: dict[str, int], corpus: str) -> frozenset[int]:
    """Return the positions of a query's right documents. Raises EvaluatorError for one that is not in the corpus."""
    names = as_texts(line.field(field), f"{line.where}, {field}")
    missing = next((name for name in names if name not in places), None)
    if missing is not None:
        raise EvaluatorError(f"{line.where}: {field} has {missing!r}, which is not an id of {corpus}.")
    return frozenset(places[name] for name in names)
