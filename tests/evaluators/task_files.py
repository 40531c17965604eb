"""Task files of lm-eval for tests: small ones, on data of their own, with whatever a test wants in them."""

from pathlib import Path
from typing import Any

import yaml

from tests.evaluators.tiny_llama import write_lines

PICK = {
    "task": "pick",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "Q: {{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "answer",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ROWS = [{"question": f"{i}?", "choices": ["red", "blue"], "answer": i % 2} for i in range(6)]


def write_task(folder: Path, rows: list[dict[str, Any]] | None = None, name: str = "pick", **changes: Any) -> Path:
    """A task file with data beside it. changes: keys to replace, or with None to leave out."""
    data = write_lines(folder / f"{name}.jsonl", ROWS if rows is None else rows)
    options = {"data_files": {"test": str(data)}, "cache_dir": str(folder / "cache")}
    config = {**PICK, "task": name, "dataset_kwargs": options, **changes}
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}, sort_keys=False))
    return file
