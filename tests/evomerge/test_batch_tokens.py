"""Tokens per batch: measured once, recorded before any candidate is scored, and kept for the whole study."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators import _likelihood
from evaluators import _strict_yaml as strict_yaml
from evaluators._tokens import batch_limit, choose_batch_tokens
from evaluators.multiple_choice import MultipleChoice
from evomerge.config import load_config
from evomerge.launch.launch import run
from evomerge.launch.plan import prepare
from evomerge.resident import batch_budget
from evomerge.resident.batch_budget import BatchBudget, find_budget, forward_seconds
from evomerge.study import Study
from evomerge.trial import BATCH_TOKENS, OUT_OF_MEMORY, Trial
from tests.conftest import TinyModels

#: Tokens per batch on a CPU.
DEFAULT = 4096


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({512: 1.0, 1024: 1.0, 2048: 1.9}, 1024),
        ({512: 1.0, 1024: 1.9}, 512),
        ({512: 1.0, 1024: 1.8, 2048: 2.0, 4096: 4.0}, 2048),
    ],
)
def test_batches_grow_until_they_gain_less_than_a_tenth(seconds: dict[int, float], expected: int) -> None:
    assert find_budget(None, lambda _, tokens: seconds[tokens]) == expected


def test_half_of_what_fits_is_used_where_memory_is_the_limit(tiny: TinyModels) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny.base).eval()

    def refuse(_module: Any, inputs: tuple[torch.Tensor]) -> None:
        if inputs[0].numel() > 2048:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    network.get_input_embeddings().register_forward_pre_hook(refuse)

    def faster_and_faster(network: Any, tokens: int) -> float:
        assert forward_seconds(network, tokens) > 0
        return 1.0

    assert find_budget(network, faster_and_faster) == 1024


@pytest.mark.fault("F11", "the budget of a batch is halved", "half of it for the next attempt")
def test_a_budget_is_halved_for_one_trial_unless_the_user_set_it(tiny: TinyModels) -> None:
    network = AutoModelForCausalLM.from_pretrained(tiny.base)
    found, given = BatchBudget(network, None), BatchBudget(network, 64)
    for budget, recorded, expected in ((found, {"cpu": 1000}, [1000, 500, 1000]), (given, {"cpu": 1000}, [64, 64, 64])):
        assert budget.begin(recorded, first=False) is None
        seen = [batch_limit(None, network)]
        budget.halve()
        seen.append(batch_limit(None, network))
        budget.begin(recorded, first=False)
        assert [*seen, batch_limit(None, network)] == expected
    assert found.begin({"another device": 1000}, first=True) is None
    assert batch_limit(None, network) == DEFAULT
    found.halve()
    assert batch_limit(None, network) == DEFAULT // 2


@contextmanager
def _budgets(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield a list that gets the budget of every evaluation, as its batches follow it."""
    seen: list[int] = []
    collated = _likelihood.collated

    def watched(groups: Any, network: Any, batch_tokens: int | None) -> Any:
        seen.append(batch_limit(batch_tokens, network))
        return collated(groups, network, batch_tokens)

    with monkeypatch.context() as patched:
        patched.setattr(_likelihood, "collated", watched)
        yield seen


def _search(tiny: TinyModels, folder: Path, trials: int, **changes: object) -> Study:
    config = load_config(_search_file(tiny, folder, trials, **changes))
    assert run(config, prepare(config), resume=True)[0].kind == "done"
    return Study.read(folder / "study")


def _search_file(tiny: TinyModels, folder: Path, trials: int, **changes: object) -> Path:
    data = {
        "base": str(tiny.base),
        "experts": {name: str(path) for name, path in list(tiny.experts.items())[:2]},
        "tasks": {"count": {"evaluator": "multiple_choice", "file": str(tiny.tasks["count"]), "limit": 60}},
        "optimizer": "random",
        "budget": {"trials": trials},
        "executor": "serial",
        "device": "cpu",
        "study": str(folder / "study"),
    }
    file = folder / "search.yaml"
    file.write_text(strict_yaml.dump({**data, **changes}))
    return file


