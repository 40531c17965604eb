"""Publication of an export on the Hugging Face hub: what would be uploaded, what speaks against it, and the upload."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

from evaluators import _strict_yaml as strict_yaml
from evomerge.errors import EvomergeError
from evomerge.export.reproduce import read_manifest
from evomerge.merging.models.hashing import digest_of
from evomerge.merging.output.staging import foreign
from evomerge.recipe import Merge

CARD = "README.md"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
#: Errors without an answer of the hub. The base of its own errors is that of the HTTP client, which differs by version.
_NO_CONNECTION = cast("tuple[type[Exception], ...]", (OSError, *HfHubHTTPError.__bases__))
_FRONT_MATTER = re.compile(r"---\n(.*?)\n?---\n", re.DOTALL)


class PublishError(EvomergeError):
    """An export that cannot be published, or a hub that refuses it."""


@dataclass(frozen=True)
class Publication:
    """An upload before it is made.

    files: name -> bytes. card: the model card with the license. licenses: model -> license on its own card, None where
    it has none or is not here. problems: why it cannot be uploaded; notes: what should be known before.
    """

    folder: Path
    repository: str
    files: Mapping[str, int]
    card: str
    licenses: Mapping[str, str | None]
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def publication(folder: Path, merge: Merge, repository: str, license_: str | None) -> Publication:
    """Look at an export before it is published.

    Args:
        folder: The export.
        merge: Its merge, for the folders of the models.
        repository: ORG/NAME on the hub.
        license_: Identifier of the license, such as `apache-2.0`; by default that on the card.

    Raises:
        PublishError: The name or license is malformed.
        ReproductionError: There is no manifest.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise PublishError(f"--repo: expected ORG/NAME, such as my-name/my-merge; got {repository!r}.")
    if license_ is not None and not _LICENSE.fullmatch(license_):
        raise PublishError(f"--license: expected an identifier of the hub such as apache-2.0; got {license_!r}.")
    manifest = read_manifest(folder)
    models = (merge.recipe.base, *merge.recipe.inputs)
    licenses = {model.name: license_on(Path(model.path) / CARD) for model in models}
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    problems = [*_changed(folder, manifest), *_not_ours(folder)]
    card = (folder / CARD).read_text(encoding="utf-8") if CARD in files else ""
    chosen = license_ or license_on(folder / CARD)
    if not card:
        problems.append(f"{CARD}, the model card, is missing")
    if chosen is None:
        listed = ", ".join(f"{name} {found or 'unknown'}" for name, found in licenses.items())
        problems.append(
            f"the license of the merge is not settled. Those of its models, by their cards: {listed}. Read them, and "
            "give the license of the merge with --license"
        )
    else:
        card = _with_license(card, chosen)
    notes = (
        []
        if "base_model:" in card.split("\n---\n")[0].replace("# base_model", "")
        else [
            "the card names no base_model, since the models were local folders: add their hub names to its first lines"
        ]
    )
    return Publication(folder, repository, files, card, licenses, tuple(problems), tuple(notes))


def license_on(card: Path) -> str | None:
    """Return the license in the front matter of a model card; None without one."""
    try:
        found = _FRONT_MATTER.match(card.read_text(encoding="utf-8"))
        data = strict_yaml.load(found.group(1), source=str(card)).data if found is not None else None
    except (OSError, ValueError):
        return None
    named = data.get("license") if isinstance(data, Mapping) else None
    return named if isinstance(named, str) else None


def upload(planned: Publication, *, private: bool) -> str:
    """Create the repository where it is missing, upload all files in one commit, and return its address.

    Raises PublishError where something speaks against it, or the hub refuses.
    """
    if planned.problems:
        raise PublishError(f"Not published: {'; '.join(planned.problems)}.")
    api = HfApi()
    contents: dict[str, str | bytes] = {name: str(planned.folder / name) for name in planned.files}
    contents[CARD] = planned.card.encode()
    operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in contents.items()]
    try:
        made = api.create_repo(planned.repository, private=private, exist_ok=True)
        api.create_commit(planned.repository, operations, commit_message="Add a merge made by evomerge")
    except LocalTokenNotFoundError as error:
        raise PublishError("The hub needs a token: run `hf auth login`, or set HF_TOKEN.") from error
    except HfHubHTTPError as error:
        said = error.server_message or str(error).strip().partition("\n")[0]
        raise PublishError(
            f"The hub refused {planned.repository}: {said}. Check the name, and that the token may write there "
            "(`hf auth whoami`)."
        ) from error
    except _NO_CONNECTION as error:
        why = str(error).strip().partition("\n")[0] or type(error).__name__
        raise PublishError(f"The hub cannot be reached ({why}); nothing was published.") from error
    return str(made)


def _changed(folder: Path, manifest: Mapping[str, Any]) -> list[str]:
    outputs: Mapping[str, str] = manifest["outputs"]
    gone = [name for name in outputs if not (folder / name).is_file()]
    other = [name for name, sha in outputs.items() if name not in gone and digest_of(folder / name) != sha]
    return [
        *([f"{', '.join(gone)} of the manifest are missing"] if gone else []),
        *([f"{', '.join(other)} changed after the export, by SHA-256"] if other else []),
    ]


def _not_ours(folder: Path) -> Sequence[str]:
    found = foreign(folder)
    return [f"evomerge did not write {', '.join(found)}: move it away, or upload it yourself"] if found else []


def _with_license(card: str, license_: str) -> str:
    """Return the card with a license in its front matter, in place of another one."""
    found = _FRONT_MATTER.match(card)
    if found is None:
        return f"---\nlicense: {license_}\n---\n{card}"
    lines = [line for line in found.group(1).splitlines() if not line.startswith("license:")]
    return "---\n" + "\n".join([*lines, f"license: {license_}"]) + "\n---\n" + card[found.end() :]
