"""An output folder that appears complete or not at all: written next to its place, synced, then renamed."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.durable import OutputError, explained, sync
from evomerge.merging.models.header import CheckpointError, counted
from evomerge.merging.models.model import Model
from evomerge.merging.models.shards import INDEX
from evomerge.merging.output.assets import COPIED
from evomerge.text.sizes import size

#: File that marks a folder as written by evomerge, which may replace it.
MARK = "evomerge.json"

_ALWAYS = ("README.md", "recipe.yaml", "mergekit_config.yml", "config.json", INDEX, "adapter_config.json")


def check_output(folder: Path, models: Iterable[Model], *, overwrite: bool) -> None:
    """Check that an output neither touches an input (CheckpointError) nor replaces foreign files (OutputError)."""
    target = folder.resolve()
    for model in models:
        for place in (model.path, *model.files):
            found = place.resolve()
            if target == found or target in found.parents or (found.is_dir() and found in target.parents):
                raise CheckpointError(
                    f"The output {folder} is, contains or is inside the input {model.path}; "
                    "inputs are never written to. Choose another output folder."
                )
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir() or folder.is_symlink():
        raise OutputError(f"The output {folder} exists and is not a folder. Choose another name.")
    if not any(folder.iterdir()):
        return
    if not overwrite:
        remedy = ", or replace this export with --overwrite" if (folder / MARK).is_file() else ""
        raise OutputError(f"The output folder '{folder}' exists and is not empty. Choose another folder{remedy}.")
    if not (folder / MARK).is_file():
        raise OutputError(
            f"The output folder '{folder}' was not written by evomerge (it has no {MARK}) and is not replaced. "
            "Choose another folder, or remove it yourself."
        )
    others = foreign(folder)
    if others:
        raise OutputError(
            f"The output {folder} holds {counted(others, 'file')} that evomerge did not write; replacing the "
            "folder would delete them. Move them away, or choose another folder."
        )


def unfinished(folder: Path) -> list[str]:
    """Return a line if an earlier process was killed while it wrote `folder`, else none."""
    partial = _beside(folder.absolute(), "partial")
    if not partial.is_dir() or not any(partial.iterdir()):
        return []
    weights = sum(1 for _ in partial.glob("*.safetensors"))
    return [f"found an unfinished export, restarting ({weights} weight file(s) of it removed)"]


def foreign(folder: Path) -> list[str]:
    """Return the entries of an export's folder that evomerge did not write, sorted."""
    try:
        manifest = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = {}
    known = {MARK}
    if isinstance(manifest, dict):
        # Exports of older versions list only their weights.
        known |= set(manifest.get("files", ())) or {*_ALWAYS, *COPIED, *manifest.get("outputs", ())}
    return sorted(entry.name for entry in folder.iterdir() if entry.name not in known or entry.is_dir())


@contextmanager
def staged(folder: Path, nbytes: int) -> Iterator[Path]:
    """Yield a new folder next to `folder` to write to; it replaces `folder` if the block succeeds.

    nbytes: size of the output, compared with the free disk space. If the block raises, nothing is left;
    leftovers of a killed process are removed by the next one. Raises OutputError.
    """
    folder = folder.absolute()
    partial, replaced = _beside(folder, "partial"), _beside(folder, "replaced")
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _lock(lock, partial, folder)
        try:
            with explained(folder):
                _restore(folder, replaced)
                _empty(partial)
                _check_space(folder.parent, nbytes)
                yield partial
                _list_files(partial)
                for path in (*partial.iterdir(), partial):
                    sync(path)
                _replace(partial, folder, replaced)
        except BaseException:
            if partial.exists():
                shutil.rmtree(partial)
            _restore(folder, replaced)
            raise
    finally:
        os.close(lock)


def _beside(folder: Path, state: str) -> Path:
    return folder.with_name(f".{folder.name}.evomerge-{state}")


def _list_files(partial: Path) -> None:
    """Add the names of all files to the manifest, so that a later export recognizes foreign ones."""
    manifest = partial / MARK
    if manifest.is_file():
        data = json.loads(manifest.read_text(encoding="utf-8"))
        data["files"] = sorted(entry.name for entry in partial.iterdir())
        manifest.write_text(json.dumps(data, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _lock(descriptor: int, partial: Path, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputError(f"Another process is writing {folder}.") from error
    if not partial.exists() or not os.path.samestat(os.fstat(descriptor), partial.stat()):
        raise OutputError(f"Another process has just written {folder}.")


def _restore(folder: Path, replaced: Path) -> None:
    """Finish the work of a process that was killed while it replaced a folder."""
    if replaced.exists() and not folder.exists():
        replaced.rename(folder)
    elif replaced.exists():
        shutil.rmtree(replaced)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _check_space(folder: Path, nbytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if nbytes > free:
        raise OutputError(
            f"The export needs {size(nbytes)}, and {size(free)} are free on the disk of {folder}. "
            "Free some space, or write to another disk."
        )


def _replace(partial: Path, folder: Path, replaced: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        folder.rename(replaced)
    partial.rename(folder)
    if replaced.exists():
        shutil.rmtree(replaced)
    sync(folder.parent)
