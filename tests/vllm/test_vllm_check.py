"""`check` fails for what vLLM would refuse when its engine starts."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification, RwkvConfig, RwkvForCausalLM
from typer.testing import CliRunner

from evomerge.cli import app
from evomerge.resident.vllm_engine import start_arguments
from evomerge.resident.vllm_probe import Verdict, examine
from tests.evaluators.tiny_llama import build
from tests.vllm.conftest import BACKEND, Configured

pytestmark = pytest.mark.vllm
SMALL = {"vocab_size": 128, "hidden_size": 64, "num_hidden_layers": 2}
#: Settings of a model that vLLM runs -> part of what it says against them.
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"gpu_memory_utilisation": 0.5}, "gpu_memory_utilisation"),
    ({"max_model_len": 100_000}, "max_model_len (100000) is greater"),
    ({"max_num_seqs": 0}, "max_num_seqs"),
    ({"runner": "pooling"}, "generates no text"),
    ({"rank": 8, "lora_dtype": "float99"}, "lora_dtype"),
    ({"dtype": torch.float64}, "float64"),
)


def arguments(folder: Path, *, dtype: torch.dtype = torch.float32, rank: int | None = None, **options: Any) -> Any:
    given = {"max_model_len": 40, **options}
    return start_arguments(folder, folder, given, dtype=dtype, rows=None, rank=rank, eager=True)


def test_verdicts_on_settings_and_models(models: Path, tmp_path: Path) -> None:
    bert = BertConfig(**SMALL, num_attention_heads=2, intermediate_size=96)
    BertForSequenceClassification(bert).save_pretrained(tmp_path / "bert")
    RwkvForCausalLM(RwkvConfig(**SMALL)).save_pretrained(tmp_path / "rwkv")
    build(tmp_path / "heads", 0)
    for name in ("bert", "rwkv"):
        AutoTokenizer.from_pretrained(models / "base").save_pretrained(tmp_path / name)
    refused = [(arguments(models / "base", **changes), said) for changes, said in REFUSED] + [
        (arguments(tmp_path / "bert"), "BertForSequenceClassification computes embeddings or scores there"),
        (arguments(tmp_path / "rwkv"), "RwkvForCausalLM"),
        (arguments(tmp_path / "heads"), "no heads of size 8"),
    ]
    first, half, *others = examine(
        arguments(models / "base"),
        arguments(models / "base", dtype=torch.float16, rank=8),
        *(each for each, _ in refused),
    )
    assert first == half == Verdict(device="cpu", adapters=True)
    for found, (_, said) in zip(others, refused, strict=True):
        assert said in str(found.error)
        assert "\n" not in str(found.error)


def test_check_names_the_way_out(configured: Configured, tmp_path: Path) -> None:
    build(tmp_path / "base", 0)
    experts = {}
    for seed in (1, 2):
        build(tmp_path / str(seed), seed)
        experts[f"expert{seed}"] = str(tmp_path / str(seed))
    configured(base=str(tmp_path / "base"), experts=experts)
    for command in ("check", "search"):
        done = CliRunner().invoke(app, [command, str(tmp_path / "search.yaml")])
        assert done.exit_code == 2
        output = " ".join(done.output.split())
        assert "backend: vLLM 0." in output
        assert "its attention has no heads of size 8" in output
        assert "use `backend: transformers`" in output
    assert not (tmp_path / "study").exists()


def test_added_tokens_are_judged_with_their_rows(configured: Configured, models: Path, tmp_path: Path) -> None:
    """As for `tokenizer: union`: more tokens than the base's folder."""
    shutil.copytree(models / "sort", tmp_path / "sort")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "sort")
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(tmp_path / "sort")
    experts = {"count": str(models / "count"), "sort": str(tmp_path / "sort")}
    configured(experts=experts, backend=BACKEND)
    done = CliRunner().invoke(app, ["check", str(tmp_path / "search.yaml")])
    assert done.exit_code == 0, done.output
    assert "vLLM's weights are replaced by those of every candidate" in " ".join(done.output.split())
