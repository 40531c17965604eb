"""Trial loading of a written adapter with PEFT: names that it would ignore raise an error."""

import importlib.util
import warnings
from pathlib import Path

from evomerge.merging.models.header import CheckpointError, shown
from evomerge.merging.models.model import Model
from evomerge.merging.models.network import NetworkError, hollow, is_known, quiet


def check_peft_names(base: Model, folder: Path) -> None:
    """Load the adapter in `folder` with PEFT onto the base's network without weights.

    PEFT only warns about names that its network does not have, and drops their changes. Skipped without PEFT, or
    for a network unknown to transformers. Raises CheckpointError.
    """
    if importlib.util.find_spec("peft") is None or not is_known(base):
        return
    # An optional package.
    from peft import PeftModel

    try:
        network = hollow(base)
    except NetworkError:  # nothing to compare with
        return
    with warnings.catch_warnings(), quiet():
        warnings.simplefilter("ignore")
        try:
            adapted = PeftModel.from_pretrained(network, str(folder), torch_device="cpu")
            found = adapted.load_adapter(str(folder), "again", torch_device="cpu")
        except (ValueError, RuntimeError, KeyError) as error:
            raise CheckpointError(
                f"PEFT cannot apply this LoRA to a {type(network).__name__}: {' '.join(str(error).split())[:300]}. "
                "Export whole weights instead."
            ) from error
    lost = [*found.unexpected_keys, *(name for name in found.missing_keys if ".lora_" in name)]
    if lost:
        raise CheckpointError(
            f"The tensors of this LoRA have other names than the modules of a {type(network).__name__}, since "
            f"transformers renames them on loading: PEFT would ignore {len(lost)} of its factors (such as "
            f"{shown(lost[0])}). Export whole weights instead."
        )
