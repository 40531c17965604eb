"""Bench: the state of a worker. `run(trial)` decodes coefficients, merges them into resident weights, and scores."""

import hashlib
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from evaluators._engines import write_with
from evaluators._own_code import look_in
from evaluators.base import Evaluator, FloatArray, Scores, content_of, split_of
from evomerge import plugins
from evomerge.errors import PAUSED, EvomergeError
from evomerge.merging.baselines import baselines, completed, parent_label
from evomerge.merging.pins import Pins, check_worker, input_files
from evomerge.merging.stacked import StackedAdapters
from evomerge.plugins import PluginSpec
from evomerge.recipe import Merge, Recipe
from evomerge.recipe.paths import parent_merge
from evomerge.resident.batch_budget import BatchBudget
from evomerge.resident.block_paths import BlockPaths
from evomerge.resident.gradients import GradientHooks
from evomerge.resident.memory import free_memory, is_out_of_memory
from evomerge.resident.network_state import NetworkState, Probe, agree, renewed
from evomerge.resident.own_head import with_own_head
from evomerge.resident.parent_configuration import as_its_folder
from evomerge.resident.resident import ResidentModel, choose_device, load_resident
from evomerge.resident.vllm_engine import VllmEngine
from evomerge.space import build_merge_space, layout_of, open_searched
from evomerge.trial import BATCH_TOKENS, OUT_OF_MEMORY, Failure, Origin, Outcome, Trial
from search_spaces.base import CoefficientTable, SpaceError

#: Examples per task that the canary scores; all of them only if these do not distinguish two points.
CANARY_EXAMPLES = 8


class CanaryError(EvomergeError):
    """Different coefficients gave the same weights, outputs or scores, so a search could not learn anything."""

    exit_code = PAUSED


@dataclass(frozen=True)
class BenchSpec:
    """Everything that a worker needs to build its bench, as plain data that can be sent to other processes.

    Attributes:
        recipe: The models and the merge method; of several methods the first.
        space: The search space.
        tasks: Task name -> evaluator.
        split: Shares of the search (train), select (validation) and report (test) splits.
        salt: Key of the division into splits.
        device: Torch device, or "auto".
        threads: Number of threads for merging and torch.
        gpus: GPUs per worker; above 1 a candidate's layers are spread over them.
        pins: Expected fingerprints of the models' files; None checks nothing.
        compute_dtype: Dtype of the network, "float32" or "stored" (that of the merged weights).
        backend: What generates text, with its options; None for transformers.
        stacked: Whether candidates are adapters for the backend, not merged: no task needs the weights themselves.
        keep_bytes: Bytes of folded adapters that a worker may cache.
        code: Folders in which the user's own modules are looked up.
        own: Parents scored with the configuration and tokenizer of their own folders instead of the merge's.
        own_tokenizers: Those among them that use their own tokenizer.
        batch_tokens: Tokens per batch for tasks that set none; "auto" measures them with the canary, None does so on
            accelerators only.
        methods: The recipe of each method by name, where the search chooses from several.
        report_only: Task name -> evaluator of tasks that are scored on the report split only.
    """

    recipe: Recipe
    space: PluginSpec
    tasks: Mapping[str, PluginSpec]
    split: tuple[float, float, float] = (0.5, 0.2, 0.3)
    device: str = "auto"
    threads: int = 1
    gpus: float = 0.0
    pins: Pins | None = None
    compute_dtype: str = "stored"
    backend: PluginSpec | None = None
    stacked: bool = False
    keep_bytes: int = 0
    code: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    own_tokenizers: tuple[str, ...] = ()
    salt: str = ""
    batch_tokens: int | Literal["auto"] | None = None
    methods: Mapping[str, Recipe] = field(default_factory=dict)
    report_only: Mapping[str, PluginSpec] = field(default_factory=dict)

    def __call__(self) -> "Bench":
        """Build the bench; executors call this factory in each worker."""
        look_in(self.code)
        return Bench(self)


def build_evaluator(spec: PluginSpec) -> Evaluator:
    """Build the evaluator of one task."""
    evaluator: Evaluator = plugins.build("evaluator", spec, Evaluator)
    return evaluator


def split_ids(
    evaluator: Evaluator, split: str, fractions: tuple[float, float, float], salt: str = ""
) -> tuple[str, ...]:
    """Return the examples of a split, in the evaluator's order; whole-model values belong to every split."""
    if evaluator.whole_model:
        return evaluator.example_ids
    return tuple(name for name in evaluator.example_ids if split_of(name, fractions, salt) == split)


