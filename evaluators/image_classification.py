"""Classification of images by the model's classification head, or by CLIP from the names of the classes.

tasks:
  cars:
    evaluator: image_classification
    folder: data/cars              # cars/CLASS/IMAGE.jpg
    processor: models/base         # preprocessor_config.json
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize
from transformers import AutoTokenizer
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES

from evaluators._forward import numbers
from evaluators._heads import (
    ExpertHead,
    Label,
    LabelScore,
    check_label_score,
    check_names,
    losses_of,
    read,
    scores_of,
)
from evaluators._images import Image, check_processor, pixels, read_class_folders, read_parquet
from evaluators.base import NO_REFERENCES, Evaluator, EvaluatorError, Scores, content_ids

CLASSES = frozenset(
    name
    for names in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES.values()
    for name in ((names,) if isinstance(names, str) else names)
)
#: The class of networks that compare images with texts.
CLIP = "CLIPModel"
#: Bytes of pixels in each worker from which on `check` warns.
MUCH = 2**30


class ImageClassification(Evaluator):
    """1 if the right class is the likeliest one, else 0; log-probabilities of all classes in `Scores.choices`.

    With a head, the network is the ...ForImageClassification that config.json names. With `templates`, it is a
    CLIPModel, and an image's class is that whose prompts are most like it; every candidate reads the prompts again.

    Args:
        folder: Folder with a folder of images for each class.
        file: Parquet file with images and labels, as Hugging Face data sets have them, instead of a folder.
        columns: Names of the file's columns, where they are not `image` and `label`.
        processor: Model folder with preprocessor_config.json, and for `templates` the tokenizer.
        names: Folder or label -> name of its class, in the prompts or among the head's outputs; by default the same.
        templates: Prompts with {} for the name of a class, such as "a photo of a {}."; their features are averaged.
        labels: Names of the head's outputs in their order; by default `id2label` of the base's config.json.
        head: Name of the model in the search file, or "base", whose classification head replaces that of the merge.
        score: What the search follows: "accuracy"; "probability" of the right class, or "logprob", its logarithm in
            nats. Constraints, selection and report use the accuracy.
        limit: Use at most N images, taken from all classes in turn.
        batch_images: Images, or prompts, per forward pass.
    """

    needs_language_model = False
    needs_network = True

    def __init__(
        self,
        *,
        folder: str | None = None,
        file: str | None = None,
        columns: Mapping[str, str] | None = None,
        processor: str,
        names: Mapping[str, str] | None = None,
        templates: str | Sequence[str] | None = None,
        labels: Sequence[str] | None = None,
        head: str | None = None,
        score: LabelScore = "accuracy",
        limit: int | None = None,
        batch_images: int = 64,
    ) -> None:
        if batch_images < 1:
            raise EvaluatorError(f"batch_images is {batch_images}; expected at least 1.")
        if templates is not None and (head is not None or labels is not None):
            raise EvaluatorError("templates classify without a head: remove `head` and `labels`.")
        self.smooth_score = check_label_score(score)
        outputs, self._batch_images = check_names(labels), batch_images
        check_processor(processor)
        self._processor, self._images = processor, _read(folder, file, columns, limit)
        self._ids = content_ids([image.digest for image in self._images])
        named = _named(sorted({image.kind for image in self._images}), names or {})
        self._kinds = list(dict.fromkeys(named.values()))
        self._labels = [Label(image.name, named[image.kind]) for image in self._images]
        if head is not None and labels is None:
            raise EvaluatorError(
                f"The base's config.json names the outputs of another head than that of {head!r}: set `labels` to the "
                "names of its outputs in their order."
            )
        self._prompts = None if templates is None else _prompts(templates, self._kinds, processor)
        self._head = ExpertHead(head, self._labels, outputs, CLASSES, "image")

    @property
    def example_ids(self) -> tuple[str, ...]:
        """One id per image, of its bytes."""
        return self._ids

    @property
    def experts(self) -> tuple[str, ...]:
        """The model whose head is used, if it is not the merge's."""
        return self._head.experts

    def check_expert(self, expert: str, network: Any) -> None:  # noqa: ARG002 - there is one
        """Check the head of the expert and that it has the classes."""
        self._head.check(network)

    def _learn(self, expert: str, model: Any, rows: Sequence[int]) -> None:  # noqa: ARG002 - of all examples
        self._head.learn(model.network)

    def preflight(self, model: Any) -> tuple[str, ...]:
        """Read the images, and warn about many of them.

        Raises EvaluatorError for images that cannot be read, a network that does not classify images, and classes that
        its head does not have.
        """
        self._check(model.network)
        size = self._pixels.nbytes
        return (f"the images take {size / 2**30:.1f} GiB in each worker; set `limit`",) if size > MUCH else ()

    @torch.no_grad()
    def score(self, model: Any, ids: Sequence[str] | None = None) -> Scores:
        """Run one forward pass per batch of images."""
        rows, right = self.rows(ids), self._right(model.network)
        found = numbers(self._likelihoods(model.network, rows))
        return scores_of([self._ids[row] for row in rows], found, [right[row] for row in rows], self.smooth_score)

    def why_no_loss(self) -> str | None:
        """Return None: every image has a loss."""
        return None

    def loss(self, model: Any, ids: Sequence[str], references: Mapping[str, str] = NO_REFERENCES) -> Tensor:
        """Return the loss of the right class among all of them."""
        rows, right = self.loss_rows(ids, references), self._right(model.network)
        return losses_of(self._likelihoods(model.network, rows), [right[row] for row in rows])

    @cached_property
    def _pixels(self) -> Tensor:
        """The pixel values of all images, (n_images, n_channels, height, width)."""
        return pixels(self._images, self._processor)

    def _check(self, network: Any) -> None:
        """Raise EvaluatorError for a network that cannot classify the images."""
        name = type(network).__name__
        if self._prompts is not None:
            if hasattr(network, "can_generate") and name != CLIP:
                raise EvaluatorError(f"{name} does not compare images with texts: `templates` need a {CLIP}.")
            return
        if name == CLIP:
            raise EvaluatorError(f"{CLIP} has no head that classifies: set `templates`, such as 'a photo of a {{}}.'.")
        self._head.check_merge(network)

    def _right(self, network: Any) -> list[int]:
        """Return the position of each image's class. Raises EvaluatorError for a network that cannot tell it."""
        self._check(network)
        if self._prompts is not None:
            return [self._kinds.index(label.value) for label in self._labels]
        return self._head.right(network)

    def _likelihoods(self, network: Any, rows: Sequence[int]) -> Tensor:
        """Return the log-probabilities of the classes of some images, (n_images, n_classes)."""
        batches = self._batches(self._pixels[torch.tensor(rows)].to(network.device, network.dtype))
        if self._prompts is None:
            return torch.cat([read(network, self._head.parameters, {"pixel_values": batch}) for batch in batches])
        texts = self._text_features(network, batches[0][:1])
        one = {name: each[:1].to(network.device) for name, each in self._prompts.items()}
        seen = torch.cat([network(pixel_values=batch, **one).image_embeds for batch in batches])
        scale: Tensor = network.logit_scale.float().exp()
        return (scale * seen.float() @ texts.T).log_softmax(-1)

    def _text_features(self, network: Any, image: Tensor) -> Tensor:
        """Return the mean feature of each class's prompts, of length 1, (n_classes, width). image: any one image."""
        prompts = {name: self._batches(each.to(network.device)) for name, each in (self._prompts or {}).items()}
        parts = [
            network(pixel_values=image, **dict(zip(prompts, batch, strict=True))).text_embeds
            for batch in zip(*prompts.values(), strict=True)
        ]
        found = torch.cat(parts).float()  # (n_classes * n_templates, width), of length 1
        return normalize(found.reshape(len(self._kinds), -1, found.shape[1]).mean(1), dim=-1)

    def _batches(self, values: Tensor) -> list[Tensor]:
        """Cut a tensor into parts of at most `batch_images` rows."""
        return [values[i : i + self._batch_images] for i in range(0, len(values), self._batch_images)]


