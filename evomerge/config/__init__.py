"""The search file: strict YAML in, validated objects out."""

from evomerge.config.config import FREE, ConfigError, SearchConfig, load_config
from evomerge.config.stages import Stage, load_stages

__all__ = [
    "FREE",
    "ConfigError",
    "SearchConfig",
    "Stage",
    "load_config",
    "load_stages",
]
