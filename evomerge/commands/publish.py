"""`evomerge publish`: an export on the Hugging Face hub."""

from pathlib import Path
from typing import Any

from evomerge.export.publish import PublishError, publication
from evomerge.export.publish import upload as send
from evomerge.recipe import Merge
from evomerge.text.sizes import size


def publish(
    folder: Path, merge: Merge, repository: str, license_: str | None, *, upload: bool, private: bool
) -> tuple[dict[str, Any], list[str]]:
    """Say what would be uploaded, or upload it, as data and as lines. Raises PublishError and ReproductionError.

    The parameters are those of `publication` and `upload`.
    """
    planned = publication(folder, merge, repository, license_)
    if planned.problems:
        raise PublishError(f"{folder} cannot be published: {'; '.join(planned.problems)}.")
    address = send(planned, private=private) if upload else None
    data = {
        "repository": repository,
        "uploaded": upload,
        "address": address,
        "files": dict(planned.files),
        "licenses": dict(planned.licenses),
        "notes": list(planned.notes),
    }
    known = ", ".join(f"{name} {found or 'unknown'}" for name, found in planned.licenses.items())
    total = size(sum(planned.files.values()))
    lines = [
        *(f"{name:32s} {size(n_bytes)}" for name, n_bytes in planned.files.items()),
        f"licenses of the models, by their cards: {known}",
        *(f"note: {note}" for note in planned.notes),
    ]
    if address is not None:
        return data, [*lines, f"Published {total} at {address}"]
    return data, [*lines, f"Nothing was sent. With --upload, {total} go to {repository}"]
