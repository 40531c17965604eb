"""Documents of lm-eval's tasks: identity, made-up answers for validation, and documents without an answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evaluators._lm_eval_files import shown


@dataclass(frozen=True)
class Document:
    """One document of a task. number: lm-eval's index, from 0."""

    name: str
    task: Any
    number: int
    content: Any

    def __str__(self) -> str:
        """Identify the document in messages, with its target: a wrong target is the most common error."""
        return f"Document {self.number} (from 0), whose target is {shown(repr(self.target))[:80]}"

    @property
    def target(self) -> Any:
        """The right answer, or its index."""
        return self.task.doc_to_target(self.content)

    @property
    def unanswered(self) -> bool:
        """Return whether lm-eval would compare answers with the text "None"."""
        return self.target is None and self._by_lm_eval

    @property
    def out_of_reach(self) -> bool:
        """Return whether the target is not among the choices, so that lm-eval scores every answer 0."""
        if self.task.OUTPUT_TYPE != "multiple_choice" or not self._by_lm_eval:
            return False
        choices = self.task.doc_to_choice(self.content)
        gold = self.task.doc_to_text(self.content) if self.task.multiple_input else self.target
        return not any(
            one in choices if isinstance(one, str) else isinstance(one, int) and 0 <= one < len(choices)
            for one in (gold if isinstance(gold, list) else [gold])
        )

    @property
    def _by_lm_eval(self) -> bool:
        """Whether lm-eval's own function scores it, not one of the task's."""
        return hasattr(self.task, "config") and not callable(self.task.get_config("process_results"))


def made_up(instance: Any, document: Document, *, empty: bool) -> Any:
    """Return an answer as a model might give it; for text, the right answer or an empty one."""
    if instance.request_type == "generate_until":
        return "" if empty else str(document.target)
    return -1.0 - instance.idx if instance.request_type == "loglikelihood_rolling" else (-1.0 - instance.idx, False)


def reach_notes(documents: Sequence[Document]) -> Iterator[str]:
    """Yield a warning for each task with documents whose target is not among their choices."""
    for name in dict.fromkeys(document.name for document in documents):
        lost = [document for document in documents if document.name == name and document.out_of_reach]
        if lost:
            yield (
                f"lm-eval scores every answer to {len(lost)} of the documents of {name!r} as 0: their target is not "
                f"among their choices. The first: {lost[0]}"
            )
