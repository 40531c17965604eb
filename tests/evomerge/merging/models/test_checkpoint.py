import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.constants
import huggingface_hub.errors
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from evomerge.merging.models.checkpoint import Checkpoint, CheckpointError
from tests.evomerge.merging.folders import HEADS, SMALL, bare, cached, change_config, llama

EMBEDDING = {"vocab_size": 24}
BERT = {**SMALL, "num_attention_heads": 2}


def build(kind: str) -> Any:
    torch.manual_seed(0)
    makers: dict[str, Callable[[], Any]] = {
        "llama": lambda: transformers.LlamaForCausalLM(transformers.LlamaConfig(**SMALL, **HEADS)),
        "gemma": lambda: transformers.GemmaForCausalLM(transformers.GemmaConfig(**SMALL, **HEADS, head_dim=8)),
        "gpt2": lambda: transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**EMBEDDING, n_embd=16, n_layer=2, n_head=2, n_positions=24)
        ),
        "neox": lambda: transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**BERT)),
        "bert": lambda: transformers.BertForSequenceClassification(transformers.BertConfig(**BERT)),
        "vit": lambda: transformers.ViTForImageClassification(
            transformers.ViTConfig(
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=8,
                patch_size=4,
            )
        ),
        "t5": lambda: transformers.T5ForConditionalGeneration(
            transformers.T5Config(**EMBEDDING, d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2)
        ),
    }
    return makers[kind]()


@pytest.mark.parametrize(
    ("kind", "tied", "blocks"),
    [
        ("llama", False, 2),
        ("gemma", True, 2),
        ("gpt2", True, 2),
        ("neox", False, 2),
        ("bert", False, 2),
        ("vit", False, 2),
        ("t5", True, 4),
    ],
)
def test_architectures(tmp_path: Path, kind: str, tied: bool, blocks: int) -> None:
    build(kind).save_pretrained(tmp_path)
    checkpoint = Checkpoint.open(tmp_path)
    layout = checkpoint.layout()
    assert checkpoint.tied is tied
    assert layout.names == checkpoint.names
    assert layout.n_blocks == blocks
    for depth in range(blocks):
        inside = {c for b, c in zip(layout.blocks, layout.components, strict=True) if b == depth}
        assert inside == {"attention", "mlp", "norm"}
    outside = {c for b, c in zip(layout.blocks, layout.components, strict=True) if b is None}
    assert outside <= {"embedding", "head", "norm"}
    assert "embedding" in outside


def test_reads_the_tensors_of_a_sharded_folder(tmp_path: Path) -> None:
    llama(tmp_path, dtype=torch.bfloat16, shard="4KB")
    checkpoint = Checkpoint.open(tmp_path)
    assert len(checkpoint.files) > 1
    expected = {name: tensor for file in checkpoint.files for name, tensor in load_file(file).items()}
    assert sorted(checkpoint.names) == sorted(expected)
    for name, tensor in expected.items():
        assert torch.equal(checkpoint.tensor(name), tensor)
        assert checkpoint.dtype(name) == tensor.dtype == torch.bfloat16
        assert checkpoint.shape(name) == tuple(tensor.shape)
    assert checkpoint.nbytes == sum(tensor.nbytes for tensor in expected.values())
    assert checkpoint.sha256() == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in checkpoint.files
    }


def test_a_fingerprint_is_of_the_weights_not_of_their_files(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(300, 70), "a": torch.arange(5), "none": torch.zeros(0, 3), "one": torch.tensor(2.0)}

    def fingerprint(name: str, made: dict[str, torch.Tensor]) -> str:
        save_file(made, tmp_path / f"{name}.safetensors", metadata={"format": name})
        return Checkpoint.open(tmp_path / f"{name}.safetensors").fingerprint()

    first = fingerprint("first", tensors)
    assert fingerprint("again", dict(reversed(tensors.items()))) == first
    changed = {
        "values": {"b": tensors["b"] * 1.001},
        "last value": {"a": torch.tensor([0, 1, 2, 3, 5])},
        "shape": {"b": tensors["b"].view(70, 300)},
        "type": {"a": tensors["a"].to(torch.uint64)},
        "name": {"c": torch.zeros(1)},
    }
    assert len({first, *(fingerprint(name, tensors | change) for name, change in changed.items())}) == 6


def test_tensors_are_mapped_not_copied(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(bare(tmp_path, {"a": torch.arange(4096.0)}))
    content = (tmp_path / "model.safetensors").read_bytes()
    checkpoint.tensor("a").zero_()
    assert torch.equal(checkpoint.tensor("a"), torch.zeros(4096)), "two reads see one mapping"
    assert (tmp_path / "model.safetensors").read_bytes() == content, "the file is never written"


def test_buffers_and_integers_are_copied_not_merged(tmp_path: Path) -> None:
    ones = torch.ones(4)
    tensors = {
        "h.0.attn.bias": torch.ones(1, 1, 4, 4),
        "h.0.attn.masked_bias": torch.tensor(-1e4),
        "h.0.attn.c_attn.bias": ones,
        "gpt_neox.layers.0.attention.bias": torch.ones(1, 1, 4, 4, dtype=torch.bool),
        "encoder.layers.0.attn.bias": ones,
        "layers.0.self_attn.rotary_emb.inv_freq": ones,
        "embeddings.position_ids": torch.arange(4),
        "norm.num_batches_tracked": torch.tensor(3),
        "norm.running_mean": ones,
        "weight": ones,
    }
    checkpoint = Checkpoint.open(bare(tmp_path, tensors))
    merged = {name for name in checkpoint.names if checkpoint.mergeable(name)}
    assert merged == {"h.0.attn.c_attn.bias", "encoder.layers.0.attn.bias", "norm.running_mean", "weight"}
    assert set(checkpoint.layout().names) == merged


def test_one_file_is_bare_weights(tmp_path: Path) -> None:
    folder = llama(tmp_path)
    checkpoint = Checkpoint.open(folder / "model.safetensors")
    assert checkpoint.config is None
    assert checkpoint.tied is False
    assert checkpoint.names == Checkpoint.open(folder).names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"auto_map": {"AutoModel": "modeling_x.Model"}}, r"requires custom code \(auto_map: .*modeling_x.* never run"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized \('gptq'\); merging needs full weights"),
        ({"vocab_size": "many"}, None),
    ],
)
def test_configurations(tmp_path: Path, changes: dict[str, Any], message: str | None) -> None:
    folder = change_config(llama(tmp_path), **changes)
    if message is None:
        assert Checkpoint.open(folder).config is not None
        return
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open(folder)


