"""A merge exported as a LoRA on its base: factors for the changes, in a folder for PEFT. https://arxiv.org/abs/2106.09685."""

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from evomerge.merging.models.adapter import WEIGHTS, Adapted
from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.compatibility import check_finite
from evomerge.merging.models.header import CheckpointError
from evomerge.merging.models.lora_config import CONFIG
from evomerge.merging.output.card import model_card
from evomerge.merging.output.lora_report import LoraReport
from evomerge.merging.output.lora_weights import LoraWeights
from evomerge.merging.output.manifest import make_manifest, pinned
from evomerge.merging.output.materialize import checked_sources
from evomerge.merging.output.peft_names import check_peft_names
from evomerge.merging.output.staging import MARK, staged
from evomerge.merging.recipe_models import RecipeModels
from evomerge.recipe import Input, Merge
from evomerge.recipe.file import write_merge
from evomerge.recipe.model_names import cached_by_name


def export_lora(
    merge: Merge,
    folder: Path,
    rank: int,
    *,
    modules_to_save: bool = False,
    overwrite: bool = False,
    scores: Mapping[str, Any] | None = None,
    threads: int = 1,
) -> LoraReport:
    """Write a merge as a LoRA of `rank` on its base to `folder`; return how much of the merge it contains.

    modules_to_save: store changed modules without factors (norms, embeddings) whole in the adapter.
    Raises like `materialize`, and CheckpointError for a base that is not a model on disk.
    """
    if rank < 1:
        raise ValueError(f"The rank of a LoRA must be a positive integer; it is {rank}.")
    sources = checked_sources(merge, folder, overwrite=overwrite)
    check_finite({merge.recipe.base.name: sources.base, **sources.inputs})
    if not isinstance(sources.base, Checkpoint):
        raise CheckpointError(
            "A LoRA needs a base as stored on disk; this recipe's base is constructed (an adapter on it, another "
            "vocabulary, rearranged blocks). Export whole weights instead."
        )
    weights = LoraWeights(sources.base, rank, whole=modules_to_save)
    for name, merged, change in _changes(merge, sources, threads):
        weights.add(name, merged, change, [model.factors(name, sources.base) for model in sources.inputs.values()])
    if modules_to_save:
        weights.save_whole()
    if not weights.tensors:
        raise CheckpointError("The merge changes nothing that a LoRA can represent: there is no adapter to write.")
    report = weights.report()
    merge = replace(merge, recipe=pinned(merge.recipe))
    with staged(folder, sum(tensor.nbytes for tensor in weights.tensors.values())) as partial:
        save_file(weights.tensors, partial / WEIGHTS, metadata={"format": "pt"})
        origin = _origin(merge.recipe.base)
        _write_json(partial / CONFIG, dict(sorted({**weights.settings(), **origin}.items())))
        Adapted(sources.base, partial)  # raises for a mismatch before the folder appears
        check_peft_names(sources.base, partial)
        manifest = make_manifest(merge, sources, Checkpoint.open(partial / WEIGHTS).sha256(), scores)
        _write_json(partial / MARK, {**asdict(manifest), "lora": asdict(report)})
        write_merge(merge, partial / "recipe.yaml", folder)
        again = f" --lora {rank}" + (" --modules-to-save" if modules_to_save else "")
        title = folder.absolute().name
        said = [*report.text, *_how_to_load(origin)]
        card = model_card(merge, title, manifest, scores, adapter=said, options=again)
        (partial / "README.md").write_text(card.rstrip("\n") + "\n", encoding="utf-8")
    return report


def _changes(merge: Merge, sources: RecipeModels, threads: int) -> Iterator[tuple[str, Tensor, Tensor]]:
    """Yield name, merged tensor and its change to the base, in float32, for every changed tensor."""
    engine = sources.engine(dtype=torch.float32, threads=threads)
    for name, merged in engine.stream(merge):
        if sources.base.mergeable(name):
            change = merged - sources.base.tensor(name).float()
            if bool(change.any()):
                yield name, merged, change


def _origin(base: Input) -> dict[str, str | None]:
    """Return the base's location for PEFT: a repository of the hub, or a folder.

    PEFT resolves a relative path in its working folder and does not expand `~`. A folder is given relative to the
    working folder if its absolute path would reveal the home folder, which must not be in shared files.
    """
    base = cached_by_name(base)
    local, home = Path(base.path).absolute(), Path.home()
    path = base.path
    if base.revision is None and local.exists():
        path = str(local)
        if local.is_relative_to(home):
            here = Path.cwd().is_relative_to(home)
            path = os.path.relpath(local) if here else f"~/{local.relative_to(home).as_posix()}"
    return {"base_model_name_or_path": path, "revision": base.revision}


def _how_to_load(origin: Mapping[str, str | None]) -> list[str]:
    """Return instructions for the card if PEFT does not find the base by itself."""
    path = origin["base_model_name_or_path"] or ""
    found_anywhere = origin["revision"] is not None or Path(path).is_absolute()
    if found_anywhere or not (Path(path).exists() or path.startswith("~")):
        return []
    sentence = (
        f"adapter_config.json names the base {path}, which PEFT looks for in its working folder. Elsewhere, load the "
        "base first and put the adapter on it: PeftModel.from_pretrained(base, FOLDER)."
    )
    return [sentence]


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")
