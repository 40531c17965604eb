"""Names from files are only names: no markup, no terminal control, no path, wherever they are shown or written."""

import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import Scores
from evomerge.cli import app
from evomerge.commands.import_file import _commented
from evomerge.commands.init import named_inputs
from evomerge.commands.report import written
from evomerge.commands.tools.calibrate import file_name
from evomerge.config import ConfigError, load_config
from evomerge.merging.output.card import _code, _text, model_card
from evomerge.merging.output.manifest import Manifest
from evomerge.objective import Objective
from evomerge.objective.spec import record_objective
from evomerge.recipe import Input, Merge, Recipe, RecipeError
from evomerge.report import live
from evomerge.report.front_plot import plot_front
from evomerge.report.html.document import document
from evomerge.report.html.sources import PageSources
from evomerge.report.plot import plot_progress
from evomerge.report.snapshot import take
from evomerge.report.terminal import Terminal
from evomerge.results.front import front
from evomerge.run import Run
from evomerge.study import Study
from evomerge.text.printable import is_name, one_line, printable
from evomerge.trial import CANARY, Outcome, Trial
from search_spaces.base import CoefficientTable
from tests.toys import search_file

#: What a shell of the terminal, Rich, HTML, Markdown, matplotlib and YAML would act on.
HOSTILE = (
    "[red]x[/] :boom: <img src=x onerror=alert(1)> ](http://e.il) `a` *b* | $x^{ "
    "\x1b]0;owned\x07\x1b[31m \r\u202e ../../y"
)
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def hostile_merge() -> Merge:
    recipe = Recipe(Input("base", "b"), (Input("a", "a"), Input("b", "b")), "linear")
    return Merge(recipe, CoefficientTable({"all": ("*",)}, {"weight": np.array([[0.25, 0.75]])}))


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """The folder of a study whose tasks, experts and labels are hostile, as a ledger from elsewhere may hold them."""
    tasks = (HOSTILE, "_two")
    objective = Objective(dict.fromkeys(tasks, 1.0))
    folder = tmp_path / "run [red]"
    study = Study.create(
        folder, {"tasks": dict.fromkeys(tasks, "synthetic"), "objective": "mean", "experts": {HOSTILE: "x"}}, {}
    )
    record_objective(study, objective)
    labels = (CANARY, f"parent:{HOSTILE}", "search", "search")
    for number, label in enumerate(labels):
        merge = hostile_merge() if label.startswith("parent") else None
        study.ask(Trial(number, None if merge else np.array([0.5]), merge, label))
        ids = tuple(f"{n:016x}" for n in range(4))
        scores = {task: Scores(ids, np.array([0.0, 1.0, 0.5, number / 4])) for task in tasks}
        study.tell(Outcome(number, scores), [float(loss) for loss in objective.losses(scores)])
    study.event("paused", reason=HOSTILE)
    study.close()
    return folder


def shown(renderable: Any, width: int = 300) -> str:
    stream = io.StringIO()
    Terminal(file=stream, width=width).print(renderable)
    return stream.getvalue()


@pytest.mark.parametrize("width", [40, 300])
def test_the_terminal_shows_control_characters_as_escapes_and_markup_as_text(width: int) -> None:
    text = "".join(shown(HOSTILE, width).split())
    assert not CONTROL.search(text)
    assert "[red]x[/]:boom:" in text
    assert r"\x1b]0;owned" in text
    stream = io.StringIO()
    Terminal(file=stream, force_terminal=True, width=300).print(HOSTILE, style="bold")
    assert stream.getvalue().startswith("\x1b[1m"), "what Rich itself writes stays"
    assert "\x1b]" not in stream.getvalue()


@pytest.mark.parametrize("command", [("status",), ("pareto", "--all"), ("status", "--json"), ("pareto", "--json")])
def test_no_command_that_looks_at_a_study_lets_a_name_through(hostile: Path, command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, [*command, str(hostile)])
    assert done.exit_code == 0, done.output
    assert not CONTROL.search(done.output)
    assert "[red]" in done.output
    if "--json" in command:
        json.loads(done.stdout)


def test_the_live_view_and_json_lines(hostile: Path) -> None:
    study = Study.read(hostile)
    stream = io.StringIO()
    with live.LiveView(Terminal(file=stream, force_terminal=True, width=300)) as view:
        view.update(take(Run.of(study)))
        view.event("failed", HOSTILE)
    assert "\x1b]0" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()
    lines = io.StringIO()
    json_view = live.JsonLines(lines)
    json_view.update(take(Run.of(study)))
    json_view.event("failed", HOSTILE)
    assert not CONTROL.search(lines.getvalue())


def test_the_report(hostile: Path) -> None:
    material = PageSources((HOSTILE,), missing=HOSTILE, configuration=HOSTILE)
    html = written(document(Run(hostile), material), [])
    own = html.partition("<script>")[0]
    assert "onerror=alert" in own
    assert "<img" not in own
    assert not CONTROL.search(own)


