"""Bounded children: answers, failures, deadlines, crashes; and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from runnerctl.probes.bounded import Outcome, Report, Task, run_all


def _run(call: Callable[[Report], Any], deadline_seconds: float = 5.0) -> Outcome:
    return run_all({"task": Task(call, deadline_seconds)})["task"]


def test_an_answer_and_its_parts_come_back() -> None:
    """Also when they are larger than a pipe holds."""

    def call(report: Report) -> dict[str, Any]:
        report.part([1])
        report.part("x" * 300_000)
        return {"pid": os.getpid()}

    outcome = _run(call)
    assert outcome.failure is None
    assert outcome.value["pid"] != os.getpid()
    assert outcome.parts == ([1], "x" * 300_000)


def test_an_exception_names_its_stage() -> None:
    """The words of the library, and where it was."""

    def call(report: Report) -> None:
        report.stage("first")
        report.stage("second", 3)
        raise OSError("broken")

    failure = _run(call).failure
    assert failure is not None
    assert (failure.reason, failure.call, failure.gpu, failure.kind) == (
        "OSError: broken",
        "second",
        3,
        "error",
    )


def test_a_hang_ends_at_the_deadline_with_everything_it_started() -> None:
    """The group dies, the parts before it stay, and the verdict names call and GPU."""

    def call(report: Report) -> None:
        child = subprocess.Popen(["sleep", "60"])
        report.part(child.pid)
        report.stage("nvmlDeviceGetName", 1)
        time.sleep(60)

    started = time.monotonic()
    outcome = _run(call, 0.4)
    assert time.monotonic() - started < 2
    assert outcome.failure is not None
    assert outcome.failure.kind == "timeout"
    assert "nvmlDeviceGetName on GPU 1 did not return within 0.4 s" in outcome.failure.reason
    assert _gone(outcome.parts[0])


def _gone(pid: int) -> bool:
    """Whether a process ended; one that nobody has collected yet counts as ended."""
    for _ in range(100):
        try:
            with open(f"/proc/{pid}/stat") as stream:
                if stream.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except (FileNotFoundError, ProcessLookupError):  # gone, before or after its file was opened
            return True
        time.sleep(0.02)
    return False


def test_a_crash_names_the_signal() -> None:
    """A library that aborts takes only the child with it."""

    def call(report: Report) -> None:
        report.stage("nvmlInit")
        os.kill(os.getpid(), signal.SIGABRT)

    failure = _run(call).failure
    assert failure is not None
    assert (failure.reason, failure.kind) == ("nvmlInit ended the process (SIGABRT)", "crash")


def test_an_end_without_an_answer_is_a_failure() -> None:
    """Even with status 0."""
    failure = _run(lambda _: os._exit(0)).failure
    assert failure is not None
    assert "without an answer" in failure.reason


def test_tasks_run_at_the_same_time() -> None:
    """Eight sleeps take as long as one; a slow one does not delay the answer of a quick one."""

    def nap(seconds: float) -> Callable[[Report], Any]:
        return lambda _: time.sleep(seconds)

    tasks = {f"nap {number}": Task(nap(0.3), 5) for number in range(8)}
    tasks["quick"] = Task(nap(0), 5)
    started = time.monotonic()
    outcomes = run_all(tasks)
    assert time.monotonic() - started < 1.5
    assert outcomes["quick"].seconds < 0.3
    assert all(outcome.failure is None for outcome in outcomes.values())


def test_what_a_library_prints_does_not_reach_the_user(capfd: Any) -> None:
    """stdout is the answer, and nothing but the answer."""

    def call(_: Report) -> None:
        os.write(1, b"noise")
        os.write(2, b"noise")

    assert _run(call).failure is None
    assert capfd.readouterr() == ("", "")


def test_no_child_and_no_descriptor_is_left() -> None:
    """The CLI runs it once, a timer for years."""
    before = len(os.listdir("/proc/self/fd"))
    run_all({"a": Task(lambda _: 1, 5), "b": Task(lambda _: time.sleep(9), 0.1)})
    assert len(os.listdir("/proc/self/fd")) == before
    try:
        left = os.waitpid(-1, os.WNOHANG)
    except ChildProcessError:
        return
    assert left == (0, 0)
