"""Bounded children: answers, failures, deadlines, crashes; and nothing is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.reading import Unavailable
from runnerctl.probes.bounded import Call, Outcome, Report, Task, run_all
from runnerctl.probes.stuck import Guard


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


# -- going on behind a call that stopped the child ----------------------------------------------------------


def _work(report: Report, items: range, bad: dict[int, str]) -> None:
    """Go through items, some of which crash or hang."""
    for item in items:
        report.stage("item", item)
        if bad.get(item) == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if bad.get(item) == "hang":
            time.sleep(60)
        if bad.get(item) == "error":
            raise ValueError("bad item")
        report.part(item)


def _resumable(bad: dict[int, str], *, count: int, deadline_seconds: float) -> Outcome:
    def resume(_: Sequence[Any], stopped: Unavailable) -> Sequence[Call]:
        assert stopped.gpu is not None
        items = range(stopped.gpu + 1, count)
        return [partial(_work, items=range(item, item + 1), bad=bad) for item in items]

    task = Task(partial(_work, items=range(count), bad=bad), deadline_seconds, resume=resume)
    return run_all({"task": task})["task"]


def test_what_is_behind_a_crash_is_done_by_others() -> None:
    """Every bad item is named once, and costs nothing but itself."""
    outcome = _resumable({1: "crash", 3: "error", 4: "crash"}, count=6, deadline_seconds=10)
    assert sorted(outcome.parts) == [0, 2, 5]
    assert sorted((stop.gpu, stop.kind) for stop in outcome.interruptions) == [
        (1, "crash"),
        (3, "error"),
        (4, "crash"),
    ]
    assert outcome.failure == outcome.interruptions[0]


@pytest.mark.exhaustive
def test_what_is_behind_a_stall_is_done_in_the_time_that_is_left() -> None:
    """The last one may take all of it: nothing waits behind it."""
    outcome = _resumable({0: "hang", 2: "hang"}, count=4, deadline_seconds=2)
    assert sorted(outcome.parts) == [1, 3]
    assert [(stop.gpu, stop.kind) for stop in outcome.interruptions] == [(0, "timeout"), (2, "timeout")]
    assert outcome.interruptions[0].reason == "item on GPU 0 did not return within 0.8 s"
    assert outcome.seconds < 2.5


def test_steps_that_all_return_are_slow_and_not_hung() -> None:
    """The step at the deadline is not to blame."""

    def call(report: Report) -> None:
        for number in range(1000):
            report.stage(f"step {number}")
            time.sleep(0.02)

    failure = _run(call, 0.5).failure
    assert failure is not None
    assert failure.kind == "slow"
    assert "the deadline of 0.5 s passed during step" in failure.reason


# -- children that cannot be killed -------------------------------------------------------------------------


class Unkillable:
    """SIGKILL does not reach them, as in uninterruptible sleep, until the test ends."""

    def __init__(self) -> None:
        self.pids: list[int] = []

    def __call__(self, pid: int) -> None:
        self.pids.append(pid)

    def end(self) -> None:
        """Collect them after all."""
        for pid in self.pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


@pytest.fixture
def unkillable() -> Iterator[Unkillable]:
    """Ended when the test is over."""
    kill = Unkillable()
    yield kill
    kill.end()


def _hang(report: Report) -> None:
    report.part("before")
    report.stage("nvmlDeviceGetName", 1)
    time.sleep(60)


@pytest.mark.exhaustive
def test_many_that_cannot_be_killed_end_in_time(unkillable: Unkillable) -> None:
    """Half a second after the deadline for all of them together."""
    started = time.monotonic()
    outcomes = run_all({f"task {number}": Task(_hang, 0.5) for number in range(6)}, kill=unkillable)
    assert time.monotonic() - started < 0.5 + 0.5
    for outcome in outcomes.values():
        assert outcome.failure is not None
        assert "cannot be killed and was left behind" in outcome.failure.reason


def test_a_stuck_child_is_written_down_and_not_joined(unkillable: Unkillable, tmp_path: Path) -> None:
    """The next run answers at once; after its end everything is as before."""
    guard = Guard(tmp_path / "run")
    task = Task(_hang, 0.3, guard="nvml")
    first = run_all({"nvml": task}, guard=guard, kill=unkillable)["nvml"]
    assert not first.repeated
    again = run_all({"nvml": task}, guard=guard)["nvml"]
    assert again.repeated
    assert again.parts == ("before",)
    assert again.failure is not None
    assert (again.failure.call, again.failure.gpu, again.failure.kind) == ("nvmlDeviceGetName", 1, "timeout")
    assert (
        f"process {unkillable.pids[0]} has been stuck in nvmlDeviceGetName on GPU 1 since"
        in again.failure.reason
    )
    assert again.seconds < 0.3
    unkillable.end()
    unkillable.pids.clear()
    assert run_all({"nvml": Task(lambda _: 1, 5, guard="nvml")}, guard=guard)["nvml"].value == 1
    assert not list((tmp_path / "run").iterdir())


def test_a_marker_that_cannot_be_written_is_said_and_nothing_more(
    unkillable: Unkillable, tmp_path: Path
) -> None:
    """Somebody who is not root may ask, too."""
    (tmp_path / "run").write_text("in the way")
    outcome = run_all({"a": Task(_hang, 0.3, guard="nvml")}, guard=Guard(tmp_path / "run"), kill=unkillable)[
        "a"
    ]
    assert outcome.failure is not None
    assert "it could not be written down in" in outcome.failure.reason


def test_a_child_that_answered_and_does_not_end_keeps_nobody_waiting(unkillable: Unkillable) -> None:
    """Its answer counts."""

    def call(report: Report) -> None:
        report.answer("done")
        time.sleep(60)

    outcome = run_all({"a": Task(call, 0.3)}, kill=unkillable)["a"]
    assert (outcome.value, outcome.failure) == ("done", None)
