"""`evomerge tools analytic-q`: a recipe for DAREx-q whose rescaling factors follow from data."""

from pathlib import Path
from typing import Any

import numpy as np

from evomerge.commands.init import named_inputs
from evomerge.commands.progress import counted, progress_bar
from evomerge.commands.tools.calibrate import Reading, check_continues_text, load
from evomerge.merging.output.manifest import pinned
from evomerge.merging.output.single_file import RECIPE, check_file
from evomerge.merging.recipe_models import open_models
from evomerge.prepare.analytic_q import factor_of, input_means, layer_factors
from evomerge.prepare.calibration.data import CollectionError, read_texts
from evomerge.recipe import Merge, Recipe
from evomerge.recipe.file import write_merge
from evomerge.recipe.model_names import named_input
from search_spaces.base import CoefficientTable


def write_analytic_q(
    base: str,
    model: str,
    data: Path,
    output: Path,
    reading: Reading,
    *,
    density: float,
    eta: float,
    batch_tokens: int,
    overwrite: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Write a recipe that drops elements of a model's delta and rescales each layer by its own factor.

    density: share of the elements that are kept. eta: scale of the tolerated change of a layer's outputs. Returns data
    and lines to print. Raises EvaluatorError or CollectionError for options and data, CheckpointError, ModelError or
    CollectionError for the models, OutputError for the output; where possible before the first forward pass.
    """
    if not 0.0 < density < 1.0 or not eta > 0.0:
        raise CollectionError(
            f"--density is {density:g} and --eta {eta:g}; expected a share between 0 and 1, and a number above 0."
        )
    check_file(output, ours=RECIPE, overwrite=overwrite, inputs=[Path(base), Path(model), data])
    texts = read_texts(data, reading.separator)
    inputs = named_inputs([model])
    recipe = Recipe(named_input("base", base), inputs, "darex_q")
    sources = open_models(recipe)
    (expert,) = sources.inputs.values()
    check_continues_text(expert, sources.tokenizer)
    resident = load(expert, sources.tokenizer, reading.dtype or "float32", reading.device)
    examples = reading.encode(texts, resident)
    tokens = sum(example.length for example in examples)
    with progress_bar(f"{len(examples)} examples") as progress:
        means = input_means(resident, examples, batch_tokens, counted(progress, tokens))
    factors = layer_factors(sources.base, expert, means, density, eta)
    names = tuple(name for name in sources.base.names if sources.base.mergeable(name))
    inverse = np.array([[1.0 / factor_of(name, factors)] for name in names])
    values = {"density": np.full((len(names), 1), density), "inverse_q": inverse}
    write_merge(Merge(pinned(recipe), CoefficientTable({name: (name,) for name in names}, values)), output)
    found = list(factors.values())
    facts = {"output": str(output), "q": factors, "density": density, "examples": len(examples), "tokens": tokens}
    span = f"{np.mean(found):.3f} on average, {min(found):.3f} to {max(found):.3f}"
    lines = [
        f"{len(examples)} examples, {tokens} tokens; q of {len(found)} layers {span} (DARE: {density:g})",
        f"Wrote {output}. Next: evomerge merge {output} -o DIR",
    ]
    return facts, lines
