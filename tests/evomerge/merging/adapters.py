"""Adapter folders for these tests, as PEFT writes them, and the models that PEFT makes of them."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file

from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Merge, Recipe
from search_spaces.base import CoefficientTable
from tests.evomerge.merging.folders import bare

ATTENTION = ["q_proj", "v_proj"]


def load(base: Path, dtype: torch.dtype = torch.float32) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(base, dtype=dtype)


def lora(folder: Path, base: Path, seed: int = 0, **settings: Any) -> Path:
    """A LoRA whose every trained value is random, saved by PEFT. `settings`: of LoraConfig."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": ATTENTION, **settings})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(load(base), config)
        random = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data + 0.2 * torch.randn(parameter.shape, generator=random)
        model.save_pretrained(folder)
    return folder


def merged_by_peft(base: Path, adapter: Path, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    """PEFT's own merge_and_unload."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load(base, dtype), str(adapter)).merge_and_unload()
    return dict(model.state_dict())


def bare_lora(folder: Path, tensors: Mapping[str, torch.Tensor], **settings: Any) -> Path:
    """An adapter folder by hand: `tensors` by their names behind PEFT's prefix."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 1, **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    named = {f"base_model.model.{name}": tensor.contiguous() for name, tensor in tensors.items()}
    save_file(named, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    return folder


def change_lora(folder: Path, **changes: Any) -> Path:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def combined_by_peft(base: Path, adapters: Sequence[Path], weights: Sequence[float], **settings: Any) -> dict[str, Any]:
    """The state of the model after PEFT's add_weighted_adapter and merge_and_unload. `settings`: of the former."""
    names = [f"adapter{n}" for n in range(len(adapters))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = PeftModel.from_pretrained(load(base), str(adapters[0]), adapter_name=names[0])
        for name, folder in zip(names[1:], adapters[1:], strict=True):
            model.load_adapter(str(folder), adapter_name=name)
        model.add_weighted_adapter(names, list(weights), "all", **settings)
        model.set_adapter("all")
        return dict(model.merge_and_unload().state_dict())


def merged_here(
    base: Path,
    adapters: Sequence[Path],
    method: str,
    values: Mapping[str, Any],
    seed: int = 0,
    **options: Any,
) -> dict[str, torch.Tensor]:
    """The merge of adapters on a base, through the engine."""
    inputs = tuple(Input(f"adapter{n}", str(folder)) for n, folder in enumerate(adapters))
    arrays = {name: np.atleast_2d(np.array(value, dtype=float)) for name, value in values.items()}
    merge = Merge(
        Recipe(Input("base", str(base)), inputs, method, options), CoefficientTable({"all": ("*",)}, arrays), seed
    )
    return dict(open_models(merge.recipe).engine().stream(merge))


def small_pair(folder: Path) -> tuple[Path, list[Path]]:
    """A base of zeros and two adapters of rank 1 on it: A1 = (1, 0), B1 = (1, 0)', A2 = (0, 2), B2 = (0, 1)'."""
    base = bare(folder / "base", {"x.weight": torch.zeros(2, 2)})
    factors = [([[1.0, 0.0]], [[1.0], [0.0]]), ([[0.0, 2.0]], [[0.0], [1.0]])]
    adapters = [
        bare_lora(folder / str(n), {"x.lora_A.weight": torch.tensor(a), "x.lora_B.weight": torch.tensor(b)})
        for n, (a, b) in enumerate(factors)
    ]
    return base, adapters


def check_like_peft(
    base: Path, adapters: Sequence[Path], method: str, values: Mapping[str, Any], combination: str, **settings: Any
) -> None:
    """A merge of adapters here has the weights that PEFT's combination of this type gives, to float32's rounding."""
    found = merged_here(base, adapters, method, values, **{k: v for k, v in settings.items() if k == "election"})
    said = {"majority_sign_method" if k == "election" else k: v for k, v in settings.items()}
    expected = combined_by_peft(base, adapters, list(values["weight"]), combination_type=combination, **said)
    plain = load(base).state_dict()
    changed = [name for name in found if not torch.equal(expected[name], plain[name])]
    assert changed
    for name, tensor in found.items():
        torch.testing.assert_close(
            tensor, expected[name], rtol=1e-5, atol=2e-6, msg=lambda text, n=name: f"{n}: {text}"
        )
