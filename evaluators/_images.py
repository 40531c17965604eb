"""Images in class folders or Parquet files, and the pixels that an image processor makes of them."""

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
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
    """An image: its place in words, its class, and a hash of its bytes. source: its file, or its bytes."""

    name: str
    kind: str
    digest: str
    source: Path | bytes

    def opened(self) -> Any:
        """Return the image as Pillow opens it."""
        import PIL.Image

        return PIL.Image.open(self.source if isinstance(self.source, Path) else io.BytesIO(self.source))


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
    return [Image(str(file), file.parent.name, _digest(file.read_bytes()), file) for file in _in_turn(files, limit)]


def read_parquet(file: str, limit: int | None, columns: Mapping[str, str]) -> list[Image]:
    """Return the images of a Parquet file as Hugging Face data sets have them, in the order of `read_class_folders`.

    Classes that are numbers get the names that the file's metadata has for them. limit: maximum number of images; None
    for all. columns: names of the columns "image" and "label", where they are others.

    Raises EvaluatorError for a file that cannot be read, missing columns, rows without an image or label, and fewer
    than two classes.
    """
    import pyarrow
    from pyarrow import parquet

    check_limit(limit)
    unknown = sorted(set(columns) - {"image", "label"})
    if unknown:
        raise EvaluatorError(f"columns has {unknown[0]!r}; expected names for 'image' and 'label'.")
    image, label = columns.get("image", "image"), columns.get("label", "label")
    try:
        schema = parquet.read_schema(file)
        missing = [name for name in (image, label) if name not in schema.names]
        if missing:
            raise EvaluatorError(
                f"{file} has no column {missing[0]!r}, but {', '.join(schema.names)}; name them by `columns`."
            )
        table = parquet.read_table(file, columns=[image, label])
    except (OSError, pyarrow.ArrowInvalid) as error:
        raise EvaluatorError(f"{file} cannot be read as Parquet: {error}") from error
    names = _names_of_labels(schema, label)
    found: dict[str, list[Image]] = {}
    for row, (seen, kind) in enumerate(zip(table[image].to_pylist(), table[label].to_pylist(), strict=True)):
        content = seen.get("bytes") if isinstance(seen, dict) else seen
        if not isinstance(content, bytes) or kind is None:
            raise EvaluatorError(
                f"{file}: row {row} (from 0) has no {'label' if kind is None else 'bytes of an image'}."
            )
        named = names[kind] if isinstance(kind, int) and 0 <= kind < len(names) else str(kind)
        found.setdefault(named, []).append(Image(f"{file}, row {row}", named, _digest(content), content))
    if len(found) < 2:
        raise EvaluatorError(f"{file} has images of {len(found)} class(es); expected at least two.")
    return _in_turn([found[name] for name in sorted(found)], limit)


def _names_of_labels(schema: Any, column: str) -> list[str]:
    """Return the names that a file written by Hugging Face's datasets has for its labels; none without them."""
    try:
        said = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        names = said["info"]["features"][column]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return list(map(str, names)) if isinstance(names, list) else []


def _in_turn(classes: Sequence[Sequence[Any]], limit: int | None) -> list[Any]:
    return [each for round_ in zip_longest(*classes) for each in round_ if each is not None][:limit]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def check_processor(folder: str) -> None:
    """Raise EvaluatorError for a folder without the settings of an image processor, or without Pillow."""
    if not (Path(folder) / PROCESSOR).is_file():
        raise EvaluatorError(f"{folder}: {PROCESSOR} missing; expected a model folder with its image processor.")
    check_pillow()


def check_pillow() -> None:
    """Raise EvaluatorError where Pillow is not installed."""
    try:
        import PIL.Image  # noqa: F401 - an extra: only images need it
    except ImportError as error:
        raise EvaluatorError("Images need Pillow: pip install 'evomerge[images]'.") from error


def digest(image: Any) -> str:
    """Return a hash of a Pillow image: its size, mode and pixels."""
    return hashlib.sha256(f"{image.size} {image.mode} ".encode() + image.tobytes()).hexdigest()


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
            with image.opened() as opened:
                values = _processed(processor, opened.convert("RGB"))
        except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
            raise EvaluatorError(f"{image.name} cannot be read as an image: {error}") from error
        if found and values.shape != found[0].shape:
            raise EvaluatorError(
                f"{image.name} has shape {tuple(values.shape)} after processing, the first image "
                f"{tuple(found[0].shape)}; expected an image processor that makes all images of one size."
            )
        found.append(values)
    return torch.stack(found)


def _processed(processor: Any, image: Any) -> Tensor:
    values: Tensor = processor(images=[image], return_tensors="pt")["pixel_values"][0]
    return values.float()
