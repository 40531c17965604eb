"""Retries, counted without any process."""

from evomerge.execution._jobs import Job
from tests.contracts.executor import trial


def test_a_death_is_forgiven_twice() -> None:
    job = Job(trial(7))
    assert job.worker_died("ray-0", "gone") is None
    assert job.worker_died("ray-1", "gone") is None
    outcome = job.worker_died("ray-0", "gone")
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.kind == "worker_died"
    assert [(event["attempt"], event["worker"]) for event in job.events] == [
        (1, "ray-0"),
        (2, "ray-1"),
        (3, "ray-0"),
    ]


def test_a_timeout_is_forgiven_once_and_apart_from_deaths() -> None:
    job = Job(trial(7))
    assert job.worker_died("ray-0", "gone") is None
    assert job.timed_out("ray-0", 1.5) is None
    outcome = job.timed_out("ray-0", 1.5)
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.kind == "timeout"
    assert "1.5 s" in outcome.failure.message
    assert [event["event"] for event in job.events] == ["worker_died", "timeout", "timeout"]
