"""What is compared with PEFT: adapters folded into their base, and adapters merged by `add_weighted_adapter`."""

from dataclasses import dataclass

from tests.conformance.corpus import WORK, Case


@dataclass(frozen=True)
class PeftCase:
    """Adapters of the base, how PEFT combines them (None: one adapter is folded), and the arguments for it."""

    name: str
    adapters: tuple[str, ...]
    combination: str | None = None
    weights: tuple[float, ...] = (1.0,)
    density: float | None = None
    majority: str = "total"
    rank: int | None = None

    @property
    def random(self) -> bool:
        """Whether PEFT draws random masks."""
        return (self.combination or "").startswith("dare")

    @property
    def loaded(self) -> str | None:
        """The name of PEFT's model with our adapter on it, where our result is an adapter."""
        return None if self.rank is None else f"{self.name}-loaded"

    def case(self) -> Case:
        """As a row of the table names it."""
        arguments = [] if self.combination is None else [f"weights {', '.join(map(str, self.weights))}"]
        arguments += [] if self.density is None else [f"density {self.density:g}"]
        arguments += [] if self.rank is None else [f"rank {self.rank}"]
        arguments += [] if self.majority == "total" else [f"signs by {self.majority}"]
        return Case(
            f"peft-{self.name}", "; ".join([", ".join(self.adapters), *arguments]), self.combination or "fold", ""
        )


#: Where our random numbers for PEFT are.
DRAWS = WORK / "draws" / "peft.safetensors"
#: Our merges as adapters, one folder for each case with a rank.
ADAPTERS = WORK / "adapters"
FOLDED = ("adapter", "adapter_rs", "adapter_dora", "adapter_head", "adapter_tokens")
THREE = ("adapter", "adapter_b", "adapter_c")
WEIGHTS = (0.7, 0.4, -0.3)
POSITIVE = (0.7, 0.4, 0.3)
MIXED = ("adapter", "adapter_rs")

CASES = (
    *(PeftCase(f"fold-{name.replace('_', '-')}", (name,)) for name in FOLDED),
    PeftCase("linear", THREE, "linear", WEIGHTS),
    PeftCase("linear-other-modules", MIXED, "linear", (0.6, 0.5)),
    PeftCase("linear-one", ("adapter_b",), "svd", (-0.5,)),
    PeftCase("cat", THREE, "cat", WEIGHTS),
    PeftCase("cat-other-modules", MIXED, "cat", (0.6, 0.5)),
    PeftCase("svd", THREE, "svd", WEIGHTS, rank=6),
    PeftCase("svd-full", THREE, "svd", WEIGHTS, rank=12),
    PeftCase("ties", THREE, "ties", POSITIVE, 0.5),
    PeftCase("ties-frequency", THREE, "ties", POSITIVE, 0.7, "frequency"),
    PeftCase("ties-svd", THREE, "ties_svd", POSITIVE, 0.4, rank=16),
    PeftCase("dare-linear", THREE, "dare_linear", WEIGHTS, 0.5),
    PeftCase("dare-linear-svd", THREE, "dare_linear_svd", WEIGHTS, 0.6, rank=5),
    PeftCase("dare-ties", THREE, "dare_ties", POSITIVE, 0.7),
    PeftCase("dare-ties-svd", THREE, "dare_ties_svd", POSITIVE, 0.5, rank=16),
    PeftCase("magnitude-prune", THREE, "magnitude_prune", WEIGHTS, 0.5),
    PeftCase("magnitude-prune-svd", THREE, "magnitude_prune_svd", WEIGHTS, 0.3, rank=16),
)
