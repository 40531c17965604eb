"""Fisher information and second moments of one model on calibration data, in one file for merge methods."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from evaluators._networks import check_continues_text
from evaluators.base import EvaluatorError
from evomerge.durable import explained, sync
from evomerge.merging.models.model import Model
from evomerge.merging.models.shards import SINGLE
from evomerge.merging.moments import MODEL, SOURCE
from evomerge.merging.output.staging import staged
from evomerge.merging.output.writer import Planned, write_weights
from evomerge.prepare.calibration.data import CollectionError, Example, batches
from evomerge.prepare.calibration.gradients import Labels, Squares, backwards
from evomerge.prepare.calibration.layers import Accumulator, Collected, linear_layers, parts, recording, shapes
from evomerge.resident.free_memory import available_memory
from evomerge.resident.resident import ResidentModel
from evomerge.text.sizes import size

KINDS = ("fisher", "gram", "gram_out")
Progress = Callable[[int, int], None]
Shapes = Mapping[str, tuple[int, ...]]
#: Usable fraction of the free memory; activations need the rest.
_SHARE = 0.9
_FEWER = "Collect fewer kinds at a time (--kinds), or load the model in another type (--dtype bfloat16)."


@dataclass(frozen=True)
class Settings:
    """What to collect, and how.

    kinds: some of KINDS. labels: labels of the gradients; sampled ones are keyed by `seed` and example.
    batch_tokens: tokens per pass without gradients; those with gradients take one example at a time.
    """

    kinds: tuple[str, ...] = ("fisher", "gram")
    labels: Labels = "data"
    seed: int = 0
    batch_tokens: int = 4096

    def __post_init__(self) -> None:
        if not self.kinds or any(kind not in KINDS for kind in self.kinds):
            raise CollectionError(f"kinds are {','.join(self.kinds)!r}; expected some of {','.join(KINDS)}.")
        if self.labels not in get_args(Labels):
            raise CollectionError(f"labels are {self.labels!r}; expected {' or '.join(get_args(Labels))}.")
        if self.batch_tokens < 1 or self.seed < 0:
            raise CollectionError(
                f"batch_tokens and seed are {self.batch_tokens} and {self.seed}; expected at least 1 and 0."
            )


def planned(model: ResidentModel, kinds: Sequence[str]) -> Shapes:
    """Return name -> shape of everything to be collected. Raises CollectionError for an unsupported model."""
    check_network(model.network)
    found = shapes(linear_layers(model), kinds)
    if "fisher" in kinds:
        found |= {f"fisher/{name}": tuple(part.place.shape) for name, part in parts(model).items()}
    return found


def check_network(network: Any) -> None:
    """Raise CollectionError for a network that is not a causal language model."""
    try:
        check_continues_text(network)
    except EvaluatorError as error:
        raise CollectionError(str(error)) from error


def sizes(found: Shapes) -> dict[str, int]:
    """Return the bytes of statistics of these shapes, by kind."""
    totals: dict[str, int] = {}
    for name, shape in found.items():
        kind = name.partition("/")[0]
        totals[kind] = totals.get(kind, 0) + 4 * prod(shape)
    return totals


def check_memory(needed: int, device: torch.device, what: str, advice: str = _FEWER) -> None:
    """Raise CollectionError if `needed` bytes do not fit into the free memory of the device."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()
    if needed > _SHARE * free:
        raise CollectionError(
            f"{what} need {size(needed)} of memory, but only {size(free)} are free on {device}. {advice}"
        )


