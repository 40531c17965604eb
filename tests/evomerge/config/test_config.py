"""The search file: what it becomes, and every mistake with its line."""

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from evaluators import _strict_yaml as strict_yaml
from evomerge.config import FREE, ConfigError, SearchConfig, load_config
from evomerge.objective import Floor, Objective
from evomerge.plugins import PluginSpec
from evomerge.recipe import Input

FULL = """\
base: models/base
experts: {add: models/add, sort: models/sort}
method: {kind: ties, normalize: true}
dtype: float32
space: {kind: smooth, points: 4, ranges: {weight: [0, 1.5]}, start: recipe.yaml}
tasks:
  add:  {evaluator: multiple_choice, file: data/add.jsonl}
  sort: {evaluator: lm_eval_task, task: sort, include_path: data/lm_eval}
objective: {sort: 1, add: 2}
optimizer: {kind: cma_es, preset: sakana, sigma: 1e-1}
budget: {trials: 200, hours: 8, until: 07:00}
executor: ray
workers: auto
device: auto
split: {search: 0.5, select: 0.2, report: 0.3}
seed: 0
study: runs/quick
"""


def load(tmp_path: Path, text: str) -> SearchConfig:
    (tmp_path / "search.yaml").write_text(text, encoding="utf-8")
    return load_config(tmp_path / "search.yaml")


def test_a_full_search_file(tmp_path: Path) -> None:
    for name in ("base", "add", "sort"):
        (tmp_path / "models" / name).mkdir(parents=True)
    config = load(tmp_path, FULL)
    recipe = config.recipe()
    assert recipe.base == Input("base", str(tmp_path / "models/base"))
    assert recipe.inputs[1] == Input("sort", str(tmp_path / "models/sort"))
    assert (recipe.method, recipe.options, recipe.dtype) == ("ties", {"normalize": True}, "float32")
    assert config.space.kind == "smooth"
    assert config.space.options["start"] == str(tmp_path / "recipe.yaml")
    assert config.tasks["sort"].options == {"task": "sort", "include_path": str(tmp_path / "data/lm_eval")}
    objective = config.objective_for(["sort"], ["add"])
    assert objective == Objective({"add": 2.0, "sort": 1.0}, frozenset({"sort"}), "mean", {}, frozenset({"add"}))
    assert list(objective.weights) == ["add", "sort"]
    assert config.optimizer.options["sigma"] == 0.1
    assert (config.budget.trials, config.budget.hours, config.budget.until) == (200, 8, "07:00")
    assert config.split.shares == (0.5, 0.2, 0.3)
    assert config.study == tmp_path / "runs/quick"


SMALL = """\
base: b
experts: [models/x, /y]
tasks: {one: synthetic}
study: s
"""


def test_a_small_search_file_has_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, SMALL)
    assert [model.name for model in config.experts] == ["x", "y"]
    assert config.experts[1].path == "/y"
    assert config.tasks["one"] == PluginSpec("synthetic")
    assert (config.method.kind, config.space.kind, config.optimizer.kind) == (
        "task_arithmetic",
        "auto",
        "auto",
    )
    assert config.objective_for((), ()) == Objective({"one": 1.0})
    assert (config.workers, config.threads, config.gpus_per_worker) == ("auto", "auto", "auto")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mean", Objective({"one": 1.0, "two": 1.0})),
        ("retention", Objective({"one": 1.0, "two": 1.0}, kind="retention")),
        ("{kind: pareto}", Objective({"one": 1.0, "two": 1.0}, kind="pareto")),
        ("{kind: mean, weights: {two: 2, one: 1}}", Objective({"one": 1.0, "two": 2.0})),
        ("{kind: chebyshev, weights: {two: 2, one: 1}}", Objective({"one": 1.0, "two": 2.0}, kind="chebyshev")),
        ("pareto\nprefer: {two: 3, one: 1}", Objective({"one": 1.0, "two": 3.0}, kind="pareto")),
        ("mean\nkeep: 0.01", Objective({"one": 1.0, "two": 1.0}, keep={"one": Floor(0.01), "two": Floor(0.01)})),
        ("pareto\nkeep: {two: -1.5pt}", Objective({"one": 1.0, "two": 1.0}, kind="pareto", keep={"two": Floor(0.015)})),
        (
            "mean\nkeep: {two: 2pt, one: 0}",
            Objective(dict.fromkeys(("one", "two"), 1.0), keep={"one": Floor(0.0), "two": Floor(0.02)}),
        ),
        ("mean\nkeep: {two: 99.5%}", Objective({"one": 1.0, "two": 1.0}, keep={"two": Floor(0.995, "share")})),
        (
            "mean\nkeep: -2%",
            Objective({"one": 1.0, "two": 1.0}, keep=dict.fromkeys(("one", "two"), Floor(0.98, "share"))),
        ),
    ],
)
def test_kinds_of_objectives(tmp_path: Path, text: str, expected: Objective) -> None:
    two = SMALL.replace("{one: synthetic}", "{one: synthetic, two: synthetic}")
    config = load(tmp_path, f"{two}objective: {text}\n")
    assert config.objective_for((), ()) == expected
    again = tmp_path / "again.yaml"
    config.write(again)
    assert load_config(again) == config


