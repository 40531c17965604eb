"""Adapter: a model with a LoRA, folded tensor by tensor on reading. https://arxiv.org/abs/2106.09685.

The folded weights equal those of PEFT's merge_and_unload, including DoRA (https://arxiv.org/abs/2402.09353). Where
PEFT rounds the change to low-precision embeddings before adding it, this rounds once, at the end.
"""

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from evomerge.merging.factors import Factors
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.hashing import Digest, digest_of
from evomerge.merging.models.header import CheckpointError, shown
from evomerge.merging.models.lora_config import CONFIG, LoraConfig, read_lora_config
from evomerge.merging.models.model import Model
from evomerge.merging.models.shards import INDEX, SINGLE, check_inside, read_text
from evomerge.merging.tiles import Workers

WEIGHTS = "adapter_model.safetensors"
#: Prefix that PEFT adds to the names of the model's modules.
PREFIX = "base_model.model."
#: Architectures of transformers whose projections are stored with one row per input (its Conv1D).
ROW_PER_INPUT = ("clvp", "decision_transformer", "gpt2", "imagegpt", "openai-gpt")

_PART = re.compile(
    r"(?P<module>.+)\.(?P<part>lora_(?:embedding_)?[AB]|lora_magnitude_vector)(?:\.(?P<field>weight|bias))?"
)
_WRAPPERS = re.compile(r"\.(?:base_layer|modules_to_save)(?=\.)")


def is_adapter(path: Path) -> bool:
    """Return whether a folder contains an adapter and no model."""
    return (path / CONFIG).is_file() and not any((path / name).exists() for name in (SINGLE, INDEX))


def stored_by_input(model: Model) -> bool | None:
    """Return whether a model's projections have one row per input; None if its configuration does not tell."""
    kind = (model.config or {}).get("model_type")
    return None if kind is None else kind in ROW_PER_INPUT


@dataclass(frozen=True)
class _Pair:
    """Names, in the adapter, of a weight's factors and of DoRA's magnitudes."""

    left: str
    right: str
    scale: float
    transposed: bool
    magnitude: str | None = None


