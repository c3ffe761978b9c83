"""A drain's two ends, GitHub (the stand-in) and a host's files; and its command line."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.drain import Drains
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import OPERATOR

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.drain_fleet import rollout
from runnerctl.cli.drain_here import Here
from runnerctl.cli.host import Slots
from runnerctl.cli.playbook import Played
from runnerctl.core.labels import DRAINED
from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.errors import ConfigError, TryAgainError
from runnerctl.reconcile import Fleet
from runnerctl.rollout.lanes import Lanes
from runnerctl.rollout.ports import SlotNow
from tests.component.cli_support import TOKEN, call, host_json
from tests.component.hold_place import SICK, Place, make_place
from tests.component.records_support import custom
from tests.fakes.github_api import GithubApi

ORG = "/orgs/acme"


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    with GithubApi() as running:
        yield running


@pytest.fixture
def github(server: GithubApi) -> Iterator[GithubApi]:
    """GitHub with a credential and a drain group; no test breaks GitHub's description."""
    server.control.reset()
    server.control.add_token(TOKEN)
    server.control.add_group(ORG, "parked")
    yield server
    assert server.control.violations() == []


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A host in a directory, whose slots have the state files that make them known."""
    made = make_place(tmp_path)
    for slot in "abc":
        path = made.layout.state("slots", slot)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"name": slot, "agent_id": 1, "version": "2.336.0"}))
    return made


# -- GitHub's side -----------------------------------------------------------------------------------------


def spec_of(github: GithubApi, **variables: Any) -> HostSpec:
    given = {"github_runner_url": f"{github.url}/acme", "github_runner_labels": ["L4"], **variables}
    spec, problems = host_spec("gpu-1", given)
    assert spec is not None, problems
    return spec


def lane_of(github: GithubApi, **variables: Any) -> tuple[Lanes, SlotNow]:
    """The lanes of a host, and its slot with a record at the organisation."""
    record = github.control.add_runner(ORG, "gpu-1-main", labels=["l4"])
    now = SlotNow("main", active=True, busy=False, agent_id=record["id"], url=f"{github.url}/acme")
    return Lanes(Fleet(spec_of(github, **variables), {"GH_TOKEN": TOKEN})), now


def test_a_runner_is_cut_by_label_and_group_and_restored(github: GithubApi) -> None:
    """The label first and last; done twice it writes nothing; GitHub's own labels stay."""
    lanes, now = lane_of(github, github_runner_drain_group="parked")
    before = lanes.record(now)
    assert before is not None
    lanes.prepare(now)
    assert lanes.cut(now, before)
    record = lanes.record(now)
    assert record is not None
    assert record.labels == {DRAINED}
    assert record.read_only == before.read_only
    assert record.group_id != before.group_id
    assert not lanes.cut(now, record)
    assert lanes.restore(now, record)
    assert lanes.record(now) == before
    assert not lanes.restore(now, before)
    writes = [each["path"] for each in github.control.requests() if each["method"] == "PUT"]
    kinds = ["labels" if path.endswith("/labels") else "group" for path in writes]
    assert kinds == ["labels", "group", "group", "labels"]


def test_a_drain_group_that_is_not_there_is_found_before_the_first_write(github: GithubApi) -> None:
    """With those that there are."""
    lanes, now = lane_of(github, github_runner_drain_group="nowhere")
    with pytest.raises(ConfigError, match=r"no runner group 'nowhere'; it has .*parked"):
        lanes.prepare(now)


def test_a_record_of_another_name_is_left_alone(github: GithubApi) -> None:
    """A copied disk carries another host's id along."""
    notes: list[str] = []
    other = github.control.add_runner(ORG, "gpu-2-main", labels=["l4"])
    lanes, now = lane_of(github)
    lanes.note = notes.append
    assert lanes.record(SlotNow("main", active=True, busy=False, agent_id=other["id"], url=now.url)) is None
    assert [note.partition(",")[0] for note in notes] == ["slot main holds the registration of gpu-2-main"]
    assert lanes.record(SlotNow("main", active=False, busy=False)) is None


