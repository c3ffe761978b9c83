"""The guard as a process of its own, asked by the real hooks under a worker that a test commands."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runnerctl.guard import admission
from runnerctl.guard.guardian import Guardian
from tests.component.guard_support import GPU, Host, running


@pytest.fixture()
def host(monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    """A host with one slot; what it asks of systemd is told as it is."""
    with running(monkeypatch) as made:
        yield made


def test_a_job_is_admitted_reported_and_written_down(host: Host) -> None:
    host.spec()
    host.start()
    host.job()
    assert host.hook() == (0, "")
    assert host.run("sleep 0.5; echo ran") == (0, "ran\n"), "what was admitted runs in peace"
    assert host.hook("completed") == (0, "report of acme/widgets\n")
    host.end()
    row = host.row(until="result")
    assert (row["repository"], row["actor"], row["result"]) == ("acme/widgets", "mona", "Succeeded")
    assert [entry[0] for entry in host.cleaned()] == ["during", "after"]
    assert host.log() == ""
    wait_for(lambda: not list((host.root / "run/runnerctl/guard").iterdir()))


REFUSED: dict[str, tuple[dict[str, Any], dict[str, str], dict[str, Any], str]] = {
    "of a fork": (
        {"policy_fork_pull_requests": "refuse"},
        {"GITHUB_EVENT_NAME": "pull_request"},
        {"pull_request": {"head": {"repo": {"full_name": "evil/w"}}, "base": {"repo": {"full_name": "a/w"}}}},
        "pull requests from forks",
    ),
    "of another repository": (
        {"policy_repositories": ["acme/gadgets"]},
        {},
        {},
        "no jobs of repository acme/widgets",
    ),
    "with another shell": ({}, {"BASH_ENV": "/dev/null"}, {}, "BASH_ENV is set for the whole job"),
    "with a library": ({}, {"LD_PRELOAD": "libm.so.6"}, {}, "LD_PRELOAD is set for the whole job"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name == "of a fork" else pytest.mark.exhaustive) for name in REFUSED],
)
def test_a_job_is_refused_with_its_reason_and_may_not_go_on(host: Host, name: str) -> None:
    settings, variables, event, reason = REFUSED[name]
    host.spec(**settings)
    host.start()
    host.job(**variables)
    host.event(event)
    status, text = host.hook()
    assert status == 1
    assert text.startswith("::error title=Job refused::")
    assert reason in text
    if name == "of a fork":
        assert host.hook("completed") == (0, ""), "hooks may run, and have nothing to tell"
    status, text = host.run("bash -c 'sleep 5; echo never'", seconds=4)
    assert (status, text.startswith("never")) == (None, False), "if: always() does not help"
    row = host.row(until="ended_at")
    assert reason in row["refused"]


@pytest.mark.exhaustive
def test_a_worker_that_runs_anything_before_it_asked_is_ended(host: Host) -> None:
    host.spec()
    host.start()
    host.job()
    assert host.run("tar --version >/dev/null; sleep 0.1; echo unpacked") == (0, "unpacked\n")
    assert host.run("setsid sleep 20", seconds=4)[0] is None
    assert not host.worker_lives()
    assert "hook was not run to its end" in host.row(until="refused")["refused"]


def test_a_sick_gpu_fails_the_job_at_once_and_holds_the_slot(host: Host) -> None:
    host.spec(gpus=(GPU,))
    (host.root / "look").write_text("sick")
    host.start()
    host.job()
    status, text = host.hook()
    assert status == 1
    assert f"a GPU of this slot is sick: {GPU}: as told" in text
    hold = host.root / "var/lib/runnerctl/hold/main"
    wait_for(hold.exists)
    assert "by: health" in hold.read_text()


@pytest.mark.exhaustive
def test_slow_nvml_is_never_called_healthy(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    host.spec(gpus=(GPU,))
    monkeypatch.setattr(admission, "SECONDS_PER_GPU", 0.0)
    monkeypatch.setattr(admission, "LONGEST_LOOK_SECONDS", 0.3)
    (host.root / "look").write_text("unknown")
    host.start()
    host.job()
    status, text = host.hook()
    assert status == 1
    assert "it is not known whether this slot's GPUs are well" in text
    assert not (host.root / "var/lib/runnerctl/hold/main").exists(), "and none that is called sick"


@pytest.mark.exhaustive
def test_a_guard_that_is_killed_goes_on_with_the_job(host: Host) -> None:
    host.spec()
    host.start()
    host.job()
    assert host.hook()[0] == 0
    host.stop()
    assert host.run("echo alone") == (0, "alone\n")
    host.start()
    assert host.run("sleep 0.5; echo together") == (0, "together\n")
    assert host.hook("completed") == (0, "report of acme/widgets\n")
    host.stop()
    host.end()
    wait_for(lambda: not host.worker_lives())
    host.start()
    row = host.row(until="result")
    assert (row["repository"], row["result"]) == ("acme/widgets", "Succeeded")


@pytest.mark.exhaustive
def test_a_guard_that_is_replaced_while_a_hook_asks_answers_it_all_the_same(host: Host) -> None:
    host.spec(gpus=(GPU,))
    (host.root / "look").write_text("unknown")
    host.start()
    host.job()
    with ThreadPoolExecutor(1) as beside:
        hook = beside.submit(host.hook)
        time.sleep(0.7)
        host.stop()
        (host.root / "look").unlink()
        host.start()
        assert hook.result(timeout=20) == (0, "")


@pytest.mark.exhaustive
def test_without_a_guard_a_job_fails_with_a_reason(host: Host) -> None:
    host.job()
    status, text = host.hook()
    assert status == 1
    assert "::error title=Runner guard::the guard of this host does not answer" in text
    status, text = host.hook("completed")
    assert (status, text.startswith("::warning")) == (0, True), "what ends a job never fails it"
    (host.root / "etc/systemd/system/runnerctl-guard.socket").unlink()
    assert host.hook() == (0, ""), "a host without a guard asks nobody"


def wait_for(what: Callable[[], bool], seconds: float = 10.0) -> None:
    """Raises AssertionError when it does not come true."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.exhaustive
