"""lm_eval_task against lm-eval itself: the same numbers, document by document."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from lm_eval import simple_evaluate, utils
from lm_eval.tasks import TaskManager

from evaluators._isolation import preserved_random_states
from evaluators.base import Evaluator, EvaluatorError
from evaluators.lm_eval_task import LmEvalTask
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.task_files import write_task
from tests.evaluators.tiny_llama import TinyModel, write_lines

CHOICE = {
    "task": "pick",
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}\nA:",
    "doc_to_target": "{{answer}}",
    "doc_to_choice": "{{choices}}",
    "num_fewshot": 2,
    "metric_list": [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in ("acc", "acc_norm")],
}
WRITE = {
    "task": "write",
    "output_type": "generate_until",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["e", "\n"], "max_gen_toks": 8, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
STRIP = [{"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]
LAST = {
    "output_type": "loglikelihood",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": " {{answer}}",
    "metric_list": [{"metric": name} for name in ("acc", "perplexity")],
}
ROLL = {
    "task": "roll",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{prompt}}",
    "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Local tasks of the three kinds, and a group."""
    folder = tmp_path_factory.mktemp("tasks")
    draw = np.random.default_rng(1)
    rows = [
        {"question": f"{'Which one ' * (i % 4)}{i}?", "choices": ["red", "blue", "a b c"][: 2 + i % 2], "answer": i % 2}
        for i in range(20)
    ]
    write_lines(folder / "pick.jsonl", [rows[i] for i in draw.permutation(20)])
    prompts = [f"Say {'so ' * (i % 5)}{i}" for i in range(8)]
    write_lines(folder / "write.jsonl", [{"prompt": p, "answer": "~"} for p in prompts])
    for config, data in ((CHOICE, "pick"), (WRITE, "write"), (ROLL, "write")):
        dataset = {"data_files": str(folder / f"{data}.jsonl"), "cache_dir": str(folder / "cache")}
        whole = {**config, "dataset_path": "json", "dataset_kwargs": dataset, "test_split": "train"}
        if config is CHOICE:
            whole["fewshot_split"] = "train"
        (folder / f"{config['task']}.yaml").write_text(yaml.safe_dump(whole))
    (folder / "both.yaml").write_text(yaml.safe_dump({"group": "both", "task": ["pick", "pick_more"]}))
    more = {"include": "pick.yaml", "task": "pick_more", "doc_to_text": "{{question}}", "num_fewshot": 0}
    (folder / "pick_more.yaml").write_text(yaml.safe_dump(more))
    return folder


@pytest.fixture(scope="module")
def theirs(folder: Path, model: TinyModel) -> dict[str, Any]:
    """What `lm_eval --model hf --model_args pretrained=DIR,dtype=float32` finds."""
    with preserved_random_states():
        return simple_evaluate(  # type: ignore[no-any-return]
            model="hf",
            model_args=f"pretrained={model.folder},dtype=float32",
            tasks=["pick", "write", "roll", "pick_more"],
            device="cpu",
            batch_size=4,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )


def _samples(theirs: dict[str, Any], task: str) -> list[dict[str, Any]]:
    return sorted(theirs["samples"][task], key=lambda sample: sample["doc_id"])


class TestChoices(EvaluatorContract):
    @pytest.fixture
    def build(self, folder: Path) -> Callable[[], Evaluator]:
        return lambda: LmEvalTask(task="pick", include_path=str(folder))


class TestSmoothChoices(EvaluatorContract):
    @pytest.fixture
    def build(self, folder: Path) -> Callable[[], Evaluator]:
        return lambda: LmEvalTask(task="pick", include_path=str(folder), score="bits_per_byte")


class TestRolling(EvaluatorContract):
    @pytest.fixture
    def build(self, folder: Path) -> Callable[[], Evaluator]:
        return lambda: LmEvalTask(task="roll", include_path=str(folder), metric="bits_per_byte")


class TestGenerations(EvaluatorContract):
    @pytest.fixture
    def learnable(self, tmp_path: Path) -> Callable[[], Evaluator]:
        return lambda: LmEvalTask(task=str(_countdown(tmp_path, "then", **WRITE, filter_list=STRIP)))

    @pytest.fixture
    def build(self, tmp_path: Path, model: TinyModel, learnable: Callable[[], LmEvalTask]) -> Callable[[], Evaluator]:
        """The first answer is what `model` writes by itself."""
        asked = learnable()
        asked.score(model)
        own = asked._frozen.of(model).instances[0][0].filtered_resps["none"]
        return lambda: LmEvalTask(task=str(_countdown(tmp_path, "own", own, **WRITE, filter_list=STRIP)))


