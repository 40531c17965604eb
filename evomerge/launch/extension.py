"""More budget for a study than its search file gives: `--extend 50` or `--extend 2h`."""

import math
import re
from dataclasses import dataclass

from evomerge.budget import evaluations
from evomerge.config import ConfigError, SearchConfig
from evomerge.study import Study
from evomerge.study.lines import FILE

_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min)")


@dataclass(frozen=True)
class Extension:
    """How much more is to be spent than was spent so far: evaluations, or else hours of run time.

    Example:
        >>> Extension.read("90min")
        Extension(trials=None, hours=1.5)
    """

    trials: int | None = None
    hours: float | None = None

    @classmethod
    def read(cls, text: str) -> "Extension":
        """Parse `50`, `2h` or `30min`. Raises ConfigError."""
        if text.isdecimal() and int(text) > 0:
            return cls(trials=int(text))
        time = _TIME.fullmatch(text.strip())
        if time is None or float(time[1]) == 0:
            raise ConfigError(
                f"--extend: expected evaluations such as 50, or a time such as 2h or 30min; got {text!r}."
            )
        return cls(hours=float(time[1]) / (1 if time[2] == "h" else 60))

    def of(self, config: SearchConfig) -> SearchConfig:
        """Return the search with this limit in place of those of its file.

        Raises ConfigError where there is no study yet, StudyError for one that cannot be read.
        """
        if not (config.study / FILE).exists():
            raise ConfigError(f"--extend: there is no study in {config.study} yet; start it without --extend.")
        study = Study.read(config.study)
        trials = None if self.trials is None else math.ceil(evaluations(study)) + self.trials
        hours = None if self.hours is None else study.active_seconds / 3600 + self.hours
        others = dict.fromkeys(("until", "money", "price_per_hour"))
        limits = config.budget.model_copy(update={"trials": trials, "hours": hours, **others})
        return config.model_copy(update={"budget": limits})
