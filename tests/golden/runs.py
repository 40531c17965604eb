"""The golden runs, put back on the disk as they were, and what the commands say of them."""

import gzip
import json
import math
import re
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from evomerge.cli import app

FOLDER = Path(__file__).parent
RUNS = ("mean_keep", "pareto_map", "retention", "before_objectives")
#: The folder in which the runs were made, as their ledgers and search files name it.
MADE_IN = "/golden"
#: What stands for the folder in which the commands ran, where a search file of old looks for its code too.
READ_IN = "/current"
#: Ways to choose, by the name under which their answer is frozen.
PICKS = {
    "preferred": (),
    "best at math": ("--max", "math", "--keep", "chat>=98%"),
    "weights": ("--prefer", "math=1,chat=3"),
    "knee": ("--knee",),
    "searched": ("--split", "search", "--keep", "math>=+20pt", "--keep", "chat>=-10pt"),
}
#: Characters in a line of a frozen file, unless one value is longer.
WIDTH = 160
#: Keys of what a surrogate predicts.
PREDICTED = ("predicted", "predictions")
#: How near two numbers are the same, as a share of them: what is measured, and what is predicted. Between kernels of
#: OpenBLAS the former differed by 7e-11 at most, the latter by 5e-4.
NEAR, PREDICTED_NEAR = 1e-9, 5e-3
_PAGE_DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def restore(name: str, folder: Path) -> Path:
    """Put a golden run into `folder` as if it had been made there, without its models; returns the run's folder."""
    run = folder / name
    run.mkdir()
    here = str(folder).encode()
    search_file = (FOLDER / name / "search.yaml").read_bytes()
    (run / "search.yaml").write_bytes(search_file.replace(MADE_IN.encode(), here))
    (run / "ledger.jsonl").write_bytes(b"".join(_moved(line, here) for line in ledger(name)))
    return run


def ledger(name: str) -> list[bytes]:
    """The lines of a run's ledger as it was written."""
    return gzip.decompress((FOLDER / name / "ledger.jsonl.gz").read_bytes()).splitlines()


def _moved(line: bytes, folder: bytes) -> bytes:
    """A line of a ledger with the paths of another folder, and the checksum of that."""
    rest = line[line.index(b",") + 1 :].replace(MADE_IN.encode(), folder)
    return b'{"crc32":"%08x",%b\n' % (zlib.crc32(rest), rest)


def read(name: str, folder: Path) -> dict[str, Any]:
    """What the commands say of a golden run in `folder`, by the file that it is frozen in; see `normalized`."""
    run = restore(name, folder)
    # These need no model; the ones below do.
    found = {
        "status.json": says("status", run),
        "pareto.json": says("pareto", run),
        "pick.json": {wish: says("pick", run, *options) for wish, options in PICKS.items()},
    }
    shutil.copytree(FOLDER / "models", folder / "models")
    recipe, page = run / "recipe.yaml", run / "page.html"
    says("export", run, "--recipe-only", "-o", recipe)
    says("report", run, "-o", page)
    embedded = _PAGE_DATA.search(page.read_text(encoding="utf-8"))
    assert embedded is not None
    return found | {"recipe.yaml": recipe.read_text(encoding="utf-8"), "page.json.gz": json.loads(embedded[1])}


def says(command: str, run: Path, *options: object) -> Any:
    """What a command prints as JSON; with its exit code where that is not 0."""
    done = CliRunner().invoke(app, [command, str(run), *map(str, options), "--json"])
    said = json.loads(done.stdout)
    return said if done.exit_code == 0 else {"exit code": done.exit_code, "said": said}


def normalized(data: Any, folder: Path) -> Any:
    """The same without what differs from one reading to the next: the folders of the run and of the process.

    Of a predicted front only the first point is kept: it is solved numerically, and another processor or number of
    threads gives a few points more or less.
    """
    if isinstance(data, str):
        return data.replace(str(folder), MADE_IN).replace(str(Path.cwd()), READ_IN)
    if isinstance(data, dict):
        return {key: normalized(_first(key, value), folder) for key, value in data.items()}
    return [normalized(each, folder) for each in data] if isinstance(data, list) else data


def _first(key: str, value: Any) -> Any:
    """Keep the first prediction, in a list or among tables that are named by the numbers of predictions."""
    if key in PREDICTED and isinstance(value, list):
        return value[:1]
    if key in PREDICTED and isinstance(value, dict) and "tables" in value:
        return value | {"tables": {number: table for number, table in value["tables"].items() if number == "1"}}
    return value


def write(data: Any, path: Path) -> None:
    """Freeze what a command said."""
    raw = (data if isinstance(data, str) else _lines(data) + "\n").encode()
    path.write_bytes(gzip.compress(raw, mtime=0) if path.suffix == ".gz" else raw)


def _lines(data: Any, indent: str = "") -> str:
    """JSON that is read line by line where it changes: what is short is one line."""
    whole = json.dumps(data, ensure_ascii=False)
    if len(whole) + len(indent) <= WIDTH or not isinstance(data, dict | list):
        return whole
    inner = indent + " "
    if isinstance(data, list):
        return "[\n" + ",\n".join(inner + _lines(each, inner) for each in data) + f"\n{indent}]"
    parts = (f"{inner}{json.dumps(key)}: {_lines(value, inner)}" for key, value in data.items())
    return "{\n" + ",\n".join(parts) + f"\n{indent}}}"


def frozen(path: Path) -> Any:
    """Read what a command said when it was frozen."""
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode()
    return text if path.suffix == ".yaml" else json.loads(text)


def differences(old: Any, new: Any, path: str = "", near: float = NEAR) -> Iterator[str]:
    """`points[3].score.mean: 0.5 -> 0.6` for every value that is another one."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            allowed = PREDICTED_NEAR if key in PREDICTED else near
            place = f"{path}.{key}".lstrip(".")
            yield from differences(old.get(key, "(absent)"), new.get(key, "(absent)"), place, allowed)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for row, pair in enumerate(zip(old, new, strict=True)):
            yield from differences(*pair, f"{path}[{row}]", near)
    elif type(old) is not type(new) or not (_is_near(old, new, near) if isinstance(old, float) else old == new):
        yield f"{path}: {old!r:.200} -> {new!r:.200}"


def _is_near(old: float, new: float, near: float) -> bool:
    return math.isclose(old, new, rel_tol=near, abs_tol=near / 1000)
