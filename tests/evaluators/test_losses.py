"""Losses against the scores of the same model, and against sums over full logits in float64."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from evaluators._generation import Generator
from evaluators._losses import mixed, of_choices
from evaluators._teacher import FileAnswer
from evaluators.base import Evaluator, EvaluatorError, Scores
from evaluators.exact_match import ExactMatch
from evaluators.lm_eval_task import LmEvalTask
from evaluators.multiple_choice import MultipleChoice
from evaluators.perplexity import Perplexity
from tests.evaluators.task_files import write_task
from tests.evaluators.tiny_llama import TinyModel, write_lines

WRITE = {
    "output_type": "generate_until",
    "doc_to_text": "{{prompt}}",
    "doc_to_target": "answer",
    "doc_to_choice": None,
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 8, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
STRIPPED = [{"name": "none", "filter": [{"function": "remove_whitespace"}, {"function": "take_first"}]}]


def _mix(lp: float, n_tokens: int = 1) -> float:
    return 0.5 * (1 - np.exp(lp)) + 0.5 * -lp / n_tokens


def _numbers(losses: torch.Tensor) -> np.ndarray[Any, Any]:
    return losses.detach().numpy()


def _of_choices(scores: Scores, right: Sequence[Sequence[int]], divisors: Sequence[Any]) -> list[float]:
    assert scores.choices is not None
    found = []
    for values, gold, divisor in zip(scores.choices, right, divisors, strict=True):
        normal = np.exp(values / divisor)
        found.append(_mix(np.log(normal[list(gold)].sum() / normal.sum())))
    return found


def _by_hand(model: TinyModel, prompt: Sequence[int], answer: Sequence[int]) -> tuple[float, bool]:
    """Log-likelihood of an answer's tokens by one row's full logits, and whether greedy decoding writes them."""
    whole = [*prompt, *answer]
    with torch.no_grad():
        scores = model.network(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    places = range(len(prompt) - 1, len(whole) - 1)
    lp = float(sum(scores[place, whole[place + 1]] for place in places))
    return lp, all(int(scores[place].argmax()) == whole[place + 1] for place in places)


def test_the_mixture_is_that_of_error_and_likelihood() -> None:
    lp = torch.tensor([-3.0, -1e-9, -200.0])
    assert mixed(lp[0], 4).item() == pytest.approx(_mix(-3.0, 4))
    assert mixed(lp).tolist() == pytest.approx([_mix(-3.0), 1e-9, 100.5], rel=1e-5)


def test_all_choices_may_be_right() -> None:
    assert of_choices(torch.tensor([-3.0, -1.0]), np.ones(2), [0, 1]).item() == pytest.approx(0.0, abs=1e-7)


@pytest.mark.parametrize("normalize", ["none", "length", "bytes"])
def test_choices_are_normalized_as_in_the_score(model: TinyModel, tmp_path: Path, normalize: Any) -> None:
    rows = [{"prompt": f"{i}?", "choices": ["ab", "äö ü", "no more"], "answer": i % 3} for i in range(9)]
    evaluator = MultipleChoice(file=str(write_lines(tmp_path / "one.jsonl", rows)), normalize=normalize)
    scores = evaluator.score(model)
    losses = _numbers(evaluator.loss(model, evaluator.example_ids))
    expected = _of_choices(scores, [[gold] for gold in evaluator._gold], evaluator._lengths)
    np.testing.assert_allclose(losses, expected, atol=1e-4)
    assert (scores.values[losses < 0.5 * (0.5 + np.log(2))] == 1).all()  # p > 1/2: no other choice is more likely
    assert 0 < scores.mean < 1


PICKED: dict[str, Callable[[Any], Any]] = {"acc": lambda _: 1, "acc_norm": len, "acc_bytes": lambda c: len(c.encode())}


@pytest.mark.parametrize("metric", PICKED)
@pytest.mark.parametrize("several", [False, True])
def test_choices_of_lm_eval_are_normalized_by_their_metric(
    model: TinyModel, tmp_path: Path, metric: str, several: bool
) -> None:
    choices = ["ab", "äö ü", "no more"]
    answers = [[i % 3, (i + 1) % 3] if several else i % 3 for i in range(9)]
    rows = [{"question": f"{i}?", "choices": choices, "answer": answer} for i, answer in enumerate(answers)]
    file = write_task(tmp_path, rows, metric_list=[{"metric": name} for name in PICKED])
    evaluator = LmEvalTask(task=str(file), metric=metric)
    scores = evaluator.score(model)
    divisors = [np.array([PICKED[metric](choice) for choice in choices])] * 9
    right = [answer if isinstance(answer, list) else [answer] for answer in answers]
    losses = _numbers(evaluator.loss(model, evaluator.example_ids))
    np.testing.assert_allclose(losses, _of_choices(scores, right, divisors), atol=1e-4)
    assert scores.choices is not None
    best = [int(np.argmax(values / divisor)) for values, divisor in zip(scores.choices, divisors, strict=True)]
    assert scores.values.tolist() == [float(one in gold) for one, gold in zip(best, right, strict=True)]


def test_mutual_information_is_followed(model: TinyModel, tmp_path: Path) -> None:
    file = write_task(tmp_path, metric_list=[{"metric": "acc_mutual_info"}, {"metric": "acc"}])
    evaluator = LmEvalTask(task=str(file), metric="acc_mutual_info")
    scores = evaluator.score(model)
    assert scores.choices is not None
    expected = []
    for i, values in enumerate(scores.choices):
        normal = np.exp(values[:2] - values[2:])
        expected.append(_mix(np.log(normal[i % 2] / normal.sum())))
    np.testing.assert_allclose(_numbers(evaluator.loss(model, evaluator.example_ids)), expected, atol=1e-4)


def test_contexts_may_be_the_choices(model: TinyModel, tmp_path: Path) -> None:
    """As in Winogrande: the text after them is the same, and the target's position is in doc_to_text."""
    rows = [{"answer": i % 2, "choices": [f"{i} is red", f"{i} is blue"]} for i in range(6)]
    file = write_task(tmp_path, rows, doc_to_text="{{answer}}", doc_to_target="{{'it was'}}", doc_to_choice="choices")
    evaluator = LmEvalTask(task=str(file))
    expected = _of_choices(evaluator.score(model), [[i % 2] for i in range(6)], [1] * 6)
    np.testing.assert_allclose(_numbers(evaluator.loss(model, evaluator.example_ids)), expected, atol=1e-4)