class TestContinuations(EvaluatorContract):
    @pytest.fixture
    def build(self, tmp_path: Path) -> Callable[[], Evaluator]:
        return lambda: LmEvalTask(task=str(_countdown(tmp_path, "last", **LAST)), metric="perplexity")

    @pytest.fixture
    def learnable(self, tmp_path: Path) -> Callable[[], Evaluator]:
        return lambda: LmEvalTask(task=str(_countdown(tmp_path, "last", **LAST)), metric="acc")


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_smooth_scores_of_choices_follow_from_their_log_likelihoods(
    folder: Path, model: TinyModel, metric: str
) -> None:
    plain = LmEvalTask(task="pick", include_path=str(folder), metric=metric).score(model)
    assert plain.choices is not None
    found = {
        how: LmEvalTask(task="pick", include_path=str(folder), metric=metric, score=how)  # type: ignore[arg-type]
        for how in ("probability", "logprob", "bits_per_byte")
    }
    scores = {how: task.score(model) for how, task in found.items()}
    for row, document in enumerate(found["logprob"]._documents):
        texts, gold = document.content["choices"], document.content["answer"]
        by = np.array([len(text) if metric == "acc_norm" else 1 for text in texts])
        shares = np.exp(plain.choices[row] / by)
        assert scores["probability"].values[row] == pytest.approx(shares[gold] / shares.sum(), rel=1e-5)
        assert scores["logprob"].values[row] == pytest.approx(np.log(shares[gold] / shares.sum()), rel=1e-5)
        bits = -plain.choices[row][gold] / np.log(2) / len(texts[gold])
        assert scores["bits_per_byte"].values[row] == pytest.approx(bits, rel=1e-5)
    for how, task in found.items():
        assert scores[how].by_metric.values.tolist() == plain.values.tolist()
        assert task.higher_is_better == (how != "bits_per_byte")


