"""Whether the blocks of several models can follow each other in one network, with scaled inputs."""

from collections.abc import Mapping
from typing import Any

from evomerge.merging.models.header import CheckpointError
from evomerge.merging.models.model import Model
from evomerge.merging.models.mosaic import Mosaic, with_depth
from evomerge.merging.models.network import architecture, configuration
from evomerge.merging.models.settings import setting_differences

#: Networks of one stack whose blocks read a residual stream through RMSNorm, and write to it through `o_proj` and
#: `down_proj` only. Each is tested: other arrangements of its blocks, and folded scales, in
#: `tests/evomerge/resident/test_block_paths.py`.
ARCHITECTURES = (
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
)


def check_arrangeable(base: Model, inputs: Mapping[str, Model]) -> None:
    """Raise CheckpointError, with the reason, for models whose blocks cannot form a path."""
    for label, model in {"base": base, **inputs}.items():
        if model.config is None:
            raise CheckpointError(f"{label} ({model.path}) has no config.json, which says how its blocks compute.")
        kind = architecture(model).__name__
        if kind not in ARCHITECTURES:
            raise CheckpointError(
                f"{label} ({model.path}) is a {kind}. Paths through blocks, and scales of their inputs, are exact for "
                f"pre-norm networks with RMSNorm and plain residuals only: {', '.join(ARCHITECTURES)}. Search another "
                "space, such as layerwise."
            )
        kinds = sorted(set(getattr(configuration(model), "layer_types", None) or ()))
        if len(kinds) > 1:
            raise CheckpointError(
                f"{label} ({model.path}) has blocks of {len(kinds)} kinds ({', '.join(kinds)}), whose order its "
                "config.json fixes; paths need blocks of one kind."
            )
    alike = {label: _one_block(model) for label, model in inputs.items()}
    for label, sentences in setting_differences(_one_block(base), alike).items():
        raise CheckpointError(
            f"{label} ({inputs[label].path}) computes differently from the base: {'; '.join(sentences)}. A path has "
            "one config.json for the blocks of all models."
        )


def configured(base: Model, depth: int) -> Any:
    """Return the transformers configuration of a model with another number of blocks, all of one kind."""
    return configuration(Mosaic(base, {}, with_depth(dict(base.config or {}), [0] * depth)))


def _one_block(model: Model) -> Model:
    """Return a stand-in whose configuration has a single block, so that depths are not compared."""
    return Mosaic(model, {}, with_depth(dict(model.config or {}), [0]))
