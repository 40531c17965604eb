"""How the end of a worker is described."""

import pytest

from evomerge.execution._death import kernel_kills, log_tail, why_died

SAID = "The actor died unexpectedly before finishing this task.\n\tpid: 7\n(1) the process was killed by the OOM killer"
LOW = "Task was killed due to the node running low on memory.\n"


@pytest.mark.parametrize(
    ("said", "log", "kills", "expected"),
    [
        (SAID, ":actor_name:A\n*** SIGBUS received at time=1 on cpu 1 ***\n", 0, "it ended with SIGBUS"),
        (f"{SAID} The process receives a SIGTERM.", "", 0, "it ended with SIGTERM"),
        (LOW, "", 0, "Ray killed it because its machine ran low on memory"),
        (SAID, "", 1, "task. The kernel killed 1 process(es) for memory meanwhile, probably this one too"),
        (SAID, "", 0, "as after SIGKILL from another process, or from the kernel when memory runs out (see dmesg)"),
        (SAID, None, 1, "The actor died unexpectedly before finishing this task."),
    ],
)
@pytest.mark.fault("F12", "messages of Ray, logs and counts of the kernel", "signal or memory is named")
def test_the_end_is_named(said: str, log: str | None, kills: int, expected: str) -> None:
    death = why_died(said, log, kills)
    assert death.reason.endswith(expected)
    assert death.memory == (said == LOW or "kernel killed" in expected)


def test_a_log_elsewhere_is_none() -> None:
    assert log_tail("") is None
    assert log_tail("pipe:[1]") is None
    assert kernel_kills() >= 0
