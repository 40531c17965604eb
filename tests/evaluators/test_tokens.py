import random
from types import SimpleNamespace

import numpy as np
import pytest

from evaluators._isolation import preserved_random_states
from evaluators._tokens import batches, encode, encode_pair, encode_prompt, max_length
from evaluators.base import EvaluatorError
from tests.evaluators.tiny_llama import TinyModel


def test_white_space_between_context_and_continuation_belongs_to_the_continuation(model: TinyModel) -> None:
    head, tail = encode_pair(model.tokenizer, "a b  ", "c")
    assert head == encode(model.tokenizer, "a b")
    assert tail == encode(model.tokenizer, "  c")


def test_an_empty_context_is_bos(model: TinyModel) -> None:
    assert encode_pair(model.tokenizer, "", "ab") == ((1,), encode(model.tokenizer, "ab"))


def test_nothing_to_score_is_refused(model: TinyModel) -> None:
    with pytest.raises(EvaluatorError, match="no tokens of its own"):
        encode_pair(model.tokenizer, "a", "")


def test_a_text_that_has_its_bos_gets_no_second_one(model: TinyModel) -> None:
    assert encode(model.tokenizer, "<s>a")[:2] == (1, encode(model.tokenizer, "a")[0])
    assert encode_prompt(model.tokenizer, "<s>a").count(1) == 1


def test_batches_keep_within_the_limit_longest_first_and_lose_nothing() -> None:
    draw = np.random.default_rng(0)
    sizes = [int(size) for size in draw.integers(1, 100, 200)]
    for before in (0, 10):
        found = batches(sizes, 400, before=before)
        assert sorted(row for batch in found for row in batch) == list(range(200))
        longest = [max(sizes[row] for row in batch) for batch in found]
        assert longest == sorted(longest, reverse=True)
        for batch, width in zip(found, longest, strict=True):
            assert len(batch) * (width + before) <= 400
            assert sum(width - sizes[row] for row in batch) <= len(batch) * width / 8
        assert len(found) < 60


def test_a_batch_ends_where_padding_would_exceed_an_eighth() -> None:
    assert batches([40, 40, 30, 20, 20], 10_000) == [[0, 1, 2], [3, 4]]
    assert batches([8, 6, 8, 8], 10_000) == [[0, 2, 3, 1]]
    assert batches([8, 6], 10_000) == [[0, 1]]
    assert batches([8, 5], 10_000) == [[0], [1]]


def test_a_batch_ends_before_it_has_too_many_places() -> None:
    assert batches([5, 5, 5, 5], 100, places=[2, 2, 2, 9], most_places=4) == [[0, 1], [2], [3]]


def test_a_row_beyond_the_limit_is_a_batch_of_its_own() -> None:
    assert batches([50, 10, 10], 20) == [[0], [1, 2]]


@pytest.mark.parametrize(
    ("config", "expected"),
    [({"max_position_embeddings": 77}, 77), ({"n_positions": 5, "n_ctx": 9}, 5), ({}, 2048)],
)
def test_the_models_length_is_in_its_configuration(config: dict[str, int], expected: int) -> None:
    network, tokenizer = SimpleNamespace(config=SimpleNamespace(**config)), SimpleNamespace(model_max_length=1e30)
    assert max_length(network, tokenizer) == expected
    assert max_length(network, tokenizer, 3) == 3
    nested = SimpleNamespace(config=SimpleNamespace(text_config=network.config, n_positions=1))
    assert max_length(nested, tokenizer) == expected


def test_random_states_come_back() -> None:
    python, legacy = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index] # noqa: NPY002
    with preserved_random_states(seed=1):
        random.seed(2)
        np.random.seed(2)  # noqa: NPY002
    assert random.getstate() == python
    assert np.random.get_state()[1].tolist() == legacy  # type: ignore[index] # noqa: NPY002
