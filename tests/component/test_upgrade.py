"""Upgrades against the stand-in GitHub while jobs run, and the command's plan, table and exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks.github_upgrade import simulate
from runnerctl.cli import upgrade_fleet
from runnerctl.cli.context import Context
from runnerctl.cli.main import run
from runnerctl.cli.playbook import Played
from runnerctl.core.spec import host_spec
from runnerctl.errors import AccessError, TryAgainError
from runnerctl.reconcile import Fleet
from runnerctl.rollout.ports import SlotNow
from runnerctl.rollout.upgrade_github import FleetRoutes
from runnerctl.rollout.upgrade_ports import Seen
from tests.fakes.github_api import GithubApi

TOKEN = "ghp_upgrades000000000000000000000000"
SCOPE = "/repos/acme/widgets"


@pytest.mark.exhaustive
def test_a_sample_of_upgrades_loses_no_job_and_leaves_no_runner_offline() -> None:
    """A few of the benchmark's: bad releases, errors of GitHub, killed controllers."""
    tally = simulate(3, seed=11, workers=3)
    assert (tally.upgrades, tally.problems) == (3, [])
    assert (tally.killed_jobs, tally.offline, tally.left, tally.wrong_version) == (0, 0, 0, 0)


def test_the_breaker_counts_the_whole_fleet_and_routing_is_cut_and_restored() -> None:
    """Two hosts, three runners, one absent: no other goes; an offline one costs nothing; force takes all."""
    names = ["h1-a", "h1-b", "h2-a"]
    with GithubApi() as github:
        github.control.add_token(TOKEN)
        url = f"{github.url}/acme/widgets"
        records = {
            name: github.control.add_runner(SCOPE, name, labels=["x"], status="online", version="2.336.0")
            for name in names[:2]
        }
        slots = [{"name": "a", "labels": ["x"]}, {"name": "b", "labels": ["x"]}]
        spec, _ = host_spec("h1", {"github_runner_url": url, "github_runner_slots": slots})
        assert spec is not None
        fleet = Fleet(spec, {"GH_TOKEN": TOKEN})
        a, b = (SlotNow(name, active=True, busy=False, agent_id=records[f"h1-{name}"]["id"]) for name in "ab")
        routes = FleetRoutes(fleet, names={url: names}, percent=34)
        with pytest.raises(TryAgainError, match="1 of the fleet's runners are offline or absent and 1 may"):
            routes.take([a, b])
        github.control.change_runner(records["h1-b"]["id"], status="offline")
        assert routes.take([a, b]) == ("b",)
        forced = FleetRoutes(fleet, names={url: names}, percent=34, force=True)
        assert forced.take([a, b]) == ("a", "b")
        assert [routes.look(slot) for slot in (a, b)] == [
            Seen(online=True, busy=False, cut=True, version="2.336.0"),
            Seen(online=False, busy=False, cut=True, version="2.336.0"),
        ]
        routes.restore([a, b])
        assert {label["name"] for label in (github.control.runner(SCOPE, "h1-a") or {})["labels"]} >= {"x"}
        assert not (routes.look(a) or Seen(online=False, busy=False, cut=True)).cut
        assert routes.look(SlotNow("a", active=True, busy=False, agent_id=b.agent_id)) is None
        assert github.control.violations() == []


def test_a_scope_of_others_that_may_not_be_read_does_not_count() -> None:
    """And a runner of the same name in another scope is another runner; its own scope must be read."""
    with GithubApi() as github:
        github.control.add_token(TOKEN)
        url, other = f"{github.url}/acme/widgets", f"{github.url}/acme/gadgets"
        mine = github.control.add_runner(SCOPE, "box", labels=["x"], status="online")
        github.control.add_runner("/repos/acme/gadgets", "box", labels=["x"], status="offline")
        slots = [{"name": "a", "runner_name": "box"}]
        spec, _ = host_spec("h1", {"github_runner_url": url, "github_runner_slots": slots})
        assert spec is not None
        slot = SlotNow("a", active=True, busy=False, agent_id=mine["id"])
        far = {url: ["box"], "https://ghe.example/acme": ["h2-a"]}
        assert FleetRoutes(Fleet(spec, {"GH_TOKEN": TOKEN}), names=far, percent=34).take([slot]) == ("a",)
        near = FleetRoutes(Fleet(spec, {"GH_TOKEN": TOKEN}), names={url: ["box"], other: ["box"]}, percent=34)
        near.restore([slot])
        with pytest.raises(TryAgainError, match=r"1 of the fleet's .*: box"):
            near.take([slot])
        with pytest.raises(AccessError):
            FleetRoutes(Fleet(spec, {"GH_TOKEN": "ghp_none"}), names=far, percent=34).take([slot])


# -- the command -------------------------------------------------------------------------------------------


def row(slot: str, result: str, **more: Any) -> dict[str, Any]:
    """What the playbook says of a slot."""
    known = {"slot": slot, "result": result, "was": "2.336.0", "now": "2.337.0", "seconds": 91.0, "note": ""}
    return {**known, "busy": False, **more}


