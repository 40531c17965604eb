"""Retries and deadlines, counted without any process."""

import pytest

from evomerge.execution._jobs import ENOUGH, FLOOR, Deadline, Job
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


def test_a_preemption_is_never_held_against_a_trial() -> None:
    job = Job(trial(7))
    for _ in range(9):
        job.preempted("ray-0", "10.0.0.7")
    assert job.worker_died("ray-0", "gone") is None
    assert [event["event"] for event in job.events] == ["preempted"] * 9 + ["worker_died"]


@pytest.mark.fault(
    "F10", "the deadline follows measured durations", "ten times the median after five trials, at least ten minutes"
)
def test_without_a_limit_of_the_user_a_trial_may_take_ten_times_the_median() -> None:
    deadline = Deadline()
    for seconds in (100.0, 120.0, 5000.0, 110.0):
        deadline.note(seconds)
    assert deadline.seconds is None, "nothing is known yet"
    deadline.note(130.0)
    assert (ENOUGH, deadline.seconds) == (5, 1200.0)
    for _ in range(10):
        deadline.note(1.0)
    assert deadline.seconds == FLOOR == 600.0, "quick trials have quick neighbors, and a machine that is busy"


def test_the_limit_of_the_user_holds_from_the_first_trial_on() -> None:
    deadline = Deadline(30.0)
    for _ in range(10):
        deadline.note(100.0)
    assert deadline.seconds == 30.0


def test_a_timeout_names_the_stage_and_what_it_usually_takes() -> None:
    deadline, job = Deadline(), Job(trial(7))
    assert deadline.describe("merge", 700.0) == "for 700 s in 'merge'"
    for seconds in (5.0, 6.25, 9.0):
        deadline.note(10.0, {"merge": 1.0, "evaluate:gsm8k": seconds})
    where = deadline.describe("evaluate:gsm8k", 1860.4)
    assert where == "for 1860 s in 'evaluate:gsm8k', which usually takes 6.25 s"
    assert job.timed_out("ray-0", 1861.0, where) is None
    outcome = job.timed_out("ray-1", 1861.0, where, "File x, line 3")
    assert job.events[0]["reason"] == f"no outcome after 1861 s, {where}"
    assert outcome is not None
    assert outcome.failure is not None
    assert outcome.failure.message == f"no outcome after 1861 s, {where}, 2 times"
    assert outcome.failure.trace == "File x, line 3"