def _read(folder: str | None, file: str | None, columns: Mapping[str, str] | None, limit: int | None) -> list[Image]:
    if (folder is None) == (file is None):
        both = "both are set" if folder is not None else "neither is set"
        raise EvaluatorError(f"Images are in a `folder` or in a Parquet `file`: {both}.")
    if folder is None:
        return read_parquet(str(file), limit, columns or {})
    if columns is not None:
        raise EvaluatorError("`columns` are those of a Parquet `file`; a folder has none: remove them.")
    return read_class_folders(folder, limit)


def _named(kinds: Sequence[str], names: Mapping[str, str]) -> dict[str, str]:
    """Return folder or label -> name of its class. Raises EvaluatorError for names of those that no image has."""
    unknown = sorted(set(names) - set(kinds))
    if unknown:
        raise EvaluatorError(f"names has {unknown[0]!r}, which no image has; there are {kinds}.")
    return {kind: str(names.get(kind, kind)) for kind in kinds}


def _prompts(templates: str | Sequence[str], kinds: Sequence[str], processor: str) -> dict[str, Tensor]:
    """Return the tokens of the prompts of every class, those of a class next to each other, with attention mask."""
    found = [templates] if isinstance(templates, str) else list(templates)
    wrong = next((each for each in found if not isinstance(each, str) or each.count("{}") != 1), None)
    if wrong is not None or not found:
        raise EvaluatorError(f"templates has {wrong!r}; expected texts with one {{}} for the name of a class.")
    if not (Path(processor) / "tokenizer.json").is_file():
        raise EvaluatorError(f"{processor}: tokenizer.json missing; `templates` need the tokenizer of the model.")
    tokenizer = AutoTokenizer.from_pretrained(processor, trust_remote_code=False, local_files_only=True)
    texts = [each.replace("{}", kind.replace("_", " ")) for kind in kinds for each in found]
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}
