"""Input rows for likelihoods: a prompt that several answers share is read once, and so is what all prompts begin with.

Vocabulary: a query is one continuation after one context; an example owns one or more queries (its answers). A text is
one distinct input; queries may share it. prefix: the tokens that many examples begin with.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from evaluators.base import EvaluatorError

Tokens = tuple[int, ...]

#: A shorter way of reading has to save this share of the tokens: it needs an attention mask, which costs time.
WORTH = 0.15
#: Examples after a prefix share rows of at least this many tokens, so that few copies of its cache are needed.
PACKED = 256
#: Prefixes are compared in steps of this many tokens while they are chosen.
STEP = 16


@dataclass(frozen=True)
class Scored:
    """A token whose likelihood is wanted: read off at `index` of its row, for a query."""

    index: int
    query: int
    target: int


@dataclass(frozen=True)
class Row:
    """One row of a batch.

    positions: of each token in its own text. until: the index in the row from which each token is no longer seen; the
    row's length for a plain text.
    """

    tokens: Tokens
    positions: Tokens
    until: Tokens
    scored: tuple[Scored, ...]

    @property
    def masked(self) -> bool:
        """Whether it needs more than causal attention."""
        return bool(self.until) and min(self.until) < len(self.tokens)


@dataclass(frozen=True)
class Example:
    """texts: distinct inputs. queries: (text, index of the first scored place, targets), numbered from `first`.

    shared: leading tokens that all texts share and at which nothing is scored. longest: tokens of its longest context
    and continuation, before contexts were cut.
    """

    texts: tuple[Tokens, ...]
    queries: tuple[tuple[int, int, Tokens], ...]
    shared: int
    first: int
    longest: int

    @property
    def lead(self) -> Tokens:
        """The tokens that all its texts begin with."""
        return self.texts[0][: self.shared]

    @property
    def branched(self) -> int:
        """Tokens to read when the lead is read once."""
        return self.shared + sum(len(text) - self.shared for text in self.texts)

    @property
    def worth_branching(self) -> bool:
        """Whether reading the lead once saves enough."""
        return self.branched <= (1 - WORTH) * sum(map(len, self.texts))


def prepare(pairs: Sequence[tuple[Tokens, Tokens]], max_length: int, first: int) -> Example:
    """An example of (context, continuation) pairs; contexts that are too long lose their beginning.

    Raises EvaluatorError for a continuation that is empty or does not fit into max_length tokens.
    """
    texts: dict[Tokens, int] = {}
    queries = []
    for context, continuation in pairs:
        if not 0 < len(continuation) <= max_length:
            raise EvaluatorError(f"A continuation has {len(continuation)} tokens; the model takes 1 to {max_length}.")
        tokens = (context + continuation)[-(max_length + 1) :][:-1]
        text = texts.setdefault(tokens, len(texts))
        queries.append((text, len(tokens) - len(continuation), continuation))
    if not queries:
        raise EvaluatorError("An example has nothing to score; expected at least one continuation.")
    inputs = tuple(texts)
    common = min(_common(inputs[0], other) for other in inputs)
    return Example(
        inputs,
        tuple(queries),
        min(common, *(start for _, start, _ in queries)),
        first,
        max(len(c) + len(t) for c, t in pairs),
    )


def plain_rows(example: Example) -> list[Row]:
    """One row for each distinct text."""
    scored: list[list[Scored]] = [[] for _ in example.texts]
    for number, (text, start, targets) in enumerate(example.queries, example.first):
        scored[text] += [Scored(start + i, number, target) for i, target in enumerate(targets)]
    return [
        Row(text, tuple(range(len(text))), (len(text),) * len(text), tuple(found))
        for text, found in zip(example.texts, scored, strict=True)
    ]


def branched_row(example: Example, prefix: int) -> Row:
    """One row with the lead, less `prefix` tokens, and what each text has after it; texts do not see one another."""
    lead = example.lead[prefix:]
    size = example.branched - prefix
    tokens, until = list(lead), [size] * len(lead)
    positions = list(range(prefix, example.shared))
    begins = []
    for text in example.texts:
        rest = text[example.shared :]
        begins.append(len(tokens) - example.shared)
        until += [len(tokens) + len(rest)] * len(rest)
        positions += range(example.shared, len(text))
        tokens += rest
    scored = (
        Scored(begins[text] + start + i, number, target)
        for number, (text, start, targets) in enumerate(example.queries, example.first)
        for i, target in enumerate(targets)
    )
    return Row(tuple(tokens), tuple(positions), tuple(until), tuple(scored))


def packed(rows: Sequence[Row]) -> list[Row]:
    """Rows joined where they fit into the longest of them, or PACKED tokens; joined rows do not see one another."""
    room = max(PACKED, *(len(row.tokens) for row in rows))
    bins: list[list[Row]] = []
    left: list[int] = []
    for row in sorted(rows, key=lambda row: -len(row.tokens)):
        place = next((i for i, free in enumerate(left) if free >= len(row.tokens)), None)
        if place is None:
            bins.append([])
            left.append(room)
            place = -1
        bins[place].append(row)
        left[place] -= len(row.tokens)
    return [_joined(members) for members in bins]


def prefixes(examples: Sequence[Example]) -> list[int]:
    """How many leading tokens of each example are read once for all that begin with them; 0 where it is not worth it.

    Chosen so that the most tokens are saved, by halving runs of the sorted leads where they differ soonest.
    """
    order = sorted(range(len(examples)), key=lambda i: examples[i].lead)
    common = [_common(examples[a].lead, examples[b].lead) for a, b in pairwise(order)]
    found = [0] * len(examples)
    for begin, end in _runs(common, 0, len(order))[1]:
        members = [examples[i] for i in order[begin:end]]
        length = min(common[begin : end - 1], default=0)
        if (end - begin - 1) * length >= WORTH * sum(example.branched for example in members) > 0:
            for i in order[begin:end]:
                found[i] = length
    return found


def by_prefix(examples: Iterable[Example], lengths: Iterable[int]) -> list[tuple[Tokens, list[Example]]]:
    """The examples by the prefix that they are read behind, in the order of the prefixes."""
    pairs = sorted(
        ((example.lead[:length], example) for example, length in zip(examples, lengths, strict=True)),
        key=lambda pair: pair[0],
    )
    return [(prefix, [example for _, example in group]) for prefix, group in groupby(pairs, key=lambda pair: pair[0])]


def _runs(common: Sequence[int], begin: int, end: int) -> tuple[int, list[tuple[int, int]]]:
    """Tokens saved by, and bounds of, the best runs of examples begin to end that each read a prefix once.

    common: tokens that each shares with the next.
    """
    if end - begin < 2:
        return 0, [(begin, end)]
    steps = [size // STEP for size in common[begin : end - 1]]
    least = min(steps)
    cuts = [begin, *(begin + i + 1 for i, size in enumerate(steps) if size == least), end]
    parts = [_runs(common, a, b) for a, b in pairwise(cuts)]
    together = (end - begin - 1) * least * STEP
    saved = sum(part[0] for part in parts)
    if together >= saved:
        return together, [(begin, end)]
    return saved, [run for part in parts for run in part[1]]


def _joined(rows: Sequence[Row]) -> Row:
    tokens: list[int] = []
    positions: list[int] = []
    until: list[int] = []
    scored: list[Scored] = []
    for row in rows:
        offset = len(tokens)
        tokens += row.tokens
        positions += row.positions
        until += [end + offset for end in row.until]
        scored += [Scored(one.index + offset, one.query, one.target) for one in row.scored]
    return Row(tuple(tokens), tuple(positions), tuple(until), tuple(scored))


def _common(first: Tokens, second: Tokens) -> int:
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)