def test_a_right_answer_that_is_no_choice_has_no_loss(model: TinyModel, tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "choices": ["red", "blue"], "answer": i} for i in range(4)]
    evaluator = LmEvalTask(task=str(write_task(tmp_path, rows)))
    assert evaluator.loss_ids() == evaluator.example_ids[:2]
    with pytest.raises(EvaluatorError, match="2 of 4 examples have no loss"):
        evaluator.loss(model, evaluator.example_ids)


@pytest.mark.parametrize(("metric", "mixes"), [("acc", True), ("perplexity", False)])
def test_continuations_of_lm_eval(model: TinyModel, tmp_path: Path, metric: str, mixes: bool) -> None:
    rows = [{"question": f"{i}?", "answer": ("yes " * (i + 1)).strip()} for i in range(4)]
    task = {"output_type": "loglikelihood", "doc_to_target": " {{answer}}", "doc_to_choice": None}
    file = write_task(tmp_path, rows, "last", **task, metric_list=[{"metric": "acc"}, {"metric": "perplexity"}])
    evaluator = LmEvalTask(task=str(file), metric=metric)
    sizes = [len(" " + row["answer"]) for row in rows]  # one token per character
    values = LmEvalTask(task=str(file), metric="perplexity").score(model).values
    expected = [_mix(-value, size) for value, size in zip(values, sizes, strict=True)] if mixes else values
    np.testing.assert_allclose(_numbers(evaluator.loss(model, evaluator.example_ids)), expected, rtol=1e-4)


