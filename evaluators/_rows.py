"""Input rows for likelihoods: a prompt shared by several answers is read once, and so is a prefix shared by prompts.

Vocabulary: a query is one continuation after one context; an example has one or more queries (its answers). A text is
one distinct input; queries may share it. prefix: tokens that many examples begin with.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from evaluators.base import EvaluatorError

Tokens = tuple[int, ...]

#: Minimum fraction of tokens that packing must save: it needs an attention mask, which costs time.
WORTH = 0.15
#: Minimum number of tokens of a row of examples after a prefix, so that few copies of its cache are needed.
PACKED = 256
#: Step in tokens for comparing candidate prefixes.
STEP = 16


@dataclass(frozen=True)
class Scored:
    """A token to score: read at `index` of its row, for a query."""

    index: int
    query: int
    target: int


@dataclass(frozen=True)
class Row:
    """One row of a batch.

    positions: position of each token in its own text. until: index in the row from which each token is hidden; the
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
    """texts: distinct inputs. queries: (text, index of the first scored position, targets), numbered from `first`.

    shared: number of leading tokens that all texts share and at which nothing is scored. longest: tokens of its longest
    context and continuation, before truncation.
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
        """Number of tokens to read if the lead is read once."""
        return self.shared + sum(len(text) - self.shared for text in self.texts)

    @property
    def worth_branching(self) -> bool:
        """Whether reading the lead once saves enough."""
        return self.branched <= (1 - WORTH) * sum(map(len, self.texts))


def prepare(pairs: Sequence[tuple[Tokens, Tokens]], max_length: int, first: int) -> Example:
    """Build an example from (context, continuation) pairs; contexts that are too long are truncated at the beginning.

    Raises EvaluatorError for a continuation that is empty or does not fit into max_length tokens.
    """
    texts: dict[Tokens, int] = {}
    queries = []
    for context, continuation in pairs:
        if not 0 < len(continuation) <= max_length:
            raise EvaluatorError(f"A continuation has {len(continuation)} tokens; expected 1 to {max_length}.")
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
    """Return one row for each distinct text."""
    scored: list[list[Scored]] = [[] for _ in example.texts]
    for number, (text, start, targets) in enumerate(example.queries, example.first):
        scored[text] += [Scored(start + i, number, target) for i, target in enumerate(targets)]
    return [
        Row(text, tuple(range(len(text))), (len(text),) * len(text), tuple(found))
        for text, found in zip(example.texts, scored, strict=True)
    ]


def branched_row(example: Example, prefix: int) -> Row:
    """Return one row of the lead, without `prefix` tokens, and the rest of each text; texts do not see one another."""
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
    """Pack rows into the length of the longest, or PACKED tokens; packed rows do not see one another."""
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
    """Return the number of leading tokens of each example to read once for all that share them; 0 if not worthwhile.

    Maximizes the saved tokens by splitting runs of the sorted leads where they differ first.
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
    """Group examples by the prefix that precedes them, in the order of the prefixes."""
    pairs = sorted(
        ((example.lead[:length], example) for example, length in zip(examples, lengths, strict=True)),
        key=lambda pair: pair[0],
    )
    return [(prefix, [example for _, example in group]) for prefix, group in groupby(pairs, key=lambda pair: pair[0])]


def _runs(common: Sequence[int], begin: int, end: int) -> tuple[int, list[tuple[int, int]]]:
    """Return the tokens saved by, and the bounds of, the best runs of examples begin to end that each read a prefix
    once.

    common: number of tokens that each shares with the next.
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
