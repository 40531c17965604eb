"""The table of architectures in the documentation: python -m tests.architectures.table > docs/architectures.md"""

import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from evomerge.merging.models.checkpoint import Checkpoint
from evomerge.merging.models.network import hollow
from evomerge.resident.places import Loading, find_places
from tests.architectures.kinds import KINDS

DOCUMENT = Path(__file__).parents[2] / "docs" / "architectures.md"
HEAD = """# Architectures

Every kind below is tested with a tiny network of random weights: a base and two fine-tunes are merged and written; the
network that a search holds in memory equals the written one as transformers loads it (every tensor and one forward
pass, bit for bit); and a search over them is run. For any other model, `evomerge check` tells whether it can be
searched.

transformers renames and rearranges the tensors of some kinds on loading. Recipes, groups and written files use the
checkpoint's own names. Tensors that are views of the network's are merged in place; the others (*copied*) take memory
of their own and are converted after every merge. Experts of a mixture that the checkpoint stores one by one can have
coefficients of their own: `space: expertwise`.

The last column names the evaluators that score a kind, as tried on data; the search uses the first of them.
`perplexity` represents all evaluators that read or write text from left to right. `callable`, a function of your own,
takes every kind and is listed where no other evaluator scores it (`evomerge list evaluators callable`).
`embedding_retrieval` needs hidden states only: whether they are embeddings depends on how a model was trained. CLIP is
scored by prompts (`templates`), the other kinds of `image_classification` by their heads.

`python -m tests.architectures.table` writes this file.
"""


def loading(base: Path) -> Loading:
    """Where the tensors of a checkpoint are in its network."""
    opened = Checkpoint.open(base)
    return find_places(hollow(opened), {name: opened.shape(name) for name in opened.names}, opened.mergeable, str(base))


def row(kind: str, found: Loading, copied: int, evaluators: Sequence[str]) -> str:
    """A kind's row. copied: tensors that are no views of the network's. evaluators: those that score it."""
    renamed = sum(name != target for name, target in found.renamed.items())
    rearranged = sum(len(conversion.sources) for conversion in found.converted)
    operations = sorted({type(op).__name__ for c in found.converted for op in c.transform.operations})
    said = [f"{renamed} of {len(found.renamed) + rearranged} renamed"] if renamed else []
    said += [f"{rearranged} rearranged ({', '.join(operations)})"] if rearranged else []
    said += [f"{copied} copied"] if copied else []
    scored = ", ".join(f"`{name}`" for name in evaluators)
    return f"| {kind} | `{KINDS[kind].architecture}` | {', '.join(said) or 'unchanged'} | {scored} |"


def main() -> None:
    # The models need tokenizers and evomerge itself, which the rows of a plain list do not.
    from evomerge.resident.resident import load_resident
    from tests.architectures.models import evaluators_of, write_models

    lines, group = [HEAD], None
    for kind, known in KINDS.items():
        if known.group != group:
            group = known.group
            lines += [f"\n## {group}\n", "| Kind | Class | Tensors on loading | Scored by |", "|---|---|---|---|"]
        with TemporaryDirectory() as folder:
            base = write_models(kind, Path(folder))["base"]
            copied = len(load_resident(Checkpoint.open(base), base, None, "cpu").staged)
            lines.append(row(kind, loading(base), copied, evaluators_of(kind, base, Path(folder))))
    sys.stdout.write("\n".join(lines).replace("\n\n\n", "\n\n") + "\n")


if __name__ == "__main__":
    main()