def test_tasks_may_be_called_like_keys(tmp_path: Path) -> None:
    text = SMALL.replace("{one: synthetic}", "{kind: synthetic, weights: synthetic}")
    config = load(tmp_path, f"{text}objective: {{kind: 2, weights: 1}}\n")
    assert config.objective_for((), ()) == Objective({"kind": 2.0, "weights": 1.0})


def test_every_file_and_folder_of_a_task_is_found_from_the_search_file(tmp_path: Path) -> None:
    tasks = {
        "images": {"evaluator": "image_classification", "folder": "images", "processor": "clip"},
        "manuals": {"evaluator": "embedding_retrieval", "queries": "queries.jsonl", "corpus": "corpus.jsonl"},
    }
    text = f"{FULL.partition('tasks:')[0]}tasks: {json.dumps(tasks)}\nstudy: run\n"
    for task, spec in load(tmp_path, text).tasks.items():
        given = {key: value for key, value in tasks[task].items() if key != "evaluator"}
        assert spec.options == {key: str(tmp_path / value) for key, value in given.items()}


MISTAKES = [
    (("seed: 0", "sedd: 0"), ":16: unknown key 'sedd'; did you mean 'seed'?"),
    (("seed: 0", "seed: 0\nseed: 1"), ":17: duplicate key 'seed' (first at line 16)."),
    (("trials: 200", "trails: 200"), ":11: budget: unknown key 'trails'; did you mean 'trials'?"),
    (("search: 0.5", "serch: 0.5"), ":15: split: unknown key 'serch'; did you mean 'search'?"),
    (("trials: 200", "trials: 0"), ":11: budget.trials: must be greater than or equal to 1; got 0."),
    (("trials: 200", "trials: 1.5"), ":11: budget.trials: must be a valid integer; got 1.5."),
    (("trials: 200, hours: 8, until: 07:00", ""), ":11: budget: a budget needs trials, hours, until or money."),
    (
        ("trials: 200", "money: 20"),
        ":11: budget: money needs price_per_hour beside it, such as {money: 25, price_per_hour: 3.2}",
    ),
    (("trials: 200", "price_per_hour: 2"), ":11: budget: price_per_hour needs money beside it"),
    (
        ("07:00", "25:00"),
        ":11: budget.until: expected a time such as 07:00, or a date and time such as 2030-01-31 07:00; got '25:00'.",
    ),
    (("base: models/base\n", ""), ":1: base: missing."),
    (("base: models/base", "base: {path: x, rev: y}"), ":1: base: unknown key 'rev'"),
    (("executor: ray", "executor: rya"), ":12: executor: must be 'ray' or 'serial'; got 'rya'."),
    (
        ("executor: ray", "executor: serial\ntrial_timeout: 60"),
        ":13: trial_timeout: needs `executor: ray`; with `executor: serial` a trial runs in the process of the search",
    ),
    (("workers: auto", "workers: 0"), ":13: workers: expected auto or a whole number from 1; got 0."),
    (("workers: auto", "workers: true"), ":13: workers: expected auto or a whole number from 1; got True."),
    (
        ("report: 0.3", "report: 0.2"),
        ":15: split: the shares must sum to 1; search 0.5, select 0.2, report 0.2 sum to 0.9.",
    ),
    (
        ("{sort: 1, add: 2}", "{srt: 1, add: 2}"),
        ":9: objective: needs one weight for each task (add, sort); unknown task 'srt'; did you mean 'sort'?",
    ),
    (("{sort: 1, add: 2}", "{add: 2}"), ":9: objective: needs one weight for each task (add, sort); "),
    (
        ("{sort: 1, add: 2}", "{sort: 0, add: 2}"),
        ":9: objective: expected mean, pareto, chebyshev, retention, borda or a",
    ),
    (("{sort: 1, add: 2}", "max"), ":9: objective: expected mean, pareto, chebyshev, retention, borda or a mapping"),
    (
        ("{sort: 1, add: 2}", "{kind: mxa}"),
        ":9: objective: expected mean, pareto, chebyshev, retention, borda or a mapping",
    ),
    (("{sort: 1, add: 2}", "{kind: mean, weigths: {add: 1}}"), ":9: objective: expected mean, pareto, chebyshev"),
    (("{sort: 1, add: 2}", "{kind: mean, weights: }"), ":9: objective: expected mean, pareto, chebyshev"),
    (
        ("{sort: 1, add: 2}", "{kind: chebyshev, weights: {add: 1}}"),
        ":9: objective: needs one weight for each task (add, sort); ",
    ),
    (
        ("{sort: 1, add: 2}", "{kind: pareto, weights: {add: 1, sort: 1}}"),
        ":9: objective: weights do not change a search of kind pareto; say `prefer: {task: weight}`.",
    ),
    (
        ("{sort: 1, add: 2}", "{kind: retention, weights: {add: 1, sort: 1}}"),
        ":9: objective: weights do not change a search of kind retention; leave `weights` out, or use chebyshev or",
    ),
    (
        ("seed: 0", "prefer: {add: 1, sort: 2}"),
        ":16: prefer: needs `objective: pareto`; other objectives take weights themselves: {task: weight}.",
    ),
    (
        ("objective: {sort: 1, add: 2}", "objective: pareto\nprefer: {add: 1}"),
        ":10: prefer: needs one weight for each task (add, sort); none is given for sort: write `sort: 1`, or less",
    ),
    (
        ("objective: {sort: 1, add: 2}", "objective: pareto\nprefer: {add: 1, sort: 0}"),
        ":10: prefer: expected a mapping task: weight above 0; got",
    ),
    (("seed: 0", "keep: {srt: 0.1}"), ":16: keep: unknown task 'srt'; did you mean 'sort'?"),
    (("seed: 0", "keep: {sort: -0.1}"), ":16: keep: sort: expected how far a merge may fall below the best parent"),
    (("seed: 0", "keep: 1 point"), ":16: keep: expected how far a merge may fall below the best parent"),
    (
        ("seed: 0", "keep: {sort: 101%}"),
        ":16: keep: sort: a merge keeps from 0% to 100% of the best parent's score; got '101%'.",
    ),
    (
        ("seed: 0", "keep: 2%"),
        ":16: keep: '2%' keeps only 2 % of the best parent's score; for a fall of it write -2%, and",
    ),
    (("seed: 0", "keep: {}"), ":16: keep: expected how far a merge may fall below the best parent"),
    (("evaluator: multiple_choice, ", ""), ":7: tasks.add: expected a name, or {evaluator: NAME"),
    (("kind: ties", "knd: ties"), ":3: method: expected a name, or {kind: NAME, ...options}"),
    (("device: auto", "device: gpu"), ":14: device: expected auto, cpu, mps, cuda or cuda:N; got 'gpu'."),
    (("{add: models", "{base: models"), ":2: experts: Models need distinct names"),
    (("experts: {add: models/add, sort: models/sort}", "experts: []"), ":2: experts: expected a list"),
    (("dtype: float32", "dtype: float64"), ":4: dtype: must be 'float32', 'bfloat16' or 'float16'"),
    (("dtype: float32", "tokenizer: ad"), ":4: tokenizer: must be one of base, union, add, sort; got 'ad'."),
    (("seed: 0", "seed: yes"), ":16: seed: must be a valid integer; got 'yes'."),
    (("study: runs/quick", "study:"), ":17: study: expected a path; got None."),
]


