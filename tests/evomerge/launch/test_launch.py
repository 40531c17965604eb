"""Before anything is spent: what a plan holds, what it refuses, and how a study is taken up."""

import json
import os
import shutil
import socket
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from evaluators import _strict_yaml as strict_yaml
from evaluators.base import EvaluatorError
from evomerge.budget import candidates
from evomerge.config import ConfigError, SearchConfig, load_config
from evomerge.execution.base import ExecutorError
from evomerge.export.export import choose
from evomerge.launch.environment import environment
from evomerge.launch.launch import run
from evomerge.launch.plan import build_optimizer, prepare
from evomerge.merging.method import MethodError
from evomerge.merging.models.checkpoint import CheckpointError
from evomerge.merging.output.card import model_card
from evomerge.merging.output.manifest import Manifest
from evomerge.merging.recipe_models import open_models
from evomerge.objective import Objective
from evomerge.objective.spec import objective_of_study
from evomerge.optimizers.base import OptimizerError
from evomerge.plugins import PluginError
from evomerge.recipe import Recipe
from evomerge.report.status import status
from evomerge.resident.resident import ModelError
from evomerge.results.as_json import selection_to_dict
from evomerge.results.result import selection
from evomerge.run import Run
from evomerge.space import build_space
from evomerge.study import ConfigurationChanged, Study, StudyExists
from evomerge.trial import number_in
from search_spaces.base import SpaceError
from tests.conftest import TinyModels
from tests.evomerge.merging.folders import llama
from tests.toys import search_file

Configured = Callable[..., SearchConfig]


@pytest.fixture
def configured(tmp_path: Path) -> Configured:
    def make(**changes: object) -> SearchConfig:
        file = tmp_path / "search.yaml"
        file.write_text(strict_yaml.dump(search_file(tmp_path, **changes)))
        return load_config(file)

    return make


def test_a_plan_begins_with_canary_start_and_baselines(configured: Configured) -> None:
    plan = prepare(configured())
    labels = [trial.label for trial in plan.planned]
    assert labels[:2] == ["canary", "start"]
    assert {"base", "parent:a", "parent:b", "uniform", "task_arithmetic:0.4"} <= set(labels)
    assert plan.space.dimension == len(plan.space.names) == 10
    assert all(sum(counts.values()) == 200 for counts in plan.examples.values())


def test_a_budget_that_the_baselines_spend_is_told(configured: Configured) -> None:
    assert not any("baselines" in note for note in prepare(configured(budget={"trials": 11})).notes)
    note = prepare(configured(budget={"trials": 10})).notes[-1]
    assert "search.yaml:" in note
    assert (
        "budget.trials: the first 10 trials are the start and 9 baselines, so a budget of 10 leaves cma_es nothing"
        in note
    )
    (note,) = (note for note in prepare(configured(budget={"trials": 3})).notes if "at least 11" in note)
    assert note.endswith("not even all of base, parent:a, parent:b are scored.")


def test_a_space_has_its_say_before_the_search(configured: Configured) -> None:
    notes = prepare(configured(space="expertwise")).notes
    assert any(note.startswith("space expertwise: no tensor's name has the number of an expert") for note in notes)


def test_a_baseline_scores_what_a_candidate_with_the_same_weights_does(configured: Configured) -> None:
    plan = prepare(configured())
    bench = plan.spec()
    found = {t.label: bench.run(t).scores for t in plan.planned if t.label in ("start", "uniform")}
    for task, scores in found["start"].items():
        np.testing.assert_array_equal(found["uniform"][task].values, scores.values)


def test_a_salt_divides_the_examples_otherwise_everywhere(configured: Configured) -> None:
    shares = {"search": 0.5, "select": 0.2, "report": 0.3}
    plain, salted = (prepare(configured(split=shares | salt)) for salt in ({}, {"salt": "b"}))
    assert plain.ids.keys() == salted.ids.keys()
    assert all(set(plain.ids[key]) != set(ids) for key, ids in salted.ids.items())
    sizes = {task: {split: len(salted.ids[task, split]) for split in shares} for task in salted.examples}
    assert salted.examples == salted.distinct_examples == sizes
    start = next(trial for trial in salted.planned if trial.label == "start")
    scored = salted.spec().run(start).scores
    assert {task: scores.example_ids for task, scores in scored.items()} == {
        task: salted.ids[task, "search"] for task in salted.examples
    }


