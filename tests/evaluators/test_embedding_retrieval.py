import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from torch.nn.functional import normalize

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Evaluator, EvaluatorError
from evaluators.embedding_retrieval import EmbeddingRetrieval
from tests.architectures.kinds import KINDS
from tests.architectures.models import run, write_models
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, character_tokenizer, write_lines

WORDS = ["cat", "dog", "blue", "green", "house", "tree", "car", "sun"]


def write_data(folder: Path) -> dict[str, str]:
    """A corpus of 30 documents of several lengths, and 24 queries with one or two right ones."""
    corpus = [{"id": i, "text": " ".join(WORDS[(i * k) % 8] for k in range(1, 3 + i % 5)) + f" {i}"} for i in range(30)]
    queries = [{"query": f"{WORDS[i % 8]} {i}", "positive": [i, i + 1] if i % 2 else str(i)} for i in range(24)]
    return {
        "queries": str(write_lines(folder / "queries.jsonl", queries)),
        "corpus": str(write_lines(folder / "corpus.jsonl", corpus)),
    }


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_data(tmp_path_factory.mktemp("data"))


def embedder(kind: str, seed: int) -> TinyModel:
    """A random network, loud enough to have opinions."""
    tokenizer = character_tokenizer()
    name, shape = KINDS[kind].network.args  # type: ignore[attr-defined]
    architecture = getattr(tf, name)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = architecture.config_class(**{**shape, "vocab_size": len(tokenizer), "initializer_range": 0.3})
        return TinyModel(architecture(config).eval(), tokenizer, Path())


class EmbeddingsContract(EvaluatorContract):
    kind = "BERT, masked words"

    @pytest.fixture
    def model(self) -> TinyModel:
        return embedder(self.kind, 0)

    @pytest.fixture
    def other_model(self, model: TinyModel) -> TinyModel:
        return TinyModel(embedder(self.kind, 1).network, model.tokenizer, Path())

    @pytest.fixture
    def broken_model(self, model: TinyModel) -> TinyModel:
        network = copy.deepcopy(model.network)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.fill_(float("nan"))
        return TinyModel(network, model.tokenizer, Path())


class TestMean(EmbeddingsContract):
    @pytest.fixture
    def build(self, data: dict[str, str]) -> Callable[[], Evaluator]:
        return lambda: EmbeddingRetrieval(**data, batch_tokens=100)


class TestLastTokenOfLlama(EmbeddingsContract):
    kind = "Llama"

    @pytest.fixture
    def build(self, data: dict[str, str]) -> Callable[[], Evaluator]:
        return lambda: EmbeddingRetrieval(**data, pooling="last", metric="recall", k=5, query_prefix="find ")


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
@pytest.mark.parametrize("metric", ["ndcg", "recall"])
def test_equals_one_text_at_a_time(data: dict[str, str], pooling: Any, metric: Any) -> None:
    model = embedder("BERT, masked words", 0)

    def embed(text: str) -> Any:
        tokens = torch.tensor([model.tokenizer.encode(text)])
        with torch.no_grad():
            states = model.network.bert(tokens).last_hidden_state[0]
        pooled = {"mean": states.mean(0), "last": states[-1], "first": states[0]}[pooling]
        return normalize(pooled, dim=0).numpy()

    corpus, queries = (
        list(map(json.loads, Path(data[name]).read_text().splitlines())) for name in ("corpus", "queries")
    )
    documents = np.array([embed(each["text"]) for each in corpus])
    expected = []
    for each in queries:
        right = each["positive"] if isinstance(each["positive"], list) else [int(each["positive"])]
        order = np.argsort(-(documents @ embed(each["query"])), kind="stable")[:10]
        ranks = [rank for rank, found in enumerate(order, start=1) if found in right]
        best = sum(1 / np.log2(1 + rank) for rank in range(1, 1 + len(right)))
        gain = sum(1 / np.log2(1 + rank) for rank in ranks)
        expected.append(gain / best if metric == "ndcg" else len(ranks) / len(right))
    found = EmbeddingRetrieval(**data, pooling=pooling, metric=metric, batch_tokens=60).score(model)
    assert 0 < found.mean < 1
    np.testing.assert_allclose(found.values, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("similarities", "positive", "ndcg", "recall"),
    [
        ([0.9, 0.5, 0.1, 0.0], {0}, 1.0, 1.0),
        ([0.9, 0.5, 0.1, 0.0], {1}, 1 / np.log2(3), 1.0),
        ([0.9, 0.5, 0.1, 0.0], {3}, 0.0, 0.0),
        ([0.9, 0.5, 0.1, 0.0], {0, 2}, 1 / (1 + 1 / np.log2(3)), 0.5),
        ([0.5, 0.5, 0.5, 0.5], {0}, 0.0, 0.0),
        ([np.nan, 0.5, 0.5, 0.5], {0}, np.nan, np.nan),
    ],
)
def test_values_of_known_orders(
    data: dict[str, str], similarities: list[float], positive: set[int], ndcg: float, recall: float
) -> None:
    for metric, expected in (("ndcg", ndcg), ("recall", recall)):
        value = EmbeddingRetrieval(**data, k=2, metric=metric)._value(np.array(similarities), frozenset(positive))  # type: ignore[arg-type]
        assert value == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("query", "document", "options", "message"),
    [
        ({"positive": ["x"]}, {}, {}, "positive has 'x', which is not an id"),
        ({"positive": []}, {}, {}, "expected a text or a list of texts"),
        ({}, {"id": 1}, {}, "the id '1' is there twice"),
        ({}, {}, {"text": "body"}, "has no field 'body'"),
        ({}, {}, {"pooling": "max"}, "pooling is 'max'"),
        ({}, {}, {"metric": "mrr"}, "metric is 'mrr'"),
        ({}, {}, {"k": 0}, "k is 0"),
        ({}, {}, {"corpus": "missing.jsonl"}, "missing.jsonl does not exist"),
    ],
)
def test_what_cannot_work_is_refused(
    tmp_path: Path, query: dict[str, Any], document: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    queries = write_lines(tmp_path / "queries.jsonl", [{"query": "q", "positive": "1", **query}])
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"id": "1", "text": "t"}, {"id": 2, "text": "u", **document}])
    with pytest.raises(EvaluatorError, match=message):
        EmbeddingRetrieval(**{"queries": str(queries), "corpus": str(corpus), **options})


