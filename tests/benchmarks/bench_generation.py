"""Continuations against `generate` of transformers: `python -m tests.benchmarks.bench_generation [--model FOLDER]`.

Both write the same greedy answers in one run: `generate` in batches sorted by length, padded on the left, with a stop
string; and the evaluators' continuous batching with the same number of tokens per batch. Printed: median CPU seconds
of N_RUNS, their ratio, and how many texts are equal. The model is a random Llama of 3 million parameters, whose answers
end after 1 to N_NEW tokens, or, with `--model FOLDER --file PROMPTS.jsonl`, a real one.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evaluators._generation import Generator
from tests.evaluators.tiny_llama import TinyModel, build

N_RUNS = 5
N_NEW = 48
STOP = "\n"
SIZES = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
    "initializer_range": 0.5,
}


def by_generate(model: TinyModel, prompts: Sequence[str], batch_tokens: int) -> Callable[[], list[str]]:
    """Return a function that writes with `generate`, the longest prompts first."""
    tokens = [model.tokenizer.encode(prompt) for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: -len(tokens[i]))
    size = max(1, batch_tokens // (len(tokens[order[0]]) + N_NEW))

    def run() -> list[str]:
        found: dict[int, str] = {}
        for begin in range(0, len(order), size):
            chosen = order[begin : begin + size]
            width = max(len(tokens[i]) for i in chosen)
            padding = [width - len(tokens[i]) for i in chosen]
            written = model.network.generate(
                input_ids=torch.tensor([[0] * n + tokens[i] for i, n in zip(chosen, padding, strict=True)]),
                attention_mask=torch.tensor([[0] * n + [1] * (width - n) for n in padding]),
                max_new_tokens=N_NEW,
                do_sample=False,
                pad_token_id=0,
                stop_strings=[STOP],
                tokenizer=model.tokenizer,
            )
            texts = model.tokenizer.batch_decode(written[:, width:], skip_special_tokens=True)
            found |= {i: text.split(STOP)[0] for i, text in zip(chosen, texts, strict=True)}
        return [found[i] for i in range(len(prompts))]

    return run


def seconds(run: Callable[[], Any]) -> float:
    begin = time.process_time()
    run()
    return time.process_time() - begin


def compare(model: TinyModel, prompts: Sequence[str], batch_tokens: int) -> None:
    generator = Generator(model, prompts, N_NEW, (STOP,), batch_tokens=batch_tokens)
    plain = by_generate(model, prompts, batch_tokens)

    def ours() -> list[Any]:
        return generator.run(model.network, range(len(prompts)))

    with torch.inference_mode():
        expected, found = plain(), ours()  # also tests once whether continuous batching gives the same logits
        pairs = [(seconds(plain), seconds(ours)) for _ in range(N_RUNS)]
    theirs, own = (statistics.median(column) for column in zip(*pairs, strict=True))
    sizes = [len(model.tokenizer.encode(prompt)) for prompt in prompts]
    lengths = [one.n_tokens for one in found]
    print(
        f"{len(prompts)} prompts of {min(sizes)} to {max(sizes)} tokens, answers of {min(lengths)} to {max(lengths)} "
        f"(mean {statistics.mean(lengths):.0f}): generate {theirs:.2f} CPU s, continuous {own:.2f}, "
        f"{theirs / own:.2f} x as fast; equal texts: {sum(a == b.text for a, b in zip(expected, found, strict=True))}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Continuous batching against `generate`.")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--file", type=Path)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--batch-tokens", type=int, default=2048)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    if options.model is None:
        with tempfile.TemporaryDirectory() as folder:
            model = build(Path(folder), 0, **SIZES)
        prompts = [f"{'so ' * (i % 17)}{i} plus {i * 7} is " for i in range(options.limit)]
    else:
        network = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
        model = TinyModel(network, AutoTokenizer.from_pretrained(options.model), options.model)
        lines = options.file.read_text().splitlines()[: options.limit]
        prompts = [json.loads(line)["prompt"] for line in lines]
    compare(model, prompts, options.batch_tokens)
    if options.model is None:
        shots = "".join(f"{i} plus {i} is {2 * i}. " for i in range(12))
        compare(model, [shots + prompt for prompt in prompts], 4 * options.batch_tokens)


if __name__ == "__main__":
    main()
