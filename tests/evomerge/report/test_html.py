"""The report of real studies: numbers against the ledger, markup against hostile names, the recipe, what is missing."""

import base64
import hashlib
import json
import math
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.objective import Objective
from evomerge.report.html import formatting
from evomerge.report.html.coefficients import predicted_coefficients
from evomerge.report.html.page import page as make_page
from evomerge.report.html.sources import PageSources
from evomerge.report.status import status
from evomerge.results.as_json import estimate_to_dict
from evomerge.run import Run
from evomerge.statistics import Difference, Estimate
from evomerge.study import Study
from search_spaces.base import CoefficientTable
from tests.toys import search_file, write_toys
from tests.waiting import CEILING

PARETO = Objective({"one": 1.0, "two": 1.0}, kind="pareto")
EVIL = "a</script><img src=x onerror=alert(1)>"
TASK = "<b>one</b>&\"'"
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

Elements = list[tuple[str, dict[str, str | None], str]]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def search(folder: Path, **changes: object) -> Path:
    """Search in the folder of a test; the run's folder."""
    settings = search_file(folder, **changes)
    if "experts" not in changes:
        _, experts = write_toys(folder / "models")
        settings["experts"] = {EVIL: str(experts["a"]), "b": str(experts["b"])}
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump(settings), encoding="utf-8")
    run("search", file, "--json")
    return folder / "study"


def report(study: Path) -> tuple[str, dict[str, Any]]:
    """The page, and the data in it."""
    done = run("report", study, "--json")
    assert done.exit_code == 0, done.output
    text = (study / "report.html").read_text(encoding="utf-8")
    found = next(content for _, attributes, content in parse(text) if attributes.get("id") == "data")
    return text, json.loads(found)


