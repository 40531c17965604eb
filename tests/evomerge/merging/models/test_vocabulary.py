"""Models of different vocabularies: rows of embeddings matched by token."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.output.materialize import materialize
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Merge, Recipe, TokenRow, Vocabulary
from evomerge.recipe.file import read_merge, write_merge
from evomerge.resident.resident import load_resident
from search_spaces.base import CoefficientTable
from tests.evomerge.merging.folders import change_config, llama, tokenizer

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
WORDS = {"base": "abc", "more": "abcx", "other": "cbya"}


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for seed, (name, words) in enumerate(WORDS.items()):
        tokenizer(llama(tmp_path / name, seed, vocab_size=len(words) + 1), words)
    return tmp_path


def recipe(folder: Path, wanted: str | None, vocabulary: Vocabulary | None = None, **given: Any) -> Recipe:
    inputs = tuple(Input(name, str(folder / name)) for name in ("more", "other"))
    settings = {"method": "task_arithmetic", **given}
    return Recipe(Input("base", str(folder / "base")), inputs, tokenizer=wanted, vocabulary=vocabulary, **settings)


def merge_of(made: Recipe, weight: Sequence[float] = (0.5, 0.25)) -> Merge:
    return Merge(made, CoefficientTable({"all": ("*",)}, {"weight": np.array([weight])}))


def row(folder: Path, model: str, token: str, name: str = EMBED) -> Tensor:
    place = ["<eos>", *WORDS[model]].index(token)
    return Checkpoint.open(folder / model).tensor(name)[place]


def merged(made: Recipe) -> dict[str, Tensor]:
    return dict(open_models(made).engine().stream(merge_of(made)))


def vocabulary_of(folder: Path) -> Mapping[str, int]:
    vocab: Mapping[str, int] = transformers.AutoTokenizer.from_pretrained(folder).get_vocab()
    return vocab


@pytest.mark.fault("F24", "vocabularies of other sizes", "refused with the ways out")
def test_without_a_choice_other_sizes_are_refused_with_the_ways_out(folders: Path) -> None:
    with pytest.raises(CheckpointError, match=r"1 more tokens.*tokenizer: union.*tokenizer: base.*tokenizer: NAME"):
        materialize(merge_of(recipe(folders, None)), folders / "out")


@pytest.mark.parametrize("name", [EMBED, HEAD])
def test_the_bases_tokens(folders: Path, name: str) -> None:
    result = merged(recipe(folders, "base"))[name]
    assert result.shape == (4, 16)
    for place, token in enumerate(["<eos>", *"abc"]):
        base = row(folders, "base", token, name)
        deltas = [row(folders, model, token, name) - base for model in ("more", "other")]
        torch.testing.assert_close(result[place], base + 0.5 * deltas[0] + 0.25 * deltas[1])


def test_the_union_of_all_tokens_loads_and_is_right_row_by_row(folders: Path) -> None:
    materialize(merge_of(recipe(folders, "union")), folders / "out")
    vocab = vocabulary_of(folders / "out")
    assert sorted(vocab, key=lambda token: vocab[token]) == ["<eos>", *"abcxy"]
    network = transformers.AutoModelForCausalLM.from_pretrained(folders / "out")
    assert network.config.vocab_size == 6
    embeddings = network.get_input_embeddings().weight.detach()
    torch.testing.assert_close(embeddings[vocab["x"]], row(folders, "more", "x"), msg="all have the only model's row")
    torch.testing.assert_close(embeddings[vocab["y"]], row(folders, "other", "y"))
    a = [row(folders, model, "a") for model in ("base", "more", "other")]
    torch.testing.assert_close(embeddings[vocab["a"]], a[0] + 0.5 * (a[1] - a[0]) + 0.25 * (a[2] - a[0]))


def test_added_tokens_stay_special_in_the_union(folders: Path) -> None:
    path = folders / "more" / "tokenizer.json"
    body = json.loads(path.read_text())
    body["added_tokens"].append({**body["added_tokens"][0], "id": 4, "content": "x"})
    path.write_text(json.dumps(body))
    materialize(merge_of(recipe(folders, "union")), folders / "out")
    written = transformers.AutoTokenizer.from_pretrained(folders / "out").added_tokens_decoder.values()
    assert {token.content: token.special for token in written} == {"<eos>": True, "x": True, "y": False}


@pytest.mark.parametrize("wanted", ["base", "union"])
def test_a_token_that_nobody_has_is_made_with_another_ones_row(folders: Path, wanted: str) -> None:
    rules = {"new": TokenRow("more", token="x"), "newer": TokenRow("other", id=2)}
    materialize(merge_of(recipe(folders, wanted, Vocabulary(tokens=rules))), folders / "out")
    vocab, embeddings = vocabulary_of(folders / "out"), Checkpoint.open(folders / "out").tensor(EMBED)
    assert sorted(vocab, key=lambda token: vocab[token])[-2:] == ["new", "newer"]
    torch.testing.assert_close(embeddings[vocab["new"]], row(folders, "more", "x"))
    torch.testing.assert_close(embeddings[vocab["newer"]], row(folders, "other", "b"))


def test_an_inputs_tokens_and_how_its_texts_end(folders: Path) -> None:
    change_config(folders / "other", eos_token_id=3)
    (folders / "base" / "generation_config.json").write_text('{"eos_token_id": 0}')
    (folders / "other" / "generation_config.json").write_text('{"eos_token_id": 3}')
    materialize(merge_of(recipe(folders, "other")), folders / "out")
    assert vocabulary_of(folders / "out") == vocabulary_of(folders / "other")
    written = Checkpoint.open(folders / "out")
    assert written.config is not None
    assert (written.config["vocab_size"], written.config["eos_token_id"]) == (5, 3)
    assert json.loads((folders / "out" / "generation_config.json").read_text()) == {"eos_token_id": 3}
    b = [row(folders, model, "b") for model in ("base", "more", "other")]
    wanted = b[0] + 0.5 * (b[1] - b[0]) + 0.25 * (b[2] - b[0])
    torch.testing.assert_close(written.tensor(EMBED)[2], wanted)


def test_rows_of_tokens_that_a_model_lacks(folders: Path) -> None:
    # b: of all; x and y: of one. Without "other", y would be unknown; its own rule below gives "more" the row of "a".
    rules = {"y": TokenRow("more", "a"), "x": TokenRow(), "b": TokenRow("other", id=1, force=True)}
    for missing in ("base", "mean"):
        models = open_models(recipe(folders, "union", Vocabulary(missing=missing, tokens=rules))).inputs
        more, other = models["more"].tensor(EMBED), models["other"].tensor(EMBED)
        assert torch.equal(more[5], row(folders, "more", "a"))
        assert torch.equal(other[5], row(folders, "other", "y"))
        assert torch.equal(more[4], row(folders, "more", "x"))
        assert not other[4].any()
        assert torch.equal(more[2], row(folders, "other", "c")), "forced upon a model that has the token"
        assert torch.equal(other[2], row(folders, "other", "c"))


def test_a_token_that_several_others_have(folders: Path) -> None:
    tokenizer(llama(folders / "fourth", 9, vocab_size=3), "ab")
    rows = [row(folders, model, "c") for model in WORDS]
    expected = {"base": rows[0], "mean": torch.stack(rows).mean(0), "inputs": torch.stack(rows[1:]).mean(0)}
    for missing in ("base", "mean", "inputs"):
        made = recipe(folders, "base", Vocabulary(missing=missing))
        made = Recipe(made.base, (*made.inputs, Input("fourth", str(folders / "fourth"))), made.method,
                      tokenizer="base", vocabulary=made.vocabulary)  # fmt: skip
        found = open_models(made).inputs["fourth"].tensor(EMBED)[3]
        torch.testing.assert_close(found, expected[missing])


def test_a_base_that_is_also_an_input_counts_once_in_a_mean(folders: Path) -> None:
    tokenizer(llama(folders / "fourth", 9, vocab_size=3), "ab")
    inputs = tuple(Input(name, str(folders / path)) for name, path in
                   (("a", "base"), ("b", "more"), ("c", "fourth")))  # fmt: skip
    made = Recipe(Input("base", str(folders / "base")), inputs, "linear", tokenizer="base",
                  vocabulary=Vocabulary(missing="mean"))  # fmt: skip
    found = open_models(made).inputs["c"].tensor(EMBED)[3]
    torch.testing.assert_close(found, (row(folders, "base", "c") + row(folders, "more", "c")) / 2)


def test_the_number_of_rows(folders: Path) -> None:
    result = merged(recipe(folders, "union", Vocabulary(multiple_of=8)))[EMBED]
    assert result.shape[0] == 8
    models = open_models(recipe(folders, "union", Vocabulary(multiple_of=8)))
    own = models.base.tensor(EMBED)
    torch.testing.assert_close(own[6:], own[:6].mean(0).expand(2, -1))
    assert models.base.config is not None
    assert models.base.config["vocab_size"] == 8


def test_equal_vocabularies_stay_as_they_are(folders: Path) -> None:
    made = Recipe(
        Input("base", str(folders / "base")), (Input("twin", str(folders / "base")),), "linear", tokenizer="union"
    )
    sources = open_models(made)
    assert all(isinstance(model, Checkpoint) for model in sources.models)
    assert sources.tokenizer == folders / "base"


def test_a_search_scores_what_an_export_writes(folders: Path) -> None:
    made = recipe(folders, "union")
    sources = open_models(made)
    resident = load_resident(sources.base, sources.tokenizer, None, "cpu")
    sources.engine().apply(merge_of(made), resident.tensors)
    materialize(merge_of(made), folders / "out")
    written = Checkpoint.open(folders / "out")
    assert all(torch.equal(resident.tensors[name], written.tensor(name)) for name in written.names)
    text = "a x y"
    ours = resident.tokenizer(text, return_tensors="pt").input_ids
    theirs = transformers.AutoTokenizer.from_pretrained(folders / "out")(text, return_tensors="pt").input_ids
    assert torch.equal(ours, theirs)
    network = transformers.AutoModelForCausalLM.from_pretrained(folders / "out")
    torch.testing.assert_close(resident.network(ours).logits, network(theirs).logits)


def test_a_model_without_tokenizer_counts_as_the_base_where_it_fits(folders: Path) -> None:
    (folders / "more" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"more has no tokenizer\.json: rows cannot be matched"):
        open_models(recipe(folders, "more"))
    (folders / "base" / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"base has no tokenizer\.json"):
        open_models(recipe(folders, "union"))


def test_mistakes_in_token_rows(folders: Path) -> None:
    with pytest.raises(CheckpointError, match="names 'q', which the result's tokenizer does not have"):
        open_models(recipe(folders, "union", Vocabulary(tokens={"q": TokenRow()})))
    with pytest.raises(CheckpointError, match="'base' has no token 'y'"):
        open_models(recipe(folders, "union", Vocabulary(tokens={"y": TokenRow("base")})))
    (folders / "more" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"more/tokenizer\.json cannot be read"):
        open_models(recipe(folders, "union"))


def test_a_vocabulary_in_a_recipe_file(folders: Path) -> None:
    rules = {"y": TokenRow("more", "a"), "b": TokenRow("other", id=1, force=True), "z": TokenRow()}
    made = recipe(folders, "union", Vocabulary(8, "mean", rules))
    write_merge(merge_of(made), folders / "recipe.yaml")
    assert read_merge(folders / "recipe.yaml").recipe == made
    assert made.fingerprint != recipe(folders, "union").fingerprint