def report_only_ids(
    evaluator: Evaluator, searched: Iterable[Evaluator], fractions: tuple[float, float, float], salt: str = ""
) -> tuple[str, ...]:
    """Return the examples of a task that is only reported, in the evaluator's order.

    They are all of its examples, except those that a searched task has on its search or select split: duplicates are on
    the same split of every task.
    """
    if evaluator.whole_model:
        return evaluator.example_ids
    shared = {content_of(name) for other in searched if not other.whole_model for name in other.example_ids}
    return tuple(
        name
        for name in evaluator.example_ids
        if content_of(name) not in shared or split_of(name, fractions, salt) == "report"
    )


class Bench:
    """Resident weights, the merge engine and the evaluators of one worker; built once, used for every trial."""

    def __init__(self, spec: BenchSpec) -> None:
        torch.set_num_threads(spec.threads)
        self.spec = spec
        #: Called with each stage of a trial that begins.
        self.entered: Callable[[str], None] = _unheard
        if spec.pins is not None:
            check_worker(input_files(spec.recipe), spec.pins)
        sources = open_searched(spec.space, spec.recipe)
        device = choose_device(spec.device)
        dtype = getattr(torch, spec.recipe.dtype) if spec.recipe.dtype else None
        models = sources.by_name(spec.recipe)
        methods = spec.methods or {spec.recipe.method: spec.recipe}
        self.space = build_merge_space(spec.space, methods, layout_of(spec.space, models))
        self.engine = sources.engine(dtype=dtype, device=device, threads=spec.threads, keep=spec.keep_bytes)
        compute = torch.float32 if spec.compute_dtype == "float32" else None
        #: Where candidates are paths through the blocks of the models; None where weights are merged.
        self._paths: BlockPaths | None = None
        if self.space.arranges_blocks:
            self._paths = BlockPaths(spec.recipe, models, sources.tokenizer, dtype, device, compute=compute)
            self.model = self._paths.model
        else:
            self.model = load_resident(
                sources.base, sources.tokenizer, dtype, device, spread=spec.gpus > 1, compute=compute
            )
        self._engine: VllmEngine | None = None
        if spec.backend is not None:
            stacked = StackedAdapters(self.engine, sources.base, sources.inputs) if spec.stacked else None
            self._engine = VllmEngine(self.model, sources.base.path, sources.tokenizer, spec.backend.options, stacked)
            write_with(self.model.network, self._engine)
        written = [self.model.tensors[name] for name in sources.base.names if sources.base.mergeable(name)]
        self._names = sources.base.layout().names
        self._state = NetworkState(self.model.network if self.model.has_network else nn.Module(), written)
        self._parents = {parent_label(spec.recipe, name): name for name in spec.own}
        self._folders = {name: models[name] for name in spec.own}
        #: Experts with another number of labels than the base, and the tensors of their heads.
        self._heads = {name: (models[name], names) for name, names in sources.heads.items()}
        self._under_own: dict[str, tuple[ResidentModel, NetworkState]] = {}
        tasks = {**spec.tasks, **spec.report_only}
        self.evaluators = {task: build_evaluator(evaluator) for task, evaluator in tasks.items()}
        self._ids: dict[tuple[str, str], tuple[str, ...]] = {}
        #: Tasks whose evaluators know the outputs of an expert on a split: (task, expert, split).
        self._learned: set[tuple[str, str, str]] = set()
        #: Whether memory ran out before: gradients then recompute activations instead of keeping them.
        self._sparing = False
        wanted = self.model.has_network and any(each.needs_language_model for each in self.evaluators.values())
        self._budget = BatchBudget(self.model.network, spec.batch_tokens) if wanted else None

    def run(self, trial: Trial) -> Outcome:
        """Score one candidate. Any error it causes becomes a failure in the outcome.

        A candidate that runs out of memory is scored once more after freeing all memory that can be freed, in batches
        of half the size unless the user has set it.
        """
        events: tuple[Mapping[str, object], ...] = ()
        if self._budget is not None:
            found = self._budget.begin(trial.batch_tokens, first=trial.origin is Origin.CANARY)
            events = () if found is None else ({"event": BATCH_TOKENS, **found},)
        outcome = self._attempt(trial).changed(events=events)
        if outcome.failure is None or outcome.failure.kind != OUT_OF_MEMORY:
            return outcome
        free_memory()
        event = {"event": OUT_OF_MEMORY, "trial": trial.number, "reason": outcome.failure.message}
        self._sparing = True
        if self._budget is not None:
            self._budget.halve()
        return self._attempt(trial).changed(events=(*events, event))

    def _attempt(self, trial: Trial) -> Outcome:
        seconds: dict[str, float] = {}
        try:
            if trial.gradient is not None:
                return self._gradient(trial, trial.gradient, seconds)
            if trial.origin is Origin.CANARY:
                self._canary(trial, seconds)
                return Outcome(trial.number, seconds=seconds)
            scores = self._score(trial, seconds)
        except Exception as error:  # noqa: BLE001 - the one place where a candidate's failure is recorded
            return Outcome(trial.number, failure=_failure(error), seconds=seconds)
        return Outcome(trial.number, scores=scores, seconds=seconds)

    @contextmanager
    def _timed(self, seconds: dict[str, float], stage: str) -> Iterator[None]:
        self.entered(stage)
        begin = time.perf_counter()
        try:
            yield
        finally:
            seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - begin

    def merge_of(self, trial: Trial) -> Merge:
        """Return the merge that a trial stands for."""
        if trial.merge is not None:
            return trial.merge
        if trial.x is None:
            raise ValueError(f"Trial {trial.number} has neither a point nor a merge; expected one of them.")
        return self.space.merge(trial.x, trial.seed)

    def become(self, trial: Trial) -> ResidentModel:
        """Merge a trial into the resident weights, and return the model that they are then."""
        self._become(self.merge_of(trial))
        model, state = self._scored(trial.label)
        state.restore()
        return model

    def _score(self, trial: Trial, seconds: dict[str, float], most: int | None = None) -> dict[str, Scores]:
        merge = self.merge_of(trial)
        self._teach(trial, seconds)
        with self._timed(seconds, "merge"):
            if self._engine is not None and self.spec.stacked and trial.origin is not Origin.CANARY:
                self._engine.follow(merge)
            else:  # the canary compares the backend's probabilities with those of merged weights
                self._become(merge)
        model, state = self._scored(trial.label)
        model.coefficients = self._seen(trial, merge).values
        scores = {}
        for task in self._tasks(trial):
            with self._timed(seconds, f"evaluate:{task}"):
                self._renew(merge)
                state.restore()
                scored = self._evaluate(task, trial, model, most)
                # Only what baselines wrote is used again, as targets of gradients.
                scores[task] = scored if trial.merge is not None else replace(scored, accepted=None)
        return scores

    def _gradient(self, trial: Trial, weights: Mapping[str, float], seconds: dict[str, float]) -> Outcome:
        """Return the losses of the trial's examples, and the derivative of their weighted mean by the point.

        Examples without a loss are left out, such as generated answers that neither a baseline nor the file gives in a
        form that the metric accepts.
        """
        if trial.x is None:
            raise ValueError(f"Trial {trial.number} asks for a gradient and has no point to take it at.")
        merge = self.merge_of(trial)
        self._teach(trial, seconds)
        with self._timed(seconds, "merge"):
            self._become(merge)
        self.model.coefficients = merge.table.values
        hooks = GradientHooks(self.model, self.engine, checkpointing=self._sparing)
        scores: dict[str, Scores] = {}
        forwarded: list[Tensor] = []
        with hooks.of(merge, self.space.searched(trial.x)) as found:
            for task, ids in (trial.examples or {}).items():
                with self._timed(seconds, f"gradient:{task}"):
                    if self._sparing or self._state.changed:  # a backward pass refuses buffers that were restored
                        _backward(forwarded)
                    self._state.restore()
                    losses = self._losses(task, ids, trial.references.get(task, {}))
                    if losses is not None:
                        scores[task] = Scores(losses[0], losses[1].detach().double().cpu().numpy())
                        forwarded.append(weights[task] * losses[1].mean())
            with self._timed(seconds, "gradient"):
                _backward(forwarded)
        return Outcome(trial.number, scores, self.space.pull_back(trial.x, found.values), seconds=seconds)

    def _losses(
        self, task: str, ids: Sequence[str], references: Mapping[str, str]
    ) -> tuple[tuple[str, ...], Tensor] | None:
        """Return the examples of one task that have a loss, and their losses; None where there are none."""
        evaluator = self.evaluators[task]
        known = frozenset(ids)
        usable = tuple(name for name in evaluator.loss_ids(references) if name in known)
        return (usable, evaluator.loss(self.model, usable, references)) if usable else None

    def _teach(self, trial: Trial, seconds: dict[str, float]) -> None:
        """Let evaluators learn the outputs of their experts on the examples of the trial's split, once per split."""
        for task in self._tasks(trial):
            for expert in self.evaluators[task].experts:
                key = (task, expert, trial.split)
                if key not in self._learned:
                    with self._timed(seconds, f"evaluate:{task}"):
                        self._learn(task, expert, trial.split)
                    self._learned.add(key)

    def _learn(self, task: str, expert: str, split: str) -> None:
        """Merge an expert into the resident weights, and let an evaluator learn its outputs on a split.

        It computes by its own configuration, as the parent does, and reads with the merge's tokenizer.
        """
        label, recipe = parent_label(self.spec.recipe, expert), self.spec.recipe
        if self._paths is not None:
            merge = parent_merge(recipe, expert, self._paths.depth(expert), seed=0)
        else:
            merge = dict(baselines(recipe, self._names))[label]
        self._become(merge)
        model, state = self._scored(label)
        state.restore()
        if expert in self._heads:
            model = with_own_head(model, *self._heads[expert])
        reader = model.read_with(model.network, self.model.tokenizer if self.model.has_tokenizer else None)
        reader.coefficients = merge.table.values
        with torch.no_grad():
            self.evaluators[task].learn(expert, reader, self._split(task, split))

    def _scored(self, label: str) -> tuple[ResidentModel, NetworkState]:
        """Return the network that uses the resident weights: for some parents one configured by their folder."""
        if label not in self._parents:
            return self.model, self._state
        if label not in self._under_own:
            name = self._parents[label]
            model = as_its_folder(self._folders[name], self.model, tokenizer=name in self.spec.own_tokenizers)
            if self._budget is not None:
                self._budget.share(model.network)
            if self._engine is not None:
                write_with(model.network, self._engine)
            self._under_own[label] = model, NetworkState(model.network, ())
        return self._under_own[label]

    def _become(self, merge: Merge) -> None:
        """Merge into the resident weights, or follow a path: all of them anew if a forward pass wrote to some."""
        if self._paths is not None:
            if self._state.touched:
                self._paths.forget()
            self._paths.follow(merge)
            self._state = NetworkState(self.model.network, self.model.tensors.values())
            return
        if self._state.touched:
            self.engine.forget()
        self.engine.apply(merge, self.model.tensors)
        self.model.settle()
        if self._engine is not None:
            self._engine.follow(merge)
        self._state.mark()

    def _renew(self, merge: Merge) -> None:
        """Undo the effects of earlier forward passes on weights, buffers and modules."""
        if self._state.touched:
            self._become(merge)
        self._state.restore()

    def _seen(self, trial: Trial, merge: Merge) -> CoefficientTable:
        """Return the coefficients that evaluators see: the space's, also for a baseline with a point in it."""
        if trial.x is not None:
            return self.space.decode(trial.x)
        table = completed(merge.table, self.spec.recipe)
        if table is None:
            return merge.table
        try:
            return self.space.decode(self.space.encode(table))
        except SpaceError:
            return merge.table

    def _evaluate(self, task: str, trial: Trial, model: ResidentModel, most: int | None) -> Scores:
        """Score a model on the trial's examples, or on the first `most` of its split.

        Not in inference mode: what networks and evaluators keep from it could not be used in a backward pass.
        """
        if trial.examples is not None:
            with torch.no_grad():
                return self.evaluators[task].score(model, trial.examples[task])
        ids = self._split(task, trial.split)
        with torch.no_grad():
            scores = self.evaluators[task].score(model, ids if self.evaluators[task].whole_model else ids[:most])
        return scores if trial.split == "search" else scores.by_metric

    def _tasks(self, trial: Trial) -> Iterable[str]:
        """Return the tasks that a trial is scored on."""
        if trial.examples is not None:
            return trial.examples
        return self.evaluators if trial.split == "report" else self.spec.tasks

    def _split(self, task: str, split: str) -> tuple[str, ...]:
        """Return the ids of a task's examples on a split. Raises ValueError if there are none."""
        key = (task, split)
        if key not in self._ids:
            shares, salt, evaluator = self.spec.split, self.spec.salt, self.evaluators[task]
            if task in self.spec.report_only:
                searched = (self.evaluators[name] for name in self.spec.tasks)
                self._ids[key] = report_only_ids(evaluator, searched, shares, salt)
            else:
                self._ids[key] = split_ids(evaluator, split, shares, salt)
        if not self._ids[key]:
            total = len(self.evaluators[task].example_ids)
            raise ValueError(f"Task {task!r} has no example in split {split!r} ({total} in total): provide more.")
        return self._ids[key]

    def _canary(self, trial: Trial, seconds: dict[str, float]) -> None:
        """Check that two points differ in weights, outputs and scores, and that the first is reproducible.

        Raises CanaryError.
        """
        self._teach(trial, seconds)  # before the probe watches
        if trial.x is None:
            raise ValueError("The canary needs a point to compare another one with.")
        rng = np.random.Generator(np.random.Philox(key=trial.seed))
        other = trial.changed(x=self.space.elsewhere(trial.x, rng))
        for most in (CANARY_EXAMPLES, None):
            probe = Probe()
            with probe.watching(self.model.network) if self.model.has_network else nullcontext():
                scores = self._score(trial, seconds, most)
            outputs = self._outputs(trial, probe)
            first = self._trace(scores, outputs)
            second = self._trace(self._score(other, seconds, most), self._outputs(other, probe))
            pairs = zip(("weights", "outputs", "scores"), first, second, strict=True)
            same = next((what for what, a, b in pairs if a is not None and a == b), None)
            if same is None:
                if self._engine is not None:
                    self._engine.check()
                self._check_repeats(trial, probe, outputs)
                return
            if same != "scores":  # more examples would not change that
                break
        names = ", ".join(model.name for model in self.spec.recipe.inputs)
        raise CanaryError(
            f"Two different points of the search space give the same {same} on the search examples. "
            f"Are the models ({names}) the same, or is every coefficient fixed?"
        )

    def _check_repeats(self, trial: Trial, probe: Probe, wanted: FloatArray | None) -> None:
        """Check that a candidate computes the same before and after another one, and when its export is loaded."""
        if wanted is None:
            return
        found = {"scored again after another candidate": self._outputs(trial, probe)}
        if len(getattr(self.model.network, "hf_device_map", ())) < 2:  # a network on several GPUs is not loaded twice
            self._renew(self.merge_of(trial))
            found["loaded anew, as its export will be"] = probe.outputs(renewed(self.model.network))
        for when, outputs in found.items():
            if not agree(wanted, outputs):
                raise CanaryError(
                    f"{type(self.model.network).__name__} computes different outputs when one candidate is {when}: "
                    "it keeps state between forward passes, or is random. Scores of candidates would "
                    "not match those of their exports; this network cannot be searched."
                )

    def _outputs(self, trial: Trial, probe: Probe) -> FloatArray | None:
        """Return the network's outputs for this candidate on the probe's input; None without a probe."""
        if not probe.captured:
            return None
        self._become(self.merge_of(trial))
        self._renew(self.merge_of(trial))
        return probe.outputs(self.model.network)

    def _trace(self, scores: Mapping[str, Scores], outputs: FloatArray | None) -> tuple[str, str | None, str]:
        weights = hashlib.sha256()
        for tensor in self.model.tensors.values():
            weights.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        seen = hashlib.sha256()
        for task in scores.values():
            seen.update(task.values.tobytes())
            for choices in task.choices or ():
                seen.update(np.asarray(choices).tobytes())
        computed = None if outputs is None else hashlib.sha256(outputs.tobytes()).hexdigest()
        return weights.hexdigest(), computed, seen.hexdigest()


def _unheard(stage: str) -> None:
    """Ignore the name of a stage."""


def _backward(losses: list[Tensor]) -> None:
    """Backpropagate the sum of some losses, and forget them: every weight's gradient is contracted once."""
    followed = [loss for loss in losses if loss.requires_grad]
    losses.clear()
    if followed:
        torch.autograd.backward(followed)


def _failure(error: Exception) -> Failure:
    kind = OUT_OF_MEMORY if is_out_of_memory(error) else type(error).__name__
    return Failure(kind, str(error) or type(error).__name__, traceback.format_exc())
