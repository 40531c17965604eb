"""Every block of code in the documents is run, checked by another test, or marked with what it needs."""

import ast
import doctest
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.training import SearchMerge
from tests.conftest import TinyModels
from tests.documents.blocks import NEEDS, Block, blocks
from tests.documents.stage import prepare
from tests.evomerge.forks import Fork
from tests.test_docstring_examples import MODULES
from tests.test_documents import CURRENT, ROOT, name
from tests.waiting import CEILING

TUTORIALS = ROOT / "docs/tutorials"
REFERENCE = ROOT / "docs/reference/python-api.md"
#: Fences that are not run. Search files and recipes are read by `test_documents`; text is what files and outputs have.
READ = {"yaml", "text"}
#: Pages of fronts, whose search has several objectives.
FRONTS = ("docs/pareto.md",)
#: Code that runs before the blocks of a page, which use its names.
BEFORE = {
    "docs/python.md": "from datasets import load_dataset\n"
    "from transformers import AutoTokenizer\n"
    "tokenizer = AutoTokenizer.from_pretrained('model')\n"
    "data = load_dataset('text', data_files='texts.txt', split='train')\n"
    "data = data.map(lambda line: tokenizer(line['text'], padding='max_length', max_length=24, truncation=True))\n"
    "shown = lambda line: [i if m else -100 for i, m in zip(line['input_ids'], line['attention_mask'])]\n"
    "data = data.map(lambda line: {'labels': shown(line)}).remove_columns('text')\n"
}
#: Parts of blocks that differ here: what takes long is shortened, and of few candidates and examples less is asked.
INSTEAD = {
    "--extend 2h": "--extend 0.1min",
    "max_steps=1000": "max_steps=200",
    "mine>=-1pt": "mine>=-50pt",
    "--knee": "--knee --split search",
}


def is_run(block: Block) -> bool:
    """Whether a block is run by the tests below."""
    return not block.needs and block.language in ("shell", "python") and block.page != REFERENCE


RUN = [page for page in CURRENT if any(map(is_run, blocks(page)))]


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_every_block_runs_or_is_checked_or_is_marked(page: Path) -> None:
    for block in blocks(page):
        assert not block.needs or block.needs in NEEDS, f"{block.name}: unknown mark"
        assert is_run(block) or block.needs or block.language in READ or page == REFERENCE, (
            f"{block.name}: {block.language or 'a fence without a language'}: use indented lines for commands, "
            "```python, ```yaml or ```text"
        )
        if block.language == "python":
            ast.parse(block.text)


