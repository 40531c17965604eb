"""Tiny networks with random weights, one of each kind that people merge, as transformers builds them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import transformers as tf
from torch import Tensor

VOCABULARY = 40
SIZE = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4}
TOKENS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TEXT = {**SIZE, **HEADS, **TOKENS, "num_key_value_heads": 2, "max_position_embeddings": 64}
MOE = {**TEXT, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "n_routed_experts": 4,
    "num_key_value_heads": 4,
}
ENCODER = {**SIZE, **HEADS, "max_position_embeddings": 64, "pad_token_id": 0}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
SEQ2SEQ = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 2,
    "forced_eos_token_id": 2,
    **TOKENS,
}
CONV = {"conv_dim": (16, 16), "conv_stride": (4, 4), "conv_kernel": (8, 4), "num_conv_pos_embeddings": 8}

Inputs = Callable[[], dict[str, Tensor]]


def tokens() -> dict[str, Tensor]:
    return {"input_ids": torch.arange(3, 15).reshape(2, 6)}


def to_and_from() -> dict[str, Tensor]:
    return {**tokens(), "decoder_input_ids": torch.arange(5, 13).reshape(2, 4)}


def pixels(size: int = 32) -> dict[str, Tensor]:
    return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * size * size).reshape(2, 3, size, size)}


def text_and_pixels() -> dict[str, Tensor]:
    return {**tokens(), **pixels()}


def samples() -> dict[str, Tensor]:
    return {"input_values": torch.linspace(-1, 1, 2 * 1600).reshape(2, 1600).sin()}


def spectrum() -> dict[str, Tensor]:
    features = torch.linspace(-1, 1, 2 * 8 * 40).reshape(2, 8, 40)
    return {"input_features": features, "decoder_input_ids": torch.arange(5, 13).reshape(2, 4)}


@dataclass(frozen=True)
class Kind:
    """One row of the matrix. group: heading in the documentation. network: builds one. inputs: of a forward pass.

    task: the evaluator that a search of it is tried with: the first that scores it, of those in `models.tasks_of`.
    """

    group: str
    network: partial[Any]
    inputs: Inputs = tokens
    task: str = "perplexity"

    @property
    def architecture(self) -> str:
        """The class in transformers."""
        return str(self.network.args[0])


def tiny(architecture: str, **config: Any) -> partial[Any]:
    """An architecture of transformers with the configuration that belongs to it."""
    return partial(_build, architecture, config)


def _build(architecture: str, config: dict[str, Any]) -> Any:
    kind = getattr(tf, architecture)
    return kind(kind.config_class(**config))


def _qwen_vl(version: str, text: dict[str, Any] = TEXT, **vision: Any) -> partial[Any]:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    return tiny(
        f"{version}ForConditionalGeneration",
        text_config={**text, "rope_parameters": rope},
        vision_config={"depth": 2, "num_heads": 4, "patch_size": 8, **vision},
        image_token_id=35,
        video_token_id=36,
        vision_start_token_id=37,
        vision_end_token_id=38,
    )


def _decoders() -> dict[str, Kind]:
    group = "Text decoders"
    old = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **TOKENS}
    networks = {
        "Llama": tiny("LlamaForCausalLM", **TEXT),
        "Llama, tied": tiny("LlamaForCausalLM", **TEXT, tie_word_embeddings=True),
        "Mistral": tiny("MistralForCausalLM", **TEXT),
        "Qwen2": tiny("Qwen2ForCausalLM", **TEXT),
        "Qwen3": tiny("Qwen3ForCausalLM", **TEXT, head_dim=8),
        "Gemma": tiny("GemmaForCausalLM", **TEXT, head_dim=8),
        "Gemma 2": tiny("Gemma2ForCausalLM", **TEXT, head_dim=8),
        "Gemma 3": tiny("Gemma3ForCausalLM", **TEXT, head_dim=8),
        "Phi": tiny("PhiForCausalLM", **TEXT),
        "Phi-3": tiny("Phi3ForCausalLM", **TEXT),
        "GPT-2": tiny("GPT2LMHeadModel", **old),
        "GPT-J": tiny("GPTJForCausalLM", **old, rotary_dim=4),
        "GPT-NeoX (Pythia)": tiny("GPTNeoXForCausalLM", **SIZE, **HEADS, max_position_embeddings=64),
        "GPT-Neo": tiny(
            "GPTNeoForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=64,
            **TOKENS,
        ),
        "CodeGen": tiny("CodeGenForCausalLM", **old, rotary_dim=4),
        "OPT": tiny("OPTForCausalLM", **ENCODER, ffn_dim=48, word_embed_proj_dim=32),
        "BLOOM": tiny("BloomForCausalLM", vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, **TOKENS),
        "Falcon": tiny("FalconForCausalLM", **SIZE, **HEADS, **TOKENS),
        "MPT": tiny("MptForCausalLM", vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=2, max_seq_len=64),
        "StableLM": tiny("StableLmForCausalLM", **TEXT),
        "OLMo": tiny("OlmoForCausalLM", **TEXT),
        "OLMo 2": tiny("Olmo2ForCausalLM", **TEXT),
        "Cohere": tiny("CohereForCausalLM", **TEXT),
        "Granite": tiny("GraniteForCausalLM", **TEXT),
        "SmolLM3": tiny("SmolLM3ForCausalLM", **TEXT),
        "StarCoder2": tiny("Starcoder2ForCausalLM", **TEXT),
        "GLM-4": tiny("Glm4ForCausalLM", **TEXT, head_dim=8),
        "Nemotron": tiny("NemotronForCausalLM", **TEXT),
        "EXAONE 4": tiny("Exaone4ForCausalLM", **TEXT),
        "Ministral": tiny("MinistralForCausalLM", **TEXT, head_dim=8),
    }
    return {name: Kind(group, network) for name, network in networks.items()}


def _mixtures() -> dict[str, Kind]:
    group = "Mixtures of experts"
    one = {**TEXT, "num_experts_per_tok": 1, "num_local_experts": 2, "head_dim": 8, "intermediate_size_mlp": 48}
    networks = {
        "Mixtral": tiny("MixtralForCausalLM", **TEXT, num_experts_per_tok=2, num_local_experts=4),
        "Qwen2-MoE": tiny("Qwen2MoeForCausalLM", **MOE, num_experts=4, shared_expert_intermediate_size=24),
        "Qwen3-MoE": tiny("Qwen3MoeForCausalLM", **MOE, num_experts=4, head_dim=8),
        "OLMoE": tiny("OlmoeForCausalLM", **TEXT, num_experts_per_tok=2, num_experts=4),
        "DeepSeek-V2": tiny("DeepseekV2ForCausalLM", **{**MOE, **LATENT}),
        "DeepSeek-V3": tiny("DeepseekV3ForCausalLM", **{**MOE, **LATENT}),
        "Granite-MoE": tiny("GraniteMoeForCausalLM", **TEXT, num_experts_per_tok=2, num_local_experts=4),
        "Phi-MoE": tiny("PhimoeForCausalLM", **TEXT, num_experts_per_tok=2, num_local_experts=4),
        "Llama 4": tiny("Llama4ForCausalLM", **one),
        "GPT-OSS": tiny(
            "GptOssForCausalLM", **TEXT, head_dim=8, num_local_experts=4, num_experts_per_tok=2, sliding_window=16
        ),
        "GLM-4-MoE": tiny(
            "Glm4MoeForCausalLM", **{**MOE, "n_routed_experts": 4, "first_k_dense_replace": 1, "n_group": 1}, head_dim=8
        ),
        "ERNIE 4.5 MoE": tiny(
            "Ernie4_5_MoeForCausalLM", **{**TEXT, "moe_intermediate_size": 24, "moe_num_experts": 4, "moe_k": 2}
        ),
        "JetMoE": tiny(
            "JetMoeForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            num_key_value_heads=2,
            kv_channels=8,
            intermediate_size=48,
            num_local_experts=4,
            num_experts_per_tok=2,
            max_position_embeddings=64,
            **TOKENS,
        ),
        "MiniMax": tiny("MiniMaxForCausalLM", **TEXT, num_experts_per_tok=2, num_local_experts=4, head_dim=8),
    }
    return {name: Kind(group, network) for name, network in networks.items()}


def _recurrent() -> dict[str, Kind]:
    group = "State space and recurrent"
    ssm = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 8, **TOKENS}
    jamba = {**MOE, "num_experts": 4, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 8}
    qwen = {**MOE, "num_experts": 4, "head_dim": 8, "shared_expert_intermediate_size": 24}
    delta = {
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    }
    networks = {
        "Mamba": tiny("MambaForCausalLM", **ssm),
        "Mamba 2": tiny("Mamba2ForCausalLM", **ssm, num_heads=8, head_dim=8, n_groups=1, chunk_size=8),
        "FalconMamba": tiny("FalconMambaForCausalLM", **ssm),
        "RWKV": tiny(
            "RwkvForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=32,
            num_hidden_layers=2,
            context_length=64,
            rescale_every=0,
        ),
        "RecurrentGemma": tiny(
            "RecurrentGemmaForCausalLM", **{**TEXT, "num_hidden_layers": 3, "num_key_value_heads": 1}, lru_width=32
        ),
        "Jamba": tiny("JambaForCausalLM", **jamba, use_mamba_kernels=False, mamba_dt_rank=4),
        "Qwen3-Next": tiny("Qwen3NextForCausalLM", **qwen, **delta, layer_types=["linear_attention", "full_attention"]),
        "Falcon-H1": tiny(
            "FalconH1ForCausalLM", **TEXT, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, head_dim=8
        ),
    }
    return {name: Kind(group, network) for name, network in networks.items()}


def _multimodal() -> dict[str, Kind]:
    group = "Multimodal"
    gemma = {**TEXT, "head_dim": 8}
    networks = {
        "LLaVA": tiny(
            "LlavaForConditionalGeneration",
            text_config={"model_type": "llama", **TEXT},
            vision_config={"model_type": "clip_vision_model", **VISION},
            image_token_index=35,
        ),
        "LLaVA-NeXT": tiny(
            "LlavaNextForConditionalGeneration",
            text_config={"model_type": "llama", **TEXT},
            vision_config={"model_type": "clip_vision_model", **VISION},
            image_token_index=35,
        ),
        "Qwen2-VL": _qwen_vl("Qwen2VL", embed_dim=32, hidden_size=32),
        "Qwen2.5-VL": _qwen_vl(
            "Qwen2_5_VL", hidden_size=32, intermediate_size=48, out_hidden_size=32, fullatt_block_indexes=[1]
        ),
        "Qwen3-VL": _qwen_vl(
            "Qwen3VL",
            hidden_size=32,
            intermediate_size=48,
            out_hidden_size=32,
            deepstack_visual_indexes=[0],
            num_position_embeddings=16,
        ),
        "Gemma 3, multimodal": tiny(
            "Gemma3ForConditionalGeneration",
            text_config=gemma,
            vision_config={"model_type": "siglip_vision_model", **VISION},
            mm_tokens_per_image=4,
            image_token_index=35,
            boi_token_index=36,
            eoi_token_index=37,
        ),
        "PaliGemma": tiny(
            "PaliGemmaForConditionalGeneration",
            text_config={"model_type": "gemma", **gemma},
            vision_config={"model_type": "siglip_vision_model", **VISION},
            projection_dim=32,
            image_token_index=35,
        ),
        "Idefics3 (SmolVLM)": tiny(
            "Idefics3ForConditionalGeneration",
            text_config={"model_type": "llama", **TEXT},
            vision_config=VISION,
            image_token_id=35,
            scale_factor=2,
        ),
        "Mistral 3": tiny(
            "Mistral3ForConditionalGeneration",
            text_config={"model_type": "mistral", **TEXT, "head_dim": 8},
            vision_config={"model_type": "pixtral", **VISION},
            image_token_index=35,
        ),
        "InternVL": tiny(
            "InternVLForConditionalGeneration",
            text_config={"model_type": "qwen2", **TEXT},
            vision_config={**VISION, "image_size": [32, 32], "patch_size": [8, 8]},
            image_token_id=35,
        ),
        "BLIP-2": tiny(
            "Blip2ForConditionalGeneration",
            text_config={"model_type": "opt", **ENCODER, "ffn_dim": 48, "word_embed_proj_dim": 32},
            vision_config=VISION,
            qformer_config={**ENCODER, "encoder_hidden_size": 32},
            num_query_tokens=4,
            image_token_index=35,
        ),
    }
    networks |= {
        "Qwen3-VL-MoE": _qwen_vl(
            "Qwen3VLMoe",
            text={**MOE, "num_experts": 4, "head_dim": 8},
            hidden_size=32,
            intermediate_size=48,
            out_hidden_size=32,
            deepstack_visual_indexes=[0],
            num_position_embeddings=16,
        ),
        "ERNIE 4.5 VL MoE": tiny(
            "Ernie4_5_VLMoeForConditionalGeneration",
            text_config={
                **TEXT,
                "moe_intermediate_size": [24, 16],
                "moe_k": 2,
                "moe_num_experts": 4,
                "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4},
            },
            vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "patch_size": 8},
        ),
        "Kimi K2.5": tiny(
            "Kimi_K25ForConditionalGeneration",
            text_config={"model_type": "deepseek_v3", **MOE, **LATENT},
            vision_config={
                "hidden_size": 32,
                "intermediate_size": 48,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "patch_size": 8,
                "pos_emb_height": 4,
                "pos_emb_width": 4,
            },
            projection_hidden_size=32,
            image_token_id=35,
            video_token_id=36,
            vision_start_token_id=37,
            vision_end_token_id=38,
        ),
    }
    kinds = {name: Kind(group, network) for name, network in networks.items()}
    # PaliGemma's attention sees the tokens that it is asked for.
    kinds["PaliGemma"] = Kind(group, networks["PaliGemma"], tokens, "embedding_retrieval")
    return {**kinds, "BLIP-2": Kind(group, networks["BLIP-2"], text_and_pixels, "callable")}


def _seeing() -> dict[str, Kind]:
    group = "Vision"
    clip = {"text_config": {**ENCODER, **TOKENS}, "vision_config": VISION, "projection_dim": 16}
    stages = {"num_channels": 3, "hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2}
    swin = {"image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
    resnet = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1], "layer_type": "basic"}
    networks: dict[str, tuple[partial[Any], Inputs]] = {
        "ViT": (tiny("ViTForImageClassification", **VISION, num_labels=5), pixels),
        "DeiT": (tiny("DeiTForImageClassification", **VISION, num_labels=5), pixels),
        "BEiT": (tiny("BeitForImageClassification", **VISION, num_labels=5), pixels),
        "DINOv2": (tiny("Dinov2ForImageClassification", **VISION, num_labels=5), pixels),
        "CLIP": (tiny("CLIPModel", **clip), text_and_pixels),
        "SigLIP": (tiny("SiglipModel", text_config=ENCODER, vision_config=VISION), text_and_pixels),
        "ConvNeXt": (tiny("ConvNextForImageClassification", **stages, num_labels=5), pixels),
        "Swin": (tiny("SwinForImageClassification", **swin, num_labels=5), pixels),
        "ResNet": (tiny("ResNetForImageClassification", **resnet, num_labels=5), pixels),
    }
    tasks = {"SigLIP": "callable"}
    return {
        name: Kind(group, network, inputs, tasks.get(name, "image_classification"))
        for name, (network, inputs) in networks.items()
    }


def _hearing() -> dict[str, Kind]:
    group = "Audio"
    speech = {**SIZE, **HEADS, **CONV, "num_conv_pos_embedding_groups": 2, **TOKENS}
    whisper = {**SEQ2SEQ, "num_mel_bins": 8, "max_source_positions": 20, "max_target_positions": 16}
    whisper.pop("max_position_embeddings")
    layers = {"conv_bias": False, "num_feat_extract_layers": 2}
    return {
        "Wav2Vec2": Kind(group, tiny("Wav2Vec2ForCTC", **speech, **layers), samples, "callable"),
        "HuBERT": Kind(group, tiny("HubertForCTC", **speech, **layers), samples, "callable"),
        "Whisper": Kind(group, tiny("WhisperForConditionalGeneration", **whisper), spectrum, "callable"),
    }


def _translating() -> dict[str, Kind]:
    group = "Encoder-decoder"
    t5 = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    networks = {
        "T5": tiny("T5ForConditionalGeneration", **t5, decoder_start_token_id=0),
        "T5 v1.1": tiny(
            "T5ForConditionalGeneration",
            **t5,
            decoder_start_token_id=0,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
        ),
        "BART": tiny("BartForConditionalGeneration", **SEQ2SEQ),
        "mBART": tiny("MBartForConditionalGeneration", **SEQ2SEQ),
        "Pegasus": tiny("PegasusForConditionalGeneration", **SEQ2SEQ),
        "Marian": tiny("MarianMTModel", **SEQ2SEQ),
    }
    return {name: Kind(group, network, to_and_from, "callable") for name, network in networks.items()}


def _encoders() -> dict[str, Kind]:
    group = "Encoders"
    distil = {"vocab_size": VOCABULARY, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
    modern = {**ENCODER, **TOKENS, "cls_token_id": 1, "sep_token_id": 2, "global_attn_every_n_layers": 2}
    electra = {**ENCODER, "embedding_size": 16}
    networks = {
        "BERT": tiny("BertForSequenceClassification", **ENCODER, num_labels=3),
        "BERT, masked words": tiny("BertForMaskedLM", **ENCODER),
        "RoBERTa": tiny("RobertaForSequenceClassification", **{**ENCODER, **TOKENS}, num_labels=3),
        "DistilBERT": tiny("DistilBertForSequenceClassification", **distil, num_labels=3),
        "ModernBERT": tiny("ModernBertForSequenceClassification", **modern, num_labels=3),
        "DeBERTa-v2": tiny("DebertaV2ForSequenceClassification", **ENCODER, num_labels=3),
        "NomicBERT": tiny("NomicBertForMaskedLM", **ENCODER),
        "GTE": tiny("GteForMaskedLM", **ENCODER),
        "ELECTRA": tiny("ElectraForSequenceClassification", **electra, num_labels=3),
        "Llama, classifier": tiny("LlamaForSequenceClassification", **TEXT, num_labels=3),
    }
    return {
        name: Kind(
            group,
            network,
            tokens,
            "sequence_classification" if "Classification" in network.args[0] else "embedding_retrieval",
        )
        for name, network in networks.items()
    }


KINDS: dict[str, Kind] = {
    **_decoders(),
    **_mixtures(),
    **_recurrent(),
    **_multimodal(),
    **_seeing(),
    **_hearing(),
    **_translating(),
    **_encoders(),
}