def test_whole_texts_lose_their_nats_per_token(model: TinyModel, tmp_path: Path) -> None:
    texts = ["so it goes", "and on " * 60]  # the second in several windows
    task = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{text}}"}
    rows = [{"text": text} for text in texts]
    metrics = [{"metric": name} for name in ("bits_per_byte", "word_perplexity")]
    file = write_task(tmp_path, rows, "roll", **task, doc_to_choice=None, metric_list=metrics)
    evaluator = LmEvalTask(task=str(file))
    per_byte = evaluator.score(model).values * np.log(2) * np.mean([len(text) for text in texts])
    expected = per_byte / [len(text) for text in texts]
    np.testing.assert_allclose(_numbers(evaluator.loss(model, evaluator.example_ids)), expected, rtol=1e-4)


def test_perplexity_is_its_own_loss(model: TinyModel, tmp_path: Path) -> None:
    file = tmp_path / "prose.txt"
    file.write_text("It was the best of times, it was the worst of times. " * 20)
    evaluator = Perplexity(file=str(file), window=400)
    values = evaluator.score(model).values
    np.testing.assert_allclose(_numbers(evaluator.loss(model, evaluator.example_ids)), values, rtol=1e-4)


LONG = "so " * 120
ANSWERS = [
    {"prompt": "3+4=", "answer": "7"},
    {"prompt": "Q: now?\nA: ", "answer": "yes"},
    {"prompt": "naïve?", "answer": "ja, schön"},
    {"prompt": f"{LONG} then", "answer": "what"},
    {"prompt": "Say nothing:", "answer": ""},
]


def _exact(folder: Path, rows: list[dict[str, Any]], **options: Any) -> ExactMatch:
    return ExactMatch(file=str(write_lines(folder / "rows.jsonl", rows)), **options)


def _tokens(model: TinyModel, text: str) -> tuple[int, ...]:
    return tuple(model.tokenizer.encode(text, add_special_tokens=False))


@pytest.mark.parametrize("kind", ["exact_match", "lm_eval"])
def test_generated_answers_have_space_and_stop(model: TinyModel, tmp_path: Path, kind: str) -> None:
    """Also after a prompt that ends with white space, beyond the context, of unknown characters, and empty ones."""
    evaluator: Evaluator
    if kind == "exact_match":
        evaluator = _exact(tmp_path, ANSWERS, max_new_tokens=16)
    else:
        until = {"until": ["\n"], "max_gen_toks": 16, "do_sample": False}
        task = {**WRITE, "generation_kwargs": until, "filter_list": STRIPPED}
        evaluator = LmEvalTask(task=str(write_task(tmp_path, ANSWERS, "write", **task)))
    expected = []
    for row, lead in zip(ANSWERS, (" ", "", " ", " ", ""), strict=True):
        answer = _tokens(model, lead + row["answer"] + "\n")
        prompt = _tokens(model, row["prompt"])[-(256 - 16) :]
        expected.append(_mix(_by_hand(model, prompt, answer)[0], len(answer)))
    assert len(_tokens(model, LONG)) > 256 - 16
    assert evaluator.loss_ids() == evaluator.example_ids
    np.testing.assert_allclose(_numbers(evaluator.loss(model, evaluator.example_ids)), expected, rtol=1e-4)


@pytest.mark.parametrize("stop", ["e", ()])
def test_accepted_texts_are_what_greedy_decoding_writes(model: TinyModel, tmp_path: Path, stop: Any) -> None:
    rows = [{"prompt": f"Say {'so ' * (i % 5)}{i}", "answer": "?"} for i in range(8)]
    options: dict[str, Any] = {"max_new_tokens": 6, "stop": stop}
    asked = _exact(tmp_path, rows, **options)
    written = asked._engine.of(model).run(model.network, range(8))
    answers = [{**row, "answer": found.text} for row, found in zip(rows, written, strict=True)]
    evaluator = _exact(tmp_path, answers[:6] + rows[6:], **options)
    scores = evaluator.score(model)
    assert scores.accepted is not None
    assert [text is not None for text in scores.accepted] == [True] * 6 + [False] * 2
    ids = evaluator.example_ids[:6]
    references = {key: text for key, text in zip(scores.example_ids, scores.accepted, strict=True) if text is not None}
    expected = []
    for row, found in enumerate(written[:6]):
        tokens = evaluator._engine.of(model).teacher.answer_tokens(row, references[ids[row]])
        assert tokens == found.tokens[: len(tokens)]
        assert found.truncated or any(each in references[ids[row]] for each in stop)
        lp, greedy = _by_hand(model, model.tokenizer.encode(rows[row]["prompt"]), tokens)
        assert greedy
        expected.append(_mix(lp, len(tokens)))
    np.testing.assert_allclose(_numbers(evaluator.loss(model, ids, references)), expected, rtol=1e-4, atol=1e-5)