@pytest.mark.parametrize(("change", "message"), MISTAKES)
def test_a_mistake_is_named_with_its_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    assert change[0] in FULL
    with pytest.raises(ConfigError) as error:
        load(tmp_path, FULL.replace(*change))
    assert str(error.value).startswith(f"{tmp_path / 'search.yaml'}{message}")


def test_all_mistakes_are_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, FULL.replace("seed: 0", "seed: -1").replace("workers: auto", "workers: many"))
    lines = str(error.value).splitlines()
    assert [line.removeprefix(str(tmp_path / "search.yaml"))[:4] for line in lines] == [":13:", ":16:"]


def test_missing_plugins_are_reported_together_with_their_lines(tmp_path: Path) -> None:
    text = FULL.replace("kind: ties", "kind: tise").replace("lm_eval_task", "lm_eval").replace("cma_es", "my.lab:Own")
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    first, second = str(error.value).splitlines()
    assert first.startswith(f"{tmp_path}/search.yaml:3: method: No merge method named 'tise'. Did you mean 'ties'?")
    assert second.startswith(f"{tmp_path}/search.yaml:8: tasks.sort: No evaluator named 'lm_eval'.")


@pytest.mark.parametrize("text", ["", "[1, 2]", "text"])
def test_a_file_without_a_mapping_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="a search file is a mapping"):
        load(tmp_path, text)


