"""The image and the job of Hugging Face, checked without running them: no daemon and no service is at hand."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.test_documents import ROOT

#: Instructions that the image uses, of those that builders know.
INSTRUCTIONS = {"ARG", "FROM", "WORKDIR", "COPY", "RUN", "ENTRYPOINT", "CMD"}


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, continued lines joined."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (line for line in text.splitlines() if line.strip() and not line.startswith("#"))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines]


def test_the_image_copies_what_is_there_and_its_commands_parse() -> None:
    found = instructions()
    assert {name for name, _ in found} == INSTRUCTIONS
    assert [name for name, _ in found][:2] == ["ARG", "FROM"]
    copied: set[str] = set()
    for name, text in found:
        if name == "COPY":
            *sources, target = text.split()
            assert all((ROOT / source).exists() for source in sources), text
            assert len(sources) == 1 or target.endswith("/"), text
            copied.update(sources)
        elif name == "RUN":
            subprocess.run(["bash", "-n", "-c", text], check=True)
    packages = re.findall(r'^"?[\w.]+"? = "([\w/]+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert {"evomerge", "pyproject.toml", "evaluators", "search_spaces", "experiments/tiny_models"} <= copied
    assert {each for each in packages if (ROOT / each).is_dir()} <= copied, "the wheel is built from these folders"


def test_the_job_of_hugging_face_is_accepted_as_shown(tmp_path: Path) -> None:
    programs = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": programs, "HF_TOKEN": "hf_none", "HF_HOME": str(tmp_path), "NO_COLOR": "1"}
    script = ROOT / "docs/clusters/hf-job.sh"
    done = subprocess.run(
        ["bash", script, "my-org/evomerge", "--dry-run", "--detach"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (shown,) = re.findall(r"^ *command +(.*)$", done.stdout, re.MULTILINE)
    command = shlex.split(shown)[-1].split("&& ")[-1]
    assert command.split() == ["evomerge", "search", "/shared/search.yaml", "--resume"]
    assert "hf://buckets/my-org/evomerge:/shared" in done.stdout
