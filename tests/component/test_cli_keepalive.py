"""``keepalive`` against the GitHub stand-in, and a host that is an object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerctl.cli.inventory import Resolved
from runnerctl.core.labels import DRAINED
from runnerctl.core.spec import host_spec
from runnerctl.reconcile import Fleet
from runnerctl.rollout.lanes import Lanes
from runnerctl.rollout.ports import Cause, SlotNow
from runnerctl.rollout.touch import Touch
from tests.component.cli_support import TOKEN
from tests.component.records_support import ORG, custom, emptied, run
from tests.fakes.github_api import GithubApi


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    """One stand-in for this file."""
    with GithubApi() as github:
        yield github


@pytest.fixture
def github(server: GithubApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[GithubApi]:
    """The stand-in with nothing in it."""
    with emptied(server, monkeypatch) as github:
        yield github


class ParkedHost:
    """A host whose slot ``main`` is on hold; starting its listener shows at GitHub."""

    def __init__(self, github: GithubApi, runner_id: int, now: SlotNow) -> None:
        self.github = github
        self.runner_id = runner_id
        self.now = now
        self.starts = 0
        self.fails_first = False
        self.job_comes = False
        self.record_name = "gpu-1-main"

    def observe(self) -> tuple[SlotNow, ...]:
        """The one slot."""
        return (self.now,)

    def start(self, slot: str) -> bool:
        """The runner is online, and by then it must be out of routing."""
        self.starts += 1
        assert slot == "main" and custom(self.github, self.record_name) == {DRAINED}
        if self.starts > self.fails_first:
            self.github.control.change_runner(self.runner_id, status="online")
        return True

    def stop(self, slot: str) -> str:
        """A job is left alone."""
        assert slot == "main"
        if not self.job_comes:
            self.github.control.change_runner(self.runner_id, status="offline")
        return "busy" if self.job_comes else "stopped"


def parked(
    github: GithubApi, *, labels: list[str], name: str = "gpu-1-main", **fields: Any
) -> tuple[ParkedHost, Touch]:
    """That host, its record, and what touches it; its clock moves by sleeping only."""
    variables: dict[str, Any] = {
        "github_runner_url": f"{github.url}/acme",
        "github_runner_drain_group": "drained",
        "github_runner_slots": [{"name": "main", "runner_name": name}],
    }
    spec, problems = host_spec("gpu-1", variables)
    assert spec is not None, problems
    github.control.add_group(ORG, "drained")
    record = github.control.add_runner(ORG, name, labels=labels, status="offline")
    now = SlotNow("main", active=False, busy=False, agent_id=record["id"], url=f"{github.url}/acme", **fields)
    host, slept = ParkedHost(github, record["id"], now), [0.0]
    lanes = Lanes(Fleet(spec, {"GH_TOKEN": TOKEN}))
    touch = Touch(host, lanes, seconds=20, sleep=slept.append, clock=lambda: sum(slept))
    return host, touch


@pytest.mark.parametrize("fails_first", [False, True])
def test_a_parked_runner_is_touched(github: GithubApi, fails_first: bool) -> None:
    """Out of routing, online, stopped, and as it was; one that was stopped in between gets a second try."""
    host, touch = parked(github, labels=["gpu"], causes=(Cause("operator", "winter"),))
    host.fails_first = fails_first
    before = github.control.runner(ORG, "gpu-1-main")
    (touched,) = touch.run(["GPU-1-main", "other"])
    assert (touched.outcome, touched.slot, host.starts) == ("touched", "main", 1 + fails_first)
    assert github.control.runner(ORG, "gpu-1-main") == before
    assert github.control.counts()[1] == 4  # labels and group, there and back
    assert touch.run(["gpu-2-main"]) == ()


def test_an_adopted_runner_is_touched_under_its_own_name(github: GithubApi) -> None:
    """Which is how the command asks for it."""
    host, touch = parked(github, labels=["gpu"], name="box-a")
    host.record_name = "box-a"
    assert [each.runner_name for each in touch.predict(["BOX-a"])] == ["box-a"]
    assert [each.outcome for each in touch.run(["box-a"])] == ["touched"]


def test_a_parked_runner_that_is_drained_stays_so(github: GithubApi) -> None:
    """What an operator cut is not brought back into routing by this."""
    _, touch = parked(github, labels=[DRAINED])
    (touched,) = touch.run()
    assert touched.outcome == "touched" and custom(github, "gpu-1-main") == {DRAINED}


def test_a_job_that_comes_to_a_parked_runner(github: GithubApi) -> None:
    """It is left alone, and no second one can come."""
    host, touch = parked(github, labels=["gpu"])
    host.job_comes = True
    (touched,) = touch.run()
    assert touched.outcome == "job_taken" and custom(github, "gpu-1-main") == {DRAINED}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"active": True}, "runs"),
        ({"agent_id": None}, "not registered"),
        ({"causes": (Cause("upgrade", "2.337.0"),)}, "held by upgrade"),
    ],
)
def test_parked_slots_that_are_left_alone(github: GithubApi, fields: dict[str, Any], words: str) -> None:
    """Nothing is started or written, and the reason is told."""
    host, touch = parked(github, labels=["gpu"])
    host.now = msgspec.structs.replace(host.now, **fields)
    (touched,) = touch.run()
    assert touched.outcome == "skipped" and words in touched.reason
    assert host.starts == 0 and github.control.counts()[1] == 0


def test_one_that_does_not_come_online(github: GithubApi) -> None:
    """Its labels come back all the same."""
    host, touch = parked(github, labels=["gpu"])
    host.fails_first = True
    host.starts = -5
    (touched,) = touch.run()
    assert touched.outcome == "not_online" and custom(github, "gpu-1-main") == {"gpu"}


@pytest.fixture
def inventory(github: GithubApi, monkeypatch: pytest.MonkeyPatch) -> str:
    """An inventory of one host as Ansible would resolve it; the end-to-end tests let Ansible do it."""
    slots = [{"name": "a"}, {"name": "b"}]
    variables = {"github_runner_url": f"{github.url}/acme", "github_runner_slots": slots}
    spec, problems = host_spec("gpu-1", variables)
    assert spec is not None, problems
    found = [Resolved("gpu-1", msgspec.to_builtins(spec), ())]
    monkeypatch.setattr("runnerctl.cli.inventory.resolve", lambda *_args, **_options: found)
    return "hosts.yml"


def test_keepalive_reports_and_remembers(github: GithubApi, inventory: str, tmp_path: Path) -> None:
    """Offline since it was first seen so; gone is told; a bound makes it an exit code."""
    github.control.add_runner(ORG, "gpu-1-a", labels=[], status="offline")
    place = {"XDG_STATE_HOME": str(tmp_path)}
    ran = run(github, "keepalive", "-i", inventory, **place)
    assert (ran.code, ran.err) == (0, "1 offline, 1 absent\n")
    assert "at most 14.0" in ran.out and "2026-12-06" in ran.out and "GitHub has no record" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    state = tmp_path / "runnerctl/keepalive.json"
    assert state.stat().st_mode & 0o777 == 0o600
    state.write_text(state.read_text().replace("1795348800.0", str(1795348800.0 - 12 * 86400)))
    ran = run(github, "keepalive", "-i", inventory, "-o", "json", "--fail-under-days", "3", **place)
    assert ran.code == 75 and ran.json["schema"] == "runnerctl.keepalive/1"
    first, second = ran.json["runners"]
    assert first["first_seen_offline_at"] == "2026-11-10T12:00:00Z"
    assert (first["left_most_days"], first["left_least_days"], second["status"]) == (2.0, None, "absent")
    github.control.add_runner(ORG, "gpu-1-b", labels=[], status="online")
    assert run(github, "keepalive", "-i", inventory, "--fail-under-days", "1", **place).code == 0
    state.write_text("{")
    ran = run(github, "keepalive", "-i", inventory, **place)
    assert ran.code == 65 and "is damaged" in ran.err and ran.err.count("\n") == 1


def test_what_keepalive_refuses(github: GithubApi) -> None:
    """One line each."""
    for arguments in ([], ["-i", "x,", "--fail-under-days", "soon"]):
        ran = run(github, "keepalive", *arguments)
        assert ran.code == 64 and ran.err.count("\n") == 1
    assert github.control.counts() == (0, 0)