class Plays:
    """Stands in for Ansible: the answers of each play, and what was asked."""

    def __init__(self) -> None:
        self.answers: list[Played] = []
        self.asked: list[dict[str, Any]] = []

    def __call__(self, _context: Context, playbook: str, **asked: Any) -> Played:
        self.asked.append({"playbook": playbook, **asked})
        return self.answers.pop(0)


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch) -> Iterator[Plays]:
    """Every play of the command."""
    made = Plays()
    monkeypatch.setattr(upgrade_fleet, "play", made)
    yield made
    assert made.answers == []


def call(*words: str) -> tuple[int, str, str]:
    """Exit code, answer and log of ``runnerctl upgrade``."""
    out, log = io.StringIO(), io.StringIO()
    code = run(["upgrade", *words], context=Context({"COLUMNS": "80"}, out, log))
    return code, out.getvalue(), log.getvalue()


def test_the_canary_goes_alone_and_the_others_follow_in_batches(plays: Plays) -> None:
    """Two plays; what is asked for reaches the playbook."""
    plays.answers = [
        Played(0, {"h1": {"host": "h1", "hosts": ["h1"], "slots": [row("a", "upgraded")]}}),
        Played(0, {"h2": {"host": "h2", "hosts": ["h2"], "slots": [row("a", "current", seconds=0)]}}),
    ]
    code, out, _ = call("-i", "inv", "--canary", "h1", "--batch", "5", "--version", "2.337.0", "--quiet", "9")
    assert code == 0
    assert [each["limit"] for each in plays.asked] == ["h1", "runner_hosts:!h1"]
    assert [each["variables"]["upgrade_batches"] for each in plays.asked] == [[1], [5]]
    assert plays.asked[0]["variables"]["upgrade_quiet_seconds"] == 9.0
    assert "h1    a     2.336.0  2.337.0  91 s  upgraded" in out


def test_a_bad_canary_is_the_last(plays: Plays) -> None:
    """The other hosts are not touched; 69 and the reason."""
    slots = [row("a", "rolled back", note="its listener ended"), row("b", "failed", note="is not tried")]
    error = {"exit_code": 69, "error": "h1: slot a rolled back: exits"}
    answer = {"host": "h1", "hosts": ["h1"], "slots": slots, **error}
    plays.answers = [Played(2, {"h1": answer}, "fatal")]
    code, out, log = call("-i", "inv", "--canary", "h1")
    assert code == 69
    assert "no other host was touched" in log
    assert "rolled back: its listener ended" in " ".join(out.split())


@pytest.mark.parametrize("slot", [row("a", "busy"), row("a", "upgraded", note="stays on hold: fans")])
def test_a_canary_that_proves_nothing_is_the_last(plays: Plays, slot: dict[str, Any]) -> None:
    """Its runner keeps its release while its job runs: nobody has seen the new one work. Run again later."""
    answer = {"host": "h1", "hosts": ["h1"], "slots": [slot], "busy": []}
    plays.answers = [Played(0, {"h1": answer})]
    code, _, log = call("-i", "inv", "--canary", "h1")
    assert code == 75
    assert "no runner of the canary runs the release: no other host was touched" in log


def test_busy_is_75_and_a_batch_that_never_began_is_named(plays: Plays) -> None:
    """Busy alone is for later; a failure counts more."""
    busy = {"host": "h1", "hosts": ["h1", "h2"], "slots": [row("a", "busy")], "busy": ["a"]}
    plays.answers = [Played(0, {"h1": {**busy, "hosts": ["h1"]}}), Played(2, {"h1": busy}, "unreachable")]
    assert call("-i", "inv")[0] == 75
    code, out, _ = call("-i", "inv")
    assert code == 69
    assert "not begun" in out


def test_the_plan_as_table_and_as_json(plays: Plays) -> None:
    """Days left, an estimate marked as such, a name from outside escaped."""
    slots = [
        row("a", "would upgrade", days_left=9, expires="about 9", busy=True),
        row("b\x1b", "current", now="2.336.0", days_left=None, expires="no end"),
    ]
    answer = {"host": "h1", "hosts": ["h1"], "target": "2.337.0", "slots": slots, "notes": ["why"]}
    plays.answers = [Played(0, {"h1": answer})] * 2
    code, out, _ = call("-i", "inv", "--check")
    assert code == 0
    assert plays.asked[0]["arguments"] == ("--check",)
    assert "h1    a      2.336.0  2.337.0  about 9    yes" in out
    assert "note: why" in out
    assert "\x1b" not in out
    shown = json.loads(call("-i", "inv", "--check", "-o", "json")[1])
    assert shown["schema"] == "runnerctl.upgrade/1"
    assert shown["hosts"][0]["slots"][0]["days_left"] == 9


@pytest.mark.parametrize(
    "words", [(), ("-i", "x", "--batch", "0"), ("-i", "x", "--quiet", "-1"), ("-i", "x", "--version", "v2")]
)
def test_a_wrong_command_line_is_one_line(words: tuple[str, ...]) -> None:
    """64, before Ansible is started."""
    code, out, log = call(*words)
    assert (code, out, log.count("\n")) == (64, "", 1)
