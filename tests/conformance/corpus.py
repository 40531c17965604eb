"""The corpus: YAML files in which `{name}` stands for the path of a model."""

import re
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "yaml"
#: Everything that is computed here; git ignores it.
WORK = Path(".cache/conformance")
#: Methods that draw random masks.
RANDOM = ("dare_linear", "dare_ties", "della", "della_linear")


@dataclass(frozen=True)
class Case:
    """One file: its name, what it exercises (its first line), its method, and its text with paths."""

    name: str
    features: str
    method: str
    text: str

    @property
    def random(self) -> bool:
        """Whether the result depends on random masks."""
        return self.method in RANDOM


def read(models: Path) -> list[Case]:
    """Every file of the corpus, by name; `models` holds the folders that the placeholders name."""
    return [_case(path, models) for path in sorted(FOLDER.glob("*.yml"))]


def _case(path: Path, models: Path) -> Case:
    text = path.read_text(encoding="utf-8")
    features = text.partition("\n")[0].removeprefix("# ")
    method = re.search(r"^merge_method: (\w+)$", text, re.MULTILINE)
    if method is None:
        raise ValueError(f"{path} has no line `merge_method: NAME`.")
    for folder in models.iterdir():
        text = text.replace(f"{{{folder.name}}}", str(folder.absolute()))
    return Case(path.stem, features, method[1], text)