def test_smooth_scores_of_a_continuation_are_those_of_its_text(tmp_path: Path, model: TinyModel) -> None:
    file = str(_countdown(tmp_path, "last", **LAST))
    nats = LmEvalTask(task=file, metric="perplexity").score(model).values
    scores = {
        how: LmEvalTask(task=file, metric="acc", score=how) for how in ("probability", "logprob", "bits_per_byte")
    }
    assert scores["logprob"].score(model).values == pytest.approx(-nats, rel=1e-5)
    assert scores["probability"].score(model).values == pytest.approx(np.exp(-nats), rel=1e-5)
    assert scores["bits_per_byte"].score(model).values == pytest.approx(nats / np.log(2), rel=1e-5)  # one byte each


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("write", {}, "The task 'write' has no probability: its output type is generate_until"),
        ("roll", {}, "its output type is loglikelihood_rolling"),
        ("pick", {"score": "loss"}, "score is 'loss'"),
    ],
)
def test_smooth_scores_that_do_not_exist_are_refused(
    folder: Path, task: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(EvaluatorError, match=message):
        LmEvalTask(task=task, include_path=str(folder), **{"score": "probability", **options})


def _countdown(folder: Path, name: str, *answers: str, **task: Any) -> Path:
    """A task file on eight prompts, the first of them with these answers."""
    texts = [*answers, *(str(i + 1) for i in range(len(answers), 8))]
    rows = [{"prompt": f"{i}, then", "answer": text} for i, text in enumerate(texts)]
    return write_task(folder, rows, name, **{**task, "task": name, "doc_to_choice": None})


@pytest.mark.parametrize("metric", ["acc", "acc_norm"])
def test_choices_score_as_lm_eval_scores_them(
    theirs: dict[str, Any], folder: Path, model: TinyModel, metric: str
) -> None:
    scores = LmEvalTask(task="pick", include_path=str(folder), metric=metric).score(model)
    samples = _samples(theirs, "pick")
    assert scores.values.tolist() == [sample[metric] for sample in samples]
    assert scores.mean == pytest.approx(theirs["results"]["pick"][f"{metric},none"], abs=1e-12)
    assert 0.0 < scores.mean < 1.0
    assert scores.choices is not None
    for own, sample in zip(scores.choices, samples, strict=True):
        np.testing.assert_allclose(own, [found[0] for found in sample["filtered_resps"]], atol=1e-4)


def test_generations_are_those_of_lm_eval(theirs: dict[str, Any], folder: Path, model: TinyModel) -> None:
    evaluator = LmEvalTask(task="write", include_path=str(folder))
    scores = evaluator.score(model)
    frozen = evaluator._frozen.of(model)
    written = [instances[0].filtered_resps["none"] for instances in frozen.instances]
    samples = _samples(theirs, "write")
    assert written == [sample["filtered_resps"][0] for sample in samples]
    assert len({text for text in written if text}) > 3
    assert scores.values.tolist() == [float(sample["exact_match"]) for sample in samples]
    assert scores.truncated is not None
    assert 0 < scores.truncated < len(written)


def test_rolling_likelihoods_are_those_of_lm_eval(theirs: dict[str, Any], folder: Path, model: TinyModel) -> None:
    evaluator = LmEvalTask(task="roll", include_path=str(folder), metric="word_perplexity")
    totals = [sample["word_perplexity"] for sample in _samples(theirs, "roll")]
    mean_length = np.mean([n_words for _, n_words in totals])
    scores = evaluator.score(model)
    np.testing.assert_allclose(scores.values, [-likelihood / mean_length for likelihood, _ in totals], rtol=1e-5)
    assert scores.mean == pytest.approx(np.log(theirs["results"]["roll"]["word_perplexity,none"]), rel=1e-6)
    assert evaluator.higher_is_better is False


def test_few_shot_examples_stay_the_same_from_candidate_to_candidate(
    theirs: dict[str, Any], folder: Path, model: TinyModel, other_model: TinyModel
) -> None:
    evaluator = LmEvalTask(task="pick", include_path=str(folder))
    evaluator.score(other_model)
    evaluator.score(model)
    prompts = [instances[0].args[0] for instances in evaluator._frozen.of(model).instances]
    assert prompts == [sample["arguments"][0][0] for sample in _samples(theirs, "pick")]
    other_seed = LmEvalTask(task="pick", include_path=str(folder), seed=7)
    other_seed.score(model)
    assert prompts != [instances[0].args[0] for instances in other_seed._frozen.of(model).instances]


def test_ids_do_not_depend_on_the_few_shot_examples(folder: Path) -> None:
    ids = [LmEvalTask(task="pick", include_path=str(folder), num_fewshot=n, seed=n).example_ids for n in (1, 3)]
    assert ids[0] == ids[1]


def test_a_group_is_the_documents_of_all_its_tasks(theirs: dict[str, Any], folder: Path, model: TinyModel) -> None:
    evaluator = LmEvalTask(task="both", include_path=str(folder))
    scores = evaluator.score(model)
    expected = [s["acc"] for task in ("pick", "pick_more") for s in _samples(theirs, task)]
    assert scores.values.tolist() == expected
    part = evaluator.score(model, [scores.example_ids[25], scores.example_ids[3]])
    assert part.values.tolist() == [expected[3], expected[25]]


def test_a_file_a_limit_and_generation_arguments(folder: Path, model: TinyModel) -> None:
    evaluator = LmEvalTask(task=str(folder / "write.yaml"), limit=3, gen_kwargs={"max_gen_toks": 1})
    scores = evaluator.score(model)
    assert scores.example_ids == LmEvalTask(task="write", include_path=str(folder)).example_ids[:3]
    texts = [i[0].filtered_resps["none"] for i in evaluator._frozen.of(model).instances]
    assert max(map(len, texts)) <= 1


def test_chat_templates_are_applied(folder: Path, model: TinyModel) -> None:
    evaluator = LmEvalTask(
        task="pick", include_path=str(folder), apply_chat_template=True, system_instruction="Be short."
    )
    evaluator.score(model)
    prompt = evaluator._frozen.of(model).instances[0][0].args[0]
    assert prompt.startswith("<system>Be short.\n<user>Q: ")
    assert prompt.endswith("<assistant>")
    assert prompt.count("<assistant>") == 3


def test_examples_are_shown_as_the_model_meets_them(folder: Path, model: TinyModel) -> None:
    pick = LmEvalTask(task="pick", include_path=str(folder))
    shown = pick.preview(0)
    pick.preflight(model)
    assert pick.preview(0) == shown
    first = pick._frozen.of(model).instances[0]
    assert shown.prompt == first[0].args[0]
    assert shown.continuations == tuple(instance.args[1] for instance in first)
    assert shown.continuations[0] == " red"
    assert shown.right == (pick._documents[0].content["answer"],)
    written = LmEvalTask(task="write", include_path=str(folder)).preview(1)
    assert written.generated
    assert (written.continuations, written.right) == (("~",), ())
    rolled = LmEvalTask(task="roll", include_path=str(folder)).preview(2)
    assert (rolled.prompt, rolled.continuations) == ("", ("Say so so 2",))


def test_a_broken_model_is_not_scored(folder: Path, broken_model: TinyModel) -> None:
    scores = LmEvalTask(task="write", include_path=str(folder)).score(broken_model)
    assert np.isnan(scores.values).all()


def test_scoring_leaves_lm_evals_template_engine_as_it_was(folder: Path, model: TinyModel) -> None:
    LmEvalTask(task="pick", include_path=str(folder)).score(model)
    assert "from_string" not in vars(utils.env)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"metric": "f1"}, "metric is 'f1'; expected one .*: acc, acc_norm"),
        ({"filter": "strict"}, "filter is 'strict'; expected one that all tasks have: none"),
        ({"limit": 1.0}, "limit is 1.0; expected a number of examples"),
        ({"task": 5}, "task is 5; expected text"),
        ({"include_path": 5}, "include_path is 5; expected text"),
        ({"metadata": "x"}, "metadata is 'x'; expected a mapping"),
        ({"gen_kwargs": ["x"]}, "gen_kwargs is \\['x'\\]; expected a mapping"),
        ({"num_fewshot": "two"}, "num_fewshot is 'two'; expected a number of examples"),
        ({"include_path": "nowhere"}, "include_path is 'nowhere', which is not a folder"),
        ({"task": "nowhere.yaml"}, "task file 'nowhere.yaml' does not exist"),
    ],
)
@pytest.mark.fault("F15", "metrics and outputs that do not exist", "refused when the task is built")
def test_what_cannot_be_used_is_refused_at_once(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(EvaluatorError, match=message):
        LmEvalTask(**{"task": "pick", "include_path": str(folder), **options})


@pytest.mark.parametrize("indirect", [False, True])
def test_local_python_code_runs_only_when_allowed(folder: Path, tmp_path: Path, indirect: bool) -> None:
    """The code leaves a mark; a refused task must not have run it, however it is named."""
    mark = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\ndef text(doc):\n    return doc['question']\n"
    )
    config = yaml.safe_load((folder / "pick.yaml").read_text())
    code = yaml.safe_dump({**config, "task": "mine", "doc_to_text": None}).replace(
        "doc_to_text: null", "doc_to_text: !function mine.text"
    )
    name = "base" if indirect else "mine"
    (tmp_path / f"{name}.yaml").write_text(code)
    if indirect:
        (tmp_path / "mine.yaml").write_text(yaml.safe_dump({"include": "base.yaml", "task": "mine"}))
    for options in ({"task": "mine", "include_path": str(tmp_path)}, {"task": str(tmp_path / "mine.yaml")}):
        with pytest.raises(
            EvaluatorError, match=r"yaml:\d+: task .* has the tag !function \(mine.text\), which runs code"
        ):
            LmEvalTask(**options)
    assert not mark.exists()
    allowed = LmEvalTask(task=str(tmp_path / "mine.yaml"), allow_code=True)
    assert mark.exists()
    assert len(allowed.example_ids) == 20


