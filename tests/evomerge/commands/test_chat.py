"""A conversation with merges of a run: the answers of the exported model, two models side by side, its commands."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators import _strict_yaml as strict_yaml
from evomerge.commands.chat import ChatError, Conversation, answers, talk
from evomerge.export.export import choose, export
from evomerge.run import Run
from evomerge.study import StudyError
from tests.conftest import TinyModels
from tests.evomerge.searches import run_here, write_search

PROMPT = "sort 31542 ->"


@pytest.fixture(scope="module")
def folder(tiny: TinyModels, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a short search over language models."""
    folder = tmp_path_factory.mktemp("chat")
    data = {
        "base": str(tiny.base),
        "experts": {name: str(path) for name, path in tiny.experts.items()},
        "method": "task_arithmetic",
        "space": "uniform",
        "tasks": {
            "sort": {"evaluator": "exact_match", "file": str(tiny.tasks["sort"]), "limit": 40, "max_new_tokens": 8}
        },
        "optimizer": "random",
        "budget": {"trials": 12},
        "executor": "serial",
        "study": str(folder / "study"),
    }
    (folder / "search.yaml").write_text(strict_yaml.dump(data))
    run_here(folder / "search.yaml")
    return folder / "study"


def written(model: Path, prompt: str) -> str:
    """What an exported folder answers, by transformers alone."""
    network, tokenizer = AutoModelForCausalLM.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    read = tokenizer(prompt, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        tokens = network.generate(input_ids=read, max_new_tokens=8, do_sample=False)[0, read.shape[1] :]
    return str(tokenizer.decode(tokens, skip_special_tokens=True))


def test_a_merge_answers_as_its_export_does_and_so_does_a_parent_beside_it(
    folder: Path, tiny: TinyModels, tmp_path: Path
) -> None:
    run = Run(folder)
    assert run.best is not None
    export(choose(run), tmp_path / "winner")
    data, lines = answers(run, [None, "parent:sort"], PROMPT, most=8, temperature=0)
    expected = {
        run.best.label: written(tmp_path / "winner", PROMPT),
        "parent:sort": written(tiny.experts["sort"], PROMPT),
    }
    assert data["answers"] == expected
    assert lines == [line for label, text in expected.items() for line in (f"{label}:", text)]


def test_models_take_turns_and_commands_are_followed(folder: Path, tiny: TinyModels) -> None:
    said: list[str] = []
    commands = [
        PROMPT, "/model parent:count", PROMPT, "/beside base", PROMPT, "/beside alone",
        "/model nobody", "/models", "/what", "", "/quit", "x",
    ]  # fmt: skip
    lines = iter(commands)
    talk(Run(folder), ["parent:sort"], lambda: next(lines), said.append, most=8, temperature=0)
    text = "".join(said)
    sort, count, base = (written(path, PROMPT) for path in (tiny.experts["sort"], tiny.experts["count"], tiny.base))
    place = -1
    for part in (
        "talking to parent:sort; /help", f"{sort}\n", "talking to parent:count\n", f"{count}\n",
        "talking to parent:count beside base\n", f"parent:count:\n{count}\n", f"base:\n{base}\n",
        "talking to parent:count\n", "has no model 'nobody'", "parent:sort", "on the search split", "/clear",
    ):  # fmt: skip
        place = text.index(part, place + 1)
    assert next(lines) == "x"


def test_a_message_longer_than_the_model_reads_is_refused_and_the_next_one_is_answered(
    folder: Path, tiny: TinyModels
) -> None:
    said: list[str] = []
    context = AutoModelForCausalLM.from_pretrained(tiny.base).config.max_position_embeddings
    lines = iter([PROMPT[-1] * (context + 1), PROMPT, "/quit"])
    talk(Run(folder), ["base"], lambda: next(lines), said.append, most=8, temperature=0)
    text = "".join(said)
    assert f"base reads {context} tokens, and this is longer: /clear forgets the rest." in text
    assert written(tiny.base, PROMPT) in text.partition("forgets the rest.")[2]


def test_the_end_of_the_input_is_the_end(folder: Path) -> None:
    def ended() -> str:
        raise EOFError

    talk(Run(folder), [None], ended, lambda _: None, most=8, temperature=0)


def test_what_cannot_talk_is_refused(folder: Path, tmp_path: Path) -> None:
    run_here(write_search(tmp_path, trials=12, delay=0.0))
    with pytest.raises(ChatError, match="do not write text"):
        answers(Run(tmp_path / "study"), [None], PROMPT, most=8, temperature=0)
    with pytest.raises(StudyError, match=r"no model 'parent:srot'.*Did you mean 'parent:sort'"):
        Conversation(Run(folder), "parent:srot", write=lambda _: None)
