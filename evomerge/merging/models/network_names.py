"""Names of a checkpoint's tensors in its network, by transformers' own list of conversions: renamed, or converted."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

from evomerge.merging.models.model import Model
from evomerge.merging.models.network import NetworkError, hollow, is_known


@dataclass(frozen=True)
class NameMatch:
    """The mapping of a checkpoint's names into a network.

    renamed: name in the checkpoint -> in the network. converted: first resulting tensor -> its sources, each with the
    pattern that it matched, in transformers' order. homeless: the others, name -> new name. converters:
    pattern -> transformers' conversion.
    """

    renamed: Mapping[str, str]
    converted: Mapping[str, tuple[tuple[str, str], ...]]
    homeless: Mapping[str, str]
    converters: Mapping[str, WeightConverter]


class LoadingRules:
    """transformers' renamings and conversions for the tensors of one network. live: its state dict, or the names."""

    def __init__(self, network: Any, live: Iterable[str]) -> None:
        transforms = get_model_conversion_mapping(network)
        self._renamings = [transform for transform in transforms if isinstance(transform, WeightRenaming)]
        self._converters = [transform for transform in transforms if isinstance(transform, WeightConverter)]
        self._prefix = network.base_model_prefix
        self._live = dict.fromkeys(live, True)

    def match(self, names: Iterable[str]) -> NameMatch:
        """Rename a checkpoint's tensors as transformers' loader does."""
        renamed: dict[str, str] = {}
        taken: set[str] = set()
        groups: dict[str, list[tuple[str, str]]] = {}
        homeless: dict[str, str] = {}
        for name in sorted(names, key=dot_natural_key):
            target, pattern = rename_source_key(name, self._renamings, self._converters, self._prefix, self._live)
            if target not in self._live and name in self._live:
                target, pattern = rename_source_key(name, [], [], self._prefix, self._live)
            if target not in self._live or (pattern is None and (target in groups or target in taken)):
                homeless[name] = target
            elif pattern is None:
                renamed[name] = target
                taken.add(target)
            else:
                groups.setdefault(target, []).append((name, pattern))
        of_pattern = {pattern: converter for converter in self._converters for pattern in converter.source_patterns}
        return NameMatch(renamed, {key: tuple(found) for key, found in groups.items()}, homeless, of_pattern)


class NetworkNames:
    """Both spellings of a model's tensors, in its files and in its network, which is built on first use.

    Without a network (bare tensors, an architecture unknown to transformers) there is only the files' spelling.
    """

    def __init__(self, model: Model) -> None:
        self._model = model

    @cached_property
    def network(self) -> Any:
        """The network without weights; None if transformers cannot build it from the model's configuration."""
        if self._model.config is None or not is_known(self._model):
            return None
        try:
            return hollow(self._model)
        except NetworkError:
            return None

    @property
    def renamed(self) -> Mapping[str, str]:
        """Name in the files -> in the network, of every tensor that is not converted; empty without a network."""
        return {} if self._match is None else self._match.renamed

    def in_network(self, name: str) -> str | None:
        """Return the network's tensor for a name in the network or in a checkpoint; None if there is none."""
        if self.network is None:
            return None
        found = self._rules.match([name])
        return found.renamed.get(name) or next(iter(found.converted), None)

    def in_files(self, name: str) -> str | None:
        """Return the files' tensor that has this name in the network; None if none has the same values."""
        target = self.in_network(name)
        return None if target is None else self._files.get(target)

    def is_converted(self, name: str) -> bool:
        """Return whether the network's tensor is stacked, concatenated or split from tensors of the files."""
        target = self.in_network(name)
        if target is None or self._match is None:
            return False
        for key, sources in self._match.converted.items():
            first, *others = self._match.converters[sources[0][1]].target_patterns
            if target in (key, *(key.replace(first, other) for other in others)):
                return True
        return False

    @cached_property
    def _match(self) -> NameMatch | None:
        return None if self.network is None else self._rules.match(self._model.names)

    @cached_property
    def _files(self) -> Mapping[str, str]:
        return {live: name for name, live in self.renamed.items()}

    @cached_property
    def _rules(self) -> LoadingRules:
        return LoadingRules(self.network, self.network.state_dict())