def check_disk(needed: int, folder: Path) -> None:
    """Raise CollectionError if `needed` bytes do not fit on the disk of an existing folder."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise CollectionError(
            f"These statistics need {size(needed)}, but only {size(free)} are free on {folder}. Collect "
            "fewer kinds (--kinds), or write to another disk."
        )


def collect(
    model: ResidentModel, examples: Sequence[Example], settings: Settings, progress: Progress | None = None
) -> Collected:
    """Collect the statistics of a model on examples. progress: called with tokens read and tokens in total.

    fisher: mean over examples of the squared gradient of the log-likelihood of all labels of one. gram, gram_out:
    means over tokens. Raises CollectionError if memory is insufficient or a result is not finite.
    """
    network, layers, wanted = model.network, linear_layers(model), planned(model, settings.kinds)
    check_memory(_needed(model, examples, settings, wanted), network.device, "These statistics")
    moments = Accumulator({n: shape for n, shape in wanted.items() if n.startswith("gram")}, network.device)
    named = parts(model) if "fisher" in settings.kinds else {}
    squares = Squares({n: torch.zeros_like(p.place, dtype=torch.float32) for n, p in named.items()})
    runs: list[Iterator[int]] = []
    if "gram" in settings.kinds:
        with_moments = [layer for layer in layers if f"gram/{layer.name}" in wanted]
        runs.append(_forwards(network, examples, settings.batch_tokens, recording(with_moments, "gram", moments)))
    if len(settings.kinds) > ("gram" in settings.kinds):
        writers = [layer for layer in layers if f"gram_out/{layer.name}" in wanted]
        runs.append(backwards(model, writers, examples, squares, moments, settings.labels, settings.seed))
    total, done = len(runs) * sum(example.length for example in examples), 0
    for run in runs:
        for tokens in run:
            done += tokens
            if progress is not None:
                progress(done, total)
    return finished(wanted, moments, squares)


def finished(wanted: Shapes, moments: Accumulator, squares: Squares) -> Collected:
    """Return the collected statistics, marking layers stored (in, out). Raises CollectionError if not finite."""
    result = Collected(moments.means() | squares.means())
    for name, tensor in result.items():
        if not torch.isfinite(tensor).all():
            raise CollectionError(f"{name} is not finite: does the model compute finite numbers on these data?")
    marks = (name for name in wanted if name.startswith("transposed/"))
    return Collected(result | {name: torch.ones(1, dtype=torch.uint8) for name in marks})


def tokens_of(batch: Sequence[Example], device: torch.device) -> Tensor:
    """Return the tokens that the model reads of examples of one length: (n_examples, length)."""
    return torch.tensor([example.tokens[:-1] for example in batch], device=device)


def write(statistics: Mapping[str, Tensor], file: Path, model: Model, source: str) -> None:
    """Write statistics of a model as one safetensors file, complete or not at all. source: the model's name.

    Raises OutputError for a full disk.
    """
    metadata = {MODEL: model.fingerprint(), SOURCE: source}
    plan = [Planned(name, tuple(tensor.shape), tensor.dtype) for name, tensor in statistics.items()]
    folder = file.absolute().with_name(f".{file.name}.evomerge-new")
    with staged(folder, sum(tensor.nbytes for tensor in statistics.values())) as partial:
        write_weights(partial, plan, statistics.items(), max_shard_bytes=2**63, metadata=metadata)
    with explained(file):
        (folder / SINGLE).replace(file)
        folder.rmdir()
        sync(file.absolute().parent)


def _forwards(network: Any, examples: Sequence[Example], batch_tokens: int, watch: Any) -> Iterator[int]:
    """Run passes over batches within the context `watch`; yield the number of tokens of each."""
    with watch, torch.no_grad():
        for batch in batches(examples, batch_tokens):
            network(input_ids=tokens_of(batch, network.device), use_cache=False)
            yield len(batch) * batch[0].length


def _needed(model: ResidentModel, examples: Sequence[Example], settings: Settings, wanted: Shapes) -> int:
    """Return the bytes of the sums, the gradients, and the logits of all tokens of a batch."""
    gradients = sum(parameter.nbytes for parameter in model.network.parameters()) if "fisher" in settings.kinds else 0
    longest = max(example.length for example in examples)
    places = max(longest, settings.batch_tokens) if "gram" in settings.kinds else longest
    scores: int = 8 * model.network.get_output_embeddings().weight.shape[0] * places
    return sum(sizes(wanted).values()) + gradients + scores
