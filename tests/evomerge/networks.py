"""Tiny random networks of many architectures: model folders whose tokenizer has one token per character."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers as T  # noqa: N812
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789+-*=:,.|>?() "
VOCABULARY = {token: row for row, token in enumerate(["<pad>", "<bos>", "<eos>", *CHARACTERS])}
SIZE: dict[str, Any] = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
ENDS: dict[str, Any] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
LLAMA = SIZE | ENDS | {"num_key_value_heads": 1}
VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 8,
}
BOTH_STACKS: dict[str, Any] = ENDS | {
    "vocab_size": len(VOCABULARY),
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
}
RESNET: dict[str, Any] = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 3}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}

KINDS: dict[str, Callable[[], Any]] = {
    "llama": lambda: T.LlamaForCausalLM(T.LlamaConfig(**LLAMA)),
    "llama_headless": lambda: T.LlamaModel(T.LlamaConfig(**LLAMA)),
    "llama_classifier": lambda: T.LlamaForSequenceClassification(T.LlamaConfig(**LLAMA, num_labels=3)),
    "llama_dynamic": lambda: T.LlamaForCausalLM(
        T.LlamaConfig(**LLAMA | {"max_position_embeddings": 16}, rope_parameters=DYNAMIC)
    ),
    "gpt2": lambda: T.GPT2LMHeadModel(
        T.GPT2Config(vocab_size=len(VOCABULARY), n_embd=16, n_layer=2, n_head=2, n_positions=64, **ENDS)
    ),
    "mixtral": lambda: T.MixtralForCausalLM(T.MixtralConfig(**LLAMA, num_local_experts=2, num_experts_per_tok=1)),
    "rwkv": lambda: T.RwkvForCausalLM(
        T.RwkvConfig(
            vocab_size=len(VOCABULARY), hidden_size=16, num_hidden_layers=4, context_length=64, rescale_every=2, **ENDS
        )
    ),
    "recurrent_gemma": lambda: T.RecurrentGemmaForCausalLM(
        T.RecurrentGemmaConfig(**SIZE | {"num_hidden_layers": 3}, lru_width=16, attention_window_size=32, **ENDS)
    ),
    "mamba": lambda: T.MambaForCausalLM(
        T.MambaConfig(vocab_size=len(VOCABULARY), hidden_size=16, state_size=4, num_hidden_layers=2, **ENDS)
    ),
    "bert_model": lambda: T.BertModel(T.BertConfig(**SIZE)),
    "bert_mlm": lambda: T.BertForMaskedLM(T.BertConfig(**SIZE)),
    "bert_lm": lambda: T.BertLMHeadModel(T.BertConfig(**SIZE)),
    "bert_decoder": lambda: T.BertLMHeadModel(T.BertConfig(**SIZE, is_decoder=True)),
    "xlnet": lambda: T.XLNetLMHeadModel(
        T.XLNetConfig(vocab_size=len(VOCABULARY), d_model=16, n_layer=2, n_head=2, d_inner=24)
    ),
    "bart": lambda: T.BartForConditionalGeneration(T.BartConfig(**BOTH_STACKS)),
    "t5": lambda: T.T5ForConditionalGeneration(
        T.T5Config(
            vocab_size=len(VOCABULARY), d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, decoder_start_token_id=0
        )
    ),
    "whisper": lambda: T.WhisperForConditionalGeneration(
        T.WhisperConfig(**BOTH_STACKS, num_mel_bins=8, max_source_positions=8, max_target_positions=64)
    ),
    "wav2vec2": lambda: T.Wav2Vec2ForCTC(
        T.Wav2Vec2Config(
            **SIZE,
            conv_dim=(8, 8),
            conv_stride=(5, 2),
            conv_kernel=(10, 3),
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )
    ),
    "vit": lambda: T.ViTForImageClassification(T.ViTConfig(**VISION, num_labels=3)),
    "resnet": lambda: T.ResNetForImageClassification(T.ResNetConfig(**RESNET)),
    "clip": lambda: T.CLIPModel(T.CLIPConfig(text_config=SIZE | ENDS, vision_config=VISION, projection_dim=8)),
    "llava": lambda: T.LlavaForConditionalGeneration(
        T.LlavaConfig(
            text_config=T.LlamaConfig(**LLAMA), vision_config=T.CLIPVisionConfig(**VISION), image_token_index=5
        )
    ),
}


def tokenizer() -> T.PreTrainedTokenizerFast:
    """A tokenizer with one token per character."""
    raw = Tokenizer(models.WordLevel(VOCABULARY, unk_token="<pad>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    return T.PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>")


def write_network(folder: Path, kind: str, n_experts: int = 2, **settings: Any) -> dict[str, Path]:
    """A base and its experts a, b, ... of one kind: name -> folder. settings: of the configuration, changed."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = KINDS[kind]()
        if settings:
            network = type(network)(type(network.config).from_dict(network.config.to_dict() | settings))
        start = {name: value.clone() for name, value in network.state_dict().items()}
        found = {}
        for seed, name in enumerate(("base", *"abcdef"[:n_experts])):
            network.load_state_dict(start)
            torch.manual_seed(100 + seed)
            with torch.no_grad():
                for tensor in network.state_dict().values() if seed else ():
                    if tensor.is_floating_point():
                        tensor.add_(
                            torch.randn_like(tensor)
                            * 0.3
                            * (tensor.std() if tensor.numel() > 1 and tensor.std() > 0 else 0.1)
                        )
            found[name] = folder / name
            network.save_pretrained(found[name])
            tokenizer().save_pretrained(found[name])
    return found


def read_tokens(model: Any, ids: Sequence[str]) -> list[float]:
    """For each id, a number of tokens: the largest logit of the last of so many. For `evaluator: callable`."""
    found = []
    for name in ids:
        tokens = torch.arange(int(name), device=model.network.device).remainder(len(VOCABULARY)).unsqueeze(0)
        with torch.no_grad():
            found.append(float(model.network(input_ids=tokens, use_cache=False).logits[0, -1].max()))
    return found


def read_pixels(model: Any, ids: Sequence[str]) -> list[float]:
    """For each id, a seed: the largest logit of a random image."""
    found = []
    for name in ids:
        pixels = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(int(name)))
        with torch.no_grad():
            found.append(float(model.network(pixel_values=pixels).logits.max()))
    return found
