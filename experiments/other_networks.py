"""`python -m experiments.other_networks`: a vision transformer, a CLIP and a BERT, each with three experts and tasks.

All are tiny and learn from generated examples. The vision transformer tells shapes apart, which each expert has seen
drawn in another way. CLIP finds the prompt of an image's color, shape or size. BERT reads colors and says which comes
first, comes last or is the most frequent one, each expert with a head of its own. A minute or two on one core.
"""

import argparse
import copy
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from evaluators.base import FloatArray

SIDE, BATCH, N_TRAINING, N_EVALUATION = 32, 64, 4000, 300
BASE_RATE, EXPERT_RATE = 2e-3, 1e-3
SHAPES = ("circle", "square", "triangle")
COLORS: Mapping[str, tuple[float, float, float]] = {
    "red": (0.9, 0.2, 0.2),
    "green": (0.2, 0.8, 0.3),
    "blue": (0.2, 0.3, 0.9),
}
SIZES: Mapping[str, float] = {"small": 5.0, "medium": 8.0, "large": 12.0}
#: How an expert's shapes are drawn.
STYLES = ("filled", "outlined", "noisy")
#: What an expert of CLIP names.
ATTRIBUTES: Mapping[str, Sequence[str]] = {"shape": SHAPES, "color": tuple(COLORS), "size": tuple(SIZES)}
#: What an expert of BERT says of a row of colors.
QUESTIONS: Mapping[str, Callable[[Sequence[int]], int]] = {
    "first": lambda row: row[0],
    "last": lambda row: row[-1],
    "most": lambda row: int(np.bincount(row, minlength=len(COLORS)).argmax()),
}
FILLERS = ("a", "and", "then", "of", "the")
Batch = Callable[[np.random.Generator], Tensor]


def draw(shape: str, color: str, size: str, style: str, rng: np.random.Generator) -> FloatArray:
    """Return an image, (SIDE, SIDE, 3) from 0 to 1, with the shape somewhere on it."""
    radius = SIZES[size] * rng.uniform(0.9, 1.1)
    middle = SIDE / 2 + rng.uniform(-3, 3, 2)
    y, x = np.mgrid[:SIDE, :SIDE] - middle[:, None, None]
    distance = {
        "circle": np.hypot(x, y),
        "square": 1.1 * np.maximum(np.abs(x), np.abs(y)),
        "triangle": np.maximum(1.2 * y, 0.9 * (2 * np.abs(x) - y) / 1.1),
    }[shape]
    inside = (distance < radius) & ((distance > radius - 2) if style == "outlined" else True)
    image = np.where(inside[:, :, None], np.array(COLORS[color]), 0.95 if style != "noisy" else 0.35)
    return np.clip(image + rng.normal(0, 0.12 if style == "noisy" else 0.05, image.shape), 0, 1)


def drawn(rng: np.random.Generator, n: int, style: str | None = None) -> tuple[FloatArray, list[dict[str, str]]]:
    """Return images (n, SIDE, SIDE, 3), and the shape, color, size and style of each. style: the one of all."""
    said = [
        {name: str(rng.choice(values)) for name, values in (*ATTRIBUTES.items(), ("style", STYLES))} for _ in range(n)
    ]
    said = [each | ({} if style is None else {"style": style}) for each in said]
    images = [draw(each["shape"], each["color"], each["size"], each["style"], rng) for each in said]
    return np.array(images), said


def pixels(images: FloatArray) -> Tensor:
    """Return images as the networks take them, (n, 3, SIDE, SIDE) from -1 to 1, as the processor makes them."""
    rounded = np.round(255 * images.transpose(0, 3, 1, 2)) / 255
    return torch.tensor(2 * rounded - 1, dtype=torch.float32)


def trained(network: nn.Module, loss: Batch, steps: int, rate: float, seed: int) -> nn.Module:
    """Train in place: AdamW, the rate falling as a cosine. loss: of a batch that it draws."""
    rng = np.random.Generator(np.random.Philox(seed))
    optimizer = torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=0.01)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimizer.zero_grad(set_to_none=True)
        loss(rng).backward()
        optimizer.step()
    return network.eval()