def test_baselines_of_the_searched_method_are_points_of_the_space(configured: Configured) -> None:
    config = configured()
    plan = prepare(config)
    points = {trial.label: trial.x for trial in plan.planned}
    assert points["base"] is not None
    assert points["parent:a"] is not None
    assert points["uniform"] is None, "it is the start, which the optimizer hears of already"
    recipe = config.recipe()
    space = build_space(config.space, recipe, open_models(recipe).base.layout())
    np.testing.assert_allclose(space.decode(points["parent:a"]).values["weight"], [[1.0, 0.0]] * 5, atol=1e-12)
    np.testing.assert_allclose(space.decode(points["base"]).values["weight"], [[0.0, 0.0]] * 5, atol=1e-12)


def test_a_search_starts_at_the_mean_of_the_experts(configured: Configured) -> None:
    config = configured()
    recipe = config.recipe()
    space = build_space(config.space, recipe, open_models(recipe).base.layout())
    np.testing.assert_allclose(space.decode(space.default()).values["weight"], 0.5)


def test_nan_weights_are_refused_with_the_tensor(configured: Configured, tmp_path: Path) -> None:
    config = configured()
    expert = tmp_path / "models" / "a.safetensors"
    tensors = load_file(expert)
    tensors["model.norm.weight"][1, 2] = float("nan")
    save_file(tensors, expert)
    with pytest.raises(CheckpointError, match=r"'model\.norm\.weight' holds 1 NaN"):
        prepare(config)


def test_models_that_do_not_fit_are_refused(configured: Configured, tmp_path: Path) -> None:
    config = configured()
    expert = tmp_path / "models" / "b.safetensors"
    tensors = load_file(expert)
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:2].clone()
    save_file(tensors, expert)
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        prepare(config)


def test_tasks_that_read_text_need_a_whole_model_folder(configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("Once upon a time\n" * 50, encoding="utf-8")
    tasks = {"prose": {"evaluator": "perplexity", "file": str(tmp_path / "prose.txt")}}
    with pytest.raises(ModelError, match=r"models/base\.safetensors: config\.json missing"):
        prepare(configured(tasks=tasks))


def test_tasks_that_read_text_need_a_tokenizer(configured: Configured, tmp_path: Path) -> None:
    (tmp_path / "prose.txt").write_text("Once upon a time\n" * 50, encoding="utf-8")
    tasks = {"prose": {"evaluator": "perplexity", "file": str(tmp_path / "prose.txt")}}
    base = llama(tmp_path / "llama")
    config = configured(tasks=tasks, base=str(base), experts={"a": str(llama(tmp_path / "expert", 1))})
    with pytest.raises(ModelError, match=r"llama: tokenizer\.json missing"):
        prepare(config)


@pytest.mark.parametrize("kind", ["link", "pipe", "broken"])
def test_tokenizers_that_are_not_read(tiny: TinyModels, configured: Configured, tmp_path: Path, kind: str) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny.base, base)
    if kind == "link":
        (base / "additional_chat_templates").mkdir()
        (base / "additional_chat_templates" / "tool.jinja").symlink_to(tiny.base / "config.json")
    elif kind == "pipe":
        (base / "tokenizer_config.json").unlink()
        os.mkfifo(base / "tokenizer_config.json")
    else:
        (base / "tokenizer.json").write_text("{}")
    experts = {name: str(path) for name, path in tiny.experts.items()}
    tasks = {"sort": {"evaluator": "exact_match", "file": str(tiny.tasks["sort"]), "max_new_tokens": 4}}
    said = {
        "link": "tool.jinja' is a link to",
        "pipe": "is not a regular file",
        "broken": "cannot read the tokenizer",
    }
    with pytest.raises((ModelError, CheckpointError), match=said[kind]):
        prepare(configured(base=str(base), experts=experts, tasks=tasks))


@pytest.mark.parametrize("evaluator", ["exact_match", "generated_tokens", "latency"])
def test_what_is_written_must_fit_into_the_context_behind_a_prompt(
    tiny: TinyModels, configured: Configured, evaluator: str
) -> None:
    models: dict[str, object] = {"base": str(tiny.base), "experts": {n: str(p) for n, p in tiny.experts.items()}}
    context = json.loads((tiny.base / "config.json").read_text())["max_position_embeddings"]
    for longest, said in ((context, "error"), (context - 3, "note"), (8, "")):
        task = {"evaluator": evaluator, "file": str(tiny.tasks["sort"]), "max_new_tokens": longest}
        config = configured(**models, tasks={"sort": task})
        if said == "error":
            with pytest.raises(
                EvaluatorError,
                match=rf"search\.yaml:\d+: tasks\.sort: max_new_tokens is {context}, and the model.s context .* "
                rf"expected 1 to {context - 1}",
            ):
                prepare(config)
            continue
        notes = [note for note in prepare(config).notes if "truncated at the beginning" in note]
        assert bool(notes) == bool(said)
        assert all("task 'sort'" in note and f"max_new_tokens: {context - 3} leaves 3" in note for note in notes)