@pytest.mark.fault("F29", "models and tokenizers with code of their own", "refused, not run")
def test_refuses_custom_code_of_a_tokenizer(tmp_path: Path) -> None:
    folder = llama(tmp_path)
    (folder / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["tok.Own", null]}}')
    with pytest.raises(CheckpointError, match=r"requires custom code .*tok\.Own"):
        Checkpoint.open(folder)


@pytest.mark.fault("F25", "quantized and packed weights", "an error that names them")
def test_refuses_packed_weights(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is quantized: 'a\.qweight' has dtype torch\.int32"):
        Checkpoint.open(bare(tmp_path, {"a.qweight": torch.ones(2, dtype=torch.int32)}))


@pytest.mark.fault("F23", "a model without its head", "refused unless the head is tied")
def test_refuses_a_missing_head_unless_it_is_tied(tmp_path: Path) -> None:
    folder = llama(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lacks its output embeddings .* random numbers"):
        Checkpoint.open(folder)
    change_config(folder, tie_word_embeddings=True)
    assert Checkpoint.open(folder).tied
    change_config(folder, tie_word_embeddings=False, architectures=["LlamaModel"])
    assert not Checkpoint.open(folder).tied


@pytest.mark.fault("F28", "a pickle that leaves a mark when it is loaded", "refused; no mark")
def test_a_pickle_is_refused_and_not_run(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    for place in (tmp_path, tmp_path / "pytorch_model.bin"):
        with pytest.raises(CheckpointError, match="pickle"):
            Checkpoint.open(place)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["no such/place/at all", "/nowhere/model", "../x"])
def test_refuses_a_place_that_is_not_there(name: str) -> None:
    with pytest.raises(CheckpointError, match="does not exist: expected a model folder"):
        Checkpoint.open(name)


def test_a_hub_name_that_cannot_be_fetched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="'nobody/nothing' is not a local path, and the Hugging") as caught:
        Checkpoint.open("nobody/nothing")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("GatedRepoError", "accept the license at https://huggingface.co/some/model"),
        ("RepositoryNotFoundError", "has no such model, or it is private or gated"),
        ("RevisionNotFoundError", "'some/model' has no revision 'v9'"),
    ],
)
@pytest.mark.fault("F38", "answers of the hub: absent, gated, not allowed, unreachable", "each with its remedy")
def test_hub_errors_state_a_remedy(monkeypatch: pytest.MonkeyPatch, kind: str, message: str) -> None:
    def answer(*_arguments: Any, **_options: Any) -> None:
        response = httpx.Response(404, request=httpx.Request("GET", "https://huggingface.co"))
        raise getattr(huggingface_hub.errors, kind)("two\nlines", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", answer)
    with pytest.raises(CheckpointError, match=message):
        Checkpoint.open("some/model", "v9")


def test_a_hub_name_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    commit = cached(tmp_path, "some/model", llama(tmp_path / "made"))
    for revision in (None, "main", commit):
        path = Checkpoint.open("some/model", revision).path
        assert path == tmp_path / "models--some--model" / "snapshots" / commit


def test_a_local_path_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no revisions; remove revision 'main'"):
        Checkpoint.open(llama(tmp_path), "main")


def test_refuses_a_tensor_in_two_shards_and_no_tensors(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    header = Checkpoint.open(tmp_path / "x.safetensors")._entries
    with pytest.raises(CheckpointError, match="'a' is in two shards"):
        Checkpoint(tmp_path, [(tmp_path / "x", header), (tmp_path / "y", header)], None)
    with pytest.raises(CheckpointError, match="holds no tensors"):
        Checkpoint.open(bare(tmp_path / "empty", {}))


def test_a_file_that_vanishes_is_refused_when_it_is_read(tmp_path: Path) -> None:
    checkpoint = Checkpoint.open(bare(tmp_path, {"a": torch.ones(1)}))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="tensor 'a' cannot be read"):
        checkpoint.tensor("a")


def test_reading_in_passing_lets_go_of_what_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Checkpoint.open(llama(tmp_path / "m"), passing=True)
    monkeypatch.setattr("evomerge.merging.models.checkpoint.WINDOW", 4096)
    small = Checkpoint.open(tmp_path / "m", passing=True)
    held = [small.tensor(name) for name in small.names]
    mapped = Path("/proc/self/maps").read_text().count(str(tmp_path / "m" / "model.safetensors"))
    assert mapped > 1, "tensors that somebody holds keep their own mapping"
    assert all(torch.equal(tensor, model.tensor(name)) for tensor, name in zip(held, model.names, strict=True))
    del held, model, small
    assert str(tmp_path / "m" / "model.safetensors") not in Path("/proc/self/maps").read_text()