class Adapted(Model):
    """A base model with the adapter in `folder` folded into it.

    Tensors changed by a LoRA are float32 whatever the base's dtype, so that a merge rounds once; with `rounded` they
    have the base's dtype, as from merge_and_unload. All others are read unchanged from the base's files.
    Raises CheckpointError, with names and shapes, for an adapter that cannot be folded or does not match the base.
    """

    def __init__(self, base: Model, folder: Path, *, rounded: bool = False) -> None:
        self.path = base.path
        self.config = base.config
        self.names = base.names
        self.folder = folder
        self._base = base
        self._rounded = rounded
        settings = read_lora_config(folder)
        if not (folder / WEIGHTS).exists() and (folder / "adapter_model.bin").exists():
            raise CheckpointError(
                f"{folder} has adapter_model.bin, a pickle, which can run code when loaded: if you trust it, load the "
                f"adapter with PEFT and save it again as {WEIGHTS}."
            )
        self._adapter = Checkpoint.open(check_inside(folder, WEIGHTS))
        plan = _Plan(base, self._adapter, settings, folder)
        self._pairs, self._whole, self._biases = plan.pairs, plan.whole, plan.biases

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the base's files, then the adapter's."""
        return (*self._base.files, self.folder / CONFIG, *self._adapter.files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        return self._base.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor as it is read."""
        stored = self._base.dtype(name)
        if self._rounded or not (name in self._pairs or name in self._biases):
            return stored
        return torch.promote_types(stored, torch.float32)

    def tensor(self, name: str) -> Tensor:
        """Return a tensor on the CPU, read-only; the base's own if the adapter does not change it."""
        start = self._base.tensor(name)
        if name in self._whole:
            start = self._adapter.tensor(self._whole[name]).to(start.dtype)
        if name in self._pairs:
            pair = self._pairs[name]
            start = Workers(1).alone(lambda: self._folded(start, pair))
        if name in self._biases:
            bias, scale = self._biases[name]
            start = start + self._adapter.tensor(bias).float() * scale
        return start.to(self.dtype(name))

    def made(self, name: str) -> bool:
        """Return whether the adapter changes a tensor, which is then folded each time it is read."""
        return name in self._pairs or name in self._biases or self._base.made(name)

    @property
    def held_bytes(self) -> int:
        """Return the bytes of the tensors that the base caches."""
        return self._base.held_bytes

    def factors(self, name: str, base: Model) -> Factors | None:
        """Return the change to `base` if it is low-rank; of rank 0 for tensors that the adapter does not change."""
        if base is not self._base or name in self._whole or len(self.shape(name)) != 2:
            return None
        pair = self._pairs.get(name)
        if pair is None:
            return Factors.none(self.shape(name))
        return self._factors(pair) if pair.magnitude is None else None

    def why_not_low_rank(self, base: Model) -> str | None:
        """Return why this is not `base` with factors added to some of its matrices, as a clause; None if it is."""
        if base is not self._base:
            return "is an adapter on another model than the base"
        if self._whole:
            return f"contains {next(iter(self._whole))} whole"
        if self._biases:
            return f"changes {next(iter(self._biases))}"
        scaled = next((name for name, pair in self._pairs.items() if pair.magnitude is not None), None)
        return None if scaled is None else f"also scales the rows of {scaled} (DoRA)"

    def sha256(self, digest: Digest = digest_of) -> dict[str, str]:
        """Return the SHA-256 of every file by name."""
        config = hashlib.sha256((self.folder / CONFIG).read_bytes()).hexdigest()
        return {**self._base.sha256(digest), CONFIG: config, **self._adapter.sha256(digest)}

    def fingerprint(self) -> str:
        """Return the fingerprint of the base and of the adapter with its settings."""
        parts = (self._base.fingerprint(), self._adapter.fingerprint(), read_text(self.folder, CONFIG))
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

    def _factors(self, pair: _Pair) -> Factors:
        left, right = (self._adapter.tensor(name) for name in (pair.left, pair.right))
        return Factors(left, right, pair.scale, pair.transposed)

    def _folded(self, start: Tensor, pair: _Pair) -> Tensor:
        delta = self._factors(pair).delta()
        # In place: fresh memory costs as much as the product. A float64 base keeps its own dtype.
        folded = (delta.add_(start) if start.dtype.itemsize <= 4 else start + delta).contiguous()
        if pair.magnitude is None:
            return folded
        outputs = folded.T if pair.transposed else folded
        lengths: Tensor = torch.linalg.norm(outputs, dim=1)
        factor = self._adapter.tensor(pair.magnitude).float() / lengths
        return folded * (factor.view(1, -1) if pair.transposed else factor.view(-1, 1))