def test_what_an_lm_eval_task_writes_must_fit_too(tiny: TinyModels, configured: Configured) -> None:
    task = {
        "evaluator": "lm_eval_task",
        "task": "sort",
        "include_path": str(tiny.lm_eval),
        "gen_kwargs": {"max_gen_toks": 9999},
    }
    experts = {name: str(path) for name, path in tiny.experts.items()}
    with pytest.raises(EvaluatorError, match=r"tasks\.sort: gen_kwargs\.max_gen_toks is 9999, and the model"):
        prepare(configured(base=str(tiny.base), experts=experts, tasks={"sort": task}))


def test_a_study_is_begun_only_when_workers_have_started(configured: Configured) -> None:
    config = configured()
    plan = prepare(config)
    broken = replace(plan, spec=replace(plan.spec, device="cuda:999"))
    with pytest.raises(ExecutorError):
        run(config, broken, resume=False)
    assert not config.study.exists()


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"optimizer": "cmaes"}, ConfigError, "Did you mean 'cma_es'"),
        ({"optimizer": {"kind": "cma_es", "sigm": 1}}, PluginError, "sigm"),
        ({"space": {"kind": "layerwise", "freeze": {"blok.1": "default"}}}, SpaceError, "blok.1"),
        ({"method": "tyes"}, ConfigError, "ties"),
        (
            {"method": {"kind": "ties", "normalise": False}},
            MethodError,
            r"search\.yaml:\d+: method\.normalise: ties has no option 'normalise'. Did you mean 'normalize'",
        ),
        (
            {"method": {"kind": "ties", "density": 0.5}},
            MethodError,
            r"search\.yaml:\d+: method\.density: density is a parameter of ties, .*ranges: \{density: \[VALUE, VALUE\]",
        ),
        (
            {"method": {"kind": "slerp", "normalize": 3}},
            MethodError,
            r"search\.yaml:\d+: method",
        ),
        (
            {"objective": "pareto"},
            OptimizerError,
            r"search\.yaml:\d+: optimizer: cma_es handles one objective, .* makes 2 .* or one of auto, .*gp,.* tpe\.$",
        ),
        (
            {
                "objective": "pareto",
                "optimizer": "gp",
                "tasks": {f"task{n}": {"evaluator": "synthetic", "task": n} for n in range(5)},
            },
            OptimizerError,
            r"search\.yaml:\d+: optimizer: gp handles up to 4 objectives, .* makes 5 .*, or one of auto, .*map, ",
        ),
        (
            {"optimizer": "motpe"},
            OptimizerError,
            r"search\.yaml:\d+: optimizer: motpe handles several .* pareto .* one of asha, auto, .*cma_es, ",
        ),
        (
            {"tasks": {"one": {"evaluator": "synthetic", "n_exampels": 9}}},
            PluginError,
            r"search\.yaml:\d+: tasks\.one: .* it has task, n_examples, .*Did you mean 'n_examples'",
        ),
        (
            {"tasks": {"one": {"evaluator": "synthetic", "n_examples": 1}}},
            ConfigError,
            r"search\.yaml:\d+: tasks\.one: the \w+ split .* gets none of the 1 example: add",
        ),
        ({"device": "cuda:999"}, ConfigError, "Use device: auto"),
    ],
)
def test_mistakes_are_found_before_the_first_merge(
    configured: Configured, changes: dict[str, object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        prepare(configured(**changes))


def test_a_study_is_never_overwritten(configured: Configured) -> None:
    config = configured(budget={"trials": 12})
    plan = prepare(config)
    ending, selection = run(config, plan, resume=False)
    assert ending.kind == "done"
    assert selection is not None
    with pytest.raises(StudyExists):
        run(config, plan, resume=False)


def test_another_search_is_not_taken_up_but_a_larger_budget_is(configured: Configured) -> None:
    first = configured(budget={"trials": 12})
    run(first, prepare(first), resume=False)
    more = configured(budget={"trials": 15}, executor="serial")
    ending, _ = run(more, prepare(more), resume=True)
    assert ending.kind == "done"
    other = configured(seed=99)
    with pytest.raises(ConfigurationChanged, match="seed: 3 -> 99"):
        run(other, prepare(other), resume=True)


def test_the_study_can_be_read_without_the_file_it_was_started_from(configured: Configured, tmp_path: Path) -> None:
    config = configured(budget={"trials": 12})
    run(config, prepare(config), resume=False)
    (tmp_path / "search.yaml").unlink()
    recipe: Recipe = load_config(tmp_path / "study" / "search.yaml").recipe()
    assert recipe == config.recipe()


def test_the_environment_names_versions_and_no_machine() -> None:
    found = environment()
    assert found["torch"]
    assert socket.gethostname() not in " ".join(found.values())


def largest(model: Any) -> float:
    """One number for a whole model, for `callable`."""
    return max(float(tensor.abs().max()) for tensor in model.tensors.values())


UNITS = {
    "one": {"evaluator": "synthetic", "n_examples": 200},
    "bytes": {"evaluator": "model_size"},
    "largest": {"evaluator": "callable", "function": f"{__name__}:largest", "higher_is_better": False},
}


def test_a_preference_reaches_the_optimizer_in_the_order_of_the_tasks(configured: Configured) -> None:
    config = configured(objective="pareto", prefer={"two": 3, "one": 1}, optimizer="nsga2")
    assert build_optimizer(config, prepare(config)).preference.tolist() == [0.25, 0.75]


def test_values_of_the_whole_model_are_on_every_split_and_are_not_few(configured: Configured) -> None:
    plan = prepare(configured(tasks=UNITS))
    assert plan.examples["bytes"] == plan.examples["largest"] == {"search": 1, "select": 1, "report": 1}
    assert plan.notes == ()
    assert plan.objective == Objective(
        dict.fromkeys(UNITS, 1.0), frozenset({"bytes", "largest"}), whole_model=frozenset({"bytes", "largest"})
    )


def test_few_examples_are_a_note_with_the_reason_and_what_to_do(configured: Configured) -> None:
    few = {"one": {"evaluator": "synthetic", "n_examples": 24}, "two": {"evaluator": "synthetic", "n_examples": 70}}
    plan = prepare(configured(tasks=few))
    counts = {task: plan.distinct_examples[task] for task in few}
    assert max(counts["one"].values()) < 20
    assert counts["two"]["report"] < 20 <= min(counts["two"]["search"], counts["two"]["select"])
    (note,) = (note for note in plan.notes if note.startswith("task "))
    listed = ", ".join(
        f"{counts['one'][split]} on the {split} split (share {share})"
        for split, share in (("search", 0.5), ("select", 0.2), ("report", 0.3))
    )
    assert note == (
        f"task 'one' has 24 examples, only {listed}: give it about 100; task 'two' has 70 examples, only "
        f"{counts['two']['report']} on the report split (share 0.3): give it about 67, or change `split`. Fewer than "
        "20 show next to nothing. A hash of each example decides its split, so numbers vary around the shares"
    )


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ({"one": 1.5}, "keep.one: a fall of 1.5 is no constraint on 'one' if its scores are from 0 to 1; for 1.5"),
        (2, "keep: a fall of 2 is no constraint on 'one'"),
        ({"one": "-100%"}, "keep.one: every score above 0 keeps 0 % of the parent's"),
        ({"one": 0.5, "largest": 100, "bytes": 2}, ""),
    ],
)
def test_a_constraint_that_nothing_can_violate_is_a_note(configured: Configured, keep: Any, said: str) -> None:
    plan = prepare(configured(tasks=UNITS, keep=keep))
    assert (len(plan.notes), said in "".join(plan.notes)) == (bool(said), True)
    assert all(": keep" in note and "search.yaml:" in note for note in plan.notes)


