"""PEFT's results: adapters folded into the base, alone or after `add_weighted_adapter`. Runs in .venv-conformance.

python -m tests.conformance.peft_oracle
"""

import json
import shutil
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import peft
import torch
import transformers
from transformers.utils import logging as transformers_logging

from tests.conformance.corpus import WORK
from tests.conformance.peft_cases import CASES, PeftCase


def merge(case: PeftCase, folder: Path) -> dict[str, Any]:
    """Write the base with the case's adapters to `folder`. Returns {"error": message} where PEFT fails."""
    shutil.rmtree(folder, ignore_errors=True)
    models = WORK / "models"
    base = transformers.AutoModelForCausalLM.from_pretrained(models / "base", dtype=torch.float32)
    try:
        first, *others = case.adapters
        model = peft.PeftModel.from_pretrained(base, models / first, adapter_name=first)
        for name in others:
            model.load_adapter(models / name, adapter_name=name)
        if case.combination is not None:
            arguments = {"svd_rank": case.rank, "density": case.density, "majority_sign_method": case.majority}
            model.add_weighted_adapter(
                list(case.adapters), list(case.weights), "merged", combination_type=case.combination, **arguments
            )
            model.set_adapter("merged")
        model.merge_and_unload().save_pretrained(folder)
    except Exception as error:  # noqa: BLE001 - whatever PEFT raises is its answer
        shutil.rmtree(folder, ignore_errors=True)
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}
    return {}


def main() -> None:
    """Merge every case; results go below WORK."""
    warnings.simplefilter("ignore")
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    results = {case.name: merge(case, WORK / "peft" / case.name) for case in CASES}
    (WORK / "peft.json").write_text(json.dumps({"peft": version("peft"), "results": results}, indent=1))
    failed = sum("error" in result for result in results.values())
    print(f"PEFT merged {len(results) - failed} adapters and refused {failed}")


if __name__ == "__main__":
    main()