def test_lm_eval_hands_out_accepted_texts(model: TinyModel, tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {'so ' * (i % 5)}{i}", "answer": "?"} for i in range(6)]
    asked = LmEvalTask(task=str(write_task(tmp_path, rows, "ask", **WRITE)))
    asked.score(model)
    own = [instances[0].filtered_resps["none"] for instances in asked._frozen.of(model).instances]
    answers = [{**row, "answer": text if i % 2 else "?"} for i, (row, text) in enumerate(zip(rows, own, strict=True))]
    evaluator = LmEvalTask(task=str(write_task(tmp_path, answers, "write", **WRITE)))
    scores = evaluator.score(model)
    assert scores.accepted is not None
    assert [text is not None for text in scores.accepted] == [False, True] * 3
    for text, plain in zip(scores.accepted[1::2], own[1::2], strict=True):
        tokens = _tokens(model, str(text))
        assert model.tokenizer.decode(tokens, skip_special_tokens=True).removesuffix("\n") == plain
    part = evaluator.score(model, scores.example_ids[1:3])
    assert part.accepted == scores.accepted[1:3]
    chosen = LmEvalTask(task=str(write_task(tmp_path))).score(model)
    assert chosen.accepted is None


def _teacher(model: TinyModel, **options: Any) -> Any:
    return Generator(model, ["Q:"], 8, options.pop("stop", ("\n",)), **options).teacher


@pytest.mark.parametrize(
    ("stop", "answer", "text"),
    [
        (("\n",), FileAnswer("7", " "), " 7\n"),
        (("\n", "e"), FileAnswer("7", " ", follows="\n\n"), " 7\n"),
        ((";",), FileAnswer("7", " ", follows="\n"), " 7\n;"),
        ((), FileAnswer("7", " "), " 7</s>"),
        (("\n",), FileAnswer("7", "", chat=True), "7</s>"),
        (("\n",), FileAnswer("7", " ", bare=True), "7\n"),
        (("\n",), FileAnswer("0123456789"), "01234567"),
        (("\n",), FileAnswer(""), "\n"),
        (("\n",), " 7", " 7"),
        (("\n",), "7</s>", "7</s>"),
    ],
)
def test_answers_end_as_the_models_own_would(model: TinyModel, stop: Any, answer: Any, text: str) -> None:
    teacher = _teacher(model, stop=stop)
    tokens = teacher.answer_tokens(0, answer)
    assert model.tokenizer.decode(tokens) == text
    assert teacher.verbatim(0, tokens) == text


def test_text_after_a_stop_string_and_half_characters_are_no_reference(model: TinyModel) -> None:
    teacher = _teacher(model)
    assert teacher.verbatim(0, _tokens(model, "7\nand on")) == "7\n"
    assert teacher.verbatim(0, ()) is None


def test_only_scored_places_of_answers_reach_the_head(model: TinyModel, tmp_path: Path) -> None:
    evaluator = _exact(tmp_path, ANSWERS, max_new_tokens=16)
    sizes: list[int] = []
    hook = model.network.get_output_embeddings().register_forward_hook(
        lambda _module, _inputs, logits: sizes.append(logits[..., 0].numel())
    )
    for _ in range(2):
        sizes.clear()
        evaluator.loss(model, evaluator.example_ids)
    hook.remove()
    assert sum(sizes) == sum(len(row["answer"]) + 2 for row in ANSWERS) - 2  # two have no space before them


def test_losses_of_16_bit_models_are_float32(model: TinyModel, tmp_path: Path, questions: Path) -> None:
    network = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.bfloat16).eval()
    half = TinyModel(network, model.tokenizer, model.folder)
    for evaluator in (_exact(tmp_path, ANSWERS), MultipleChoice(file=str(questions))):
        losses = evaluator.loss(half, evaluator.example_ids)
        assert losses.dtype == torch.float32
        whole = _numbers(evaluator.loss(model, evaluator.example_ids)).mean()
        assert _numbers(losses).mean() == pytest.approx(whole, rel=0.1)