@pytest.mark.fault(
    "F11",
    "the network raises CUDA's error for batches above a size, and then for all",
    "scored again in batches of half the size, with the same scores; then `out_of_memory`",
)
def test_a_candidate_that_runs_out_of_memory_is_scored_again_in_half_batches(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = prepare(load_config(_search_file(tiny, tmp_path, 5))).spec()
    trial = Trial(3, bench.space.default(), batch_tokens={"cpu": 512})
    plain = bench.run(trial)
    room, largest = 256, 0

    def refuse(_module: Any, inputs: tuple[torch.Tensor]) -> None:
        nonlocal largest
        largest = max(largest, inputs[0].numel())
        if inputs[0].numel() > room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    bench.model.network.get_input_embeddings().register_forward_pre_hook(refuse)
    with _budgets(monkeypatch) as seen:
        again = bench.run(trial)
    assert (set(seen) <= {512, 256}, seen[-1]) == (True, 256)
    assert largest > room
    assert again.failure is None
    assert [event["event"] for event in again.events] == [OUT_OF_MEMORY]
    assert (again.scores["count"].values == plain.scores["count"].values).all()
    room = 0
    failure = bench.run(trial).failure
    assert failure is not None
    assert (failure.kind, "2.00 GiB" in failure.message) == (OUT_OF_MEMORY, True)


def test_a_study_measures_once_and_keeps_the_number(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with _budgets(monkeypatch) as seen:
        study = _search(tiny, tmp_path, 6, batch_tokens="auto")
    (event,) = (data for kind, data in study.events if kind == BATCH_TOKENS)
    assert event["device"] == "cpu"
    assert event["tokens"] >= batch_budget.LEAST
    assert set(seen) == {event["tokens"]}
    canary = study.told[0]
    assert canary.trial.label == "canary"
    assert canary.outcome is not None
    assert [each["event"] for each in canary.outcome.events] == [BATCH_TOKENS]

    monkeypatch.setattr(batch_budget, "find_budget", lambda _: pytest.fail("measured again"))
    with _budgets(monkeypatch) as seen:
        _search(tiny, tmp_path, 8, batch_tokens="auto")
    assert seen
    assert set(seen) == {event["tokens"]}


@pytest.mark.parametrize(("given", "expected"), [({}, DEFAULT), ({"batch_tokens": 300}, 300)])
def test_a_cpu_measures_only_if_it_is_told_to(
    tiny: TinyModels, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, int], expected: int
) -> None:
    monkeypatch.setattr(batch_budget, "find_budget", lambda _: pytest.fail("measured"))
    with _budgets(monkeypatch) as seen:
        study = _search(tiny, tmp_path, 5, **given)
    assert set(seen) == {expected}
    assert BATCH_TOKENS not in [kind for kind, _ in study.events]


def test_an_evaluator_follows_the_networks_number_unless_it_has_its_own(tiny: TinyModels) -> None:
    class Model:
        network = AutoModelForCausalLM.from_pretrained(tiny.base).eval()
        tokenizer = AutoTokenizer.from_pretrained(tiny.base)

    shapes: list[int] = []
    Model.network.get_input_embeddings().register_forward_hook(lambda _, inputs, __: shapes.append(len(inputs[0])))
    own = MultipleChoice(file=str(tiny.tasks["count"]), limit=40, batch_tokens=40)
    free = MultipleChoice(file=str(tiny.tasks["count"]), limit=40)
    sizes = []
    for task, tokens in ((free, None), (free, 40), (free, None), (own, 4096)):
        choose_batch_tokens(Model.network, tokens)
        task.score(Model)
        shapes.clear()
        task.score(Model)
        sizes.append(list(shapes))
    assert sizes[0] == sizes[2] != sizes[1] == sizes[3]
    assert max(sizes[1]) < max(sizes[0])
