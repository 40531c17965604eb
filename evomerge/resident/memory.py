"""Out-of-memory errors while a model is scored: detection, and release of unused memory."""

import gc

import torch

#: Message of torch's CPU allocator, whose error has no type of its own.
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
    """Release unreferenced memory, and GPU memory cached by torch."""
    gc.collect()
    torch.cuda.empty_cache()  # no effect without a GPU