@pytest.mark.parametrize("page", CURRENT, ids=name)
def test_marked_commands_exist(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for block in blocks(page):
        for line in block.commands if block.language == "shell" else []:
            words = shlex.split(line, comments=True)
            if words[:1] == ["make"]:
                assert words[1] in targets, block.name
            if words[:2] == ["python", "-m"] and words[2] != "venv":
                assert importlib.util.find_spec(words[2]) is not None, block.name


def test_the_names_in_the_reference_are_imported_and_their_examples_run_elsewhere() -> None:
    elsewhere = {
        *MODULES,
        "evomerge",
        "evomerge.api",
        "evomerge.run",
        "evomerge.training",
    }  # by `test_python`, and below
    section = example = ""
    for block in blocks(REFERENCE):
        if block.text.lstrip().startswith(">>>"):
            example = section
            assert example in elsewhere, block.name
        else:
            (line,) = block.commands
            names: dict[str, object] = {}
            exec(line, names)
            (thing,) = (value for key, value in names.items() if key != "__builtins__")
            section = getattr(thing, "__module__", "")
    assert example


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUN if page.parent != TUTORIALS], ids=name)
def test_the_blocks_of_a_page_run(
    page: Path, tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    prepare(tmp_path, tiny, pareto=name(page) in FRONTS)
    for block in filter(is_run, blocks(page)):
        if block.language == "python":
            make_room(block.text)
            run_python(BEFORE.get(name(page), "") + shortened(block.text))
        else:
            for line in block.commands:
                run_line(block, shortened(line))


def shortened(text: str) -> str:
    for part, other in INSTEAD.items():
        text = text.replace(part, other)
    return text


def run_line(block: Block, line: str) -> None:
    """Run a command of a page in the current folder; a search file that it drafts is not kept."""
    words = shlex.split(line, comments=True)
    assert words[0] == "evomerge", f"{block.name}: {line}"
    if words[1] == "dashboard":
        stopped_dashboard(words[1:])
        return
    kept = Path("search.yaml").read_text()
    make_room(line)
    with Fork(*words[1:]) as process:
        out, errors = process.communicate(timeout=CEILING)
    assert process.returncode == 0, f"{block.name}: {line}\n{out}{errors}"
    Path("search.yaml").write_text(kept)


def make_room(text: str) -> None:
    """Remove what a command or a program is about to make, where an earlier one has made it."""
    made = re.findall(r"(?: -o (\S+)|evomerge\.merge\(.*\"(\w+)\"\))", text)
    if re.search(r"^evomerge (init|import) (?!.* -o)", text):
        made.append(("search.yaml",))
    if re.search(r"^evomerge (search \S+(?!.*--resume)|check .*--learn-from)|evomerge\.search\(", text):
        made.append(("runs/search",))
    for path in (Path(each) for found in made for each in found if each):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def stopped_dashboard(words: list[str]) -> None:
    """Run the dashboard until it says its address, then stop it by Ctrl-C."""
    with Fork(*words, "--no-browser", "--port", 0) as process:
        assert process.stdout is not None
        assert "http://" in process.stdout.readline()
        process.send_signal(2)
    assert process.returncode == 0


def run_python(code: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=CEILING
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_example_of_the_callback_runs(tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepare(tmp_path, tiny, pareto=False)
    code = BEFORE["docs/python.md"] + (
        "from transformers import AutoModelForCausalLM, Trainer, TrainingArguments\n"
        "model = AutoModelForCausalLM.from_pretrained('model')\n"
        "arguments = TrainingArguments('runs/train', save_steps=100, max_steps=200)\n"
    )
    shown = doctest.DocTestParser().get_examples(SearchMerge.__doc__ or "")
    assert shown
    run_python(code + "".join(example.source for example in shown))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a user follows the tutorials: `evomerge demo` has trained its models there."""
    from evomerge.commands.demo import begin_demo, train_models

    folder = tmp_path_factory.mktemp("tutorials")
    begin_demo(folder / "evomerge-demo")
    if (ROOT / "models/base").exists():
        (folder / "evomerge-demo/models").symlink_to(ROOT / "models")
    train_models(folder / "evomerge-demo", say=lambda _: None)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in RUN if page.parent == TUTORIALS], ids=lambda page: page.stem)
def test_a_tutorial_runs_as_it_is_written(place: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)
    for file, content in re.findall(r"`([\w.-]+\.yaml)`:\n\n```yaml\n(.*?)^```$", page.read_text(), re.M | re.S):
        Path(file).write_text(content, encoding="utf-8")
    for block in filter(is_run, blocks(page)):
        if block.language == "python":
            run_python(block.text)
            continue
        for line in block.commands:
            with Fork(*shlex.split(line)[1:]) as process:
                out, errors = process.communicate(timeout=CEILING)
            assert process.returncode == 0, f"{block.name}: {line}\n{out}{errors}"


@pytest.mark.slow
def test_the_notebook_runs(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evomerge-demo").symlink_to(place / "evomerge-demo")  # beside it, tutorials have written
    nbclient, nbformat = pytest.importorskip("nbclient"), pytest.importorskip("nbformat")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    notebook = nbformat.read(ROOT / "docs/first-search.ipynb", as_version=4)
    nbformat.validate(notebook)
    nbclient.NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = "".join(str(cell.get("outputs")) for cell in notebook.cells)
    assert "held-out examples" in shown
