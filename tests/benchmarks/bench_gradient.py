"""The cost of a gradient by merge coefficients: `python -m tests.benchmarks.bench_gradient [--layers 4]`.

A random Llama and four experts, one weight per tensor and expert. A step writes the merged weights, runs forward and
backward, and contracts each weight's gradient with the deltas. Printed: CPU time of a step in forward passes of the
same tokens, and what part of it is spent where; then memory beyond that of the weights, at its peak: of a forward pass,
of one whose activations are kept, with kept gradients, with hooks, and with recomputed activations. `--layers 12` has
110 million parameters. Short examples on a small language model: `--layers 30 --hidden 576 --vocabulary 49152
--experts 3 --tokens 320 --length 40`.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from torch import Tensor

from evomerge.merging.engine import MergeEngine
from evomerge.merging.methods.task_arithmetic import task_arithmetic
from evomerge.merging.recipe_models import open_models
from evomerge.recipe import Input, Merge, Recipe
from evomerge.resident.gradients import GradientHooks
from evomerge.resident.resident import ResidentModel, load_resident
from search_spaces.tensorwise import Tensorwise

N_RUNS = 5
#: Ways to run a step, as options of a process whose memory is measured.
WAYS = ("forward", "activations", "kept", "hooks", "recomputed")


def write_models(folder: Path, given: argparse.Namespace) -> None:
    """A base with a network, and experts: weights of standard deviation 0.02, deltas a twentieth of that."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=given.hidden,
        intermediate_size=8 * given.hidden // 3,
        num_hidden_layers=given.layers,
        num_attention_heads=given.hidden // 64,
        vocab_size=given.vocabulary,
        tie_word_embeddings=given.vocabulary > 16000,
    )
    network = transformers.LlamaForCausalLM(config).to(getattr(torch, given.dtype))
    network.save_pretrained(folder / "base")
    for name in experts(given.experts):
        tensors = {n: t.detach() + 0.001 * torch.randn_like(t) for n, t in network.named_parameters()}
        save_file(tensors, folder / f"{name}.safetensors")


def experts(count: int) -> tuple[str, ...]:
    return tuple("abcdefgh"[:count])


class Steps:
    """Everything that a step needs, with other coefficients each time."""

    def __init__(self, folder: Path, given: argparse.Namespace, tokens: int) -> None:
        self.names = experts(given.experts)
        inputs = tuple(Input(name, str(folder / f"{name}.safetensors")) for name in self.names)
        self.recipe = Recipe(Input("base", str(folder / "base")), inputs, "task_arithmetic")
        models = open_models(self.recipe)
        self.engine: MergeEngine = models.engine()
        self.model: ResidentModel = load_resident(models.base, models.tokenizer, None, "cpu")
        weight = next(p for p in task_arithmetic.parameters if p.name == "weight")
        self.space = Tensorwise(models.base.layout(), self.names, [weight])
        self.batch = torch.arange(tokens).view(-1, min(given.length, tokens)) % 16000
        self.hooks = GradientHooks(self.model, self.engine)
        self.recomputing = GradientHooks(self.model, self.engine, checkpointing=True)
        self._random = np.random.default_rng(0)

    def next(self) -> Merge:
        return Merge(self.recipe, self.space.decode(self._random.random(self.space.dimension)))

    def apply(self, merge: Merge) -> None:
        self.engine.apply(merge, self.model.tensors)

    def loss(self) -> Tensor:
        loss: Tensor = self.model.network(input_ids=self.batch, labels=self.batch, use_cache=False).loss
        return loss

    def forward(self) -> None:
        with torch.no_grad():
            self.loss()

    def kept(self) -> None:
        """Forward and backward as in training, all gradients at once."""
        self.model.network.requires_grad_(True)
        self.loss().backward()
        self.model.network.requires_grad_(False)

    def contract(self, merge: Merge) -> None:
        slopes = self.engine.slopes(merge)
        for name, parameter in self.model.network.named_parameters():
            assert parameter.grad is not None
            slopes(name, parameter.grad)

    def step(self, merge: Merge, hooks: GradientHooks) -> None:
        self.apply(merge)
        with hooks.of(merge, self.space.searched):
            self.loss().backward()


