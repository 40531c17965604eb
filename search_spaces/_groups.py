"""Ways to divide the tensors of a layout into groups that share coefficients."""

from collections.abc import Callable, Mapping

from search_spaces._layout import Layout

Groups = Mapping[str, tuple[str, ...]]

_ORDER = ("embedding", "attention", "mlp", "norm", "head", "other")


def whole(layout: Layout) -> Groups:
    """One group, `all`."""
    return {"all": layout.names}


def by_layer(layout: Layout) -> Groups:
    """`block.0`, `block.1`, ... and, for what is outside of blocks, `embedding`, `norm`, `head`, `other`."""
    return _gather(layout, lambda block, _: f"block.{block}")


def by_component(layout: Layout) -> Groups:
    """`block.0.attention`, `block.0.mlp`, `block.0.norm`, ... and, outside of blocks, as in `by_layer`."""
    return _gather(layout, lambda block, component: f"block.{block}.{component}")


#: What a space's option may call these ways.
GRANULARITIES: Mapping[str, Callable[[Layout], Groups]] = {
    "uniform": whole,
    "layerwise": by_layer,
    "blockwise": by_component,
}


def _gather(layout: Layout, label: Callable[[int, str], str]) -> Groups:
    """Groups in the order of depth, whatever the order of the checkpoint."""
    members: dict[str, list[str]] = {}
    order: dict[str, tuple[int, int, int]] = {}
    for name, block, component in zip(layout.names, layout.blocks, layout.components, strict=True):
        rank = _ORDER.index(component)
        if block is None:
            group, key = component, (0 if component == "embedding" else 2, 0, rank)
        else:
            group, key = label(block, component), (1, block, rank)
        members.setdefault(group, []).append(name)
        order.setdefault(group, key)
    return {group: tuple(members[group]) for group in sorted(members, key=lambda group: order[group])}