def browse(address: str, profile: Path) -> str:
    """What a browser makes of a page that it draws without a complaint."""
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")
    done = subprocess.run(
        [
            *(str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet),
            *(f"--user-data-dir={profile}", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=8000"),
            *("--dump-dom", address),
        ],
        capture_output=True,
        text=True,
        timeout=CEILING,
        check=True,
    )
    assert 'data-ready="yes"' in done.stdout
    assert "CONSOLE" not in done.stderr
    return done.stdout


class Reader(HTMLParser):
    """Every element with the text right inside of it, and the cells of every table by row."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: Elements = []
        self.tables: dict[str, list[list[str]]] = {}
        self._table: list[list[str]] = []
        self._cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), ""))
        if tag == "table":
            self._table = self.tables.setdefault(dict(attrs).get("id") or str(len(self.tables)), [])
        if tag == "tr":
            self._table.append([])
        if tag in ("td", "th"):
            self._table[-1].append("")
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self.elements.append(("", {}, ""))  # what follows belongs to nothing
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self.elements:
            tag, attributes, text = self.elements[-1]
            self.elements[-1] = tag, attributes, text + data
        if self._cell:
            self._table[-1][-1] = (self._table[-1][-1] + data).strip()


def parse(text: str) -> Elements:
    return read(text).elements


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    return reader


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Pareto search over two tasks, one of which fails now and then, with names that want to be markup."""
    noisy = {"evaluator": "synthetic", "n_examples": 200, "noise": "binomial"}
    tasks = {TASK: {**noisy, "task": 2, "fail": 0.15}, "two": {**noisy, "task": 3}}
    study = search(
        tmp_path_factory.mktemp("front"), tasks=tasks, objective="pareto", optimizer="nsga2", budget={"trials": 45}
    )
    report(study)
    return study


@pytest.fixture(scope="module")
def page(front: Path) -> str:
    return (front / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def data(page: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(next(text for _, named, text in parse(page) if named.get("id") == "data"))
    return found


def numbers(text: str) -> np.ndarray:
    """Packed numbers of a ledger."""
    kind, _, packed = text.partition(":")
    raw = np.frombuffer(base64.b64decode(packed), dtype={"f32": "<f4", "f64": "<f8"}.get(kind, "u1"))
    return (np.unpackbits(raw)[: int(kind[4:])] if kind.startswith("bits") else raw).astype(float)


class Raw:
    """The ledger read by its lines, with nothing of evomerge."""

    def __init__(self, study: Path) -> None:
        lines = [json.loads(line) for line in (study / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
        self.asked = {line["data"]["number"]: line["data"] for line in lines if line["kind"] == "asked"}
        self.told = [line["data"] for line in lines if line["kind"] == "told"]
        self.active = {line["data"]["number"]: line["active"] for line in lines if line["kind"] == "told"}
        self.events = [line for line in lines if line["kind"] not in ("asked", "told", "created", "examples")]

    def values(self, label: str, split: str) -> dict[str, np.ndarray]:
        """Values of every task of a model, `trial:N` or a baseline's label."""
        number = label.removeprefix("trial:")
        for told in self.told:
            asked = self.asked[told["number"]]
            named = asked["label"] == label or (split == "search" and str(told["number"]) == number)
            if asked["split"] == split and named and asked["label"] != "canary":
                return {task: numbers(scores["values"]) for task, scores in told["scores"].items()}
        raise KeyError(label, split)


@pytest.fixture(scope="module")
def raw(front: Path) -> Raw:
    return Raw(front)


def test_means_of_all_models_on_all_splits_are_those_of_the_ledger(data: dict[str, Any], raw: Raw) -> None:
    compared = 0
    for point in data["points"]:
        for split, on in point["splits"].items():
            values = raw.values(point["label"], split)
            for task, array in values.items():
                assert on["tasks"][task]["mean"] == pytest.approx(array.mean())
                assert on["tasks"][task]["n_examples"] == len(array)
                low, high = on["tasks"][task]["interval"]
                assert low - 1e-9 <= array.mean() <= high + 1e-9
            assert on["score"]["mean"] == pytest.approx(np.mean([array.mean() for array in values.values()]))
            compared += 1
    scored = [t for t in raw.told if t["losses"] is not None]
    others = [
        t for t in scored if raw.asked[t["number"]]["label"] == "canary" or "rerun:" in raw.asked[t["number"]]["label"]
    ]
    assert compared == len(scored) - len(others)


def test_the_front_is_what_no_other_model_beats(data: dict[str, Any], raw: Raw) -> None:
    on = {point["label"]: point["splits"]["search"] for point in data["points"] if "search" in point["splits"]}
    means = {label: [array.mean() for array in raw.values(label, "search").values()] for label in on}
    for label, mine in means.items():
        dominated = any(
            all(a >= b for a, b in zip(other, mine, strict=True)) and other != mine for other in means.values()
        )
        assert on[label]["on_front"] == (not dominated)
    assert sum(split["on_front"] for split in on.values()) > 1


def test_the_lead_of_the_winner_is_a_mean_of_paired_differences(data: dict[str, Any], raw: Raw) -> None:
    winner = data["headline"]["winner"]
    over = ["best parent"] if winner == "uniform" else ["best parent", "uniform average"]
    assert [gain["over"] for gain in data["headline"]["bought"]] == over
    for gain in data["headline"]["bought"]:
        mine, theirs = raw.values(winner, "report"), raw.values(gain["label"], "report")
        lead = np.mean([(mine[task] - theirs[task]).mean() for task in mine])
        variance = sum((mine[t] - theirs[t]).var(ddof=1) / len(mine[t]) for t in mine) / len(mine) ** 2
        assert gain["mean"] == pytest.approx(lead)
        half = (gain["interval"][1] - gain["interval"][0]) / 2 / 1.96
        assert math.sqrt(variance) < half, "the normal interval, widened for few differences"
        # The winner may be the uniform average by another name.
        assert variance == 0 or half < 2 * math.sqrt(variance)
    parents = [p for p in data["points"] if p["kind"] in ("parent", "base")]
    best = max(parents, key=lambda p: p["splits"]["report"]["score"]["mean"])
    assert data["headline"]["bought"][0]["label"] == best["label"]
    assert data["headline"]["looks"] == sum(event["kind"] == "report_split_read" for event in raw.events) == 1


def test_holm_multiplies_by_the_claims_that_are_left(data: dict[str, Any]) -> None:
    for compared in data["comparisons"].values():
        claims = sorted(compared["claims"], key=lambda claim: claim["p"])
        assert len(claims) in (3, 6)
        largest = 0.0
        for rank, claim in enumerate(claims):
            largest = max(largest, min(1.0, (len(claims) - rank) * claim["p"]))
            assert claim["p_holm"] == pytest.approx(largest)


def test_only_differences_that_holm_leaves_are_marked(page: str, data: dict[str, Any]) -> None:
    winner = data["headline"]["winner"]
    claims = [*data["comparisons"][winner]["claims"], *data["headline"]["claims"]]
    marked = ["better" if claim["mean"] > 0 else "worse" for claim in claims if claim["p_holm"] < 0.05]
    assert re.findall(r'<tr class="(better|worse)">', page) == marked
    assert len(marked) < sum(claim["p"] < 0.05 for claim in claims), "one stands out by itself and not among all"


def test_progress_counts_evaluations_and_keeps_the_best(data: dict[str, Any], raw: Raw) -> None:
    searched = [told for told in raw.told if raw.asked[told["number"]]["split"] == "search"]
    rows = data["progress"]
    assert rows["number"] == [told["number"] for told in searched]
    assert rows["seconds"] == [raw.active[number] for number in rows["number"]]
    scored = [raw.asked[told["number"]]["label"] != "canary" and bool(told["seconds"]) for told in searched]
    assert rows["evaluations"] == np.cumsum(scored).tolist()  # failures count whole, the canary and copies nothing
    assert scored.count(False) == 2, "the canary, and the uniform average, which is the start"
    own = [
        -math.inf
        if score is None or raw.asked[number].get("merge")
        else float(np.mean([array.mean() for array in raw.values(f"trial:{number}", "search").values()]))
        for number, score in zip(rows["number"], rows["score"], strict=True)
    ]
    best = np.maximum.accumulate(own)
    assert [b for b in rows["best"] if b is not None] == pytest.approx(best[np.isfinite(best)])
    volumes = np.array(rows["hypervolume"])
    assert (np.diff(volumes) >= 0).all()
    assert volumes[-1] == pytest.approx(data["fronts"]["search"]["hypervolume"]["value"])


def test_failures_and_cost_are_those_of_the_ledger(data: dict[str, Any], raw: Raw) -> None:
    failed = [told for told in raw.told if told["failure"] is not None]
    assert failed
    (row,) = data["failures"]
    assert (row["count"], row["number"]) == (len(failed), failed[0]["number"])
    assert row["message"] == failed[0]["failure"]["message"]
    spent = sum(sum(told["seconds"].values()) for told in raw.told)
    stages = dict(data["cost"]["stages"])
    waiting = stages.pop("waiting")
    assert sum(stages.values()) == pytest.approx(spent)
    assert waiting == pytest.approx(data["cost"]["seconds"] - spent)
    assert data["cost"]["workers"]["serial"]["trials"] == sum(bool(told["worker"]) for told in raw.told) > 50


def test_tables_show_the_numbers_of_the_ledger(page: str, data: dict[str, Any], raw: Raw) -> None:
    tables = read(page).tables
    winner = data["headline"]["winner"]
    row = next(cells for cells in tables["models"] if cells[0].startswith(winner))
    means = [array.mean() for array in raw.values(winner, "search").values()]
    assert row[3].startswith(f"{np.mean(means):.3f} [")
    assert row[4:6] == [f"{mean:.3f}" for mean in means]
    assert row[7].startswith(f"{np.mean([a.mean() for a in raw.values(winner, 'report').values()]):.3f} [")
    lead = data["comparisons"][winner]["claims"][0]
    assert tables["claims"][1][:2] == [lead["rival"], "score"]
    paired = [
        a - b
        for a, b in zip(
            raw.values(winner, "report").values(), raw.values(lead["rival"], "report").values(), strict=True
        )
    ]
    assert tables["claims"][1][2].startswith(f"{np.mean([gaps.mean() for gaps in paired]):+.3f} [")
    finalist = next(cells for cells in tables["finalists"] if cells[0] == winner)
    assert finalist[3].startswith(f"{np.mean([a.mean() for a in raw.values(winner, 'select').values()]):.3f} [")


def test_volumes_of_two_splits_stand_beside_those_of_the_parents(page: str, data: dict[str, Any]) -> None:
    front = data["fronts"]["report"]
    volumes = [formatting.number(front[name]["value"]) for name in ("hypervolume", "hypervolume_of_models")]
    said = f"On the report split, of the {front['points']} models scored there: {volumes[0]} ["
    assert f"; of base and parents alone {volumes[1]}. Each split has" in page.partition(said)[2]


def test_names_from_a_study_are_no_markup(page: str, data: dict[str, Any]) -> None:
    tags = [tag for tag, _, _ in parse(page)]
    assert tags.count("script") == 3
    assert "img" not in tags
    assert "b" not in tags
    assert EVIL in data["coefficients"]["inputs"]
    assert data["study"]["tasks"][0]["name"] == TASK
    assert any(TASK in cell for row in read(page).tables["claims"] for cell in row)


def test_only_the_scripts_of_the_page_may_run_and_nothing_is_loaded(page: str) -> None:
    elements = parse(page)
    policy = next(a["content"] or "" for tag, a, _ in elements if a.get("http-equiv") == "Content-Security-Policy")
    scripts = [text for tag, attributes, text in elements if tag == "script" and "type" not in attributes]
    hashes = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{hashes[0]}' 'sha256-{hashes[1]}'; ")
    assert not any(
        key in ("src", "srcset") or key.startswith("on") for _, attributes, _ in elements for key in attributes
    )
    links = [attributes["href"] or "" for _, attributes, _ in elements if "href" in attributes]
    assert links
    assert all(link.startswith("#") for link in links)
    assert len(page.encode()) < 6_000_000


def named(text: str) -> str:
    """A recipe as a report shows it: of paths the last part."""
    return re.sub(r"path: \S*/", "path: ", text)


def test_a_recipe_is_the_file_that_export_writes(front: Path, data: dict[str, Any], tmp_path: Path) -> None:
    winner = next(point for point in data["points"] if point["label"] == data["headline"]["winner"])
    searched = next(point for point in data["points"] if point["kind"] == "candidate")
    for number in (winner["number"], searched["number"]):
        file = tmp_path / f"{number}.yaml"
        done = run("export", front, "--trial", number, "--recipe-only", "-o", file)
        assert done.exit_code == 0, done.output
        recipe = data["coefficients"]["recipes"][str(number)]
        shown = data["coefficients"]["heads"][recipe["head"]] + recipe["tail"]
        assert shown == named(file.read_text(encoding="utf-8"))
        table = data["coefficients"]["tables"][str(number)]
        written = strict_yaml.load(file.read_text(encoding="utf-8"), source="").data
        rows = np.array(list(written["coefficients"]["weight"].values()))
        assert np.array(table["values"]["weight"]) == pytest.approx(rows, rel=1e-4)
        assert data["coefficients"]["layouts"][table["layout"]] == list(written["groups"])


def test_without_the_models_coordinates_stand_for_coefficients(front: Path, tmp_path: Path) -> None:
    study = tmp_path / "study"
    shutil.copytree(front, study)
    text = (study / "search.yaml").read_text(encoding="utf-8")
    (study / "search.yaml").write_text(text.replace(str(front.parent / "models"), "/nowhere"), encoding="utf-8")
    page, data = report(study)
    asked = Raw(study).asked
    start = next(point for point in data["points"] if point["kind"] == "start")
    point = asked[start["number"]]["x"]
    assert data["coefficients"]["tables"] == {}
    assert data["coefficients"]["points"][str(start["number"])] == pytest.approx(numbers(point), rel=1e-4)
    assert "/nowhere" in data["coefficients"]["missing"]
    assert "The models cannot be read on this machine" in page
    assert data["importance"]["why"] == data["coefficients"]["missing"]


def test_one_task_and_one_weight_per_model(tmp_path: Path) -> None:
    task = {"only": {"evaluator": "synthetic", "task": 1, "n_examples": 100}}
    study = search(tmp_path, tasks=task, space="uniform", budget={"trials": 14}, optimizer="sobol")
    page, data = report(study)
    assert "With one task there is no trade-off" in page
    assert data["progress"]["hypervolume"] is None
    assert "too few" in data["importance"]["why"]
    assert "Importance of groups" in page
    winner = next(point for point in data["points"] if point["label"] == data["headline"]["winner"])
    assert len(data["coefficients"]["tables"][str(winner["number"])]["values"]["weight"]) == 1


def test_a_study_of_failures_says_so(tmp_path: Path) -> None:
    study = search(tmp_path, tasks={"x": {"evaluator": "synthetic", "n_examples": 50, "fail": 1.0}})
    page, data = report(study)
    assert data["study"]["state"] == "paused"
    assert data["points"] == []
    assert data["failures"][0]["count"] == 1
    assert "Nothing has been scored yet." in page
    assert data["headline"]["winner"] is None
    assert data["commands"][0]["command"].endswith("--resume")


def test_an_unfinished_study_has_no_winner_and_its_best_so_far(front: Path, tmp_path: Path) -> None:
    lines = (front / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    cut = next(n for n, line in enumerate(lines) if json.loads(line)["data"].get("split") == "select")
    study = tmp_path / "study"
    study.mkdir()
    shutil.copy(front / "search.yaml", study)
    (study / "ledger.jsonl").write_bytes(b"".join(lines[:cut]))
    page, data = report(study)
    assert data["headline"]["winner"] is None
    assert data["headline"]["best"] is not None
    told = status(Run.of(Study.read(study)))["told"]
    assert told < len(Study.read(study).told)
    assert f"{told} trials completed" in page
    assert "not finished" in page
    assert data["luck"]["finalists"] == []


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    done = run("report", tmp_path)
    assert done.exit_code == 2
    assert "There is no study" in done.output


@pytest.mark.parametrize(
    ("pareto", "order"), [(True, "front chosen progress tasks"), (False, "tasks progress front chosen")]
)
def test_a_search_with_one_objective_leads_with_comparison_and_progress(
    data: dict[str, Any], pareto: bool, order: str
) -> None:
    shown = make_page({**data, "study": {**data["study"], "pareto": pareto}})
    places = [shown.index(f'<section id="{name}">') for name in ("verdict", *order.split(), "sampling-error")]
    assert places == sorted(places)
    links = shown.partition('<nav aria-label="Sections">')[2].partition("</nav>")[0]
    assert [links.index(f'href="#{name}"') for name in order.split()] == sorted(
        links.index(f'href="#{name}"') for name in order.split()
    )
    assert shown.count("<section") == shown.count("</section>") == 10


def test_the_knob_goes_along_the_front_of_two_tasks(front: Path, page: str, data: dict[str, Any]) -> None:
    on = {point["label"]: point["splits"] for point in data["points"]}
    assert data["knobs"][0]["split"] == "search"
    assert data["knobs"][0]["options"] == " --split search"
    for knob in data["knobs"]:
        one, two = ([on[s["label"]][knob["split"]]["tasks"][t]["mean"] for s in knob["stops"]] for t in knob["tasks"])
        assert one == sorted(one, reverse=True)
        assert two == sorted(two)
        assert [knob["stops"][0]["t"], knob["stops"][-1]["t"]] == [0.0, 1.0]
    assert any(attributes.get("id") == "knob" for tag, attributes, _ in parse(page) if tag == "input")
    said = json.loads(run("pick", front, "--split", "search", "--knob", 1, "--json").stdout)
    assert said["label"] == data["knobs"][0]["stops"][-1]["label"]


@pytest.mark.skipif(NODE is None, reason="needs Node.js")
def test_the_slider_finds_what_the_command_finds(front: Path, data: dict[str, Any], tmp_path: Path) -> None:
    t = round(data["knobs"][0]["stops"][1]["t"] / 2, 2)
    file = tmp_path / "knob.js"
    asked = f"const knob = {json.dumps(data['knobs'][0])}, tables = {json.dumps(data['coefficients']['tables'])};"
    shown = """
      const found = settingAt(knob, %s);
      const table = mixed(tables[found.first.number], tables[found.second.number], found.share);
      const at = [0, 0.004, 1].map((t) => settingAt(knob, t).label);
      const apart = settingAt({ ...knob, joined: knob.joined.map(() => false) }, %s);
      console.log(JSON.stringify({ found, table, at, apart }));
    """
    source = (files("evomerge.report.html") / "knob.js").read_text(encoding="utf-8")
    file.write_text(source + asked + shown % (t, t), encoding="utf-8")
    done = subprocess.run([str(NODE), str(file)], capture_output=True, text=True, check=True, timeout=CEILING)
    said = json.loads(done.stdout)
    recipe = tmp_path / "recipe.yaml"
    wanted = json.loads(run("pick", front, "--split", "search", "--knob", t, "-o", recipe, "--json").stdout)
    assert [said["found"][side]["label"] for side in ("first", "second")] == [n["label"] for n in wanted["neighbors"]]
    assert said["found"]["share"] == pytest.approx(wanted["neighbors"][1]["share"])
    written = strict_yaml.load(recipe.read_text(encoding="utf-8"), source="").data["coefficients"]["weight"]
    assert np.array(said["table"]["values"]["weight"]) == pytest.approx(np.array(list(written.values())), abs=1e-4)
    stops = [stop["label"] for stop in data["knobs"][0]["stops"]]
    assert said["at"] == [stops[0], stops[0], stops[-1]]
    assert said["apart"]["moved"] is True
    assert "share" not in said["apart"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_browser_draws_it_without_a_complaint(front: Path, tmp_path: Path) -> None:
    shown = browse((front / "report.html").as_uri(), tmp_path)
    for plot in ("front-plot", "progress-plot", "volume-plot", "importance-plot"):
        drawn = shown.partition(f'id="{plot}"')[2].partition("</section>")[0]
        assert "main-svg" in drawn, plot
    for table in re.findall(r"<table.*?</table>.*?(?=<table|<section)", shown, re.DOTALL):
        rows = table.partition("<tbody>")[2].partition("</tbody>")[0].count("<tr")
        assert (re.search(r'<table[^>]*class="[^"]*short', table) is not None) == (rows > 12)
        assert (f">show all {rows} rows</button>" in table) == (rows > 12)
    assert "show all" in shown
    assert "<img" not in shown.partition("<main>")[2].partition("<script")[0]


@pytest.mark.parametrize("opened", [True, False])
def test_open_opens_the_file_that_was_written(
    front: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, opened: bool
) -> None:
    seen: list[str] = []
    open_: Callable[[str], None] = seen.append
    monkeypatch.setattr("webbrowser.open", open_)
    file = tmp_path / "other.html"
    done = run("report", front, "-o", file, *(["--open"] if opened else []))
    assert done.exit_code == 0
    assert f"Wrote {file}" in done.output
    assert seen == ([file.as_uri()] if opened else [])


def test_tasks_of_different_units_have_one_scale_for_all_held_out_scores(tmp_path: Path) -> None:
    tasks = {
        "skill": {"evaluator": "synthetic", "task": 2, "n_examples": 150, "noise": "binomial"},
        "size": {"evaluator": "model_size"},
    }
    study = search(tmp_path, tasks=tasks, objective="pareto", optimizer="nsga2", budget={"trials": 14}, method="ties")
    page, data = report(study)
    winner = next(point for point in data["points"] if point["label"] == data["headline"]["winner"])
    assert winner["splits"]["report"]["score"] == data["headline"]["score"]
    assert winner["splits"]["report"]["tasks"]["size"]["interval"] is None, "one value has no interval"
    assert {claim["task"] for claim in data["comparisons"][winner["label"]]["claims"]} == {None, "skill"}
    assert "Tasks have different units" in page


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search whose optimizer predicts a front beyond what was measured."""
    tasks = {name: {"evaluator": "synthetic", "task": n, "n_examples": 100} for n, name in enumerate(("one", "two"))}
    space = {"kind": "uniform", "ranges": {"weight": [0, 2]}}
    folder = tmp_path_factory.mktemp("mapped")
    return search(folder, tasks=tasks, objective="pareto", optimizer="map", space=space, budget={"trials": 16})


def test_predicted_points_have_coefficients_and_few_stand_in_the_table(mapped: Path) -> None:
    page, data = report(mapped)
    wanted = Run(mapped).predicted
    found, coefficients = data["predictions"], data["coefficients"]["predicted"]
    assert len(found) == len(wanted) > 12
    for number, (row, point) in enumerate(zip(found, wanted, strict=True), 1):
        assert (row["number"], row["label"]) == (number, f"predicted {number}"), "as `pick --predicted` counts them"
        assert row["tasks"]["two"]["mean"] == pytest.approx(point.tasks["two"].mean)
        assert coefficients["tables"][str(number)]["values"]["weight"] == [
            pytest.approx((2 * point.x).tolist(), rel=1e-4)
        ]
    assert coefficients["layouts"] == [["all"]]
    listed = [row["label"] for row in found if row["listed"]]
    assert len(listed) == 12
    assert not any(row["beaten"] for row in found if row["listed"])
    assert [cells[0] for cells in read(page).tables["predicted"][1:]] == listed
    assert f"{len(found)} points predicted by the optimizer, not measured" in page
    assert f"12 of {sum(not point.dominated for point in wanted)} not dominated by a measured point" in page


def test_equal_values_have_no_interval() -> None:
    data = estimate_to_dict(Estimate(64.0, 0.0, 30))
    assert formatting.estimate(data) == formatting.plus_minus(data) == "64"
    assert formatting.gain(estimate_to_dict(Difference(0.0, 0.0, 30, 1.0))) == "+0"


def test_coefficients_have_the_digits_that_are_looked_at(data: dict[str, Any]) -> None:
    """So that those of a large model leave the page below 6 MB; recipes have all digits."""
    for table in data["coefficients"]["tables"].values():
        for value in np.ravel(table["values"]["weight"]):
            assert float(f"{value:.5g}") == value


def test_coefficients_of_predicted_points_take_little_room() -> None:
    """Those that are wanted first come first; without models it is coordinates."""
    points = {7: np.full(6000, 0.123456789), 2: np.ones(6000), 5: np.zeros(6000), 1: np.ones(6000)}
    found = predicted_coefficients(PageSources(), points)
    assert list(found["points"]) == ["7", "2", "5"]
    assert found["points"]["7"][0] == 0.12346
    table = CoefficientTable({"g": ("t",)}, {"weight": np.array([[0.123456789, 1.0]])})
    found = predicted_coefficients(PageSources(decode=lambda _: table), {3: np.zeros(9)})
    assert found == {
        "layouts": [["g"]],
        "tables": {"3": {"layout": 0, "values": {"weight": [[0.12346, 1.0]]}}},
        "points": {},
    }


@pytest.mark.skipif(CHROMIUM is None, reason="needs a Chromium")
def test_a_browser_shows_a_predicted_point_for_what_it_is(mapped: Path, tmp_path: Path) -> None:
    report(mapped)
    shown = browse(f"{(mapped / 'report.html').as_uri()}#point=predicted%203", tmp_path)
    chosen = shown.partition('id="chosen"')[2].partition("</section>")[0]
    assert "predicted, not measured" in chosen
    assert f"evomerge pick {mapped.name} --predicted 3 -o recipe.yaml" in chosen
    assert "main-svg" in chosen.partition('id="heat"')[2], "its coefficients"
