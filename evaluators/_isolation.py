"""Side effects of lm-eval on the whole process, undone: random states, terminal output, recompiled templates."""

import contextlib
import functools
import io
import logging
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jinja2.sandbox import SandboxedEnvironment
from lm_eval import utils


@contextlib.contextmanager
def preserved_random_states(seed: int | None = None) -> Iterator[None]:
    """Restore the global random states afterwards; with a seed, the block starts from it."""
    python = random.getstate()
    legacy = np.random.get_state()  # noqa: NPY002 - the global state is what is preserved
    with torch.random.fork_rng(enabled=True):
        if seed is not None:
            torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(legacy)  # noqa: NPY002


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars that have no switch of their own, and what datasets logs before it raises."""
    logger = logging.getLogger("datasets")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def fast_templates(trusted: bool) -> Iterator[None]:
    """Compile each Jinja template once instead of once per document, which is four fifths of an evaluation's overhead.

    Untrusted templates run in Jinja's sandbox, since lm-eval's own environment can run any code.
    """
    vars(utils.env)["from_string"] = _compiler(trusted)
    try:
        yield
    finally:
        del vars(utils.env)["from_string"]


@functools.cache
def _compiler(trusted: bool) -> Callable[[str], Any]:
    environment = utils.env
    if not trusted:
        environment = SandboxedEnvironment(
            loader=utils.env.loader,
            undefined=utils.env.undefined,
            keep_trailing_newline=utils.env.keep_trailing_newline,
            autoescape=utils.env.autoescape,
        )
        environment.filters.update(utils.env.filters)
        # Their prompts would differ between workers, and every rendering would take different time and memory.
        del environment.filters["random"], environment.globals["lipsum"]
    compile_template = type(environment).from_string
    return functools.lru_cache(maxsize=4096)(lambda source: compile_template(environment, source))