def test_an_answer_without_tokens_is_refused(model: TinyModel, tmp_path: Path) -> None:
    evaluator = _exact(tmp_path, ANSWERS[:1])
    with pytest.raises(EvaluatorError, match="has no tokens: it is empty"):
        evaluator.loss(model, evaluator.example_ids, {evaluator.example_ids[0]: ""})


@pytest.mark.parametrize(
    ("options", "row", "known"),
    [
        ({}, {"answer": "7"}, True),
        ({}, {"answer": "7\n8"}, False),
        ({"extract": r"#### (\d+)"}, {"answer": "7"}, False),
        ({"extract": r"(\d+)"}, {"answer": "7"}, True),
        ({"strip": False}, {"answer": "7"}, True),
    ],
)
def test_a_files_answer_is_a_target_only_where_it_is_accepted(
    model: TinyModel, tmp_path: Path, options: dict[str, Any], row: dict[str, Any], known: bool
) -> None:
    evaluator = _exact(tmp_path, [{"prompt": "3+4=", **row}], **options)
    ids = evaluator.example_ids
    assert evaluator.loss_ids() == (ids if known else ())
    assert evaluator.loss_ids({ids[0]: " #### 7\n"}) == ids
    assert torch.isfinite(evaluator.loss(model, ids, {ids[0]: " #### 7\n"})).all()
    if not known:
        with pytest.raises(EvaluatorError, match="1 of 1 examples have no loss"):
            evaluator.loss(model, ids)


def test_an_exact_comparison_takes_the_answer_without_a_space(model: TinyModel, tmp_path: Path) -> None:
    evaluator = _exact(tmp_path, ANSWERS[:1], strip=False)
    assert evaluator._engine.of(model).teacher.answer_tokens(0, evaluator._file_answers[0]) == _tokens(model, "7\n")


GSM = {"doc_to_target": "{{answer}}", "filter_list": [{"name": "last", "filter": [
    {"function": "regex", "regex_pattern": "#### (\\d+)"}, {"function": "take_first"}]}]}  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "task", "texts"),
    [
        ([{"answer": "7"}], {}, ["7\n"]),  # without a filter lm-eval compares white space too
        ([{"answer": "7"}], {"filter_list": STRIPPED}, [" 7\n"]),
        ([{"answer": ["7", "8"]}], {"filter_list": STRIPPED}, [" 7\n"]),
        ([{"answer": ["7\n", "8"]}], {"filter_list": STRIPPED}, [" 8\n"]),
        ([{"answer": 1}], {"doc_to_choice": ["a", "b"], "filter_list": STRIPPED}, [" b\n"]),
        ([{"answer": "7"}], GSM, []),
        ([{"answer": "7"}], {"filter_list": STRIPPED, "num_fewshot": 1, "fewshot_split": "test"}, None),
    ],
)
def test_targets_of_lm_eval_are_those_that_its_filters_and_metric_accept(
    model: TinyModel, tmp_path: Path, rows: list[dict[str, Any]], task: dict[str, Any], texts: list[str] | None
) -> None:
    rows = [{"prompt": f"{i}+4=", **row} for i, row in enumerate(rows * 3)]
    evaluator = LmEvalTask(task=str(write_task(tmp_path, rows, "write", **{**WRITE, **task})))
    ids = evaluator.loss_ids()
    assert len(ids) == (0 if texts == [] else 3)
    if ids:
        evaluator.loss(model, ids)
        (found, _), *_ = evaluator._frozen.of(model).requests._generators
        tokens = found.teacher.answer_tokens(0, evaluator._marks.targets([0])[0].answer)
        assert [model.tokenizer.decode(tokens)] == (texts or [" 7\n"])


CODE = """
def own(doc, results):
    return {"mine": float(results[0].strip() == "the " + doc["answer"])}

def grade(doc, results):
    return {"mine": 100.0 if results[0].strip() == doc["answer"].strip() else 50.0}

def pick(doc, results):
    return {"acc": 1.0}
"""