def surprise(model: Any, ids: Sequence[str]) -> list[float]:
    return [1.0 for _ in ids]


@pytest.mark.parametrize(("task", "why"), [("bytes", "one value per model"), ("surprise", "better the less it scores")])
def test_flips_of_a_task_without_right_answers_are_refused(configured: Configured, task: str, why: str) -> None:
    texts = [f"text {n}" for n in range(60)]
    one = {"evaluator": "callable", "function": f"{__name__}:surprise", "examples": texts, "higher_is_better": False}
    with pytest.raises(ConfigError, match=rf"keep.{task}: flips are answers .* {why}"):
        prepare(configured(tasks={**UNITS, "surprise": one}, keep={task: {"flips": "1%"}}))


@pytest.mark.parametrize("objective", ["pareto", "retention"])
def test_a_search_over_tasks_of_several_units_to_its_end(configured: Configured, objective: str) -> None:
    optimizer = "nsga2" if objective == "pareto" else "cma_es"
    config = configured(tasks=UNITS, objective=objective, optimizer=optimizer, keep={"one": 0.5}, budget={"trials": 20})
    plan = prepare(config)
    ending, result = run(config, plan, resume=False)
    assert ending.kind == "done"
    assert result is not None
    assert set(result.scale) == set(UNITS)
    study = Study.read(config.study)
    assert objective_of_study(study) == plan.objective
    again = selection(study, plan.objective)
    assert selection_to_dict(again) == selection_to_dict(result)
    assert replace(again, winner=result.winner, models=result.models) == result
    for data in (selection_to_dict(result), status(Run.of(study)), choose(Run(config.study)).scores):
        json.dumps(data, allow_nan=False)
    values = {e.trial.split: e.outcome.scores["bytes"].values.tolist() for e in study.told if e.losses}
    assert values == dict.fromkeys(("search", "select", "report"), values["search"]), "the same on every split"
    assert [kind for kind, _ in study.events].count("report_split_read") == 1
    whole = choose(Run(config.study)).scores[f"{result.winner.label}, all examples"]
    assert whole["bytes"] == values["search"][0]
    numbers = [e.trial.number for e in study.told if e.trial.x is not None and e.trial.label == "search"]
    tasks = {
        number: choose(Run(config.study), number).scores.get(f"trial:{number}, all examples") for number in numbers
    }
    inputs = {name: {"source": name, "revision": None} for name in ("base", "a")}
    chosen = choose(Run(config.study), numbers[0])
    card = model_card(chosen.merge, "one", Manifest("", 0, {}, inputs, {}), chosen.scores)
    assert "largest" in card
    assert "| score" not in card, "a sum over units says nothing"
    for number in numbers:
        rows = [row for row in choose(Run(config.study), number).scores.values() if not isinstance(row, str)]
        assert not any("score" in row for row in rows)
        assert all(set(UNITS) <= set(row) for row in rows)
    reported = {e.trial.label for e in study.told if e.trial.split == "report"}
    assert {f"trial:{number}" for number, row in tasks.items() if row} == reported & {f"trial:{n}" for n in numbers}
    winner = number_in(result.winner.label)
    assert winner not in tasks or tasks[winner].items() >= {task: whole[task] for task in UNITS}.items()


