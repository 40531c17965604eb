"""`evomerge tools` and former names of its commands. Heavy imports are local to the command bodies."""

from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli.application import MORE, AsJson, show

commands = typer.Typer()

DataFile = Annotated[Path, typer.Option("--data", help="A text file or JSON lines: prompts with answers, or texts.")]
Examples = Annotated[int | None, typer.Option(min=1, help="Use at most N examples; all by default.")]
Length = Annotated[int | None, typer.Option(help="Maximum tokens per example; 512 by default.")]
Separator = Annotated[str, typer.Option(help="Text between prompt and answer.", show_default="a space")]
Device = Annotated[str, typer.Option(help="cpu, cuda, or auto (a GPU if available).")]

tools = typer.Typer(no_args_is_help=True, help="Align, repair, calibrate and average models without a search.")


@tools.command()
def align(
    model: Annotated[str, typer.Argument(help="The model whose hidden units are reordered.")],
    to: Annotated[str, typer.Option("--to", help="The reference model to match.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    residual: Annotated[bool, typer.Option("--residual", help="Also permute the residual stream.")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for the order of the steps.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Match a model's hidden units to another's (Git Re-Basin).

    For independently trained models; models fine-tuned from one base do not need it. The model's outputs do not change.
    """
    from evomerge.commands.tools.align import align_model

    data = align_model(model, to, output, residual=residual, seed=seed, overwrite=overwrite)
    before, after = data["cosine"]
    moved = f"Moved {data['moved']} of {data['units']} units; cosine of the weights {before:.4f} -> {after:.4f}."
    show(as_json, data, moved, f"Wrote {output}")


@tools.command()
def repair(
    merged: Annotated[str, typer.Argument(help="The merged model; its tokenizer encodes the data.")],
    models: Annotated[list[str], typer.Argument(help="Its endpoints: the models that were merged.")],
    data: DataFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    weights: Annotated[
        str | None,
        typer.Option(help="Comma-separated weights of the endpoints, as they were merged; equal by default."),
    ] = None,
    rescale: Annotated[bool, typer.Option("--rescale", help="Correct standard deviations only, no biases.")] = False,
    examples: Examples = None,
    length: Length = None,
    separator: Separator = " ",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens per forward pass.")] = 4096,
    dtype: Annotated[str | None, typer.Option(help="Data type to run the models in; float32 by default.")] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Restore the statistics of a merge's hidden units (REPAIR).

    For aligned models that were trained independently; merges of models fine-tuned from one base do not need it.
    Compare the scores before and after: the repaired model is not always better, least of all without biases.

    Corrects, block by block, the layers that produce hidden units of the MLPs: gates, up projections and first layers.
    In layers without a bias (Llama, Qwen, Mistral) only standard deviations are corrected, which is RESCALE. Queries,
    keys, values and whatever is added to the residual stream stay unchanged: norms and products there set the scale.
    """
    try:
        shares = None if weights is None else [float(weight) for weight in weights.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--weights is {weights!r}; expected comma-separated numbers") from error
    from evomerge.commands.tools.calibrate import Reading
    from evomerge.commands.tools.repair import repair_model

    reading = Reading(examples, length, dtype, device, separator)
    facts, lines = repair_model(
        merged,
        models,
        data,
        output,
        reading,
        weights=shares,
        scale_only=rescale,
        batch_tokens=batch_tokens,
        overwrite=overwrite,
    )
    show(as_json, facts, *lines)


@tools.command()
def calibrate(
    data: Annotated[
        list[str],
        typer.Option("--data", help="A text file or JSON lines; with --through, NAME=FILE for each input."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write; with --through, a folder.")],
    model: Annotated[str | None, typer.Argument(help="The model; omit it with --through.")] = None,
    adapter: Annotated[str | None, typer.Option(help="A LoRA on the model: a folder, or OWNER/NAME@REVISION.")] = None,
    kinds: Annotated[str, typer.Option(help="Comma-separated kinds: fisher, gram, gram_out.")] = "fisher,gram",
    through: Annotated[
        Path | None, typer.Option(help="A recipe: collect gram for its inputs through merged layers (RegMean++).")
    ] = None,
    examples: Examples = None,
    length: Length = None,
    separator: Separator = " ",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens per forward pass without gradients.")] = 4096,
    labels: Annotated[str, typer.Option(help="Labels for the gradients: data, or sampled from the model.")] = "data",
    seed: Annotated[int, typer.Option(min=0, help="Random seed for sampled labels.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="Data type to load the model in; float32 by default.")] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Collect the statistics that fisher, regmean and mats need.

    Writes Fisher information and Gram matrices of a model's layers to one file, which a recipe names as `statistics`.
    """
    if (model is None) == (through is None) or (through is None and len(data) != 1):
        raise typer.BadParameter("give MODEL and one --data FILE, or --through RECIPE and --data NAME=FILE per input")
    if through is not None and (dtype is not None or labels != "data" or kinds not in ("gram", "fisher,gram")):
        raise typer.BadParameter("--through collects gram in the recipe's dtype; omit --kinds, --labels and --dtype")
    from evomerge.commands.tools import calibrate as calibration
    from evomerge.prepare.calibration.collect import Settings
    from evomerge.recipe.model_names import named_input

    reading = calibration.Reading(examples, length, dtype, device, separator)
    if through is not None:
        files = calibration.name_data(data)
        facts, lines = calibration.collect_through_recipe(
            through, files, output, batch_tokens, reading, overwrite=overwrite
        )
    else:
        # Settings itself raises for unknown kinds and labels.
        settings = Settings(tuple(kinds.split(",")), labels, seed, batch_tokens)  # type: ignore[arg-type]
        facts, lines = calibration.collect_statistics(
            named_input("model", f"{model}+{adapter}" if adapter else str(model)),
            Path(data[0]),
            output,
            settings,
            reading,
            overwrite=overwrite,
        )
    show(as_json, facts, *lines)


@tools.command()
def soup(
    base: Annotated[str, typer.Argument(help="The base: gives configuration, tokenizer and unmerged tensors.")],
    models: Annotated[list[str], typer.Argument(help="The models to average; the base may be one of them.")],
    data: DataFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe to write.")] = Path("recipe.yaml"),
    by_layer: Annotated[bool, typer.Option("--by-layer", help="Learn one weight per model and tensor.")] = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training half of the data.")] = 5,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 0.05,
    batch: Annotated[int, typer.Option(min=1, help="Examples per step.")] = 8,
    examples: Examples = None,
    length: Length = None,
    separator: Separator = " ",
    tokenizer: Annotated[str | None, typer.Option(help="If vocabularies differ: base, union, or a model.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed for the order of examples.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="Data type to train in; float32 by default.")] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing recipe.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learn the weights of an average of models on labelled data.

    Half of the examples train the weights; the other half compares the soup with the uniform average and every model.
    Training needs a differentiable loss; for any other score, run a search with `optimizer: greedy_soup`.
    """
    from evomerge.commands.tools.calibrate import Reading
    from evomerge.commands.tools.soup import learn_soup
    from evomerge.prepare.soup import Settings

    settings = Settings(epochs, lr, batch, by_layer=by_layer, seed=seed)
    reading = Reading(examples, length, dtype, device, separator)
    facts, lines = learn_soup(base, models, data, output, settings, reading, tokenizer=tokenizer, overwrite=overwrite)
    show(as_json, facts, *lines)


@tools.command(name="analytic-q")
def analytic_q(
    base: Annotated[str, typer.Argument(help="The base.")],
    model: Annotated[str, typer.Argument(help="The fine-tuned model whose delta is thinned.")],
    data: DataFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="The recipe to write.")] = Path("recipe.yaml"),
    density: Annotated[float, typer.Option(help="Share of the delta's elements that are kept.")] = 0.1,
    eta: Annotated[float, typer.Option(help="Scale of the tolerated change of a layer's outputs.")] = 0.45,
    examples: Examples = None,
    length: Length = None,
    separator: Separator = " ",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens per forward pass.")] = 4096,
    dtype: Annotated[str | None, typer.Option(help="Data type to run the model in; float32 by default.")] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing recipe.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compute the rescaling factors of DAREx-q from data, one per layer.

    For deltas of which few elements are kept. Needs no labels: the mean inputs of the layers determine the factors.
    Compare the scores with those of `dare_linear`: the paper tunes --eta on them.
    """
    from evomerge.commands.tools.analytic_q import write_analytic_q
    from evomerge.commands.tools.calibrate import Reading

    reading = Reading(examples, length, dtype, device, separator)
    facts, lines = write_analytic_q(
        base, model, data, output, reading, density=density, eta=eta, batch_tokens=batch_tokens, overwrite=overwrite
    )
    show(as_json, facts, *lines)


@tools.command()
def mask(
    base: Annotated[str, typer.Argument(help="The base.")],
    models: Annotated[list[str], typer.Argument(help="The fine-tuned models whose deltas are masked.")],
    data: Annotated[
        list[str],
        typer.Option("--data", help="A text file or JSON lines; for several models NAME=FILE each, by folder name."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The folder to write.")],
    kind: Annotated[str, typer.Option(help="graft: a mask for each model. concrete: one mask for all.")] = "graft",
    density: Annotated[
        float | None, typer.Option(help="Graft: share of a delta's elements to begin with; 0.01 by default.")
    ] = None,
    weight: Annotated[float | None, typer.Option(help="Concrete: weight of every delta; 0.3 by default.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Gradient steps: of a graft 10, on all data; of a concrete mask 2000.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Learning rate, of SGD or Adam.")] = None,
    loss: Annotated[str, typer.Option(help="Concrete: labels, or entropy, which needs none.")] = "labels",
    batch: Annotated[int, typer.Option(help="Concrete: examples of each model per step.")] = 8,
    examples: Examples = None,
    length: Length = None,
    separator: Separator = " ",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Tokens per pass.")] = 4096,
    seed: Annotated[int, typer.Option(min=0, help="Concrete: random seed of noise and batches.")] = 0,
    dtype: Annotated[str | None, typer.Option(help="Data type to run the models in; float32 by default.")] = None,
    device: Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier output.")] = False,
    as_json: AsJson = False,
) -> None:
    """Learn which elements of deltas to keep, by gradient descent on data.

    Writes the masks as statistics of the models, with a recipe that merges them by `masked`; a search over its weights
    takes the same files. Half of the data trains the masks, the other half compares them.
    """
    from evomerge.commands.tools.calibrate import Reading
    from evomerge.commands.tools.mask import MaskSettings, learn_masks, learner_settings

    learner = learner_settings(kind, density=density, weight=weight, steps=steps, lr=lr, seed=seed)
    settings = MaskSettings(learner, loss, batch, batch_tokens)
    reading = Reading(examples, length, dtype, device, separator)
    facts, lines = learn_masks(base, models, data, output, settings, reading, overwrite=overwrite)
    show(as_json, facts, *lines)


commands.add_typer(tools, name="tools", rich_help_panel=MORE)
for _name, _command in (("align", align), ("repair", repair), ("statistics", calibrate), ("soup", soup)):
    commands.command(_name, hidden=True)(_command)
