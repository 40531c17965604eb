"""The models that the program makes: ordinary folders, cached by content, better than the base where trained."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from experiments.tiny_models.prepare import Expert, ModelSet, prepare
from experiments.tiny_models.sets import TINY
from experiments.tiny_models.train import Network, Schedule
from tests.conftest import TinyModels
from tests.evomerge.forks import Fork

SMALLEST = ModelSet(
    network=Network(hidden=16, layers=1, heads=2),
    tasks=TINY.tasks,
    base=Schedule(steps=2, learning_rate=1e-3, batch=6),
    experts={"sort": Expert(Schedule(steps=2, learning_rate=1e-3, batch=6))},
    n_examples={"count": 5, "largest": 5, "sort": 5},
)


@pytest.fixture
def offspring(tmp_path: Path) -> Path:
    prepare(tmp_path / "set", SMALLEST, say=print)
    return tmp_path / "set"


def accuracy(folder: Path, file: Path) -> float:
    """Greedy accuracy by transformers alone, answers generated, choices by their first character."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    prompts = [line.get("question") or line["prompt"] for line in lines]
    tokens = tokenizer(prompts, return_tensors="pt", padding=True)
    texts = tokenizer.batch_decode(model.generate(**tokens, max_new_tokens=8), skip_special_tokens=True)
    said = [text[len(prompt) :].strip() for text, prompt in zip(texts, prompts, strict=True)]
    wanted = [line["choices"][line["answer"]] if "choices" in line else line["answer"] for line in lines]
    return sum(a == b for a, b in zip(said, wanted, strict=True)) / len(lines)


def test_every_expert_is_clearly_better_than_the_base_on_its_task(tiny: TinyModels) -> None:
    for name, folder in tiny.experts.items():
        assert accuracy(folder, tiny.tasks[name]) > accuracy(tiny.base, tiny.tasks[name]) + 0.1, name


def test_the_folders_are_ordinary_and_of_several_kinds(tiny: TinyModels) -> None:
    indices = [name for name, folder in tiny.experts.items() if list(folder.glob("*.index.json"))]
    assert indices == ["largest"]
    dtypes = set()
    for folder in (tiny.base, *tiny.experts.values()):
        with safe_open(next(iter(sorted(folder.glob("*.safetensors")))), framework="pt") as file:
            dtypes |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == 2
    assert dtypes == {"F32", "BF16"}


def test_the_tokenizer_comes_back_as_written(tiny: TinyModels) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny.base)
    ids = tokenizer("sort 21 =\n").input_ids
    assert ids[0] == tokenizer.bos_token_id
    assert len(ids) == 1 + len("sort 21 =\n")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "sort 21 =\n"
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "</s>")


def test_a_second_run_makes_nothing(offspring: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in offspring.rglob("*") if path.is_file()}
    said: list[str] = []
    prepare(offspring, SMALLEST, say=said.append)
    assert said == ["data: up to date", "base: up to date", "sort: up to date"]
    files = [path for path in before if path.name != ".lock"]
    assert files
    assert all(path.stat().st_mtime_ns == before[path] for path in files)


def test_other_settings_make_only_what_depends_on_them(offspring: Path) -> None:
    said: list[str] = []
    longer = Expert(Schedule(steps=3, learning_rate=1e-3, batch=6))
    prepare(offspring, replace(SMALLEST, experts={"sort": longer}), say=said.append)
    assert said[:2] == ["data: up to date", "base: up to date"]
    assert said[-1].startswith("sort: step 3 of 3")


def test_the_same_seed_makes_the_same_weights(offspring: Path, tmp_path: Path) -> None:
    prepare(tmp_path / "again", SMALLEST, say=print)
    for name in ("base", "sort"):
        first, second = (root / name / "model.safetensors" for root in (offspring, tmp_path / "again"))
        assert first.read_bytes() == second.read_bytes()


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "precious").write_text("x")
    with pytest.raises(FileExistsError, match="was not made by this program"):
        prepare(tmp_path, SMALLEST, say=print)
    assert (tmp_path / "base" / "precious").read_text() == "x"


def test_lm_eval_files_follow_a_moved_folder(offspring: Path) -> None:
    moved = offspring.with_name("moved")
    offspring.rename(moved)
    prepare(moved, SMALLEST, say=print)
    assert str(moved / "data" / "sort.jsonl") in (moved / "lm_eval" / "sort.yaml").read_text()


def prepare_smallest() -> None:
    """Prepare the set in the folder that `sys.argv` names."""
    prepare(Path(sys.argv[1]), SMALLEST, say=print)


def test_two_processes_at_once_make_one_set(tmp_path: Path) -> None:
    call = f"{__name__}:prepare_smallest"
    with Fork(tmp_path, call=call) as first, Fork(tmp_path, call=call) as second:
        said = [first.communicate(), second.communicate()]
    assert [first.returncode, second.returncode] == [0, 0], said
    assert not list(tmp_path.glob(".*.partial"))
    AutoModelForCausalLM.from_pretrained(tmp_path / "sort")
