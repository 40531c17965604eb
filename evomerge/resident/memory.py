"""Memory that runs out while a model is scored: how it shows, and how to give back what nobody uses."""

import gc

import torch

#: Words of torch's allocator for the CPU, whose error has no type of its own.
_CPU = "DefaultCPUAllocator: "


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error, or the one that it was raised from, says that memory ran out, on a GPU or the machine."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, torch.OutOfMemoryError | MemoryError):
            return True
        if isinstance(cause, RuntimeError) and _CPU in str(cause):
            return True
        cause = cause.__cause__
    return False


def free_memory() -> None:
    """Give back memory that nothing refers to, and what torch keeps of a GPU's for later."""
    gc.collect()
    torch.cuda.empty_cache()  # nothing where no GPU is in use
