import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Evaluator, EvaluatorError
from evaluators.sequence_classification import SequenceClassification
from tests.architectures.kinds import KINDS
from tests.architectures.models import run, write_models
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, character_tokenizer, write_lines

NAMES = {0: "bad", 1: "so so", 2: "good"}


def classifier(kind: str, seed: int, folder: Path, **config: Any) -> TinyModel:
    """A random classifier of a kind with three labels, loud enough to have opinions."""
    tokenizer = character_tokenizer()
    shape = KINDS[kind].network.args[1] | {"vocab_size": len(tokenizer), "initializer_range": 0.5, "id2label": NAMES}  # type: ignore[attr-defined]
    architecture = getattr(tf, KINDS[kind].network.args[0])  # type: ignore[attr-defined]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = architecture(architecture.config_class(**{**shape, **config})).eval()
    return TinyModel(network, tokenizer, folder)


@pytest.fixture(scope="module")
def reviews(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Texts of several lengths, each with a second one, labeled by number and by name."""
    rows = [
        {"text": f"Item {i} " + "so " * (i % 5), "second": f"was {i * 7 % 10}", "label": [i % 3, NAMES[i % 3]][i % 2]}
        for i in range(24)
    ]
    return write_lines(tmp_path_factory.mktemp("data") / "reviews.jsonl", rows)


class ClassifiersContract(EvaluatorContract):
    kind = "BERT"
    tolerance = 1e-4  # large weights

    @pytest.fixture
    def model(self, tmp_path: Path) -> TinyModel:
        return classifier(self.kind, 0, tmp_path)

    @pytest.fixture
    def other_model(self, model: TinyModel) -> TinyModel:
        return TinyModel(classifier(self.kind, 1, model.folder).network, model.tokenizer, model.folder)

    @pytest.fixture
    def broken_model(self, model: TinyModel) -> TinyModel:
        network = copy.deepcopy(model.network)
        with torch.no_grad():
            for parameter in network.base_model.parameters():
                parameter.fill_(float("nan"))
        return TinyModel(network, model.tokenizer, model.folder)


class TestBert(ClassifiersContract):
    @pytest.fixture
    def build(self, reviews: Path) -> Callable[[], Evaluator]:
        return lambda: SequenceClassification(file=str(reviews))


class TestPairsBySmoothScore(ClassifiersContract):
    kind = "RoBERTa"

    @pytest.fixture
    def build(self, reviews: Path) -> Callable[[], Evaluator]:
        return lambda: SequenceClassification(file=str(reviews), pair="second", score="logprob", batch_tokens=100)


class TestLlamaWithTheHeadOfAnExpert(ClassifiersContract):
    kind = "Llama, classifier"

    @pytest.fixture
    def build(self, other_model: TinyModel, reviews: Path) -> Callable[[], Evaluator]:
        def make() -> Evaluator:
            evaluator = SequenceClassification(file=str(reviews), head="sst2", labels=list(NAMES.values()))
            evaluator.learn("sst2", other_model, evaluator.example_ids)
            return evaluator

        return make


@pytest.mark.parametrize("kind", ["BERT", "RoBERTa", "DistilBERT", "ModernBERT", "DeBERTa-v2", "Llama, classifier"])
def test_equals_the_networks_own_outputs_for_one_text_at_a_time(kind: str, tmp_path: Path, reviews: Path) -> None:
    model = classifier(kind, 0, tmp_path)
    scores = SequenceClassification(file=str(reviews), pair="second").score(model)
    assert scores.choices is not None
    for row, line in enumerate(map(json.loads, reviews.read_text().splitlines())):
        inputs = model.tokenizer(line["text"], line["second"], return_tensors="pt")
        kept = {name: each for name, each in inputs.items() if name != "token_type_ids" or kind == "BERT"}
        with torch.no_grad():
            expected = model.network(**kept).logits[0].log_softmax(-1)
        np.testing.assert_allclose(scores.choices[row], expected, atol=1e-4)
        assert scores.values[row] == float(expected.argmax() == row % 3)


def test_without_a_padding_token_texts_are_read_one_at_a_time(tmp_path: Path, reviews: Path) -> None:
    evaluator = SequenceClassification(file=str(reviews))
    padded = evaluator.score(classifier("Llama, classifier", 0, tmp_path))
    alone = classifier("Llama, classifier", 0, tmp_path, pad_token_id=None)
    np.testing.assert_array_equal(evaluator.score(alone).values, padded.values)
    assert "no pad_token_id, so texts are read one at a time" in evaluator.preflight(alone)[0]


def test_the_head_of_the_expert_replaces_that_of_the_merge(tmp_path: Path, reviews: Path) -> None:
    merge, expert = (classifier("BERT", seed, tmp_path) for seed in (0, 1))
    evaluator = SequenceClassification(file=str(reviews), head="sst2", labels=list(NAMES.values()))
    with pytest.raises(EvaluatorError, match="`learn` comes first"):
        evaluator.score(merge)
    evaluator.learn("sst2", expert, evaluator.example_ids)
    own = copy.deepcopy(merge.network.classifier.state_dict())
    found = evaluator.score(merge).choices
    assert all(torch.equal(each, own[name]) for name, each in merge.network.classifier.state_dict().items())
    swapped = copy.deepcopy(merge.network)
    swapped.classifier.load_state_dict(expert.network.classifier.state_dict())
    expected = SequenceClassification(file=str(reviews)).score(TinyModel(swapped, merge.tokenizer, tmp_path)).choices
    np.testing.assert_allclose(np.array(found), np.array(expected), atol=1e-4)
    gradient = torch.autograd.grad(
        evaluator.loss(merge, evaluator.example_ids).sum(), merge.network.classifier.weight, allow_unused=True
    )
    assert gradient == (None,)


@pytest.mark.parametrize("kind", ["BERT", "RoBERTa"])
def test_long_texts_are_truncated_and_said(kind: str, tmp_path: Path) -> None:
    rows = [{"sentence": "no " * 40, "label": 0}, {"sentence": "short", "label": 1}]
    evaluator = SequenceClassification(file=str(write_lines(tmp_path / "long.jsonl", rows)))
    model = classifier(kind, 0, tmp_path)
    length = {"BERT": 64, "RoBERTa": 63}[kind]  # its positions begin after that of padding
    said = f"1 of 2 examples have more than {length} tokens and are truncated"
    assert evaluator.preflight(model) == (said,)
    assert np.isfinite(evaluator.score(model).values).all()


@pytest.mark.parametrize(
    ("options", "row", "message"),
    [
        ({}, {"label": 3}, r"line 1: the label is 3; expected a number from 0 to 2, or one of 'bad', 'so so', 'good'"),
        ({}, {"label": -1}, "the label is -1"),
        ({}, {"label": True}, "the label is True"),
        ({}, {"label": "great"}, "the label is 'great'"),
        ({"labels": ["a", "b"]}, {"label": "a"}, "`labels` has 2 names; the head has 3 outputs"),
        ({"labels": ["a", "a", "b"]}, {"label": "a"}, "labels is"),
        ({"labels": "abc"}, {"label": "a"}, "labels is 'abc'"),
        ({"head": "sst2"}, {"label": "good"}, "set `labels` to the names of its outputs"),
        ({"score": "bits_per_byte"}, {"label": 0}, "score is 'bits_per_byte'"),
        ({"pair": "second"}, {"label": 0}, "has no field 'second'"),
        ({"label": "gold"}, {"label": 0}, "has no field 'gold'"),
    ],
)
def test_labels_and_options_that_cannot_be_are_refused(
    tmp_path: Path, options: dict[str, Any], row: dict[str, Any], message: str
) -> None:
    file = write_lines(tmp_path / "one.jsonl", [{"text": "fine", **row}])
    with pytest.raises(EvaluatorError, match=message):
        SequenceClassification(file=str(file), **options).preflight(classifier("BERT", 0, tmp_path))


@pytest.mark.parametrize(
    ("config", "message"), [({"num_labels": 1}, "num_labels 1"), ({"problem_type": "regression"}, "'regression'")]
)
def test_a_head_that_predicts_numbers_is_refused(
    tmp_path: Path, reviews: Path, config: dict[str, Any], message: str
) -> None:
    model = classifier("BERT", 0, tmp_path)
    for name, value in config.items():
        setattr(model.network.config, name, value)
    with pytest.raises(EvaluatorError, match=message):
        SequenceClassification(file=str(reviews)).preflight(model)


def search_file(folder: Path, task: dict[str, Any], **settings: Any) -> Path:
    found = {
        "base": "base",
        "experts": {"a": "a", "b": "b"},
        "method": "task_arithmetic",
        "tasks": {
            name: {"evaluator": "sequence_classification", "file": "reviews.jsonl", **options}
            for name, options in task.items()
        },
        "budget": {"trials": 5},
        "executor": "serial",
        "device": "cpu",
        "study": "study",
        **settings,
    }
    (folder / "search.yaml").write_text(strict_yaml.dump(found))
    return folder / "search.yaml"


def test_searches_by_gradients_with_the_head_of_an_expert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_models("BERT", tmp_path)
    lines = [{"text": f"{n} dogs saw {n * 37 % 100} cats", "label": n % 3} for n in range(40)]
    write_lines(Path("reviews.jsonl"), lines)
    tasks = {"own": {"head": "a", "score": "logprob"}, "merged": {"score": "logprob"}}
    file = search_file(tmp_path, tasks, optimizer="gradient")
    assert run("check", file)[0] == 0
    code, said = run("search", file, "--json")
    assert code == 0, said
    assert '"winner"' in said


def test_check_refuses_what_a_search_would_refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_models("BERT, masked words", tmp_path)
    write_lines(Path("reviews.jsonl"), [{"text": f"{n} dogs", "label": n % 2} for n in range(40)])
    for options, message in (
        ({}, "BertForMaskedLM has no head that classifies"),
        ({"head": "c"}, "unknown expert 'c'"),
        ({"file": "missing.jsonl"}, "missing.jsonl does not exist"),
    ):
        code, said = run("check", search_file(tmp_path, {"mine": options}))
        assert code != 0
        assert message in " ".join(said.split()), said
