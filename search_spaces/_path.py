"""Path and Step: a candidate that runs through the blocks of several models, instead of a merge of their weights."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Step:
    """One block of a path.

    Attributes:
        model: Name of its model.
        block: Its number there.
        scale: Factor by which the block's input, the residual stream, is multiplied; positive.
    """

    model: str
    block: int
    scale: float = 1.0


@dataclass(frozen=True)
class Path:
    """Blocks in the order in which they are computed.

    Attributes:
        steps: The blocks, at least one; the same block may occur more than once.
        ends: Name of the model whose embeddings, final norm and head surround them.
    """

    steps: tuple[Step, ...]
    ends: str
