"""Parents whose config.json differs from the base's: scored by their own, not by the base's."""

from collections.abc import Mapping

from evomerge.merging.models.header import CheckpointError
from evomerge.merging.models.model import Model
from evomerge.merging.models.network import architecture, configuration, outline
from evomerge.merging.models.settings import setting_differences
from evomerge.resident.network_state import renewed
from evomerge.resident.resident import ModelError, ResidentModel, generation_settings, read_tokenizer


def own_configurations(base: Model, inputs: Mapping[str, Model]) -> dict[str, tuple[str, ...]]:
    """Return, by input, how its configuration computes differently from the base's, to score the parent under it.

    Raises CheckpointError if it defines a network with other parameters.
    """
    found = setting_differences(base, inputs) if base.config is not None else {}
    shapes = _parameters(base) if found else {}
    for label, sentences in found.items():
        if _parameters(inputs[label]) != shapes:
            raise CheckpointError(
                f"{label} ({inputs[label].path}) is a network with other parameters than the base's: "
                f"{'; '.join(sentences)}. Only models of one architecture can be merged."
            )
    return found


def differences(own: Mapping[str, tuple[str, ...]]) -> list[str]:
    """Return warnings about inputs with configurations of their own, naming each setting with both values."""
    return [
        f"{label}: {'; '.join(sentences)}: parent:{label} is scored under its own config.json, "
        "every merge under the base's"
        for label, sentences in own.items()
    ]


def as_its_folder(parent: Model, model: ResidentModel, *, tokenizer: bool) -> ResidentModel:
    """Return a resident model that shares the weights but computes and tokenizes by another model's folder.

    tokenizer: whether to use the folder's tokenizer and generation settings too.
    Raises ModelError for a network spread over several GPUs.
    """
    if len(getattr(model.network, "hf_device_map", ())) > 1:
        raise ModelError(
            f"{parent.path} has another configuration or tokenizer than the merges, and cannot be scored with it on "
            "several GPUs at once (gpus_per_worker above 1)."
        )
    config = configuration(parent)
    rows = getattr(model.network.config, "vocab_size", None)
    if rows is not None:  # another vocabulary, if the recipe names a tokenizer
        config.vocab_size = rows
    network = renewed(model.network, architecture(parent), config)
    if network.can_generate():
        own = generation_settings(parent, parent.path) if tokenizer else model.network.generation_config
        network.generation_config = own
    return model.read_with(network, read_tokenizer(parent.path) if tokenizer else None)


def _parameters(model: Model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in outline(model).network.named_parameters()}
