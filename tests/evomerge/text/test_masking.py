"""Secrets and the home folder stay out of everything that a run writes or prints."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evaluators import _strict_yaml as strict_yaml
from evomerge.cli import app
from evomerge.study import Study
from evomerge.text.masking import masked, shareable
from evomerge.trackers.__main__ import run_in
from evomerge.trial import Failure, Outcome, Trial
from tests.toys import search_file

ENVIRONMENT = {
    "HOME": "/home/ada",
    "MY_API_KEY": "correct horse/battery",
    "TOKENIZERS_PARALLELISM": "true",
    "USER": "ada",
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("401 for hf_AbCdEfGhIjKlMn at /x", "401 for *** at /x"),
        ("key sk-proj-abc123def456ghi789 refused", "key *** refused"),
        ("ghp_0123456789abcdefABCDEF0123456789abcd", "***"),
        ("github_pat_11ABCDEFG0abcdefghij_KLMNOP", "***"),
        ("AKIAIOSFODNN7EXAMPLE and AKI", "*** and AKI"),
        ("aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "aws_secret_access_key = ***"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer ***"),
        ("https://ada:hunter2@host:8080/x?y", "https://***@host:8080/x?y"),
        ("{'password': 'hunter2'}", "{'password': '***'}"),
        ("?access_token=a1b2c3d4e5&x=1", "?access_token=***&x=1"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.SflKxwRJSM", "***"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----.", "***."),
        ("of correct horse/battery, correct%20horse%2Fbattery", "of ***, ***"),
        ("No such file: '/home/ada/models/x', /home/ada, /home/adam/x, /srv/home/ada", None),
        ("tokenizer: union; missing_token: <extra_id> is true", "tokenizer: union; missing_token: <extra_id> is true"),
        ("task-arithmetic hf_x sk-y token 'a'", "task-arithmetic hf_x sk-y token 'a'"),
    ],
)  # fmt: skip
def test_what_is_masked_and_what_is_not(text: str, expected: str | None) -> None:
    if expected is None:
        expected = "No such file: '~/models/x', ~, /home/adam/x, /srv/home/ada"
    assert masked(text, ENVIRONMENT) == expected


def test_what_is_shared_has_names_for_paths() -> None:
    places = [Path("/data/models/a"), Path("/data/models/a/b")]
    data = {"a": ["/data/models/a/b/c", 1, None], "b": {"c": "at /data/models/a: ghp_0123456789abcdef"}}
    assert shareable(data, places) == {"a": ["b/c", 1, None], "b": {"c": "at a: ***"}}


SECRETS = ("hf_PlantedTokenInText", "planted value of a variable", "AKIAPLANTEDPLANTED00")


def leaky(model: object) -> float:
    """Fail as clients of services do: with all that they know."""
    home, token = os.environ["HOME"], os.environ["WANDB_API_KEY"]
    raise ValueError(f"401 {SECRETS[0]} {token} {SECRETS[2]} in {home}/secret-place")


@pytest.mark.fault(
    "F42", "an evaluator raises an error with a token and a home path", "neither is in any file or output of the run"
)
def test_planted_secrets_are_in_no_file_and_no_output_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRETS[1])
    monkeypatch.setenv("HOME", str(tmp_path))
    tasks = {
        "one": {"evaluator": "synthetic", "n_examples": 60, "fail": 0.3},
        "leak": {"evaluator": "callable", "function": f"{__name__}:sometimes_leaky"},
    }
    file = tmp_path / "search.yaml"
    file.write_text(strict_yaml.dump(search_file(tmp_path, tasks=tasks, budget={"trials": 12})))
    run = CliRunner().invoke
    study = tmp_path / "study"
    printed = [run(app, ["search", str(file)]).output]
    assert Study.read(study).told, printed
    failures = [entry.outcome.failure for entry in Study.read(study).told if entry.outcome and entry.outcome.failure]
    assert [failure for failure in failures if "401 ***" in failure.message]
    printed += [run(app, [*command, str(study)]).output for command in (("status", "--json"), ("status",), ("report",))]
    exported = run(app, ["export", str(study), "--trial", "2", "-o", str(tmp_path / "out")])
    assert exported.exit_code == 0, exported.output
    page = (study / "report.html").read_text()
    texts = [*printed, (study / "ledger.jsonl").read_text(), page]
    texts += [path.read_text() for path in (tmp_path / "out").iterdir() if path.suffix in (".json", ".md", ".yaml")]
    for text in texts:
        for secret in SECRETS:
            assert secret not in text
        assert f"{tmp_path}/secret-place" not in text
    assert str(tmp_path) not in page


def sometimes_leaky(model: object) -> float:
    """Fail for two models of three."""
    CALLS[0] += 1
    return leaky(model) if CALLS[0] > 4 and CALLS[0] % 3 else float(CALLS[0])


CALLS = [0]


def test_events_and_failures_are_masked_wherever_they_come_from(tmp_path: Path) -> None:
    study = Study.create(tmp_path, {}, {})
    study.event("paused", reason="ghp_0123456789abcdefghij", nested={"why": ["Bearer abcdefgh1"]})
    study.ask(Trial(0, None))
    trouble = Failure("ValueError", "sk-0123456789abcdefghij", "ghp_0123456789abcdefghij")
    events = ({"event": "worker_died", "reason": "https://a:b@c"},)
    study.tell(Outcome(0, failure=trouble, events=events), None)
    study.close()
    text = (tmp_path / "ledger.jsonl").read_text()
    assert text.count("***") == 5
    assert not any(secret in text for secret in ("0123456789abcdefghij", "abcdefgh1", "a:b@c"))


def test_a_tracker_gets_names_instead_of_paths_and_no_secret(tmp_path: Path) -> None:
    model = {"path": str(tmp_path / "models" / "a"), "adapter": str(tmp_path / "adapters" / "b")}
    tasks = {
        "one": {"evaluator": "callable", "examples": str(tmp_path / "data" / "c.txt"), "note": "ghp_0123456789abcdef"}
    }
    configuration = {"base": str(tmp_path / "models" / "base"), "experts": {"a": model}, "tasks": tasks, "seed": 3}
    Study.create(tmp_path / "run", configuration, {}).close()
    told = run_in(tmp_path / "run").configuration
    assert told["experts"] == {"a": {"path": "a", "adapter": "b"}}
    assert (told["base"], told["tasks"]["one"]["examples"], told["tasks"]["one"]["note"]) == ("base", "c.txt", "***")
    assert told["seed"] == 3
    assert str(tmp_path) not in json.dumps(told)


def test_an_error_of_a_command_is_masked(tmp_path: Path) -> None:
    file = tmp_path / "ghp_0123456789abcdefghij.yaml"
    done = CliRunner().invoke(app, ["check", str(file)])
    assert (done.exit_code, "***" in done.stderr, "0123456789abcdefghij" in done.stderr) == (2, True, False)
    as_json = CliRunner().invoke(app, ["check", str(file), "--json"])
    assert "***" in json.loads(as_json.stdout)["error"]
