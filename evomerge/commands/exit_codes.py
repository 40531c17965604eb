"""Exit codes: what went wrong, as a number that scripts can act on."""

DONE = 0
USAGE = 2
REFUSED = 3
BUSY = 4
PAUSED = 5
#: Stopped early by one Ctrl-C, every running candidate finished; the study can be resumed.
STOPPED = 75
#: Left at once: 130 after a second Ctrl-C, 143 after SIGTERM; the study can be resumed.
SIGNAL = 128

# By name, so that no module is imported to look at an error: its own has been.
_CODES = {
    "AlignError": REFUSED,
    "CanaryError": PAUSED,
    "CheckpointError": REFUSED,
    "ChoiceError": USAGE,
    "CollectionError": USAGE,
    "ConfigError": USAGE,
    "DashboardError": USAGE,
    "DraftError": USAGE,
    "EvaluatorError": USAGE,
    "ExecutorError": PAUSED,
    "InteropError": USAGE,
    "LaunchError": USAGE,
    "MergeError": USAGE,
    "MethodError": USAGE,
    "ModelError": REFUSED,
    "OSError": USAGE,
    "OptimizerError": USAGE,
    "OutputError": USAGE,
    "PlotError": USAGE,
    "PluginError": USAGE,
    "RecipeError": USAGE,
    "SelectionError": USAGE,
    "SoupError": USAGE,
    "SpaceError": USAGE,
    "StatisticsError": USAGE,
    "StudyBusy": BUSY,
    "StudyError": USAGE,
    "StudyPaused": PAUSED,
    "TextError": USAGE,
    "WriteError": PAUSED,
}


def exit_code(error: BaseException) -> int | None:
    """The exit code for an error that is the user's or the machine's; None for one that is ours."""
    names = (kind.__name__ for kind in type(error).__mro__)
    return next((_CODES[name] for name in names if name in _CODES), None)
