"""lm-eval tasks with images: what a model writes is what it writes under lm-eval's own hf-multimodal."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.models.hf_vlms import HFMultimodalLM
from lm_eval.tasks import TaskManager

from evaluators._image_generation import read_processor
from evaluators.base import Evaluator, EvaluatorError
from evaluators.lm_eval_task import LmEvalTask
from tests.contracts.evaluator import EvaluatorContract
from tests.evaluators.tiny_llama import TinyModel, build
from tests.evaluators.tiny_llava import build_llava, write_picture_task


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    return build_llava(tmp_path_factory.mktemp("llava"), seed=0)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_picture_task(tmp_path_factory.mktemp("colors"))


def written(task: LmEvalTask, model: TinyModel) -> list[str]:
    task.score(model)
    return [instances[0].resps[0] for instances in task._frozen.of(model).instances]


def by_lm_eval(file: Path, model: TinyModel, *, chat: bool) -> list[str]:
    peer = HFMultimodalLM(str(model.folder), device="cpu", dtype="float32", batch_size=1)
    found = simple_evaluate(
        peer,
        tasks=["colors"],
        task_manager=TaskManager(include_path=str(file.parent), include_defaults=False),
        apply_chat_template=chat,
        log_samples=True,
        bootstrap_iters=0,
    )
    samples = sorted(found["samples"]["colors"], key=lambda sample: sample["doc_id"])
    return [sample["resps"][0][0] for sample in samples]


@pytest.mark.parametrize("chat", [False, True])
def test_writes_what_is_written_under_lm_eval(file: Path, llava: TinyModel, chat: bool) -> None:
    task = LmEvalTask(task=str(file), processor=str(llava.folder), apply_chat_template=chat)
    read_processor.cache_clear()
    assert task.preflight(llava) == ()
    found = written(task, llava)
    assert read_processor.cache_info().misses == 1, "the processor was read several times"
    assert found == by_lm_eval(file, llava, chat=chat)
    assert len(set(found)) > 1, "pictures have no effect"


def test_equal_questions_about_other_pictures_are_other_examples(file: Path, llava: TinyModel) -> None:
    ids = LmEvalTask(task=str(file), processor=str(llava.folder)).example_ids
    assert not any("#" in example_id for example_id in ids)


def test_losses_are_of_texts(file: Path, llava: TinyModel) -> None:
    task = LmEvalTask(task=str(file), processor=str(llava.folder))
    assert task.why_no_loss() == "its prompts have images, and losses are of texts."
    assert task.loss_ids() == ()


class TestContract(EvaluatorContract):
    @pytest.fixture
    def model(self, llava: TinyModel) -> TinyModel:
        return llava

    @pytest.fixture
    def build(self, file: Path, llava: TinyModel, tmp_path: Path) -> Callable[[], Evaluator]:
        """The first answer is what the model writes by itself."""
        own = written(LmEvalTask(task=str(file), processor=str(llava.folder)), llava)[0]
        changed = write_picture_task(tmp_path, doc_to_target="{% if answer == 'red' %}" + own + "{% endif %}")
        return lambda: LmEvalTask(task=str(changed), processor=str(llava.folder))

    @pytest.fixture
    def other_model(self, tmp_path: Path) -> TinyModel:
        return build_llava(tmp_path / "other", seed=7)

    @pytest.fixture
    def broken_model(self, tmp_path: Path) -> TinyModel:
        broken = build_llava(tmp_path / "broken", seed=0)
        with torch.no_grad():
            broken.network.lm_head.weight.fill_(float("nan"))
        return broken


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {"processor": None}, "The task 'colors' has images: set `processor`"),
        ({"output_type": "multiple_choice", "doc_to_choice": ["red", "blue"]}, {}, "output_type multiple_choice"),
        ({"doc_to_audio": ["image"]}, {}, "has sound"),
        ({"doc_to_image": ["question"]}, {}, "doc_to_image gives 'What color[?]'; expected a column of images"),
    ],
)
def test_what_cannot_be_shown_is_refused(
    tmp_path: Path, llava: TinyModel, changes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    file = write_picture_task(tmp_path, **changes)
    with pytest.raises(EvaluatorError, match=message):
        LmEvalTask(task=str(file), **{"processor": str(llava.folder), **options})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"doc_to_text": "{{question}}"}, "has <image> 0 times, and there are 1 images"),
        ({"generation_kwargs": {"until": ["\n"], "max_gen_toks": 250}}, "gen_kwargs.max_gen_toks: 250 leaves 6"),
    ],
)
def test_prompts_that_cannot_be_read_are_refused_before_the_search(
    tmp_path: Path, llava: TinyModel, changes: dict[str, Any], message: str
) -> None:
    task = LmEvalTask(task=str(write_picture_task(tmp_path, **changes)), processor=str(llava.folder))
    with pytest.raises(EvaluatorError, match=message):
        task.preflight(llava)


def test_a_model_without_eyes_is_refused(file: Path, llava: TinyModel, tmp_path: Path) -> None:
    task = LmEvalTask(task=str(file), processor=str(llava.folder))
    blind = build(tmp_path, seed=0)
    blind = TinyModel(blind.network, llava.tokenizer, blind.folder)
    with pytest.raises(EvaluatorError, match="LlamaForCausalLM reads no images"):
        task.preflight(blind)


def test_a_processor_with_other_tokens_is_refused(file: Path, llava: TinyModel, tmp_path: Path) -> None:
    task = LmEvalTask(task=str(file), processor=str(llava.folder))
    with pytest.raises(EvaluatorError, match="its tokenizer has other tokens than the merges"):
        task.preflight(build(tmp_path, seed=0))


def test_a_folder_without_a_processor_is_refused(file: Path, llava: TinyModel, tmp_path: Path) -> None:
    task = LmEvalTask(task=str(file), processor=str(tmp_path))
    with pytest.raises(EvaluatorError, match="transformers cannot read the processor"):
        task.preflight(llava)
