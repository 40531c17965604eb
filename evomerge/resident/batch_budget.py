"""Tokens per batch for a network on its device: doubled as long as memory suffices and throughput grows."""

import inspect
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch

from evaluators._tokens import batch_limit, choose_batch_tokens
from evomerge.resident.machine_limits import synchronize
from evomerge.resident.memory import free_memory, is_out_of_memory

#: First and last number of tokens that is tried.
LEAST, MOST = 512, 2**17
#: Increase of tokens per second below which a larger batch is not worth its memory.
GAIN = 1.1
#: Tokens of a row, and timed forward passes of a size.
ROW, N_RUNS = 128, 3


class BatchBudget:
    """Tokens per batch of a worker's networks, for the tasks that set none.

    Batches change scores by rounding. So that they stay the same for a whole study, a budget is measured once, and used
    from then on by every worker with the same kind of device; a worker with another kind uses the evaluators' constant.

    Args:
        network: The network that evaluators run.
        given: The user's setting: a number, "auto", or None to measure on accelerators only.
    """

    def __init__(self, network: Any, given: int | Literal["auto"] | None) -> None:
        self._networks, self._given = [network], given
        self._tokens: int | None = None
        device: torch.device = network.device
        self._kind = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        self._measures = given == "auto" or (given is None and device.type != "cpu")

    def begin(self, recorded: Mapping[str, int], *, first: bool) -> dict[str, object] | None:
        """Set the budget for one trial; return what must be recorded if it was measured now.

        recorded: kind of device -> tokens per batch in this study. first: whether no trial was scored before.
        """
        tokens = self._given if isinstance(self._given, int) else recorded.get(self._kind)
        measured = _find(self._networks[0]) if tokens is None and first and self._measures else None
        self._use(tokens if measured is None else measured)
        return None if measured is None else {"device": self._kind, "tokens": measured}

    def halve(self) -> None:
        """Halve the budget until the next trial, unless it is the user's."""
        if not isinstance(self._given, int):
            self._use(max(1, batch_limit(None, self._networks[0]) // 2))

    def share(self, network: Any) -> None:
        """Use the same budget for a second network from now on."""
        self._networks.append(network)
        choose_batch_tokens(network, self._tokens)

    def _use(self, tokens: int | None) -> None:
        self._tokens = tokens
        for network in self._networks:
            choose_batch_tokens(network, tokens)


def find_budget(network: Any, seconds: Callable[[Any, int], float] | None = None) -> int:
    """Return the number of tokens, a power of 2, after which doubling gains less than a tenth, or memory runs out.

    A budget that memory limits is half of the largest one that fits, since logits and masks come on top.

    Args:
        network: The network, on its device.
        seconds: Returns the duration of a forward pass of a number of tokens; by default the median of three.
    """
    measure = seconds or forward_seconds
    tokens, rate = LEAST, 0.0
    while True:
        try:
            found = tokens / measure(network, tokens)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            free_memory()
            return max(1, tokens // 4)
        if found < GAIN * rate:
            return tokens // 2
        if tokens >= MOST:
            return tokens
        tokens, rate = 2 * tokens, found


@torch.no_grad()
def forward_seconds(network: Any, tokens: int) -> float:
    """Return the median duration of forward passes that keep keys and values, after one that is not timed."""
    width = min(ROW, tokens)
    inputs = torch.zeros(tokens // width, width, dtype=torch.long, device=network.device)
    last = {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(network.forward).parameters else {}

    def timed() -> float:
        begin = time.perf_counter()
        network(input_ids=inputs, use_cache=True, **last)
        synchronize(network.device)
        return time.perf_counter() - begin

    timed()
    return statistics.median(timed() for _ in range(N_RUNS))


def _find(network: Any) -> int | None:
    """Return the budget; None for a network that cannot read tokens alone, whatever it raises then."""
    try:
        return find_budget(network)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError, KeyError):
        return None
