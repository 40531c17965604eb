"""An engine that writes in place of a network, as another network would."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from evaluators._engines import Instructions, Written
from evaluators._rows import Tokens


@dataclass
class Plain:
    """An engine that calls `generate` for every prompt, and writes on behind stop strings."""

    network: Any
    name: str = "plain"
    longest: int = 0
    asked: list[Instructions] = field(default_factory=list)

    def expect(self, n_tokens: int) -> None:
        self.longest = max(self.longest, n_tokens)

    def write(self, prompts: Sequence[Tokens], instructions: Instructions) -> list[Written]:
        self.asked.append(instructions)
        return [Written(self._continued(prompt, instructions), True) for prompt in prompts]

    def _continued(self, prompt: Tokens, instructions: Instructions) -> list[int]:
        tokens = torch.tensor([prompt])
        found = self.network.generate(
            input_ids=tokens,
            attention_mask=torch.ones_like(tokens),
            max_new_tokens=instructions.n_new,
            do_sample=False,
            repetition_penalty=instructions.penalty,
            eos_token_id=sorted(instructions.ends),
            pad_token_id=0,
        )
        written: list[int] = found[0, len(prompt) :].tolist()
        return written