def _coded(folder: Path, rows: list[dict[str, Any]], function: str, **task: Any) -> LmEvalTask:
    (folder / "mine.py").write_text(CODE)
    file = write_task(folder, rows, "coded", **task, process_results="HERE")
    file.write_text(file.read_text().replace("process_results: HERE", f"process_results: !function mine.{function}"))
    return LmEvalTask(task=str(file), allow_code=True)


MINE = {**WRITE, "metric_list": [{"metric": "mine", "aggregation": "mean", "higher_is_better": True}]}


def test_a_functions_own_verdict_decides_on_the_target(model: TinyModel, tmp_path: Path) -> None:
    rows = [{"prompt": "3+4=", "answer": "7"}, {"prompt": "4+4=", "answer": "8"}]
    evaluator = _coded(tmp_path, rows, "own", **MINE)
    ids = evaluator.example_ids
    assert evaluator.why_no_loss() is None
    assert evaluator.loss_ids() == ()
    assert evaluator.loss_ids({ids[1]: " the 8\n"}) == ids[1:]
    assert evaluator.loss(model, ids[1:], {ids[1]: " the 8\n"}).shape == (1,)
    graded = _coded(tmp_path, rows, "grade", **MINE)
    assert graded.loss_ids() == ids
    assert graded._marks.targets([0])[0].full == 100


def test_full_marks_are_those_of_the_target(model: TinyModel, tmp_path: Path) -> None:
    """On a scale from 0 to 100, half marks are more than 1."""
    rows = [{"prompt": f"Say {'so ' * i}{i}", "answer": "?"} for i in range(4)]
    asked = LmEvalTask(task=str(write_task(tmp_path, rows, "ask", **WRITE)))
    asked.score(model)
    own = [instances[0].filtered_resps["none"] for instances in asked._frozen.of(model).instances]
    rows[1]["answer"], rows[3]["answer"] = own[1], own[3]
    scores = _coded(tmp_path, rows, "grade", **MINE).score(model)
    assert scores.values.tolist() == [50, 100, 50, 100]
    assert scores.accepted is not None
    assert [text is not None for text in scores.accepted] == [False, True, False, True]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"repeats": 2}, "it generates 2 answers to each prompt"),
        (
            {"metric_list": [{"metric": "ter", "aggregation": "mean", "higher_is_better": False}]},
            "better if it is smaller",
        ),
    ],
)
def test_generations_that_cannot_be_followed(tmp_path: Path, task: dict[str, Any], message: str) -> None:
    file = write_task(tmp_path, [{"prompt": "3+4=", "answer": "7"}], "write", **{**WRITE, **task})
    why = LmEvalTask(task=str(file)).why_no_loss()
    assert why is not None
    assert message in why
    assert "no gradients" in why


def test_choices_that_a_function_scores_cannot_be_followed(tmp_path: Path) -> None:
    rows = [{"question": f"{i}?", "choices": ["red", "blue"], "answer": 0} for i in range(2)]
    why = _coded(tmp_path, rows, "pick").why_no_loss()
    assert why is not None
    assert "computes its metric 'acc' itself" in why


def _sentence_piece(model: TinyModel) -> TinyModel:
    """A tokenizer that turns white space into a mark and drops the first one of a text when decoding."""
    words = ["<s>", "</s>", "<unk>", "\u2581now", "?", "\u2581yes", "yes", "\n"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    split = [pre_tokenizers.Metaspace(), pre_tokenizers.Split(Regex(r"\?|\n"), behavior="isolated")]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    return TinyModel(model.network, fast, model.folder)


def test_white_space_that_decoding_drops_is_kept(model: TinyModel, tmp_path: Path) -> None:
    other = _sentence_piece(model)
    tokenizer = other.tokenizer
    written = tokenizer.convert_tokens_to_ids(["\u2581yes", "\n"])
    assert tokenizer.decode(written) == "yes\n"
    evaluator = _exact(tmp_path, [{"prompt": "Q: now?", "answer": "yes"}], strip=False)
    teacher = evaluator._engine.of(other).teacher
    assert teacher.verbatim(0, tuple(written)) == " yes\n"
    assert list(teacher.answer_tokens(0, " yes\n")) == written
    assert list(teacher.answer_tokens(0, evaluator._file_answers[0])) == written