def test_an_adopted_runner_is_the_slots_own(github: GithubApi) -> None:
    """Under the name that inventory gives it; without it the note says what to write there."""
    record = github.control.add_runner(ORG, "box-a", labels=["l4"])
    now = SlotNow("main", active=True, busy=False, agent_id=record["id"], url=f"{github.url}/acme")
    named = spec_of(github, github_runner_slots=[{"name": "main", "runner_name": "Box-A"}])
    lanes = Lanes(Fleet(named, {"GH_TOKEN": TOKEN}))
    own = lanes.record(now)
    assert own is not None and lanes.cut(now, own)
    notes: list[str] = []
    assert Lanes(Fleet(spec_of(github), {"GH_TOKEN": TOKEN}), note=notes.append).record(now) is None
    assert "say `runner_name: box-a` for the slot in the inventory" in notes[0]


def test_no_inventory_may_use_the_mark() -> None:
    """Whatever its case: a converged runner would look drained."""
    given = {"github_runner_url": "https://github.com/acme", "github_runner_labels": ["Runnerctl-Drained"]}
    spec, problems = host_spec("gpu-1", given)
    assert spec is None
    assert "the mark of runners that were cut from routing" in problems[0].line("gpu-1")


# -- the host's side ---------------------------------------------------------------------------------------


def test_the_hosts_half_holds_and_releases(place: Place) -> None:
    """Check mode predicts it; a second time changes nothing; another cause keeps the slot down."""
    drains = Drains(place.layout, place.system, holds=place.holds, clock=lambda: 0.0)
    assert drains.hold(["a"], by=OPERATOR, reason="new fans", check=True) == ["slot a is on hold"]
    assert place.hold("a") is None
    assert drains.hold(["a"], by=OPERATOR, reason="new fans") == ["slot a is on hold", "slot a is stopped"]
    assert drains.hold(["a"], by=OPERATOR, reason="new fans") == []
    seen = {slot["name"]: slot for slot in drains.observe()}
    assert (seen["a"]["active"], seen["a"]["agent_id"], seen["a"]["hold_by"]) == (False, 1, [OPERATOR])
    assert seen["a"]["causes"][0]["reason"] == "new fans"
    assert (seen["b"]["active"], seen["b"]["causes"], seen["b"]["version"]) == (True, [], None)
    lifted = ["the hold of slot a by operator is lifted: new fans", "slot a is started"]
    assert drains.release(["a"], by=OPERATOR, check=True) == lifted
    place.holds.add("a", SICK)
    assert drains.release(["a"], by=OPERATOR) == lifted[:1]
    with pytest.raises(HostError, match="no such slot"):
        drains.hold(["x"], by=OPERATOR, reason="y")


# -- the command on a host ---------------------------------------------------------------------------------


def here(place: Place, github: GithubApi | None, *slots: str) -> tuple[Here, io.StringIO]:
    """That host's slots as the command has them, with a credential where there is a GitHub."""
    errors = io.StringIO()
    context = Context(
        env={"GH_TOKEN": TOKEN} if github else {},
        stdout=io.StringIO(),
        stderr=errors,
        sleep=lambda _seconds: None,
        paths=Paths(place.layout.root),
        user_id=lambda: 0,
    )
    host = Slots(context, layout=place.layout, system=place.system)
    return Here(context, host, list(slots), routing=True), errors


def test_on_a_host_a_credential_cuts_routing_and_restores_it(place: Place, github: GithubApi) -> None:
    """The same engine as for a fleet; without a credential it says that routing is not cut."""
    record = github.control.add_runner(ORG, "gpu-1-a", labels=["l4"], status="online")
    url = f"{github.url}/acme"
    host_json(place.layout.root, url=url, slots=[{"name": "a", "labels": ["l4"]}, {"name": "b"}])
    runner = {"agentId": record["id"], "agentName": "gpu-1-a", "gitHubUrl": url}
    (place.layout.slot_root("a") / ".runner").write_text(json.dumps(runner))
    desk, _ = here(place, github, "a")
    done = desk.drain("new fans", seconds=None, wait=True, quiet=0.0)
    assert done.actions == ["slot a: cut from routing", "slot a: put on hold", "slot a: stopped"]
    assert done.slots == [{"slot": "a", "hold_reason": "new fans"}]
    github.control.change_runner(record["id"], status="online")
    back = desk.resume(force=False)
    assert back.actions[-1] == "slot a: labels and group restored"
    desk.drain("again", seconds=None, wait=True, quiet=0.0)
    github.control.change_runner(record["id"], status="online")
    place.holds.add("b", SICK)
    both, _ = here(place, github, "a", "b")
    with pytest.raises(TryAgainError, match="slot b: is held by health"):
        both.resume(force=False)
    assert custom(github, "gpu-1-a") == {"l4"}, "another slot's hold keeps no jobs from this one"
    place.holds.drop("b", SICK.by)
    alone, errors = here(place, None, "a", "b")
    assert "slot b is stopped" in alone.drain(None, seconds=None, wait=True, quiet=None).actions
    assert errors.getvalue() == "runnerctl: routing is not cut: there is no GitHub credential\n"
    alone.resume(force=False)
    assert "where routing was cut it stays so" in errors.getvalue()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no slot is given"),
        (("a", "--all"), "both slots and --all are given"),
        (("a", "--limit", "x"), "--limit needs an inventory"),
        (("a", "-i", "x,"), "are given by --slot"),
        (("-i", "x,", "--batch", "0"), "'0' is no number of hosts"),
    ],
)
def test_a_command_line_that_mixes_host_and_fleet_is_refused(words: tuple[str, ...], says: str) -> None:
    """One line that says what to do, and 64."""
    ran = call("drain", *words)
    assert (ran.code, says in ran.err, ran.err.count("\n")) == (64, True, 1)


