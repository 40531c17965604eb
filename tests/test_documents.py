"""The documents: links lead somewhere, commands and search files are accepted as shown, lists are complete."""

import inspect
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Evaluator
from evomerge import errors, plugins
from evomerge.cli import app
from evomerge.config import SearchConfig, load_config, load_stages
from evomerge.config.schema import MEANINGS
from evomerge.optimizers.base import Optimizer
from evomerge.recipe.file import read_merge
from search_spaces.base import SearchSpace

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
#: Documents that show how evomerge is used now; changelog and log also keep what was.
CURRENT = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "AGENTS.md",
    *DOCS,
    ROOT / "evomerge/merging/methods/README.md",
    *sorted(ROOT.glob("experiments/*/README.md")),
]
ALL = [*CURRENT, ROOT / "CHANGELOG.md", ROOT / "experiments/LOG.md", *sorted(ROOT.glob("tests/*/*.md"))]

_BLOCK = re.compile(r"^```\w*\n.*?^```$|^(?: {4}[^\n]*\n)+", re.MULTILINE | re.DOTALL)
_YAML = re.compile(r"^```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_COMMAND = re.compile(r"^ *(evomerge (?:.*\\\n)*.*)$", re.MULTILINE)
_INLINE = re.compile(r"`(evomerge [^`\n]+)`")
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in _HEADING.findall(read(path))}


def command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that a command line names, with the arguments that follow. Fails for unknown and hidden ones."""
    found, rest = typer.main.get_command(app), words[1:]
    while hasattr(found, "commands") and rest and not rest[0].startswith("-"):
        found, rest = found.commands[rest[0]], rest[1:]
        assert not found.hidden, f"{shlex.join(words)}: an older spelling"
    return found, rest


@pytest.mark.parametrize("path", ALL, ids=name)
def test_links_lead_to_files_and_headings(path: Path) -> None:
    for link in _LINK.findall(_BLOCK.sub("", read(path))):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_is_in_the_index() -> None:
    for path in DOCS:
        place = path.relative_to(ROOT / "docs").as_posix()
        assert f"({place})" in read(ROOT / "docs/README.md") or place == "README.md"
    assert "(docs/README.md)" in read(ROOT / "README.md")


@pytest.mark.parametrize("path", CURRENT, ids=name)
def test_commands_are_accepted_as_shown(path: Path) -> None:
    text, shown = read(path), 0
    for line in (line for block in _BLOCK.findall(text) for line in _COMMAND.findall(block)):
        found, rest = command(shlex.split(line.replace("\\\n", " "), comments=True))
        if rest != ["--install-completion"]:
            found.make_context(found.name, rest)
        shown += 1
    assert shown > 3 or path.name != "README.md" or path.parent != ROOT
    for line in _INLINE.findall(text):
        words = shlex.split(line)
        found, rest = command(words)
        known = {option for each in found.params for option in each.opts}
        assert {word for word in rest if word.startswith("-")} <= known | {"--help", "--install-completion"}, line


def checked(config: SearchConfig) -> SearchConfig:
    """The same, once every plug-in has been found to take its options."""
    tasks = [("evaluator", task, Evaluator) for task in config.tasks.values()]
    rest = [("search space", config.space, SearchSpace), ("optimizer", config.optimizer, Optimizer)]
    for what, spec, contract in tasks + rest:
        accepted = inspect.signature(plugins.load(what, spec.kind, contract)).parameters
        assert spec.options.keys() <= accepted.keys(), spec
    return config


def test_search_files_and_recipes_are_accepted_as_shown(tmp_path: Path) -> None:
    whole, *_ = _YAML.findall(read(ROOT / "docs/search-files.md"))
    for step in (100, 200):  # what the pattern of the checkpoints of one run matches
        (tmp_path / f"runs/train/checkpoint-{step}").mkdir(parents=True)
    shown = [(path, text) for path in CURRENT for text in _YAML.findall(read(path))]
    assert len(shown) > 5
    for path, text in shown:
        data = strict_yaml.load(text, source=name(path)).data
        file = tmp_path / "file.yaml"
        if "evomerge" in data:
            file.write_text(text, encoding="utf-8")
            assert read_merge(file).recipe.method == data["method"]
        else:  # a part of a search file stands in for the same keys of the whole one
            given = data if "study" in data else {**strict_yaml.load(whole).data, **data}
            file.write_text(strict_yaml.dump(given), encoding="utf-8")
            for stage in load_stages(file):
                checked(stage.config)


def test_the_search_file_in_the_readme_is_the_demo(tmp_path: Path) -> None:
    (text,) = _YAML.findall(read(ROOT / "README.md"))
    assert len(text.splitlines()) <= 14
    for model in ("base", "count", "find", "reverse", "sort"):
        (tmp_path / "models" / model).mkdir(parents=True)
    (tmp_path / "search.yaml").write_text(text, encoding="utf-8")
    shown = json.dumps(load_config(tmp_path / "search.yaml").as_dict())
    demo = load_config(ROOT / "experiments/00-quickstart/search.yaml").as_dict()
    assert json.loads(shown.replace(str(tmp_path), str(ROOT))) == demo


def test_the_pages_list_every_key_plug_in_and_exit_code() -> None:
    assert set(SearchConfig.__pydantic_fields__) <= set(MEANINGS), "the JSON schema explains every key"
    keys, tasks, optimizers = (read(ROOT / "docs" / f"{page}.md") for page in ("search-files", "tasks", "optimizers"))
    for text, listed in (
        (keys, SearchConfig.__pydantic_fields__),
        (keys, plugins.names("search space")),
        (tasks, plugins.names("evaluator")),
        (optimizers, plugins.names("optimizer")),
    ):
        rows = " ".join(re.findall(r"^\| (.+?) \|", text, re.MULTILINE))
        assert set(listed) <= set(re.findall(r"`(\w+)`", rows))
    codes = {
        int(code)
        for row in re.findall(r"^\| (\d[\d, ]*) \|", read(ROOT / "docs/running.md"), re.MULTILINE)
        for code in row.split(", ")
    }
    signals = {errors.SIGNAL + number for number in (1, 2, 15)}
    plain = {errors.DONE, errors.DIFFERENT, errors.USAGE, errors.REFUSED, errors.BUSY, errors.PAUSED, errors.STOPPED}
    assert codes == plain | signals


def test_the_map_of_the_code_names_every_part() -> None:
    text = read(ROOT / "CONTRIBUTING.md")
    places = " ".join(row for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE))
    named = set(re.findall(r"`(?:evomerge/)?(\w+)(?:/|\.py)`", places))
    parts = {
        path.stem for path in (ROOT / "evomerge").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert parts <= named, parts - named
    assert {each for each in named if not (ROOT / each).exists()} <= parts | {"NAME"}, "named, but not there"
