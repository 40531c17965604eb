"""Any Python function as an evaluator: your own code, named as `module:function`.

tasks:
  mine:
    evaluator: callable
    function: my_lab.scores:politeness    # next to the search file, or on Python's path
    examples: data/prompts.txt     # one example per line

def politeness(model, ids, tone="plain"):     # model.network, model.tokenizer
    return [rate(model, prompt) for prompt in ids]
"""

import inspect
from collections.abc import Callable as Function
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evaluators._examples import read_text
from evaluators._nearest import did_you_mean
from evaluators._own_code import load_module
from evaluators._texts import split_lines
from evaluators.base import Evaluator, EvaluatorError, FloatArray, Scores


class Callable(Evaluator):
    """The values of `function(model, **options)`: a number, a sequence, or a mapping of example id -> number.

    Any other option is passed to the function. NaN = not scored.

    Args:
        function: `module:function`. If it has a parameter `ids`, it gets the ids to score, else it scores all examples.
        examples: Ids, as a list or a file with one per line; without them the function returns one number for the
            whole model, the same on every split.
        higher_is_better: Whether larger values are better.
        score_range: Smallest and largest possible value, such as [0, 1]; values outside are an error of the function.
    """

    #: The function decides which parts of the model it uses.
    needs_language_model = False

    def __init__(
        self,
        *,
        function: str,
        examples: str | Sequence[str] | None = None,
        higher_is_better: bool = True,
        score_range: Sequence[float] | None = None,
        **options: Any,
    ) -> None:
        self._function = _load(function)
        self._range = None if score_range is None else _check_range(score_range)
        self._name = function
        _check_options(function, self._function, options)
        self._options = options
        self._takes_ids = "ids" in inspect.signature(self._function).parameters
        self._ids = (function,) if examples is None else _read(examples)
        self.higher_is_better = higher_is_better
        self.whole_model = examples is None

    @property
    def example_ids(self) -> tuple[str, ...]:
        """Ids of the examples given; else the function's name."""
        return self._ids

    def score(self, model: Any, ids: Sequence[str] | None = None) -> Scores:
        """Call the function. Raises EvaluatorError if it returns values of the wrong form."""
        rows = self.rows(ids)
        wanted = tuple(self._ids[row] for row in rows)
        if self._takes_ids:
            return Scores(wanted, self._values(self._function(model, ids=wanted, **self._options), wanted))
        return Scores(wanted, self._values(self._function(model, **self._options), self._ids)[rows])

    def _values(self, returned: Any, ids: Sequence[str]) -> FloatArray:
        """Return one value per id: (n_examples,)."""
        if isinstance(returned, Mapping):
            unknown = [key for key in returned if key not in self._ids]
            if unknown:
                raise EvaluatorError(f"{self._name} returned a value for {unknown[0]!r}, which is not an example.")
            returned = [returned.get(example_id, float("nan")) for example_id in ids]
        try:
            values = np.atleast_1d(np.asarray(returned, dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise EvaluatorError(f"{self._name} returned {returned!r:.80}; expected numbers: {error}.") from error
        if values.shape != (len(ids),):
            raise EvaluatorError(
                f"{self._name} returned values of shape {values.shape}; expected {len(ids)}, one per example. "
                "Name the examples with `examples`."
            )
        if self._range is not None:
            self._check_inside(values, ids, *self._range)
        return np.where(np.isfinite(values), values, np.nan)

    def _check_inside(self, values: FloatArray, ids: Sequence[str], low: float, high: float) -> None:
        """Raise EvaluatorError for a value outside of the range; NaN = not scored."""
        outside = np.flatnonzero((values < low) | (values > high))
        if len(outside):
            raise EvaluatorError(
                f"{self._name} returned {values[outside[0]]:g} for {ids[outside[0]]!r}, and {len(outside)} of "
                f"{len(ids)} values outside of score_range: [{low:g}, {high:g}]. Mend the function, or the range."
            )


def _check_range(given: Sequence[float]) -> tuple[float, float]:
    try:
        low, high = map(float, given)
    except (TypeError, ValueError):
        low = high = float("nan")
    if not low < high:
        raise EvaluatorError(f"score_range is {given!r}; expected the smallest and the largest value, such as [0, 1].")
    return low, high


def _load(name: str) -> Function[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        found: Function[..., Any] = getattr(load_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise EvaluatorError(f"function is {name!r}, expected `module:function`: {error}.") from error
    if not callable(found):
        raise EvaluatorError(f"function is {name!r}, which is {found!r}; expected a function.")
    return found


def _check_options(name: str, function: Function[..., Any], options: Mapping[str, Any]) -> None:
    """Raise EvaluatorError for an unknown option of evaluator and function, and for a missing one."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    own = [p.name for p in parameters if p.name != "ids" and p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    known = [*own, "function", "examples", "higher_is_better", "score_range"]
    for option in options:
        if option not in own:
            hint = did_you_mean(option, known)
            raise EvaluatorError(f"{name} has no parameter {option!r}; options are {', '.join(known)}.{hint}")
    missing = [p.name for p in parameters if p.name in own and p.default is p.empty and p.name not in options]
    if missing:
        raise EvaluatorError(f"{name} needs {', '.join(map(repr, missing))}; give it as an option.")


def _read(examples: str | Sequence[str]) -> tuple[str, ...]:
    listed = split_lines(read_text(examples)) if isinstance(examples, str) else examples
    ids = tuple(str(example) for example in listed if str(example).strip())
    if not ids or len(set(ids)) != len(ids):
        raise EvaluatorError(
            f"examples names {len(ids)} examples, {len(set(ids))} of them distinct; expected at least one, each once."
        )
    return ids
