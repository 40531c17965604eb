"""A tiny random LLaVA with its processor in a folder, and a local lm-eval task on generated pictures."""

from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import yaml
from transformers import AutoTokenizer, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from tests.evaluators.tiny_llama import LLAMA, LOUD, TinyModel, character_tokenizer, write_lines

SIDE, PATCH = 16, 8
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}<assistant>"
)
COLORS = {"red": (255, 0, 0), "blue": (0, 0, 255)}


def build_llava(folder: Path, seed: int) -> TinyModel:
    """A random model, saved into `folder` with processor and tokenizer, and loaded again."""
    tokenizer = character_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    eyes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        text_config={"model_type": "llama", "vocab_size": len(tokenizer), **LLAMA, **LOUD, **ends},
        vision_config={"model_type": "clip_vision_model", **eyes, "image_size": SIDE, "patch_size": PATCH},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = LlavaForConditionalGeneration(config)
        for parameter in network.model.vision_tower.parameters():  # so that pictures change what is written
            torch.nn.init.normal_(parameter, std=0.5)
    network.save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    eye = CLIPImageProcessorPil(size=size, crop_size=size)
    processor = LlavaProcessor(eye, tokenizer, PATCH, "default", CHAT, num_additional_image_tokens=1)
    processor.save_pretrained(folder)
    loaded = LlavaForConditionalGeneration.from_pretrained(folder).eval()
    return TinyModel(loaded, AutoTokenizer.from_pretrained(folder), folder)


def write_pictures(folder: Path, count: int = 6) -> Path:
    """An imagefolder with metadata: pictures of one color and noise, a question and its answer."""
    draw = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    folder.mkdir(parents=True)
    for number in range(count):
        color = list(COLORS)[number % 2]
        pixels = np.clip(np.array(COLORS[color]) + draw.normal(0, 60, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "question": "What color?", "answer": color})
    write_lines(folder / "metadata.jsonl", rows)
    return folder


def write_picture_task(folder: Path, **changes: Any) -> Path:
    """A task file with pictures beside it. changes: keys to replace."""
    pictures = write_pictures(folder.absolute() / "pictures")
    config = {
        "task": "colors",
        "dataset_path": "imagefolder",
        "dataset_kwargs": {"data_dir": str(pictures), "cache_dir": str(folder / "cache")},
        "test_split": "train",
        "output_type": "generate_until",
        "doc_to_image": ["image"],
        "doc_to_text": "<image>{{question}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 8, "do_sample": False},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
        **changes,
    }
    file = folder / "colors.yaml"
    file.write_text(yaml.safe_dump(config, sort_keys=False))
    return file