def test_processes_of_the_last_job_do_not_end_the_next_one(host: Host) -> None:
    """Until it is cleaned up behind the last job, what runs beside the next one's hook may be of that."""
    host.spec()
    host.start()
    host.job()
    assert host.hook()[0] == 0
    (host.root / "clean-takes").touch()
    survivor = "setsid sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 0.25; done' & true"
    assert host.run(survivor)[0] == 0
    host.end()
    wait_for(lambda: not host.worker_lives())
    host.job()
    status, said = host.hook()
    assert (status, host.worker_lives()) == (0, True), said


@pytest.mark.exhaustive
def test_a_job_that_follows_at_once_is_not_cleaned_away(host: Host) -> None:
    """What is cleaned behind a job is older than the next one's worker, however late its end was seen."""
    host.spec()
    host.start()
    for _ in range(3):
        host.job()
        assert host.hook()[0] == 0
        host.end()
    wait_for(lambda: len(host.cleaned()) == 3)
    befores, begins = [entry[3] for entry in host.cleaned()], [entry[4] for entry in host.cleaned()]
    assert all(before < begin for before, begin in zip(befores, begins, strict=True) if begin)


def test_the_end_of_a_job_is_noticed_when_it_happens(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the next look, which would be in a minute: what follows waits for the clean-up."""
    monkeypatch.setattr(Guardian, "pause", 60.0)
    host.spec()
    host.start()
    host.job()
    assert host.hook()[0] == 0
    host.end()
    end = time.monotonic() + 30
    while not host.cleaned() and time.monotonic() < end:
        time.sleep(0.01)
    assert host.cleaned(), host.log()