def test_local_templates_cannot_reach_into_python(folder: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((folder / "pick.yaml").read_text())
    config |= {"task": "sly", "doc_to_text": "{{ ''.__class__.__mro__ }}"}
    (tmp_path / "sly.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(Exception, match="unsafe"):
        LmEvalTask(task=str(tmp_path / "sly.yaml"))


@pytest.mark.fault("F31", "a task that runs what the model writes", "refused without `allow_code`")
def test_tasks_that_run_what_the_model_writes_are_refused(folder: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((folder / "write.yaml").read_text())
    (tmp_path / "run.yaml").write_text(yaml.safe_dump({**config, "task": "run", "unsafe_code": True}))
    with pytest.raises(EvaluatorError, match="sets unsafe_code"):
        LmEvalTask(task=str(tmp_path / "run.yaml"))


@pytest.mark.fault("F38", "a data set cannot be fetched", "one sentence with what to do")
def test_a_dataset_that_no_network_brings_is_refused_with_what_to_do(folder: Path, tmp_path: Path) -> None:
    config = yaml.safe_load((folder / "write.yaml").read_text())
    del config["dataset_kwargs"]
    (tmp_path / "far.yaml").write_text(yaml.safe_dump({**config, "task": "far", "dataset_path": "nobody/nowhere"}))
    with pytest.raises(
        EvaluatorError,
        match=r"far.yaml:\d+: task 'far': its data set is not in the cache .*nobody/nowhere.*HF_HUB_OFFLINE=1",
    ):
        LmEvalTask(task="far", include_path=str(tmp_path))


def test_an_unknown_task_is_refused_with_the_nearest_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evaluators._lm_eval_sources._stock_index", dict)  # a scan takes seconds
    with pytest.raises(EvaluatorError, match=r"knows no task, group or tag 'wriet'.* Did you mean 'write'\?"):
        LmEvalTask(task="wriet", include_path=str(folder))
