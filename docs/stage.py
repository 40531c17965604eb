"""Stage the site: `mkdocs.yml`, and in `source` the documents with all that they link to, as in the repository.

    python docs/stage.py build/site

Links between documents are relative paths in the repository, as on GitHub, and stay as they are.
"""

import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\]\(([^)\s#]+)[^)]*\)")


def stage(target: Path) -> list[str]:
    """Copy the documents and what they link to; return the paths in the repository."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    shutil.copy(ROOT / "docs/mkdocs.yml", target)
    waiting = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
    done: set[Path] = set()
    while waiting:
        file = waiting.pop().resolve()
        if file in done or not file.is_file() or not file.is_relative_to(ROOT):
            continue
        done.add(file)
        place = target / "source" / file.relative_to(ROOT)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
        if file.suffix == ".md":
            links = _LINK.findall(file.read_text(encoding="utf-8"))
            waiting += [file.parent / link for link in links if "://" not in link]
    return sorted(path.relative_to(ROOT).as_posix() for path in done)


if __name__ == "__main__":
    stage(Path(sys.argv[1]))
