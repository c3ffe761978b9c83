"""Who asks: users, slots, owners."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.scope import owner_of
from runnerctl.core.spec import HostSpec, host_spec
from runnerctl.envs.owners import Asker, Askers
from runnerctl.envs.service_peers import holder_of
from runnerctl.envs.service_policy import PolicyFile
from runnerctl.errors import ConfigError


def spec(slots: list[dict[str, Any]]) -> HostSpec:
    """A host with slots."""
    values = {"github_runner_url": "https://github.com/acme", "github_runner_slots": slots}
    found, problems = host_spec("h", values)
    assert found is not None, problems
    return found


@pytest.mark.parametrize(
    ("url", "owner"),
    [
        ("https://github.com/Acme", "acme"),
        ("https://github.com/Acme/widgets", "acme"),
        ("https://github.com/enterprises/acme", None),
        ("https://ghes.example.com/acme/widgets/", "acme"),
        ("https://github.com", None),
        ("", None),
        ("ssh://github.com/acme", None),
    ],
)
def test_an_owner_is_the_first_name_of_a_registration_url(url: str, owner: str | None) -> None:
    """In lower case; an enterprise's runners belong to no single owner."""
    assert owner_of(url) == owner


def test_users_of_slots_have_their_owner_and_others_none() -> None:
    """A slot without a user yet is nobody, and root's number is never a slot's."""
    ids = {"gha-a": 1001, "gha-b": 1002, "gha-r": 0}
    slots = [
        {"name": "a"},
        {"name": "b", "url": "https://github.com/other/x"},
        {"name": "r"},
        {"name": "new"},
    ]
    askers = Askers(spec(slots), ids.get)
    assert askers.who(1001) == Asker("slot", 1001, "a", "acme")
    assert askers.who(1002).owner == "other"
    assert askers.who(0) == Asker("root", 0, "root")
    assert askers.who(1003) == Asker("other", 1003, "uid 1003")
    assert askers.missing
    assert Askers(None).who(1001).kind == "other"


def test_one_user_of_two_owners_belongs_to_none() -> None:
    """Whoever maps two slots to one user gets what is everybody's."""
    slots = [{"name": "a"}, {"name": "b", "url": "https://github.com/other"}]
    assert Askers(spec(slots), lambda _name: 1001).who(1001).owner is None


def test_the_hosts_spec_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A broken one refuses everybody; none at all is a host without slots."""
    path = tmp_path / "host.json"
    said: list[str] = []
    policy = PolicyFile(path, say=said.append, ids=lambda _name: 1001)
    assert policy.current().askers.who(1001).owner is None
    first = policy.current().mark
    path.write_text('{"schema": "runnerctl.host/1", "host": "h", "conda": {"store_channels": ["x"]}}')
    assert policy.current().channels.channels == ("x",)
    assert policy.current().mark != first
    path.write_text("{")
    with pytest.raises(ConfigError, match="whose is what"):
        policy.current()
    assert len(said) == 1
    data = {"github_runner": {"url": "https://github.com/acme", "slots": [{"name": "a"}]}}
    path.write_text(json.dumps({"schema": "runnerctl.host/1", "host": "h", **data}))
    assert policy.current().askers.who(1001).owner == "acme"


def test_users_that_come_later_are_found(tmp_path: Path) -> None:
    """A slot's user may be made after the spec is written."""
    ids: dict[str, int] = {}
    now = [0.0]
    path = tmp_path / "host.json"
    data = {"github_runner": {"url": "https://github.com/acme", "slots": [{"name": "a"}]}}
    path.write_text(json.dumps({"schema": "runnerctl.host/1", "host": "h", **data}))
    policy = PolicyFile(path, ids=ids.get, clock=lambda: now[0])
    assert policy.current().askers.who(7).kind == "other"
    ids["gha-a"], now[0] = 7, 3.0
    assert policy.current().askers.who(7).kind == "slot"


def process(proc: Path, pid: int, name: str, *, parent: int, session: int, state: str = "S") -> None:
    """A process as /proc has it; it began at its number times ten."""
    place = proc / str(pid)
    place.mkdir(parents=True)
    middle = " ".join(["0"] * 15)
    (place / "stat").write_text(f"{pid} ({name}) {state} {parent} {pid} {session} {middle} {pid * 10} 0 0\n")


def test_an_environment_is_kept_for_the_job_or_the_session(tmp_path: Path) -> None:
    """The worker's end is the job's; a shell's is the session's; what has ended keeps nothing."""
    uid = tmp_path.stat().st_uid
    process(tmp_path, 10, "Runner.Listener", parent=1, session=10)
    process(tmp_path, 11, "Runner.Worker", parent=10, session=10)
    process(tmp_path, 12, "bash) S 1", parent=11, session=10)
    process(tmp_path, 13, "runnerctl", parent=12, session=10)
    process(tmp_path, 20, "bash", parent=1, session=20)
    process(tmp_path, 21, "runnerctl", parent=20, session=20)
    process(tmp_path, 30, "runnerctl", parent=1, session=29)
    process(tmp_path, 40, "runnerctl", parent=1, session=40, state="Z")
    found = {pid: holder_of(pid, uid, tmp_path) for pid in (13, 21, 30, 40, 99)}
    assert {pid: each and (each.pid, each.began) for pid, each in found.items()} == {
        13: (11, 110),
        21: (20, 200),
        30: (30, 300),
        40: None,
        99: None,
    }
    assert holder_of(13, uid + 1, tmp_path) == (found[13] and type(found[13])(13, 130))
