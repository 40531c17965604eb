"""Stages of a search file: their keys, the winners that stand for models, and mistakes with their lines."""

from pathlib import Path

import pytest

from evomerge.config import ConfigError, load_config, load_stages

FILE = """\
base: models/base
experts: {math: models/math}
tasks: {one: {evaluator: synthetic}}
study: runs/two
seed: 3
stages:
  weights:
    space: uniform
    budget: {trials: 5}
  paths:
    base: weights
    experts: {math: models/math, merged: weights}
    seed: 4
"""


def write(folder: Path, text: str = FILE) -> Path:
    for name in ("base", "math"):
        (folder / "models" / name).mkdir(parents=True, exist_ok=True)
    file = folder / "search.yaml"
    file.write_text(text)
    return file


def winner(folder: Path) -> Path:
    made = folder / "runs/two/weights/winner"
    made.mkdir(parents=True)
    (made / "config.json").write_text("{}")
    return made


def test_a_stage_has_the_keys_of_the_file_except_its_own(tmp_path: Path) -> None:
    weights, paths = load_stages(write(tmp_path))
    assert (weights.name, paths.name) == ("weights", "paths")
    assert (weights.config.space.kind, paths.config.space.kind) == ("uniform", "auto")
    assert (weights.config.budget.trials, paths.config.budget.trials) == (5, 200)
    assert (weights.config.seed, paths.config.seed) == (3, 4)
    assert [stage.config.study for stage in (weights, paths)] == [
        tmp_path / "runs/two" / n for n in ("weights", "paths")
    ]


def test_a_winner_that_does_not_exist_yet_is_represented_by_the_base_of_its_search(tmp_path: Path) -> None:
    weights, paths = load_stages(write(tmp_path))
    assert paths.waits_for == ("weights",)
    base, merged = str(tmp_path / "models/base"), paths.config.experts[1].path
    assert (weights.config.base.path, paths.config.base.path, merged) == (base, base, base)
    assert weights.winner == tmp_path / "runs/two/weights/winner"
    assert paths.winner is None


def test_a_winner_that_exists_is_the_model(tmp_path: Path) -> None:
    made = str(winner(tmp_path))
    _, paths = load_stages(write(tmp_path))
    assert paths.waits_for == ()
    assert (paths.config.base.path, paths.config.experts[1].path) == (made, made)
    assert paths.config.experts[0].path == str(tmp_path / "models/math")


def test_a_file_without_stages_is_one(tmp_path: Path) -> None:
    file = write(tmp_path, FILE.partition("stages:")[0])
    (stage,) = load_stages(file)
    assert (stage.name, stage.winner, stage.config) == ("", None, load_config(file))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("stages:\n  weights:", "stages:\n- weights:", r"yaml:6: stages needs a mapping"),
        ("  paths:", "  ../paths:", r"yaml:10: a stage's name is that of a folder; got '../paths'"),
        ("study: runs/two", "workers: 1", r"a file with stages needs one `study`"),
        ("    seed: 4", "    study: runs/x", r"yaml:4: a file with stages needs one `study`"),
        ("    seed: 4", "    sed: 4", r"yaml:13: .*'sed'.*seed"),
        ("seed: 3", "sed: 3", r"yaml:5: .*'sed'.*seed"),
        ("seed: 3", "banana: 3", r"unknown key .banana.; there are .*, stages"),
        ("base: weights", "base: weight", r"yaml:10: paths takes 'weight', .* Did you mean 'weights'"),
        ("merged: weights", "merged: wieghts", r"yaml:10: paths takes 'wieghts', .* Did you mean 'weights'"),
        ("space: uniform", "space: unifrom", r"yaml:8: .*unifrom.*uniform"),
    ],
)
def test_mistakes_are_refused_with_their_lines(tmp_path: Path, before: str, after: str, message: str) -> None:
    text = FILE.replace(before, after)
    assert text != FILE
    with pytest.raises(ConfigError, match=message):
        load_stages(write(tmp_path, text))


def test_other_commands_say_which_files_they_take(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"yaml:6: stages are for .*STUDY/NAME"):
        load_config(write(tmp_path))
