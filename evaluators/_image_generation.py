"""Continuations of prompts with images, by the model's processor and `generate` of transformers, one at a time."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from evaluators._endings import Endings, Generation, NumberWatch, StopStrings, pad_token
from evaluators._engines import engine_of
from evaluators._generation_settings import end_tokens
from evaluators._tokens import max_length
from evaluators.base import EvaluatorError, LanguageModel

#: Where lm-eval's prompts have an image.
PLACEHOLDER = "<image>"
#: Bytes of inputs in each worker from which on `check` warns.
MUCH = 2**30


class ImageGenerator:
    """Continues fixed prompts with images under any weights.

    A prompt's continuation does not depend on the others: none is padded.

    Args:
        model: The network, of a class that reads images, and its tokenizer.
        processor: A transformers processor; see `read_processor`.
        prompts: Texts with `<image>` in the place of each image, or as the processor's chat template renders them.
        images: The images of each prompt, as Pillow images.
        max_new_tokens: Maximum number of tokens to write.
        stop: Strings that end a continuation and are removed.
        chat: Whether the chat template has put the model's own image tokens into the prompts.
        length: Context length in tokens; None for the model's own.
        limited_by: Option that max_new_tokens comes from.
        options: Further arguments of `transformers.GenerationMixin.generate`.

    Raises EvaluatorError for a network that reads no images and for prompts that do not fit.
    """

    def __init__(
        self,
        model: LanguageModel,
        processor: Any,
        prompts: Sequence[str],
        images: Sequence[Sequence[Any]],
        max_new_tokens: int,
        stop: Sequence[str],
        *,
        chat: bool = False,
        length: int | None = None,
        limited_by: str = "max_new_tokens",
        options: Mapping[str, Any] | None = None,
    ) -> None:
        network = model.network
        if engine_of(network) is not None:
            raise EvaluatorError(
                "Prompts with images are continued by the network itself: remove `backend` from the search file."
            )
        own = getattr(processor, "boi_token", None) or _image_token(network, model.tokenizer)
        self._tokenizer = model.tokenizer
        self._max_new_tokens = max_new_tokens
        self._endings = Endings(model.tokenizer, stop)
        self._options = dict(options or {})
        room = max_length(network, model.tokenizer, length) - max_new_tokens
        self._inputs = []
        for prompt, seen in zip(prompts, images, strict=True):
            if not chat:
                _check_places(prompt, len(seen))
            found = _encoded(processor, prompt if chat else prompt.replace(PLACEHOLDER, own), seen)
            width = found["input_ids"].shape[1]
            if width > room:
                raise EvaluatorError(
                    f"The prompt {prompt[:40]!r} has {width} tokens with its images, and {limited_by}: "
                    f"{max_new_tokens} leaves {room} of those that the model reads; reduce it."
                )
            self._inputs.append(found)

    @property
    def samples(self) -> bool:
        """Whether tokens are sampled, so that repeated runs differ."""
        return bool(self._options.get("do_sample", False))

    @property
    def notes(self) -> tuple[str, ...]:
        """A warning about much memory."""
        size = sum(each.nbytes for one in self._inputs for each in one.values())
        return (f"the images take {size / 2**30:.1f} GiB in each worker; set `limit`",) if size > MUCH else ()

    @torch.no_grad()
    def run(self, network: Any, which: Sequence[int]) -> list[Generation]:
        """Return the continuations of the prompts `which`, in that order."""
        return [self._generate(network, self._inputs[prompt]) for prompt in which]

    def _generate(self, network: Any, inputs: Mapping[str, torch.Tensor]) -> Generation:
        width = inputs["input_ids"].shape[1]
        watch = NumberWatch(1, network.device)
        written = network.generate(
            **{name: _placed(each, network) for name, each in inputs.items()},
            max_new_tokens=self._max_new_tokens,
            pad_token_id=pad_token(self._tokenizer),
            use_cache=True,
            stopping_criteria=StoppingCriteriaList([StopStrings(self._endings, width)] if self._endings.stop else []),
            logits_processor=LogitsProcessorList([watch]),
            **{"do_sample": False, **self._options},
        )
        ends = end_tokens(network, self._tokenizer)
        return self._endings.finish(written[0, width:].tolist(), ends, not bool(watch.broken.any()))


@lru_cache(maxsize=4)  # reading takes seconds, and preparing prompts asks several times
def read_processor(folder: str, tokenizer: Any) -> Any:
    """Return the processor of a model folder, with Pillow for its images.

    tokenizer: that of the merges. Raises EvaluatorError where it cannot be read, reads no images, or has other tokens.
    """
    from transformers import AutoProcessor

    try:
        found = AutoProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False, local_files_only=True)
    except (ImportError, KeyError, OSError, TypeError, ValueError) as error:
        raise EvaluatorError(f"{folder}: transformers cannot read the processor: {error}") from error
    if not hasattr(found, "image_processor") or not hasattr(found, "tokenizer"):
        raise EvaluatorError(
            f"{folder} has no processor of images and text, but {type(found).__name__}; expected the folder of a model "
            "that reads images, with processor_config.json or preprocessor_config.json."
        )
    if found.tokenizer.get_vocab() != tokenizer.get_vocab():
        raise EvaluatorError(
            f"{folder}: its tokenizer has other tokens than the merges have; use the base's processor."
        )
    return found


def images(visual: Any) -> list[Any]:
    """Return the images that `doc_to_image` gives for a document, as Pillow images.

    Raises EvaluatorError for anything else, such as paths.
    """
    found = list(visual) if isinstance(visual, list | tuple) else [visual]
    for each in found:
        if not hasattr(each, "convert") or not hasattr(each, "tobytes"):
            raise EvaluatorError(
                f"doc_to_image gives {str(each)[:60]!r}; expected a column of images, as in data of the format "
                "imagefolder or parquet, or a list of such columns."
            )
    return found


def chat_renderer(processor: Any) -> Callable[..., str]:
    """Return a function that renders lm-eval's messages by the processor's template, `<image>` as an image."""

    def render(messages: Sequence[Mapping[str, str]], add_generation_prompt: bool = True) -> str:
        found = [{**message, "content": list(_parts(message["content"]))} for message in messages]
        return str(
            processor.apply_chat_template(
                found, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
            )
        )

    return render


def _parts(text: str) -> list[dict[str, str]]:
    """Return the parts of a message."""
    first, *others = text.split(PLACEHOLDER)
    found = [{"type": "text", "text": first}] if first else []
    for other in others:
        found.append({"type": "image"})
        found += [{"type": "text", "text": other}] if other else []
    return found


def _image_token(network: Any, tokenizer: Any) -> str:
    """Return the token in the place of an image. Raises EvaluatorError for a network that reads no images."""
    config = getattr(network, "config", None)
    number = getattr(config, "image_token_id", None) or getattr(config, "image_token_index", None)
    if number is None:
        raise EvaluatorError(
            f"{type(network).__name__} reads no images: its configuration has no image_token_id. A task with images "
            "needs a model of a class such as LlavaForConditionalGeneration."
        )
    return str(tokenizer.decode([number]))


def _check_places(prompt: str, n_images: int) -> None:
    if prompt.count(PLACEHOLDER) != n_images:
        raise EvaluatorError(
            f"The prompt {prompt[:40]!r} has {PLACEHOLDER} {prompt.count(PLACEHOLDER)} times, and there are {n_images} "
            "images; expected it once for each image."
        )


def _encoded(processor: Any, text: str, images: Sequence[Any]) -> dict[str, torch.Tensor]:
    """Return the inputs of one prompt: tokens, (1, n_tokens), and pixels as the model's class expects them."""
    try:
        found = processor(text=[text], images=[image.convert("RGB") for image in images], return_tensors="pt")
    except (AttributeError, IndexError, OSError, TypeError, ValueError) as error:
        raise EvaluatorError(f"The processor cannot read the images of the prompt {text[:40]!r}: {error}") from error
    return {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}


def _placed(values: torch.Tensor, network: Any) -> torch.Tensor:
    """Return inputs on the network's device, real numbers in its type."""
    return values.to(network.device, network.dtype if values.is_floating_point() else values.dtype)