def test_a_search_whose_optimizer_has_had_enough_says_so(configured: Configured) -> None:
    config = configured(method="linear", space="uniform", optimizer="greedy_soup", budget={"trials": 100})
    said: list[str] = []
    run(config, prepare(config), resume=False, say=said.append)
    used = candidates(Study.read(config.study))
    assert used < 20
    assert f"greedy_soup needs no more trials after {used}" in said


def test_start_and_uniform_are_one_model_and_the_canary_reads_a_few_examples(configured: Configured) -> None:
    config = configured(budget={"trials": 12})
    plan = prepare(config)
    ending, _ = run(config, plan, resume=False)
    assert ending.kind == "done"
    study = Study.read(config.study)
    told = {entry.trial.label: entry for entry in study.told if entry.trial.split == "search"}
    copies = {data["trial"]: data["as"] for kind, data in study.events if kind == "same_model"}
    assert copies[told["uniform"].trial.number] == told["start"].trial.number
    assert told["uniform"].losses == told["start"].losses
    canary = told["canary"].outcome
    assert canary is not None
    assert (canary.failure, dict(canary.scores), told["canary"].losses) == (None, {}, None)
    assert {"merge", "evaluate:one", "evaluate:two"} <= canary.seconds.keys()


def test_models_are_told_apart_by_coefficients_split_and_purpose(configured: Configured) -> None:
    plan = prepare(configured())
    start = plan.planned[1]
    uniform = next(trial for trial in plan.planned if trial.label == "uniform")
    assert plan.same(start) == plan.same(uniform)
    assert plan.same(start) is not None
    assert plan.same(plan.planned[0]) is None, "the canary is no measurement"
    assert plan.same(start.changed(split="select")) != plan.same(start)
    assert plan.same(uniform.changed(label="rerun:uniform")) is None, "scored again on purpose"
    assert plan.same(start.changed(x=np.clip(start.x + 1e-3, 0, 1))) != plan.same(start)
