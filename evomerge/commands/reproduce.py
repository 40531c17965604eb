"""`evomerge reproduce`: an export made again from its recipe and models, and compared with what is there."""

import tempfile
from pathlib import Path
from typing import Any

from evomerge.commands.progress import progress_bar
from evomerge.durable import explained
from evomerge.export.reproduce import ReproductionError, changed_inputs, first_difference, read_manifest, write_again
from evomerge.recipe import Merge

_TIMES = ("then", "now")
_VERSIONS = "exported with {}; made again with {}"


def reproduce(folder: Path, merge: Merge) -> tuple[dict[str, Any], list[str]]:
    """Make an export again in a temporary folder beside it, and compare the weight files, as data and as text.

    Raises ReproductionError without a manifest, for models that have changed since, and where files were removed; and
    the errors of `materialize` and `export_lora`.
    """
    manifest = read_manifest(folder)
    missing = [name for name in manifest["outputs"] if not (folder / name).is_file()]
    if missing:
        raise ReproductionError(f"{folder} lacks {', '.join(missing)}, which its manifest lists: nothing to compare.")
    beside = folder.absolute().parent
    with explained(beside):
        temporary = tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=beside)
    with temporary as place:
        again = Path(place) / folder.absolute().name
        with progress_bar("merging again") as progress:
            made = write_again(merge, manifest, again, progress)
        changed = changed_inputs(manifest, made)
        if changed:
            raise ReproductionError(
                f"Not reproducible with these models: {', '.join(changed)} changed since the export, by SHA-256. The "
                "manifest names source and revision of each."
            )
        shared = [name for name in made["outputs"] if name in manifest["outputs"]]
        found = [first_difference(folder / name, again / name) for name in shared]
    differences = [each for each in found if each is not None]
    equal = manifest["outputs"] == made["outputs"]
    data = {
        "equal": equal and not differences,
        "edited": [each.file for each in differences] if equal else [],
        "outputs": dict(made["outputs"]),
        "differences": [vars(each) for each in differences],
        "versions": {"then": manifest["versions"], "now": made["versions"]},
    }
    return data, _lines(folder, data, [str(each) for each in differences])


def _lines(folder: Path, data: dict[str, Any], differences: list[str]) -> list[str]:
    count = len(data["outputs"])
    files = f"{count} weight file{'s' * (count != 1)}"
    if data["equal"]:
        return [f"Equal: the {files} of {folder} came out bit for bit as exported."]
    if data["edited"]:
        return [f"{folder} was changed after the export; made again, the {files} are as exported.", *differences]
    then, now = (", ".join(f"{name} {version}" for name, version in data["versions"][at].items()) for at in _TIMES)
    return [
        f"Not equal: the merge gives other bytes than were exported to {folder}.",
        *differences,
        _VERSIONS.format(then, now),
    ]
