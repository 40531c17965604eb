"""Partitions of a layout's tensors into groups that share coefficients."""

import re
from collections.abc import Callable, Mapping

from search_spaces._layout import Layout

Groups = Mapping[str, tuple[str, ...]]

# `block_sparse_moe.experts.3.`, `mlp.experts.3.`: a routed expert. Shared experts have no number.
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
# `mlp.experts.gate_up_proj`: a tensor that stacks all experts of its block.
_ALL_EXPERTS = re.compile(r"\.experts\.(?!\d+\.)")
_ORDER = ("embedding", "attention", "mlp", "norm", "head", "other")


def whole(layout: Layout) -> Groups:
    """Return the single group `all`."""
    return {"all": layout.names}


def by_layer(layout: Layout) -> Groups:
    """Return `block.0`, `block.1`, ... and, for tensors outside blocks, `embedding`, `norm`, `head`, `other`."""
    return _gather(layout, lambda block, _: f"block.{block}")


def by_component(layout: Layout) -> Groups:
    """Return `block.0.attention`, `block.0.mlp`, `block.0.norm`, ... and, outside blocks, the groups of `by_layer`."""
    return _gather(layout, lambda block, component: f"block.{block}.{component}")


def by_expert(layout: Layout) -> Groups:
    """Return the groups of `by_component`, plus `block.0.expert.0`, `block.0.expert.1`, ... for named experts."""
    return _gather(layout, lambda block, component: f"block.{block}.{component}", experts=True)


def by_tensor(layout: Layout) -> Groups:
    """Return a group for every tensor, named like it."""
    depths = [_depth(*place) for place in zip(layout.blocks, layout.components, strict=True)]
    ordered = sorted(zip(depths, layout.names, strict=True), key=lambda one: one[0])
    return {name: (name,) for _, name in ordered}


def expert_notes(layout: Layout) -> tuple[str, ...]:
    """Return sentences about experts that `by_expert` cannot separate."""
    places = [name for name, block in zip(layout.names, layout.blocks, strict=True) if block is not None]
    together = [name for name in places if _ALL_EXPERTS.search(name)]
    if together:
        sentence = (
            f"{len(together)} tensors hold all experts of their block in one (such as {together[0]}): these experts "
            "have no coefficients of their own, only those of the group block.N.mlp"
        )
        return (sentence,)
    if not any(map(_EXPERT.search, places)):
        return ("no tensor's name has the number of an expert: the groups are those of blockwise",)
    return ()


#: Names of these partitions in the options of a space.
GRANULARITIES: Mapping[str, Callable[[Layout], Groups]] = {
    "uniform": whole,
    "layerwise": by_layer,
    "blockwise": by_component,
    "expertwise": by_expert,
    "tensorwise": by_tensor,
}


def _gather(layout: Layout, label: Callable[[int, str], str], *, experts: bool = False) -> Groups:
    """Collect groups by depth, whatever the order of the checkpoint."""
    members: dict[str, list[str]] = {}
    order: dict[str, tuple[int, int, int, int]] = {}
    for name, block, component in zip(layout.names, layout.blocks, layout.components, strict=True):
        expert = _EXPERT.search(name) if experts else None
        number = 0
        if block is None:
            group = component
        elif expert is not None:
            group, number = f"block.{block}.expert.{expert.group(1)}", 1 + int(expert.group(1))
        else:
            group = label(block, component)
        members.setdefault(group, []).append(name)
        order.setdefault(group, (*_depth(block, component), number))
    return {group: tuple(members[group]) for group in sorted(members, key=lambda group: order[group])}


def _depth(block: int | None, component: str) -> tuple[int, int, int]:
    """Return the place of a tensor in the order of depth: embeddings, blocks, then the rest."""
    rank = _ORDER.index(component)
    return (1, block, rank) if block is not None else (0 if component == "embedding" else 2, 0, rank)
