"""The callback for the Trainer: a real training of a tiny network, then the search over what it leaves."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from evomerge.errors import EvomergeError
from evomerge.study import Study
from evomerge.training import SearchMerge
from tests.evomerge.merging.folders import llama, tokenizer

TASK = {"say": {"evaluator": "perplexity", "file": "texts.jsonl"}}


class Texts(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Sixteen times the same short text: there is something to learn."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, row: int) -> dict[str, torch.Tensor]:
        tokens = torch.tensor([1, 2, 3, 1, 2, 3])
        return {"input_ids": tokens, "labels": tokens}


def train(folder: Path, callback: SearchMerge, **changes: Any) -> None:
    place = tokenizer(llama(folder / "model", vocab_size=4), "abc", pad_token="<eos>")
    words = json.loads((place / "tokenizer.json").read_text())
    (place / "tokenizer.json").write_text(json.dumps({**words, "pre_tokenizer": {"type": "Whitespace"}}))
    texts = [json.dumps({"text": f"a b c {'a b ' * (n % 7)}{'c ' * (n % 5 + 1)}"}) for n in range(40)]
    (folder / "texts.jsonl").write_text("\n".join(texts), encoding="utf-8")
    settings = {"max_steps": 6, "save_steps": 2, "per_device_train_batch_size": 4, "learning_rate": 1e-2}
    arguments = TrainingArguments(
        str(folder / "train"), report_to=[], use_cpu=True, disable_tqdm=True, **{**settings, **changes}
    )
    Trainer(
        AutoModelForCausalLM.from_pretrained(place),
        arguments,
        train_dataset=Texts(),
        processing_class=AutoTokenizer.from_pretrained(place),
        callbacks=[callback],
    ).train()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # those of the Trainer are not ours
def test_the_merge_is_searched_when_training_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = SearchMerge(TASK, budget={"trials": 16}, optimizer="genetic")
    train(tmp_path, found)
    merged = tmp_path / "train" / "merge"
    assert found.run is not None
    assert found.run.selected is not None
    labels = {entry.trial.label for entry in Study.read(merged / "run").told}
    assert {"parent:start", "base", "uniform", "ema:0.9"} <= labels
    assert [Path(model.path).name for model in found.run.config.experts] == ["start", "checkpoint-2", "checkpoint-4"]
    assert Path(found.run.config.base.path).name == "checkpoint-6"
    assert AutoModelForCausalLM.from_pretrained(merged / "model").config.num_hidden_layers == 2


@pytest.mark.filterwarnings("default")
def test_a_search_that_is_refused_does_not_end_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    found = SearchMerge(TASK, with_start=False, budget={"trials": 16}, optimizer="absent")
    with caplog.at_level(logging.WARNING, "evomerge.training"):
        train(tmp_path, found, save_strategy="no", max_steps=1)
    assert found.run is None
    assert "evomerge search" in caplog.text


def test_adapters_are_refused_before_the_training(tmp_path: Path) -> None:
    class State:
        is_world_process_zero, global_step = True, 0

    arguments = TrainingArguments(str(tmp_path), report_to=[], use_cpu=True)
    with pytest.raises(EvomergeError, match="whole models"):
        SearchMerge(TASK).on_train_begin(arguments, State(), None, model=torch.nn.Linear(1, 1))