def test_pictures(hostile: Path) -> None:
    study = Study.read(hostile)
    assert plot_progress(Run.of(study)).is_file()
    objective = Objective(dict.fromkeys((HOSTILE, "_two"), 1.0))
    assert plot_front(Run.of(study), front(study, objective)).is_file()


def test_an_error_shows_a_name_as_it_is(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["status", str(tmp_path / "x\x1b[31m[red]\u202e")])
    assert done.exit_code == 2
    assert not CONTROL.search(done.stderr)
    assert r"\x1b[31m[red]\u202e" in done.stderr


def test_a_model_card_has_no_markup_of_a_name() -> None:
    merge = hostile_merge()
    recipe = replace(merge.recipe, inputs=(Input("a", "a"), Input("x|y `<b>`", "b")), options={"o": "<script>"})
    scores = {"verdict": f"{HOSTILE} wins", HOSTILE: {HOSTILE: 0.5, "p": "<b>"}}
    named = {"base": HOSTILE, "a": "a", "x|y `<b>`": "# b\n---\n"}
    inputs = {name: {"source": source, "revision": "main"} for name, source in named.items()}
    manifest = Manifest("", 0, {}, inputs, {})
    card = model_card(replace(merge, recipe=recipe), f"# {HOSTILE}\n", manifest, scores, adapter=[HOSTILE])
    body = card.split("---\n", 2)[2]
    assert not CONTROL.search(body)
    outside = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", body.replace(r"\`", ""))
    assert not re.search(r"<(img|script|b)", outside)
    assert not re.search(r"\]\(http", outside)
    tables = [line for line in body.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in tables} <= {3, 4, 5}
    meta = strict_yaml.load(card.split("---\n", 2)[1]).data
    assert meta["base_model"] == HOSTILE


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("task_arithmetic:0.4 is 0.5 [0.4, 0.6] (p < 1)", "task_arithmetic:0.4 is 0.5 [0.4, 0.6] (p &lt; 1)"),
        ("-0.5", "-0.5"),
        ("# a\n- b", r"\# a\\n- b"),
        ("![x](y)", r"\![x]\(y)"),
        ("_a_ b_c *d* `e`", r"\_a\_ b_c \*d\* \`e\`"),
    ],
)  # fmt: skip
def test_text_in_markdown(text: str, expected: str) -> None:
    assert _text(text) == expected


def test_code_in_markdown() -> None:
    assert _code("a_b") == "`a_b`"
    assert _code("a`b``c\n") == "``` a`b``c\\n ```"


def test_names_that_cannot_be_shown_are_refused(tmp_path: Path) -> None:
    settings = search_file(tmp_path)
    file = tmp_path / "search.yaml"
    for key in ("tasks", "experts"):
        named = dict(settings[key])  # type: ignore[call-overload]
        named["x\x1b[31m"] = named.pop(next(iter(named)))
        file.write_text(strict_yaml.dump({**settings, key: named}), encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"{key}.*\\x1b\[31m.*(cannot be displayed|unprintable)"):
            load_config(file)
    named = {"[red]<b>../x": next(iter(settings["experts"].values()))}  # type: ignore[attr-defined]
    file.write_text(strict_yaml.dump({**settings, "experts": named}), encoding="utf-8")
    assert load_config(file).experts[0].name == "[red]<b>../x"
    with pytest.raises(RecipeError, match="contains unprintable characters"):
        Recipe(Input("base", "b"), (Input("a\nb", "a"),), "linear")


def test_comments_stay_comments() -> None:
    text = _commented({"seed": 1}, Path("x\nseed: 2\n#"), ["a\nseed: 3"])
    assert strict_yaml.load(text).data == {"seed": 1}


def test_names_are_no_paths(tmp_path: Path) -> None:
    for number, name in enumerate(("../x", "/etc/x", "a/b", "..", ".", "", "a\0b", "x\x1b")):
        assert file_name(name, number) == f"input-{number}.safetensors"
    assert file_name("math-7b", 0) == "math-7b.safetensors"
    (tmp_path / "a\x1bb").mkdir()
    assert [model.name for model in named_inputs([str(tmp_path / "a\x1bb")])] == ["a_b"]


def test_what_is_escaped_and_what_stays() -> None:
    assert printable("a\tb\n\x1b\u202e\r\ud800") == "a\tb\n\\x1b\\u202e\\r\\ud800"
    assert printable("\u00e9 \u4e2d \U0001f600") == "\u00e9 \u4e2d \U0001f600"
    assert one_line("a\tb\n") == r"a\tb\n"
    assert (is_name("\u00e9 [x]"), is_name("a\n"), is_name("\u2066")) == (True, False, False)