def in_turns(runs: dict[str, Callable[[], None]]) -> dict[str, float]:
    """CPU seconds of each, the median of a few rounds in which they take turns."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(N_RUNS):
        for name, run in runs.items():
            begin = time.process_time()
            run()
            found[name].append(time.process_time() - begin)
    return {name: statistics.median(times) for name, times in found.items()}


def anonymous() -> int:
    """Bytes of memory of this process without mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@contextmanager
def peak() -> Iterator[list[int]]:
    """Yield a list that gets the largest increase of memory within the context."""
    start, found, done = anonymous(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            found[0] = max(found[0], anonymous() - start)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def memory(folder: Path, given: argparse.Namespace, way: str) -> int:
    """Peak of memory beyond the weights of one way."""
    steps = Steps(folder, given, given.tokens[0])
    merge = steps.next()
    steps.apply(merge)
    steps.forward()
    with peak() as found:
        if way == "forward":
            steps.forward()
        elif way == "activations":
            steps.model.network.requires_grad_(True)
            steps.loss()
        elif way == "kept":
            steps.kept()
        else:
            steps.step(merge, steps.hooks if way == "hooks" else steps.recomputing)
    return found[0]


def report(folder: Path, given: argparse.Namespace, tokens: int) -> None:
    steps = Steps(folder, given, tokens)
    size = sum(parameter.numel() for parameter in steps.model.network.parameters())
    steps.step(steps.next(), steps.hooks)  # finds out which tensors differ, and fills caches
    merge = steps.next()
    runs = {
        "forward": steps.forward,
        "forward and backward": steps.kept,
        "contraction": lambda: steps.contract(merge),
        "merged weights": lambda: steps.apply(steps.next()),
        "step": lambda: steps.step(steps.next(), steps.hooks),
        "recomputed": lambda: steps.step(steps.next(), steps.recomputing),
    }
    runs["forward and backward"]()  # the first contraction needs gradients
    times = in_turns(runs)
    forward, both, step = times["forward"], times["forward and backward"], times["step"]
    print(
        f"{size / 1e6:.0f}M parameters, {len(steps.names)} experts, {steps.space.dimension} coefficients, {tokens} "
        f"tokens: a step costs {step / forward:.2f} forward passes ({forward:.2f} CPU s), {step / both:.2f} x forward "
        f"and backward, with recomputed activations {times['recomputed'] / forward:.2f}; forward and backward "
        f"{both / forward:.2f}, contraction {times['contraction'] / forward:.2f} ({times['contraction'] / step:.0%} of "
        f"the step), merged weights {times['merged weights'] / forward:.2f} ({times['merged weights'] / step:.0%})"
    )
    parameters = list(steps.model.network.parameters())
    weights, largest = (function(p.nbytes for p in parameters) for function in (sum, max))
    steps.model.network.zero_grad()
    used = {}
    for way in WAYS:
        command = [sys.executable, "-m", __spec__.name, "--tokens", str(tokens), "--peak", way, "--folder", str(folder)]
        command += ["--experts", str(given.experts), "--length", str(given.length)]
        used[way] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    print(
        "peak memory beyond the weights: "
        + ", ".join(f"{way} {size / 2**20:.0f} MiB ({size / used['kept']:.2f})" for way, size in used.items())
    )
    all_in_all = (weights + used["hooks"]) / (weights + used["activations"] + largest)
    print(f"peak with hooks: {all_in_all:.2f} x (weights, activations and the largest gradient)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--vocabulary", type=int, default=16000)
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--length", type=int, default=64, help="tokens of an example")
    parser.add_argument("--tokens", type=int, nargs="*", default=[512, 64])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--peak", choices=WAYS, help="print the memory of one way only")
    parser.add_argument("--folder", type=Path, help="of the models, for --peak")
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.peak:
        print(memory(given.folder, given, given.peak))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_models(Path(folder), given)
        for tokens in given.tokens:
            report(Path(folder), given, tokens)


if __name__ == "__main__":
    main()