class _Plan:
    """Matches the adapter's tensors with the base's; collects all mismatches, then raises one error."""

    def __init__(self, base: Model, adapter: Model, settings: LoraConfig, folder: Path) -> None:
        self.pairs: dict[str, _Pair] = {}
        self.whole: dict[str, str] = {}
        self.biases: dict[str, tuple[str, float]] = {}
        self._base, self._adapter, self._settings = base, adapter, settings
        self._known = frozenset(base.names)
        from evomerge.merging.models.network_names import NetworkNames  # with transformers

        self._spellings = NetworkNames(base)
        self._misfits: list[str] = []
        self._advice = "Specify the model that it was trained on."
        modules: dict[str, dict[str, str]] = {}
        for key in adapter.names:
            name = key.removeprefix(PREFIX)
            part = _PART.fullmatch(name)
            if part is None:
                self._replace(key, _WRAPPERS.sub("", name))
            else:
                kind = part["part"] + (".bias" if part["field"] == "bias" else "")
                modules.setdefault(part["module"], {})[kind] = key
        for module, parts in modules.items():
            self._add(module, parts)
        if self._misfits:
            listed = "; ".join(self._misfits[:5]) + ("; ..." if len(self._misfits) > 5 else "")
            raise CheckpointError(
                f"The adapter {folder} does not fit the model {base.path} in {len(self._misfits)} place(s): {listed}. "
                + self._advice
            )

    def _replace(self, key: str, wanted: str) -> None:
        name = self._found(wanted)
        shape = self._adapter.shape(key)
        if name is None:
            self._misfits.append(f"{self._lost(wanted)} for {shown(key)} {shape}")
        elif self._base.shape(name) != shape:
            self._misfits.append(f"{shown(key)} has shape {shape}, {shown(name)} {self._base.shape(name)}")
        elif self._base.tied and name in self._base.vocabulary_matrices() and ".base_layer." not in key:
            self._misfits.append(f"{shown(key)} replaces one of two embeddings that the model keeps tied")
        else:
            self.whole[name] = key

    def _add(self, module: str, parts: dict[str, str]) -> None:
        embedding = "lora_embedding_A" in parts
        left, right = (parts.get(f"lora_{'embedding_' if embedding else ''}{end}") for end in "BA")
        name = self._found(f"{module}.weight")
        if left is None or right is None or name is None:
            what = self._lost(f"{module}.weight") if name is None else "only one of two factors"
            self._misfits.append(f"{what} for {shown(next(iter(parts.values())))} {self._shapes(parts.values())}")
            return
        rank, scale = self._settings.rank_of(module), self._settings.scale_of(module)
        pair = _Pair(left, right, scale, embedding, parts.get("lora_magnitude_vector"))
        fitted = self._fit(pair, name, rank)
        if fitted is None:
            shapes = self._shapes([left, right, *([pair.magnitude] if pair.magnitude else [])])
            self._misfits.append(f"{shown(name)} {self._base.shape(name)} has factors {shapes} of rank {rank}")
            return
        self.pairs[name] = fitted
        if "lora_B.bias" in parts:
            self._add_bias(f"{module}.bias", parts["lora_B.bias"], scale)

    def _add_bias(self, wanted: str, key: str, scale: float) -> None:
        name = self._found(wanted)
        if name is None or self._base.shape(name) != self._adapter.shape(key):
            self._misfits.append(f"no bias for {shown(key)} {self._adapter.shape(key)}")
        else:
            self.biases[name] = (key, scale)

    def _fit(self, pair: _Pair, name: str, rank: int) -> _Pair | None:
        """Return the pair with the orientation in which its product has the weight's shape, or None."""
        left, right, shape = self._adapter.shape(pair.left), self._adapter.shape(pair.right), self._base.shape(name)
        if len(left) != 2 or len(right) != 2 or left[1] != rank or right[0] != rank:
            return None
        if pair.magnitude is not None and self._adapter.shape(pair.magnitude) != left[:1]:
            return None
        product = (left[0], right[1])
        if pair.transposed:
            return pair if shape == product[::-1] else None
        by_input = shape == product[::-1] and shape != product
        if shape == product == product[::-1]:
            stored = stored_by_input(self._base)
            by_input = self._settings.transposed if stored is None else stored
        return replace(pair, transposed=by_input) if by_input or shape == product else None

    def _found(self, wanted: str) -> str | None:
        """Return the base's name for a tensor: the same, one with another prefix, or one that transformers renames."""
        if wanted in self._known:
            return wanted
        near = [name for name in self._base.names if name.endswith(f".{wanted}") or wanted.endswith(f".{name}")]
        return near[0] if len(near) == 1 else self._spellings.in_files(wanted)

    def _lost(self, wanted: str) -> str:
        """Explain why the base has no tensor of this name."""
        if not self._spellings.is_converted(wanted):
            return "no tensor"
        self._advice = (
            "transformers makes such tensors of the network out of others of the files: load the adapter with PEFT and "
            "save merge_and_unload() as a model."
        )
        target = self._spellings.in_network(wanted)
        spelled = "" if target in (None, wanted) else f", {shown(target)} in the network,"
        return f"no tensor that becomes {shown(wanted)}{spelled} unchanged"

    def _shapes(self, keys: Iterable[str]) -> str:
        return ", ".join(str(self._adapter.shape(key)) for key in keys)
