"""Scores of tasks and groups against lm-eval's own, for every aggregation; those without equal are refused by name."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from evaluators._isolation import preserved_random_states
from evaluators.base import EvaluatorError
from evaluators.lm_eval_task import LmEvalTask
from tests.evaluators.task_files import write_task
from tests.evaluators.tiny_llama import TinyModel

CHOICES = ("acc", "acc_norm", "acc_bytes", "brier_score", "f1", "mcc", "exact_match")
WRITTEN = ("exact_match", "bleu", "chrf", "ter")
METRICS = [{"metric": name} for name in CHOICES]
ROLL = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_choice": None,
    "doc_to_target": "{{question}}",
    "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
}
GROUPS: dict[str, dict[str, Any]] = {
    "weighted": {"task": ["one", "two"], "aggregate_metric_list": [{"metric": "acc"}, {"metric": "brier_score"}]},
    "alike": {"task": ["one", "two"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}]},
    "alike_equal": {"task": ["one", "same"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}]},
    "nested": {"task": ["alike", "three"], "aggregate_metric_list": [{"metric": "acc_norm"}]},
    "inline": {
        "task": [{"group": "inner", "task": ["two"]}, {"task": "one", "num_fewshot": 1}],
        "aggregate_metric_list": [{"metric": "acc", "filter_list": "none"}],
    },
    "texts": {
        "task": ["roll", "roll_more"],
        "aggregate_metric_list": [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}],
    },
    "together": {"task": ["one", "two"], "aggregate_metric_list": [{"metric": "f1"}]},
    "no_list": {"task": ["one", "two"]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("aggregations")
    draw = np.random.default_rng(5)
    for name, count in {"one": 4, "two": 9, "three": 6, "same": 4}.items():
        rows = [
            {
                "question": f"{name} {i} " + "so " * (i % 4),
                "choices": draw.permutation(["a", "b c"]).tolist(),
                "answer": i % 2,
            }
            for i in range(count)
        ]
        write_task(folder, rows, name, metric_list=METRICS, fewshot_split="test")
    for name, count in {"roll": 5, "roll_more": 3}.items():
        write_task(folder, [{"question": f"{name} " + "word " * i, "answer": 0} for i in range(count)], name, **ROLL)
    rows = [{"question": f"Say {i}", "answer": "a b"} for i in range(4)]
    write = {
        "doc_to_choice": None,
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"max_gen_toks": 4, "until": ["x"]},
    }
    listed = [{"metric": name} for name in WRITTEN]
    write_task(folder, rows, "write", output_type="generate_until", metric_list=listed, **write)
    likely = {"output_type": "loglikelihood", "doc_to_choice": None, "doc_to_target": "{{answer}}"}
    write_task(folder, rows, "likely", metric_list=[{"metric": "perplexity"}, {"metric": "acc"}], **likely)
    nan = [{"metric": "acc", "aggregation": "nanmean", "higher_is_better": True}]
    median = [{"metric": "acc_norm", "aggregation": "median", "higher_is_better": True}]
    write_task(folder, None, "nan", metric_list=nan + median)
    for name, group in GROUPS.items():
        (folder / f"group_{name}.yaml").write_text(yaml.safe_dump({"group": name, **group}))
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path, model: TinyModel) -> dict[str, dict[str, Any]]:
    """Results of lm_eval.simple_evaluate by task and by group."""
    found: dict[str, dict[str, Any]] = {}
    with preserved_random_states():
        language_model = HFLM(pretrained=model.network, tokenizer=model.tokenizer, device="cpu", batch_size=8)
    for names in (["one", "two", "roll", "write", "likely", "nan"], *([name] for name in GROUPS)):
        with preserved_random_states(), pytest.MonkeyPatch.context() as patch:
            patch.setattr("lm_eval.evaluator.add_env_info", lambda _: None)  # subprocesses that take half a second
            results = simple_evaluate(
                model=language_model,
                tasks=names,
                task_manager=TaskManager(include_path=str(folder), include_defaults=False),
                bootstrap_iters=0,
            )
        found |= {name: results["results"].get(name, {}) for name in names}
    return found


@pytest.mark.parametrize(
    ("task", "metric", "logarithm"),
    [
        *(("one", name, False) for name in ("acc", "acc_norm", "acc_bytes", "brier_score", "exact_match")),
        ("two", "brier_score", False),
        ("roll", "word_perplexity", True),
        ("roll", "byte_perplexity", True),
        ("roll", "bits_per_byte", False),
        ("write", "exact_match", False),
        ("likely", "perplexity", True),
        ("likely", "acc", False),
        ("nan", "acc", False),
        ("weighted", "acc", False),
        ("weighted", "brier_score", False),
        ("alike_equal", "acc", False),
        ("nested", "acc_norm", False),
        ("inline", "acc", False),
        ("texts", "bits_per_byte", False),
    ],
)
def test_scores_are_those_of_lm_eval(
    theirs: dict[str, dict[str, Any]], folder: Path, model: TinyModel, task: str, metric: str, logarithm: bool
) -> None:
    evaluator = LmEvalTask(task=task, include_path=str(folder), metric=metric)
    expected = theirs[task][f"{metric},none"]
    assert evaluator.score(model).mean == pytest.approx(
        math.log(expected) if logarithm else expected, rel=1e-5, abs=1e-9
    )
    lower = logarithm or metric in ("brier_score", "bits_per_byte")
    assert evaluator.higher_is_better is not lower


@pytest.mark.parametrize(
    ("task", "metric", "said"),
    [
        ("one", "f1", r"at once have no value per document: f1 \(f1\), mcc \(matthews_corrcoef\)"),
        ("one", "mcc", "expected one that all tasks average over documents, .*: acc, acc_norm"),
        ("write", "bleu", r"bleu \(bleu\), chrf \(chrf\), ter \(ter\)"),
        ("nan", "acc_norm", r"acc_norm \(median\)"),
        ("alike", "acc", r"group 'alike' weights its tasks equally .* 4 to 9 documents.*name its tasks one by one"),
        ("texts", "word_perplexity", "group 'texts' averages word_perplexity over its tasks"),
        ("together", "f1", "that the group 'together' aggregates"),
        ("weighted", "acc_norm", "that the group 'weighted' aggregates"),
    ],
)
def test_aggregations_without_a_number_per_document_are_refused(
    folder: Path, task: str, metric: str, said: str
) -> None:
    with pytest.raises(EvaluatorError, match=said):
        LmEvalTask(task=task, include_path=str(folder), metric=metric)


def test_a_group_is_scored_by_the_metric_and_filter_that_it_aggregates(folder: Path) -> None:
    assert LmEvalTask(task="nested", include_path=str(folder))._metric.name == "acc_norm"
    with pytest.raises(EvaluatorError, match="filter is 'strict'"):
        LmEvalTask(task="inline", include_path=str(folder), filter="strict")


def test_a_group_without_a_list_is_the_mean_over_its_documents(folder: Path, model: TinyModel) -> None:
    whole = LmEvalTask(task="no_list", include_path=str(folder)).score(model)
    parts = [LmEvalTask(task=name, include_path=str(folder)).score(model) for name in ("one", "two")]
    assert whole.values.tolist() == [value for part in parts for value in part.values.tolist()]
