"""mergekit-evolve as a command that runs on CPUs; runs in mergekit's environment, which evomerge is not in.

Its workers ask Ray for a GPU each, empty the cache of the device, which torch cannot do for CPUs, and leave the device
to lm-eval, which takes a GPU. Its modules name lm-eval's backend for vLLM, which cannot be imported without vLLM.
"""

import ray


def stand_in() -> None:
    """Put in what is missing on a machine without GPU and vLLM; runs in every worker, so it brings its imports."""
    import sys
    import types
    from functools import partial

    import lm_eval.models
    import torch

    lm_eval.simple_evaluate = partial(lm_eval.simple_evaluate, device="cpu")
    torch.cpu.empty_cache = lambda: None  # type: ignore[attr-defined]
    name = "lm_eval.models.vllm_causallms"
    module = types.ModuleType(name)
    module.VLLM = type("VLLM", (), {})  # type: ignore[attr-defined]
    sys.modules[name] = module
    lm_eval.models.vllm_causallms = module  # type: ignore[attr-defined]


if __name__ == "__main__":
    stand_in()
    ray.init(num_cpus=4, num_gpus=4, runtime_env={"worker_process_setup_hook": stand_in})
    from mergekit.scripts.evolve import main

    main()
