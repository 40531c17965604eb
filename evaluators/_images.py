"""Images in class folders, and the pixels that an image processor makes of them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evaluators._examples import check_limit
from evaluators.base import EvaluatorError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"})
PROCESSOR = "preprocessor_config.json"


@dataclass(frozen=True)
class Image:
    """An image file: its class, which is the name of its folder, and a hash of its bytes."""

    path: Path
    kind: str
    digest: str


def read_class_folders(folder: str, limit: int | None) -> list[Image]:
    """Return the images in the class folders of a folder: the first of each class, the second of each, and so on.

    limit: maximum number of images; None for all. Raises EvaluatorError if there are none, or those of one class only.
    """
    check_limit(limit)
    place = Path(folder)
    if not place.is_dir():
        raise EvaluatorError(f"{folder} is not a folder; expected one with a folder of images for each class.")
    classes = sorted(each for each in place.iterdir() if each.is_dir() and not each.name.startswith("."))
    files = [sorted(file for file in each.iterdir() if file.suffix.lower() in SUFFIXES) for each in classes]
    count = sum(map(bool, files))
    if count < 2:
        raise EvaluatorError(
            f"{folder} has {count} folders with images ({', '.join(sorted(SUFFIXES))}); expected at least two, one for "
            "each class."
        )
    listed = [file for round_ in zip_longest(*files) for file in round_ if file is not None][:limit]
    return [Image(file, file.parent.name, hashlib.sha256(file.read_bytes()).hexdigest()) for file in listed]


def check_processor(folder: str) -> None:
    """Raise EvaluatorError for a folder without the settings of an image processor, or without Pillow."""
    if not (Path(folder) / PROCESSOR).is_file():
        raise EvaluatorError(f"{folder}: {PROCESSOR} missing; expected a model folder with its image processor.")
    try:
        import PIL.Image  # noqa: F401 - an extra: only images need it
    except ImportError as error:
        raise EvaluatorError("Images need Pillow: pip install 'evomerge[images]'.") from error


def pixels(images: Sequence[Image], folder: str) -> Tensor:
    """Return the pixel values of images, (n_images, n_channels, height, width), by the image processor of a folder.

    Pillow resizes, also where torchvision is installed, so that pixels do not depend on what is.

    Raises:
        EvaluatorError: An image or the processor cannot be read, or the processor makes images of several sizes.
    """
    import PIL.Image
    from transformers import AutoImageProcessor

    try:
        processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", trust_remote_code=False, local_files_only=True
        )
    except (ImportError, KeyError, OSError, ValueError) as error:
        raise EvaluatorError(f"{folder}: transformers cannot read the image processor: {error}") from error
    found: list[Tensor] = []
    for image in images:
        try:
            with PIL.Image.open(image.path) as opened:
                values = _processed(processor, opened.convert("RGB"))
        except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
            raise EvaluatorError(f"{image.path} cannot be read as an image: {error}") from error
        if found and values.shape != found[0].shape:
            raise EvaluatorError(
                f"{image.path} has shape {tuple(values.shape)} after processing, the first image "
                f"{tuple(found[0].shape)}; expected an image processor that makes all images of one size."
            )
        found.append(values)
    return torch.stack(found)


def _processed(processor: Any, image: Any) -> Tensor:
    values: Tensor = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    return values.float()
