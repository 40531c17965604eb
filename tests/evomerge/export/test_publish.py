"""Publication of an export: what is checked before, and the upload itself, to a hub on this machine."""

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from huggingface_hub import constants

from evomerge.commands.publish import publish
from evomerge.export.publish import PublishError, license_on
from evomerge.merging.output.materialize import materialize
from evomerge.recipe.file import read_merge
from tests.evomerge.export.test_reproduce import merge_of


class Hub(ThreadingHTTPServer):
    """As much of the hub as an upload of small files takes. requests: method and path; files: path -> content."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[str] = []
        self.files: dict[str, bytes] = {}
        self.refuse = False


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.requests.append(self.path)
        status, answer = 200, {}
        if self.server.refuse or self.headers.get("authorization") != "Bearer hf_test":
            status, answer = 403, {"error": "You may not write here"}
        elif self.path == "/api/repos/create":
            answer = {"url": f"{constants.ENDPOINT}/me/merge"}
        elif "/preupload/" in self.path:
            files = [each["path"] for each in json.loads(body)["files"]]
            answer = {"files": [{"path": f, "uploadMode": "regular", "shouldIgnore": False} for f in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.server.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"success": True, "commitOid": "0" * 40, "commitUrl": f"{constants.ENDPOINT}/me/merge/commit/0"}
        text = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    materialize(merge_of(tmp_path), tmp_path / "out")
    return tmp_path / "out"


def published(folder: Path, repository: str = "me/merge", license_: str | None = "mit", *, upload: bool = False) -> str:
    merge = read_merge(folder / "recipe.yaml")
    data, lines = publish(folder, merge, repository, license_, upload=upload, private=True)
    json.dumps(data)
    return "\n".join(lines)


def test_nothing_is_sent_unless_asked_for(exported: Path, hub: Hub) -> None:
    text = published(exported)
    assert "model.safetensors" in text
    assert "licenses of the models, by their cards: base unknown, a unknown, b unknown" in text
    assert "note: the card names no base_model" in text
    assert text.splitlines()[-1].startswith("Nothing was sent. With --upload, ")
    assert hub.requests == []


def test_an_upload_has_all_files_and_a_card_with_the_license(exported: Path, hub: Hub, tmp_path: Path) -> None:
    before = (exported / "README.md").read_bytes()
    assert "at http://127.0.0.1" in published(exported, upload=True)
    local = {path.name: path.read_bytes() for path in exported.iterdir()}
    assert hub.files.keys() == local.keys()
    assert all(hub.files[name] == content for name, content in local.items() if name != "README.md")
    (tmp_path / "card.md").write_bytes(hub.files["README.md"])
    assert license_on(tmp_path / "card.md") == "mit"
    assert hub.files["README.md"].count(b"license:") == 1
    assert local["README.md"] == before


def test_a_license_is_never_guessed(exported: Path, hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(PublishError, match=r"license of the merge is not settled.*base unknown.*--license"):
        published(exported, license_=None, upload=True)
    card = exported / "README.md"
    card.write_text(card.read_text().replace("---\n", "---\nlicense: apache-2.0\n", 1))
    assert "Published" in published(exported, license_=None, upload=True)
    (tmp_path / "card.md").write_bytes(hub.files["README.md"])
    assert license_on(tmp_path / "card.md") == "apache-2.0"


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("model.safetensors", b"other", "model.safetensors changed after the export"),
        ("model.safetensors", None, "model.safetensors of the manifest are missing"),
        ("notes.txt", b"my notes", "evomerge did not write notes.txt"),
        ("README.md", None, "the model card, is missing"),
    ],
)
def test_what_is_not_the_export_is_not_published(
    exported: Path, hub: Hub, name: str, content: bytes | None, why: str
) -> None:
    if content is None:
        (exported / name).unlink()
    else:
        (exported / name).write_bytes(content)
    with pytest.raises(PublishError, match=why):
        published(exported, upload=True)
    assert hub.requests == []


@pytest.mark.parametrize(("repository", "license_"), [("merge", "mit"), ("a/b/c", "mit"), ("me/merge", "My License")])
def test_malformed_names_are_refused(exported: Path, repository: str, license_: str) -> None:
    with pytest.raises(PublishError, match=r"expected .* such as .*; got"):
        published(exported, repository, license_)


def test_a_hub_that_refuses_says_why(exported: Path, hub: Hub) -> None:
    hub.refuse = True
    with pytest.raises(PublishError, match=r"The hub refused me/merge: You may not write here"):
        published(exported, upload=True)


def test_no_connection_is_an_error_of_ours(exported: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PublishError, match="cannot be reached"):
        published(exported, upload=True)
