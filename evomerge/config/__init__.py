"""The search file: strict YAML in, validated objects out."""

from evomerge.config.config import FREE, ConfigError, SearchConfig, load_config

__all__ = [
    "FREE",
    "ConfigError",
    "SearchConfig",
    "load_config",
]
