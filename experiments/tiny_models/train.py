"""The character tokenizer, the Llama network, and training on the answers of the tasks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import torch
from tokenizers import Tokenizer, decoders, models, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .tasks import Example, Task

SPECIAL = ("<pad>", "<s>", "</s>", "<unk>")
PAD, BOS, EOS, UNKNOWN = range(4)
VOCABULARY = (*SPECIAL, "\n", *map(chr, range(32, 127)))
MAX_LENGTH = 64
IGNORED = -100  # the label that transformers leaves out of the loss


@dataclass(frozen=True)
class Network:
    """Shape of the network."""

    hidden: int
    layers: int
    heads: int


@dataclass(frozen=True)
class Schedule:
    """How long and how strongly to train: AdamW, linear warm-up and decay."""

    steps: int
    learning_rate: float
    batch: int = 64


def character_tokenizer() -> PreTrainedTokenizerFast:
    """One token per printable ASCII character; `<s>` is put in front, as Llama's tokenizer does."""
    ids = {token: number for number, token in enumerate(VOCABULARY)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], unk_token=SPECIAL[UNKNOWN]))
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[(SPECIAL[BOS], BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=SPECIAL[PAD],
        bos_token=SPECIAL[BOS],
        eos_token=SPECIAL[EOS],
        unk_token=SPECIAL[UNKNOWN],
        model_max_length=MAX_LENGTH,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_model(network: Network, seed: int) -> LlamaForCausalLM:
    """A network with random weights that depend on the seed only."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=network.hidden,
        intermediate_size=network.hidden * 11 // 4,
        num_hidden_layers=network.layers,
        num_attention_heads=network.heads,
        max_position_embeddings=MAX_LENGTH,
        pad_token_id=PAD,
        bos_token_id=BOS,
        eos_token_id=EOS,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def fit(
    model: LlamaForCausalLM,
    tasks: Sequence[Task],
    schedule: Schedule,
    seed: int,
    progress: Callable[[int, float], None],
) -> None:
    """Train `model` in place on the tasks in equal shares; `progress(step, loss)` is called at every step."""
    rng = Random(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate, weight_decay=0.01)
    warm_up = max(1, schedule.steps // 10)
    model.train()
    for step in range(schedule.steps):
        decay = 1 - 0.9 * step / schedule.steps
        for group in optimizer.param_groups:
            group["lr"] = schedule.learning_rate * min(1.0, (step + 1) / warm_up) * decay
        share = schedule.batch // len(tasks)
        inputs, labels = _batch([example for task in tasks for example in task.training(rng, share)])
        loss = model(input_ids=inputs, labels=labels).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        progress(step + 1, loss.item())
    model.eval()


def _batch(examples: Sequence[Example]) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels (n_examples, longest), padded on the right; only answers have labels."""
    texts = [(_encode(example.prompt), _encode(f" {example.answer}\n")) for example in examples]
    longest = max(len(prompt) + len(answer) for prompt, answer in texts) + 2
    inputs = torch.full((len(texts), longest), PAD)
    labels = torch.full((len(texts), longest), IGNORED)
    for row, (prompt, answer) in enumerate(texts):
        tokens = torch.tensor([BOS, *prompt, *answer, EOS])
        inputs[row, : len(tokens)] = tokens
        start = 1 + len(prompt)
        labels[row, start : len(tokens)] = tokens[start:]
    return inputs, labels


def _encode(text: str) -> list[int]:
    return [VOCABULARY.index(character, len(SPECIAL)) for character in text]
