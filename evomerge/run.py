"""Run: the folder of a run, opened once; commands, reports, exports and trackers read a search through it.

Nothing is read before it is asked for, and torch is loaded only where the models are.
"""

from collections.abc import Mapping
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

from evaluators.base import SPLITS
from evomerge import plugins
from evomerge.config import SearchConfig, load_config
from evomerge.feedback import measures_of, new_optimizer, replay
from evomerge.merge_space import MergeSpace
from evomerge.objective import Objective
from evomerge.objective.spec import objective_of_study
from evomerge.optimizers.base import Optimizer, Prediction
from evomerge.plugins import PluginSpec
from evomerge.racing import Race, make_race
from evomerge.recipe import Merge, Recipe
from evomerge.results.coordinates import basis_of, methods_of
from evomerge.results.front import Front, front
from evomerge.results.partial import gradients, part_way
from evomerge.results.predicted import Predicted, predicted
from evomerge.results.result import Selection, selection
from evomerge.results.scored import ScoredModel
from evomerge.results.table import Table
from evomerge.search_examples import SearchExamples
from evomerge.study import SEARCH_FILE, Entry, Study, StudyError
from evomerge.study.lines import ledger_of
from evomerge.trial import START, Trial


class Run:
    """The results of a run, read from its folder.

    Each part is read when it is first asked for and kept, so a run shows one moment of a search that goes on; open the
    folder again to see what has come since.

    Args:
        folder: The folder of the run, `study` in its search file.

    Raises:
        StudyError: There is no study in the folder.

    Example:
        >>> from evomerge import Run
        >>> run = Run("runs/search")
        >>> run.best.label == run.selected
        True
        >>> sorted(run.best.tasks)
        ['one', 'two']
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self._fronts: dict[str, Front] = {}
        ledger_of(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @classmethod
    def of(cls, study: Study) -> "Run":
        """Return the run of a study that is already open for writing or followed."""
        run = cls(study.folder)
        run.study = study
        return run

    @cached_property
    def study(self) -> Study:
        """The state of the study when it was first asked for."""
        return Study.read(self.folder)

    @cached_property
    def config(self) -> SearchConfig:
        """The study's copy of the search file. Raises ConfigError."""
        return load_config(self.folder / SEARCH_FILE)

    @cached_property
    def objective(self) -> Objective:
        """The objective of the search, from the ledger."""
        return objective_of_study(self.study)

    @cached_property
    def searched(self) -> Recipe:
        """The recipe of the search: models and method, without coefficients.

        Raises InputChanged where the models are no longer those that the study began with.
        """
        from evomerge.merging.pins import compare_models  # with torch

        recipe = self.config.recipe()
        compare_models(self.study, recipe)
        return recipe

    @cached_property
    def searched_space(self) -> PluginSpec:
        """The search space as a plug-in: what `auto` stands for, with the directions that were recorded."""
        from evomerge.space import chosen_space, with_basis  # with torch

        recipes, of_run = self.config.recipes(), bool(self.config.checkpoints)
        space = chosen_space(self.config.space, self.config.optimizer, recipes, of_run=of_run)
        return with_basis(space, basis_of(self.study))

    @cached_property
    def space(self) -> MergeSpace:
        """The search space over the base's tensors. Raises CheckpointError or SpaceError."""
        from evomerge.space import build_merge_space, layout_of, open_searched  # with torch

        recipe, recipes, space = self.config.recipe(), self.config.recipes(), self.searched_space
        return build_merge_space(space, recipes, layout_of(space, open_searched(space, recipe).by_name(recipe)))

    @cached_property
    def optimizer(self) -> Optimizer:
        """The optimizer after replaying the ledger. Raises PluginError or OptimizerError if it cannot be built."""
        points = {e.trial.label: e.trial.x for e in self.study.entries.values() if e.trial.x is not None}
        if not points:
            raise StudyError(f"The study in {self.folder} has asked for no candidate yet: its optimizer knows nothing.")
        said = self.study.configuration
        optimizer = new_optimizer(
            PluginSpec.read(said["optimizer"]),
            self.objective,
            dimension=len(next(iter(points.values()))),
            seed=said.get("seed", 0),
            start=points.get(START),
            measures=measures_of(self.study),
            methods=methods_of(self.study),
        )
        examples = SearchExamples.of_study(self.study, self.objective.weights)
        replay(self.study, optimizer, self.objective, race=self._race(), examples=examples)
        return optimizer

    def _race(self) -> Race | None:
        """Return the race of the candidates before it began; None where they do not race, or nothing is scored."""
        said, examples = self.study.configuration, SearchExamples.of_study(self.study, self.objective.weights)
        if examples is None or "optimizer" not in said:
            return None
        kind = PluginSpec.read(said["optimizer"]).kind
        return make_race(said.get("racing"), kind, examples, self.objective, said.get("seed", 0))

    @cached_property
    def partial(self) -> Mapping[str, Any]:
        """The trials besides whole candidates: `gradients` and `part_way` of `results/partial.py`, None for none."""
        study = self.study
        if not study.parts:
            return {"gradients": None, "part_way": None}
        race = self._race()
        if race is not None:
            race.replay(study)
        return {
            "gradients": gradients(study, self.objective),
            "part_way": part_way(study, self.objective, () if race is None else race.pending),
        }

    def scored(self, split: str = "search") -> Front:
        """Compare all models scored on a split."""
        if split not in self._fronts:
            self._fronts[split] = front(self.study, self.objective, split)
        return self._fronts[split]

    @cached_property
    def predicted(self) -> tuple[Predicted, ...]:
        """The points that the optimizer predicts on the front; empty if it models no losses.

        Raises PluginError or OptimizerError where the optimizer cannot be built.
        """
        return predicted(self.scored(), self._predictions)

    @property
    def why_unpredicted(self) -> str | None:
        """Reason why `predicted` is empty although the optimizer models the losses; None otherwise."""
        asks = self.objective.pareto and self.scored().points and self._predicts and not self.predicted
        return self.optimizer.why_no_predictions() if asks else None

    @property
    def _predicts(self) -> bool:
        name = PluginSpec.read(self.study.configuration["optimizer"]).kind
        kind: type[Optimizer] = plugins.load("optimizer", name, Optimizer)
        return kind.predictions is not Optimizer.predictions

    def _predictions(self) -> tuple[Prediction, ...]:
        return self.optimizer.predictions() if self._predicts else ()

    @property
    def front(self) -> tuple[ScoredModel, ...]:
        """The merges of the search split that no other merge dominates, by trial number.

        These are candidates and baselines. `evomerge pareto` marks the models that no model dominates, base and
        parents included; `evomerge status` counts the candidates in `front`.
        """
        return self.scored().choices

    @property
    def best(self) -> ScoredModel | None:
        """The selected winner, with its scores on held-out examples; before the selection, the best merge so far.

        None while no merge is scored.
        """
        if self.selected is None:
            return self.scored().preferred
        held_out = self.scored("report").by_label.get(self.selected)
        return held_out or self.scored("select").by_label.get(self.selected)

    def table(self, split: str | None = None) -> Table:
        """Return the models scored on a split with confidence intervals; an HTML table in notebooks.

        Args:
            split: "search", "select" or "report"; by default the last of them with a scored model.
        """
        if split is None:
            split = next((each for each in reversed(SPLITS) if self.scored(each).points), SPLITS[0])
        if split not in SPLITS:
            raise StudyError(f"split is one of {', '.join(SPLITS)}; got {split!r}.")
        return Table(self.scored(split))

    @property
    def selected(self) -> str | None:
        """The label of the selected winner, such as `trial:7`; None before the selection. Its scores are in `best`."""
        labels = [str(data["label"]) for kind, data in self.study.events if kind == "selected"]
        return labels[-1] if labels else None

    @cached_property
    def selection(self) -> Selection:
        """The winner on the report split, and everything it was compared with.

        Raises SelectionError while the search is not finished.
        """
        return selection(self.study, self.objective)

    @property
    def verdict(self) -> str:
        """Sentences that state what the result shows. Raises SelectionError while the search is not finished."""
        return self.selection.verdict

    def recipe(self, trial: int | None = None) -> Merge:
        """Return the complete recipe of a trial, which `evomerge.merge` writes out as weights.

        Args:
            trial: The number of the trial; by default the selected winner.

        Raises:
            SelectionError: There is no winner yet.
            StudyError: There is no such trial.
            InputChanged: The models are no longer those that the study began with.
        """
        return self.merge_of(self.selection.winner if trial is None else self.entry(trial).trial)

    def entry(self, number: int) -> Entry:
        """Return a trial by its number. Raises StudyError, with the existing numbers."""
        entry = self.study.entries.get(number)
        if entry is None and number in self.study.parts:
            later = next((n for n, whole in self.study.entries.items() if whole.trial.extends == number), None)
            goes_on = "" if later is None else f" It goes on as trial {later}, on all examples."
            raise StudyError(
                f"Trial {number} of {self.folder} is a gradient step, or was scored on some of the examples only, "
                f"and is no merge to choose.{goes_on} Whole trials are listed by `evomerge pareto {self.folder} --all`."
            )
        if entry is None:
            raise StudyError(f"{self.folder} has no trial {number}. {_trials(self.study)}")
        return entry

    def merge_of(self, trial: Trial) -> Merge:
        """Return the complete merge of a trial. Raises like `searched`, or MergeError if it has none."""
        from evomerge.merging.trial_merge import merge_of  # with torch

        return merge_of(trial, self.searched, lambda x, seed: self.space.merge(x, seed))


def _trials(study: Study) -> str:
    """List the existing trials by split."""
    if not study.entries:
        return "It has none yet."
    runs = groupby(study.entries.values(), key=lambda entry: entry.trial.split)
    listed = [(split, [entry.trial.number for entry in entries]) for split, entries in runs]
    return f"It has {', '.join(f'{n[0]} to {n[-1]} (on the {split} split)' for split, n in listed)}."