def word_tokenizer(words: Sequence[str], *, begins: bool) -> PreTrainedTokenizerFast:
    """Return a tokenizer of whole words, with [SEP] at the end. begins: whether [CLS] comes first."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer = Tokenizer(WordLevel({word: n for n, word in enumerate([*special, *words])}, unk_token="[UNK]"))  # noqa: S106
    tokenizer.pre_tokenizer = Whitespace()
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]" if begins else "$A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    named = dict(
        zip(("pad_token", "unk_token", "cls_token", "sep_token", "eos_token"), [*special, "[SEP]"], strict=True)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)


def make_vit(folder: Path, say: Callable[[str], None], share: float = 1.0) -> None:
    """A vision transformer that saw all styles for a while, and experts of one style each."""
    n_training = math.ceil(share * N_TRAINING)

    def loss(network: nn.Module, style: str | None) -> Batch:
        images, said = drawn(np.random.Generator(np.random.Philox(6)), n_training, style)
        seen, right = pixels(images), torch.tensor([SHAPES.index(each["shape"]) for each in said])

        def of(rng: np.random.Generator) -> Tensor:
            rows = torch.tensor(rng.integers(len(right), size=BATCH))
            return nn.functional.cross_entropy(network(pixel_values=seen[rows]).logits, right[rows])

        return of

    base = ViTForImageClassification(
        ViTConfig(
            image_size=SIDE, patch_size=4, hidden_size=32, num_hidden_layers=3, num_attention_heads=2,
            intermediate_size=64, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            id2label=dict(enumerate(SHAPES)), label2id={name: n for n, name in enumerate(SHAPES)},
        )
    )  # fmt: skip
    _make(folder, say, base, {style: style for style in STYLES}, loss, (400, 300), share)
    for style in STYLES:
        _write_images(folder / "data" / style, "shape", style)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / "base")


def make_clip(folder: Path, say: Callable[[str], None], share: float = 1.0) -> None:
    """A CLIP that saw all three attributes for a while, and experts that name one of them."""
    words = ["a", "photo", "of", "thing", *SHAPES, *COLORS, *SIZES]
    tokenizer = word_tokenizer(words, begins=False)
    n_training = math.ceil(share * N_TRAINING)
    images, said = drawn(np.random.Generator(np.random.Philox(6)), n_training)
    seen = pixels(images)
    right = {name: torch.tensor([values.index(each[name]) for each in said]) for name, values in ATTRIBUTES.items()}
    prompts = {name: tokenizer([prompt(name, value) for value in values]) for name, values in ATTRIBUTES.items()}

    def loss(network: nn.Module, attribute: str | None) -> Batch:
        def of(rng: np.random.Generator) -> Tensor:
            name = attribute or str(rng.choice(list(ATTRIBUTES)))
            rows = torch.tensor(rng.integers(n_training, size=BATCH))
            read = {key: torch.tensor(value) for key, value in prompts[name].items() if key != "token_type_ids"}
            likeness = network(pixel_values=seen[rows], **read).logits_per_image
            return nn.functional.cross_entropy(likeness, right[name][rows])

        return of

    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    text = {"vocab_size": len(tokenizer), "eos_token_id": 3, "pad_token_id": 0, "bos_token_id": 2, **shape}
    vision = {"image_size": SIDE, "patch_size": 4, **shape}
    base = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=32))
    _make(folder, say, base, {name: name for name in ATTRIBUTES}, loss, (400, 300), share)
    for name in ATTRIBUTES:
        _write_images(folder / "data" / name, name, None)
    ViTImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")


def prompt(attribute: str, value: str) -> str:
    """Return the text that CLIP compares with images."""
    return f"a photo of a {value}" if attribute == "shape" else f"a photo of a {value} thing"


def make_bert(folder: Path, say: Callable[[str], None], share: float = 1.0) -> None:
    """A BERT that answered all three questions for a while with three heads, and experts of one question each."""
    tokenizer = word_tokenizer([*COLORS, *FILLERS], begins=True)
    heads = nn.ModuleDict()

    def loss(network: Any, question: str | None) -> Batch:
        def of(rng: np.random.Generator) -> Tensor:
            name = question or str(rng.choice(list(QUESTIONS)))
            texts, rows = color_rows(rng, BATCH)
            read = tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False)
            network.classifier = heads[name]
            right = torch.tensor([QUESTIONS[name](row) for row in rows])
            return nn.functional.cross_entropy(network(**read).logits, right)

        return of

    base = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=32, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
            id2label=dict(enumerate(COLORS)), label2id={name: n for n, name in enumerate(COLORS)},
        )
    )  # fmt: skip
    heads.update({name: copy.deepcopy(base.classifier) for name in QUESTIONS})
    base.heads = heads  # trained with the body, and not saved with it
    _make(folder, say, base, {name: name for name in QUESTIONS}, loss, (400, 200), share, without="heads")
    (folder / "data").mkdir(exist_ok=True)
    for n, (name, answer) in enumerate(QUESTIONS.items()):
        texts, rows = color_rows(np.random.Generator(np.random.Philox([9, n])), N_EVALUATION)
        lines = [{"text": text, "label": list(COLORS)[answer(row)]} for text, row in zip(texts, rows, strict=True)]
        (folder / "data" / f"{name}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    for name in ("base", *QUESTIONS):
        tokenizer.save_pretrained(folder / name)


def color_rows(rng: np.random.Generator, n: int) -> tuple[list[str], list[list[int]]]:
    """Return texts in which one color is the most frequent one, and the colors of each in their order."""
    texts: list[str] = []
    rows: list[list[int]] = []
    while len(rows) < n:
        row = rng.integers(len(COLORS), size=int(rng.integers(4, 9))).tolist()
        counts = np.sort(np.bincount(row, minlength=len(COLORS)))
        if counts[-1] > counts[-2]:
            rows.append(row)
            texts.append(" ".join(f"{rng.choice(FILLERS)} {list(COLORS)[color]}" for color in row))
    return texts, rows


def _make(
    folder: Path,
    say: Callable[[str], None],
    base: Any,
    experts: Mapping[str, str],
    loss: Callable[[Any, str | None], Batch],
    steps: tuple[int, int],
    share: float,
    without: str | None = None,
) -> None:
    """Train a base on everything and an expert on each part, and save them.

    steps: of the base and of an expert; share: of them that are taken. without: an attribute not to save.
    """
    of_base, of_expert = (math.ceil(share * each) for each in steps)
    say(f"{folder.name}: training the base, {of_base} steps")
    trained(base, loss(base, None), of_base, BASE_RATE, seed=1)
    networks = {"base": base}
    for name, part in experts.items():
        say(f"{folder.name}: training {name}, {of_expert} steps")
        expert = copy.deepcopy(base).train()
        networks[name] = trained(expert, loss(expert, part), of_expert, EXPERT_RATE, seed=2)
    for name, network in networks.items():
        if without is not None:
            delattr(network, without)
        network.save_pretrained(folder / name)


def _write_images(folder: Path, attribute: str, style: str | None) -> None:
    """Write images into a folder for each value of an attribute."""
    images, said = drawn(np.random.Generator(np.random.Philox([8, len(folder.name)])), N_EVALUATION, style)
    for n, (image, each) in enumerate(zip(images, said, strict=True)):
        place = folder / each[attribute]
        place.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.round(255 * image).astype(np.uint8)).save(place / f"{n:03d}.png")


MAKERS = {"vit": make_vit, "clip": make_clip, "bert": make_bert}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models/other"))
    parser.add_argument("--only", nargs="*", choices=list(MAKERS), default=list(MAKERS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for name in given.only:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            MAKERS[name](given.out / name, print)


if __name__ == "__main__":
    main()