def test_long_documents_are_truncated_and_said(tmp_path: Path) -> None:
    queries = write_lines(tmp_path / "queries.jsonl", [{"query": "q", "positive": "1"}])
    corpus = write_lines(tmp_path / "corpus.jsonl", [{"id": "1", "text": "no " * 50}, {"id": 2, "text": "u"}])
    evaluator, model = EmbeddingRetrieval(queries=str(queries), corpus=str(corpus)), embedder("BERT, masked words", 0)
    assert evaluator.preflight(model) == ("1 of 2 documents have more than 64 tokens and are truncated",)
    assert np.isfinite(evaluator.score(model).values).all()


def test_searches_and_checks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_models("BERT, masked words", tmp_path)
    write_data(tmp_path)
    task = {"evaluator": "embedding_retrieval", "queries": "queries.jsonl", "corpus": "corpus.jsonl"}
    settings = {
        "base": "base",
        "experts": {"a": "a", "b": "b"},
        "method": "task_arithmetic",
        "space": "layerwise",
        "tasks": {"manuals": task},
        "optimizer": "random",
        "budget": {"trials": 4},
        "executor": "serial",
        "device": "cpu",
        "study": "study",
    }
    Path("search.yaml").write_text(
        strict_yaml.dump({**settings, "tasks": {"manuals": {**task, "corpus": "none.jsonl"}}})
    )
    code, said = run("check", "search.yaml")
    assert code != 0
    assert "none.jsonl does not exist" in " ".join(said.split())
    Path("search.yaml").write_text(strict_yaml.dump(settings))
    assert run("check", "search.yaml")[0] == 0
    code, said = run("search", "search.yaml", "--json")
    assert code == 0, said
    assert '"winner"' in said


def test_a_network_that_reads_no_text_alone_is_refused(data: dict[str, str], tmp_path: Path) -> None:
    for kind in ("T5", "ViT", "CLIP"):
        network = KINDS[kind].network()
        with pytest.raises(EvaluatorError, match="does not turn one text into hidden states"):
            EmbeddingRetrieval(**data).preflight(TinyModel(network, character_tokenizer(), tmp_path))


def test_a_class_that_names_another_body_than_it_has_is_read(data: dict[str, str]) -> None:
    model = embedder("Llama 4", 0)
    assert model.network.base_model is model.network
    assert np.isfinite(EmbeddingRetrieval(**data).score(model).values).all()
