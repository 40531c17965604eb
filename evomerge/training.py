"""A callback for the Trainer of transformers: at the end of training, search the merge of its checkpoints.

LCSC (Liu et al., 2024), https://arxiv.org/abs/2404.02241; model soups (Wortsman et al., 2022),
https://arxiv.org/abs/2203.05482.
"""

import logging
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from evaluators import _strict_yaml as strict_yaml
from evomerge.api import merge, search
from evomerge.config import load_config
from evomerge.config.checkpoints import run_order
from evomerge.config.fields import PATH_OPTIONS
from evomerge.durable import write_text
from evomerge.errors import EvomergeError, exit_code
from evomerge.run import Run

#: Folder below the output folder of the training, and what is in it.
FOLDER, START, FINAL, SEARCH_FILE, STUDY, MERGED = "merge", "start", "final", "search.yaml", "run", "model"

log = logging.getLogger(__name__)


class SearchMerge(TrainerCallback):  # type: ignore[misc] # transformers has no types for this project
    """Searches the merge of the model before training, its checkpoints and the final model when training ends.

    It writes to `merge` in the output folder of the training: `search.yaml`, the run, and the winner as a checkpoint in
    `model`. The training itself stays as it is. A search that fails or is refused is logged with the command that
    resumes it, and does not raise: the training was worth more. In a distributed training only the search file is
    written, since the other processes would wait; the command is logged.

    Args:
        tasks: Tasks as in a search file, on data that the training has not seen; paths start at the working folder.
        with_start: Whether the model before training takes part; it is saved when training begins.
        settings: Other keys of a search file, e.g. `budget={"trials": 60}` or `optimizer="genetic"`. By default the
            search runs in this process (`executor="serial"`).

    Attributes:
        run: The run of the search, once it is done; else None.

    Example:
        >>> from evomerge.training import SearchMerge
        >>> found = SearchMerge({"quiz": {"evaluator": "exact_match", "file": "quiz.jsonl"}}, budget={"trials": 60})
        >>> Trainer(model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[found]).train()
        >>> print(found.run.verdict)
    """

    def __init__(self, tasks: Mapping[str, Mapping[str, Any]], *, with_start: bool = True, **settings: Any) -> None:
        self.run: Run | None = None
        self._with_start = with_start
        self._settings = {"executor": "serial", **settings, "tasks": {name: _task(t) for name, t in tasks.items()}}

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the interface
        **objects: Any,
    ) -> None:
        """Save the model before training, unless an interrupted training is resumed."""
        place = Path(args.output_dir) / FOLDER / START
        if self._with_start and state.is_world_process_zero and state.global_step == 0:
            _save(objects["model"], objects.get("processing_class"), place)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,  # noqa: ARG002 - the interface
        **objects: Any,
    ) -> None:
        """Search, and export the winner."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / FOLDER
        models = self._models(args, state, objects)
        file = folder / SEARCH_FILE
        data = {"checkpoints": [str(path.absolute()) for path in models], **self._settings, "study": STUDY}
        write_text(file, strict_yaml.dump(data))
        command = f"evomerge search {shlex.quote(str(file))} --resume"
        if args.world_size > 1:
            log.warning("To search the merge of the checkpoints: %s", command)
            return
        try:
            found = search(load_config(file, files=True), resume=True, say=log.info)
            if found.selected is None:
                log.warning("The search of the merge was stopped. To resume it: %s", command)
                return
            merge(found.recipe(), folder / MERGED, overwrite=True)
        except (ValueError, OSError) as error:
            if exit_code(error) is None:  # a bug, and no refusal
                raise
            log.warning("The merge of the checkpoints was not found: %s\nTo try it again: %s", error, command)
            return
        self.run = found

    def _models(self, args: TrainingArguments, state: TrainerState, objects: Mapping[str, Any]) -> list[Path]:
        """Return the models in the order of training; the final one is saved unless it is the last checkpoint."""
        output = Path(args.output_dir)
        saved = {
            int(path.name.rpartition("-")[2]): path
            for path in map(Path, run_order([str(path) for path in output.glob("checkpoint-*")]))
            if path.name.rpartition("-")[2].isdigit()
        }
        checkpoints = [path for step, path in saved.items() if step <= state.global_step]
        start = output / FOLDER / START
        models = [start, *checkpoints] if self._with_start and start.is_dir() else checkpoints
        if args.load_best_model_at_end or state.global_step not in saved:
            final = output / FOLDER / FINAL
            _save(objects["model"], objects.get("processing_class"), final)
            models.append(final)
        return models


def _save(model: PreTrainedModel, processing: Any, folder: Path) -> None:
    """Save a model with its tokenizer. Raises EvomergeError for an adapter, whose checkpoints are no whole models."""
    if not isinstance(model, PreTrainedModel):
        raise EvomergeError(
            f"SearchMerge merges checkpoints of whole models; this training saves those of a {type(model).__name__}. "
            "Merge adapters with `base` and `experts: {NAME: {path: BASE, adapter: CHECKPOINT}}` in a search file."
        )
    model.save_pretrained(folder)
    if processing is not None:
        processing.save_pretrained(folder)


def _task(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a task whose paths do not depend on the folder of the search file."""
    return {key: str(Path(value).absolute()) if key in PATH_OPTIONS else value for key, value in entry.items()}