def test_a_missing_search_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist: expected a search file"):
        load_config(tmp_path / "nothing.yaml")


def test_as_dict_is_plain_json_and_loads_as_a_search_file(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    assert json.loads(json.dumps(config.as_dict())) == config.as_dict()
    (tmp_path / "elsewhere").mkdir()
    config.write(tmp_path / "elsewhere" / "copy.yaml")
    assert load_config(tmp_path / "elsewhere" / "copy.yaml") == config


def test_a_configuration_does_not_depend_on_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = load(tmp_path, FULL).as_dict()
    monkeypatch.chdir(tmp_path)
    assert load_config(Path("search.yaml")).as_dict() == here


def test_the_identity_leaves_out_what_may_change(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    other = load(
        tmp_path,
        FULL.replace("trials: 200", "trials: 900").replace("executor: ray", "executor: serial").replace("quick", "q"),
    )
    assert config.identity() == other.identity()
    assert not set(FREE) & set(config.identity())
    assert config.identity() != load(tmp_path, FULL.replace("seed: 0", "seed: 1")).identity()


def test_a_salt_belongs_to_the_identity_where_it_is_given(tmp_path: Path) -> None:
    salted = load(tmp_path, FULL.replace("report: 0.3}", "report: 0.3, salt: b}"))
    assert salted.split.salt == "b"
    assert salted.identity()["split"] == {"search": 0.5, "select": 0.2, "report": 0.3, "salt": "b"}
    assert "salt" not in load(tmp_path, FULL).identity()["split"], "earlier studies can be resumed"


def test_command_line_limits_replace_those_of_the_file(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    assert config.with_budget(trials=7, hours=None).budget.model_dump() == {
        "trials": 7,
        "hours": 8,
        "until": "07:00",
        "money": None,
        "price_per_hour": None,
    }
    assert config.budget.trials == 200


def missing(path: Path | str, written: str = "", near: str = "") -> str:
    """The message about a path that does not exist. written: as the file has it; near: one with a similar name."""
    found = f"{path} does not exist{written and f' (in the file: {written})'}"
    remedy = "orrect the path, which starts at this file's folder if it is relative."
    return f"{found}. Did you mean {near}? Otherwise c{remedy}" if near else f"{found}: c{remedy}"


def test_missing_files_are_errors_where_they_are_needed(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "add.jsonl").touch()
    load(tmp_path, FULL)
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "search.yaml", files=True)
    assert str(error.value).splitlines() == [
        f"{tmp_path}/search.yaml:5: space.start: {missing(tmp_path / 'recipe.yaml', 'recipe.yaml')}",
        f"{tmp_path}/search.yaml:8: tasks.sort.include_path: {missing(tmp_path / 'data/lm_eval', 'data/lm_eval')}",
    ]


def test_missing_models_are_errors_unless_the_hub_may_have_them(tmp_path: Path) -> None:
    text = """\
base: {path: models/base, adapter: ./lora}
experts: [org/tuned, /y, {path: org/z, revision: v1, statistics: z.safetensors}]
tasks: {one: synthetic}
study: s
"""
    load(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "search.yaml", files=True)
    assert str(error.value).splitlines() == [
        f"{tmp_path}/search.yaml:1: base.adapter: {missing(tmp_path / 'lora', './lora')}",
        f"{tmp_path}/search.yaml:2: experts.1: {missing('/y')}",
        f"{tmp_path}/search.yaml:2: experts.2.statistics: {missing(tmp_path / 'z.safetensors', 'z.safetensors')}",
    ]


def test_a_missing_path_is_shown_as_written_with_a_similar_one(tmp_path: Path) -> None:
    (tmp_path / "all/models/base/v2").mkdir(parents=True)
    (tmp_path / "sort.jsonl").touch()
    text = """\
base: all/modles/base/v2
experts: {one: ./all/models/bsae, two: ../absent/base}
tasks: {one: {evaluator: exact_match, file: sorted.jsonl}}
study: s
"""
    load(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "search.yaml", files=True)
    said = str(error.value).splitlines()
    whole = missing(tmp_path / "all/modles/base/v2", "all/modles/base/v2", "all/models/base/v2")
    assert said[0].endswith(f"base: {whole}")
    assert "does not exist (in the file: ./all/models/bsae). Did you mean all/models/base?" in said[1]
    assert "does not exist (in the file: ../absent/base): correct" in said[2]
    assert "Did you mean sort.jsonl?" in said[3]


def test_mistakes_of_every_kind_are_reported_together(tmp_path: Path) -> None:
    text = FULL.replace("seed: 0", "sedd: 0").replace("cma_es", "cmaes").replace("{sort: 1, add: 2}", "{sort: 1}")
    text = text.replace("trials: 200", "trails: 200")
    with pytest.raises(ConfigError):
        load(tmp_path, text)
    with pytest.raises(ConfigError) as error:
        load_config(tmp_path / "search.yaml", files=True)
    lines = [line.removeprefix(f"{tmp_path}/search.yaml:") for line in str(error.value).splitlines()]
    assert [line.split()[:2] for line in lines] == [
        ["5:", "space.start:"],
        ["7:", "tasks.add.file:"],
        ["8:", "tasks.sort.include_path:"],
        ["9:", "objective:"],  # one weight is missing
        ["10:", "optimizer:"],
        ["11:", "budget:"],
        ["16:", "unknown"],
    ]


def test_a_key_that_is_mistyped_counts_as_the_one_that_was_meant(tmp_path: Path) -> None:
    text = SMALL + "objectve: pareto\nprefer: {one: 1}\n"
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert len(str(error.value).splitlines()) == 1, "`prefer` goes with what was meant"


@pytest.fixture
def berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("berlin")
@pytest.mark.parametrize(
    ("now", "until", "expected"),
    [
        ("2026-01-10 23:30", "07:00", "2026-01-11 07:00"),
        ("2026-01-10 06:59", "07:00", "2026-01-10 07:00"),
        ("2026-01-10 07:00", "7:00", "2026-01-11 07:00"),
        # The night in which clocks go forward has 23 hours.
        ("2026-03-28 22:00", "07:00", "2026-03-29 07:00"),
        ("2026-01-10 12:00", "2026-02-01 08:30", "2026-02-01 08:30"),
    ],
)
def test_until_is_the_next_such_local_time(tmp_path: Path, now: str, until: str, expected: str) -> None:
    budget = load(tmp_path, FULL.replace("until: 07:00", f"until: {until}")).budget
    deadline = budget.deadline(datetime.fromisoformat(now).astimezone())
    assert deadline == datetime.fromisoformat(expected).astimezone()
    if now.startswith("2026-03"):
        assert deadline - datetime.fromisoformat(now).astimezone() == timedelta(hours=8)


def test_without_until_there_is_no_deadline(tmp_path: Path) -> None:
    budget = load(tmp_path, SMALL + "budget: {hours: 1}\n").budget
    assert budget.deadline(datetime.now().astimezone()) is None


def test_money_pays_for_hours(tmp_path: Path) -> None:
    paid = load(tmp_path, SMALL + "budget: {money: 10, price_per_hour: 2.5}\n").budget
    assert (paid.hours, paid.most_hours) == (None, 4.0)
    assert load(tmp_path, SMALL + "budget: {hours: 3, money: 10, price_per_hour: 2.5}\n").budget.most_hours == 3
    assert load(tmp_path, SMALL + "budget: {trials: 3}\n").budget.most_hours is None


MINIMAL = {"tasks": {"t": {"evaluator": "synthetic"}}, "budget": {"trials": 9}, "study": "s"}
EXPERTS = MINIMAL | {"base": "b", "experts": {"x": "a"}, "method": "task_arithmetic"}


@pytest.mark.parametrize("key", sorted(SearchConfig.model_fields))
def test_no_value_of_a_key_ends_in_a_traceback(key: str, tmp_path: Path) -> None:
    for value in (None, [], {}, "", True, -1.5, [None], [[1]], {"a": None}, {"a": []}, {"kind": None}):
        for rest in (EXPERTS, MINIMAL):
            with suppress(ConfigError):
                load(tmp_path, strict_yaml.dump(rest | {key: value}))


def test_an_empty_list_of_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"search.yaml:1: checkpoints: expected a pattern such as"):
        load(tmp_path, strict_yaml.dump({"checkpoints": None} | MINIMAL))
