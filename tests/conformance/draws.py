"""Our uniform random numbers for the oracle, which puts them in the place of torch's generator.

    python -m tests.conformance.draws

An element of a delta stays where its number is below its probability. The generator is written down here a second
time, from its description, and checked against the masks of the production code.
"""

import hashlib
import shutil
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from evomerge.merging.kernels.sparsify import drop_at_random
from evomerge.merging.tiles import Scratch, Tile
from evomerge.recipe import Merge
from tests.conformance.corpus import WORK, Case, read
from tests.conformance.peft_cases import CASES, DRAWS
from tests.conformance.reading import imported, refuses

#: More elements than any tensor of the tiny models has.
N_ELEMENTS = 4096
OUTSIDE = ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
MODULES = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
    "input_layernorm",
    "post_attention_layernorm",
)


def uniforms(seed: int, tensor: str, input_name: str) -> NDArray[np.float64]:
    """The numbers in [0, 1) of the first elements of a tensor, multiples of 2**-31."""
    key = hashlib.blake2b(f"{seed}\0{tensor}\0{input_name}".encode(), digest_size=8).digest()
    offset, shift = np.frombuffer(key, dtype="<u4")
    bits = np.arange(N_ELEMENTS, dtype=np.uint32) * np.uint32(0x9E3779B9) + offset
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    bits = ((bits ^ (bits >> np.uint32(15))) + shift) * np.uint32(0xD35A2D97)
    # The generator reads its bits as a signed number, which starts at -2**31.
    return ((bits ^ np.uint32(1 << 31)) >> np.uint32(1)) / 2**31


def check(seed: int, tensor: str, input_name: str) -> None:
    """Raises RuntimeError where the masks of the production code are not those of the numbers."""
    numbers = uniforms(seed, tensor, input_name)
    tile = Tile(tensor, (input_name,), seed, 0, N_ELEMENTS, Scratch())
    for density in (0.03, 0.3, 0.5, 0.77):
        mask = drop_at_random(torch.ones(N_ELEMENTS), tile, 0, density)
        if not np.array_equal(mask.numpy() != 0, numbers < density):
            raise RuntimeError(
                "The random numbers of evomerge.merging.kernels.sparsify are not those written down here."
            )


def numbers_of(merge: Merge) -> dict[str, Tensor]:
    """`tensor|model` -> its numbers, for every tensor of every input; models named as mergekit does."""
    found = {}
    for model in merge.recipe.inputs:
        reference = model.path if model.adapter is None else f"{model.path}+{model.adapter}"
        for tensor in _tensors():
            found[f"{tensor}|{reference}"] = torch.from_numpy(uniforms(merge.seed, tensor, model.name))
    return found


def numbers_for_peft() -> dict[str, Tensor]:
    """`tensor|adapter` -> its numbers, for weights and for their factors."""
    adapters = dict.fromkeys(name for case in CASES if case.random for name in case.adapters)
    tensors = [f"{tensor}{ending}" for tensor in _tensors() for ending in ("", ".lora_A", ".lora_B")]
    return {f"{tensor}|{name}": torch.from_numpy(uniforms(0, tensor, name)) for tensor in tensors for name in adapters}


def _tensors() -> Iterator[str]:
    yield from OUTSIDE
    for layer in range(8):
        for module in MODULES:
            yield f"model.layers.{layer}.{module}.weight"


def _write(case: Case) -> int:
    try:
        merge = imported(case)
    except ValueError as error:
        if not refuses(error):
            raise
        print(f"{case.name}: no numbers, {error}")
        return 0
    check(merge.seed, OUTSIDE[0], merge.recipe.inputs[0].name)
    save_file(numbers_of(merge), WORK / "draws" / f"{case.name}.safetensors")
    return 1


def main() -> None:
    """Write the numbers for every file of the corpus with a random method."""
    shutil.rmtree(WORK / "draws", ignore_errors=True)
    (WORK / "draws").mkdir(parents=True)
    written = sum(_write(case) for case in read(WORK / "models") if case.random)
    save_file(numbers_for_peft(), DRAWS)
    print(f"random numbers for {written} files and PEFT in {WORK / 'draws'}")


if __name__ == "__main__":
    main()
