from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from evomerge.merging.models.compatibility import check_compatible, check_finite, tokenizer_differences
from tests.evomerge.merging.folders import bare, change_config, llama, tokenizer


def compare(base: Path, other: Path) -> None:
    check_compatible(Checkpoint.open(base), {"same": Checkpoint.open(base), "math": Checkpoint.open(other)})


def test_same_models_are_compatible_whatever_their_types_and_shards(tmp_path: Path) -> None:
    compare(llama(tmp_path / "a"), llama(tmp_path / "b", 1, torch.bfloat16, shard="4KB"))


def test_buffers_need_not_agree(tmp_path: Path) -> None:
    mask, position = torch.ones(1, 1, 2, 2), torch.arange(3)
    base = bare(tmp_path / "a", {"w": torch.ones(2), "attn.bias": mask, "position_ids": position})
    compare(base, bare(tmp_path / "b", {"w": torch.ones(2), "inv_freq": torch.ones(3)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"vocab_size": 30},
            (
                r"2 tensors differ in shape between the base and math \(.*\): "
                r"'lm_head.weight' \(24, 16\) vs \(30, 16\), "
                r"'model.embed_tokens.weight' \(24, 16\) vs \(30, 16\)\. The vocabulary differs: "
                r"the input has 6 more tokens than the base"
            ),
        ),
        ({"vocab_size": 20}, "the input has 4 fewer tokens"),
        (
            {"hidden_size": 32},
            r"^21 tensors .*(' \(\S+( \d+\))? vs .*){5}, \.\.\.\. Another model size: hidden_size 16 vs 32",
        ),
        ({"intermediate_size": 64}, r"^6 tensors .* Another model size: intermediate_size 32 vs 64\."),
        (
            {"num_hidden_layers": 3},
            r"adds 9 tensors \(.*, \.\.\.\)\. Another depth: the base has 2 blocks, the input 3",
        ),
        ({"num_hidden_layers": 1}, r"lacks 9 tensors .* Another depth: the base has 2 blocks, the input 1"),
        (
            {"tie_word_embeddings": True},
            r"lacks 1 tensor \('lm_head.weight'\)\. The input has its output embeddings tied",
        ),
        ({"attention_bias": True}, r"adds 8 tensors .* Another architecture\?"),
    ],
)
@pytest.mark.fault("F22", "models with other shapes and tensors", "refused with number, examples and cause")
def test_refuses_differences_with_their_cause(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        compare(llama(tmp_path / "a"), llama(tmp_path / "b", **changes))


def test_refuses_a_tied_base(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"adds 1 tensor .* The base has its output embeddings tied"):
        compare(llama(tmp_path / "a", tie_word_embeddings=True), llama(tmp_path / "b"))


def test_refuses_other_prefixes_and_adapters(tmp_path: Path) -> None:
    base = llama(tmp_path / "a")
    tensors = load_file(base / "model.safetensors")
    renamed = bare(tmp_path / "b", {name.removeprefix("model."): value for name, value in tensors.items()})
    with pytest.raises(CheckpointError, match="The names differ by a prefix"):
        compare(base, renamed)
    lora = bare(tmp_path / "c", {**tensors, "model.layers.0.mlp.down_proj.lora_A.weight": torch.ones(1, 1)})
    with pytest.raises(CheckpointError, match="It is an adapter"):
        compare(base, lora)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_finds_weights_that_are_not_finite(tmp_path: Path, dtype: torch.dtype, value: float) -> None:
    folder = llama(tmp_path, dtype=dtype)
    check_finite({"base": Checkpoint.open(folder)})
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].view(-1)[[3, 7]] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        CheckpointError, match=r"math \(.*\): 'model.layers.1.mlp.up_proj.weight' holds 2 NaN or infinite"
    ):
        check_finite({"math": Checkpoint.open(folder)})


def test_a_mask_may_be_infinite_and_a_tensor_empty(tmp_path: Path) -> None:
    mask = torch.full((1, 1, 2, 2), -float("inf"))
    folder = bare(tmp_path, {"attn.bias": mask, "ids": torch.arange(2), "none": torch.empty(0, 3), "w": torch.ones(1)})
    check_finite({"base": Checkpoint.open(folder)})


def differences(base: Path, other: Path) -> list[str]:
    return tokenizer_differences(Checkpoint.open(base), {"math": Checkpoint.open(other)})


@pytest.mark.fault("F24", "tokenizers that differ in one way each", "every difference is said")
def test_tokenizer_differences(tmp_path: Path) -> None:
    base = tokenizer(llama(tmp_path / "a"))
    other = llama(tmp_path / "b", 1)
    assert differences(base, other) == [], "nothing is said of a model without tokenizer"
    assert differences(base, tokenizer(other)) == []
    assert differences(base, tokenizer(other, "abd")) == ["math: vocabulary of 4 tokens differs from the base's of 4"]
    assert differences(base, tokenizer(other, eos_token={"content": "<end>"}, pad_token="<pad>")) == [
        "math: eos_token is '<end>', the base's is '<eos>'",
        "math: only the input has a pad_token",
    ]
    assert differences(base, tokenizer(other, chat_template="{{ x }}")) == ["math: only the input has a chat template"]
    (tokenizer(other) / "chat_template.jinja").write_text("{{ y }}")
    assert differences(tokenizer(base, chat_template="{{ x }}" * 99), other) == [
        "math: chat template differs from the base's"
    ]


def test_end_of_text_ids_are_compared_as_tokens(tmp_path: Path) -> None:
    base, other = tokenizer(llama(tmp_path / "a")), tokenizer(llama(tmp_path / "b", 1))
    for folder in (base, other):
        (folder / "generation_config.json").unlink()
        change_config(folder, eos_token_id=0)
    assert differences(base, other) == []
    (other / "generation_config.json").write_text('{"eos_token_id": [0, 3]}')
    assert differences(base, other) == ["math: end of text (eos_token_id) is '<eos>, c', the base's is '<eos>'"]


def test_tokenizer_files_are_untrusted(tmp_path: Path) -> None:
    base, other = tokenizer(llama(tmp_path / "a")), tokenizer(llama(tmp_path / "b"))
    (other / "tokenizer.json").write_text('{"model": [], "added_tokens": 3, "normalizer": {"type": "NFC"}}')
    assert "math: only the base has a vocabulary" in differences(base, other)
    (other / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json is not valid JSON"):
        differences(base, other)
    (other / "tokenizer.json").unlink()
    (other / "chat_template.jinja").symlink_to("/etc/passwd")
    with pytest.raises(CheckpointError, match="points outside"):
        differences(base, other)


def test_an_unnamed_architecture_is_said_to_be_so(tmp_path: Path) -> None:
    other = change_config(llama(tmp_path / "b", attention_bias=True), architectures=None)
    with pytest.raises(CheckpointError, match="the input of an unnamed architecture"):
        compare(llama(tmp_path / "a"), other)