# -- the command for a fleet -------------------------------------------------------------------------------


def told(monkeypatch: pytest.MonkeyPatch, *, status: int, output: str | None = None, **answers: Any) -> Any:
    """What the command says of a playbook that ended so."""
    given = {name.replace("_", "-").replace("judged", "+judged"): each for name, each in answers.items()}
    monkeypatch.setattr("runnerctl.cli.drain_fleet.play", lambda *_a, **_k: Played(status, given, "x"))
    out, err = io.StringIO(), io.StringIO()
    context = Context(env={}, stdout=out, stderr=err)
    code = rollout(context, "drain", variables={}, inventory="i", limit=None, check=False, output=output)
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("played", "limit", "says"),
    [
        (
            Played(4, {}, "[ERROR]: ... leaves us with no hosts to target."),
            "no",
            "has no runner hosts that match 'no'",
        ),
        (Played(0, {}), None, "has no runner hosts; put"),
        (Played(0, {"a": {"host": "a", "skipped": True}}), None, "i: no host has a slot typo"),
    ],
)
def test_a_limit_or_a_slot_that_is_nowhere_is_an_error(
    monkeypatch: pytest.MonkeyPatch, played: Played, limit: str | None, says: str
) -> None:
    """A typo must not look like a drain that is done."""
    monkeypatch.setattr("runnerctl.cli.drain_fleet.play", lambda *_a, **_k: played)
    context = Context(env={}, stdout=io.StringIO(), stderr=io.StringIO())
    named = {"drain_slots": ["typo"]}
    with pytest.raises(ConfigError) as caught:
        rollout(context, "drain", variables=named, inventory="i", limit=limit, check=False, output=None)
    assert says in str(caught.value)


def test_every_host_of_the_run_has_its_line_and_the_worst_gives_the_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Hosts that the run never came to are named too; a host's own words cannot steer the terminal."""
    hosts = ["gpu-1", "gpu-2", "gpu-3"]
    fine = {
        "host": "gpu-1",
        "hosts": hosts,
        "slots": [{"slot": "a", "state": "drained", "reason": "\x1b[1m"}],
    }
    busy = {"host": "gpu-2", "hosts": hosts, "error": "gpu-2: slot a: still runs a job", "exit_code": 75}
    code, out, _ = told(monkeypatch, status=2, gpu_1=fine, gpu_2=busy)
    assert code == 75
    rows = [line.split() for line in out.splitlines()]
    assert rows[1][:3] == ["gpu-1", "a", "drained"]
    assert rows[2][:3] == ["gpu-2", "-", "failed"]
    assert rows[3][:2] == ["gpu-3", "-"]
    assert "not begun" in out
    assert "\x1b" not in out


def test_the_breakers_word_is_75_and_in_the_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was begun."""
    judged = {"host": "gpu-1", "hosts": ["gpu-1"], "error": "circuit breaker: 4 of 4", "exit_code": 75}
    code, out, err = told(monkeypatch, status=2, output="json", judged=judged)
    assert code == 75
    assert err == "runnerctl: circuit breaker: 4 of 4\n"
    answer = json.loads(out)
    assert (answer["schema"], answer["refused"]) == ("runnerctl.drain/1", "circuit breaker: 4 of 4")
    assert [host["error"] for host in answer["hosts"]] == ["not begun: the run ended before it"]
