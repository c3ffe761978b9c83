"""The next registration of an ephemeral slot, minted where things go wrong."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_app import (
    App,
    app_changes,
    install_app,
    ticket_text,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout, SlotSpec

from runnerctl.core.scope import parse_scope
from runnerctl.errors import ConfigError, DataError, TryAgainError, UnavailableError
from runnerctl.github.auth import TokenCredential
from runnerctl.github.client import GitHubClient
from runnerctl.github.registry import Registry
from runnerctl.minting import Minting, Ticket, app_environment, listener_files, read_ticket
from runnerctl.minting_fresh import new_directories
from tests.fakes.github_api import GithubApi

TOKEN, SCOPE, NAME = "ghp_" + "m" * 36, "/orgs/acme", "h1-a"
MINT = "/generate-jitconfig$"


@pytest.fixture
def github() -> Iterator[GithubApi]:
    """GitHub."""
    with GithubApi() as made:
        made.control.add_token(TOKEN)
        yield made
        assert made.control.violations() == []


def minting(
    github: GithubApi, root: Path, *, agent_id: int | None = None, group: str | None = None
) -> Minting:
    """A run of the slot's unit."""
    layout = Layout(root)
    state = layout.state("slots", "a")
    for folder in (state.parent, layout.path("/run/runnerctl/jit"), layout.path("/run/runnerctl/mint")):
        folder.mkdir(parents=True, exist_ok=True)
    if agent_id is not None or not state.exists():
        state.write_text(json.dumps({"name": "a", "mode": "ephemeral", "agent_id": agent_id}))
    client = GitHubClient(github.url, TokenCredential(TOKEN, source="GH_TOKEN"), sleep=lambda _: None)
    ticket = Ticket("a", NAME, f"{github.url}/acme", "2.336.0", ("gpu", "linux"), group=group)
    clock = iter(range(1000))
    return Minting(
        ticket,
        layout,
        Registry(client, parse_scope(ticket.url)),
        machine="x86_64",
        clock=lambda: float(next(clock) * 6),
        sleep=lambda _: None,
    )


def handed_over(root: Path) -> dict[str, bytes]:
    """The files that the listener will find."""
    path = root / "run/runnerctl/jit/a"
    assert path.stat().st_mode & 0o777 == 0o600
    words = path.read_text().strip().removeprefix('RUNNERCTL_LISTENER_FILES="').removesuffix('"').split()
    return {name: base64.b64decode(text) for name, _, text in (word.partition(":") for word in words)}


def test_a_registration_is_minted_and_handed_over(github: GithubApi, tmp_path: Path) -> None:
    """All labels, GitHub's own too; two requests; the id is noted; no secret but in the one file."""
    github.control.clear_requests()
    agent_id = minting(github, tmp_path).run()
    record = github.control.runner(SCOPE, NAME) or {}
    assert record["id"] == agent_id
    assert record["ephemeral"]
    labels = {(label["name"], label["type"]) for label in record["labels"]}
    assert labels == {
        ("self-hosted", "read-only"),
        ("Linux", "read-only"),
        ("X64", "read-only"),
        ("gpu", "custom"),
    }
    assert json.loads(handed_over(tmp_path)[".runner"])["agentId"] == agent_id
    state = json.loads((tmp_path / "var/lib/runnerctl/slots/a.json").read_text())
    assert (state["agent_id"], state["mode"], state["version"]) == (agent_id, "ephemeral", "2.336.0")
    github.control.clear_requests()
    github.control.delete_runner(agent_id)
    minting(github, tmp_path).run()
    assert github.control.counts()[0] == 2, "the group is known by now"


def test_our_own_leftover_is_reaped_and_a_foreign_record_is_not(github: GithubApi, tmp_path: Path) -> None:
    """A host that died between minting and listening; a runner registered for good; one that works."""
    first = minting(github, tmp_path).run()
    second = minting(github, tmp_path).run()
    assert second != first
    assert len(github.control.runners(SCOPE)) == 1
    lost = minting(github, tmp_path, agent_id=1)  # the note was lost, the record is ephemeral and offline
    assert lost.run() != second
    mine = (github.control.runner(SCOPE, NAME) or {})["id"]
    github.control.change_runner(mine, busy=True)
    with pytest.raises(TryAgainError, match="still counts a job"):
        minting(github, tmp_path, agent_id=mine).run()
    github.control.change_runner(mine, busy=False)
    github.control.delete_runner(mine)
    github.control.add_runner(SCOPE, NAME, status="offline")
    with pytest.raises(DataError, match=r"belongs to another runner .*offline"):
        minting(github, tmp_path, agent_id=mine).run()
    assert len(github.control.runners(SCOPE)) == 1


def test_an_id_of_another_scope_is_nobodys_here(github: GithubApi, tmp_path: Path) -> None:
    """The slot has moved: a runner of that name and number at the new place is somebody else's."""
    other = github.control.add_runner(SCOPE, NAME, status="online")["id"]
    run = minting(github, tmp_path)
    state = Layout(tmp_path).state("slots", "a")
    state.write_text(json.dumps({"mode": "ephemeral", "agent_id": other, "url": "https://github.com/before"}))
    with pytest.raises(DataError, match="belongs to another runner"):
        run.run()
    assert [each["id"] for each in github.control.runners(SCOPE)] == [other]


def test_a_ticket_tells_no_variable_of_the_jobs(tmp_path: Path) -> None:
    """Every user of the host may read it; what minting needs to reach GitHub is there."""
    env = {"https_proxy": "http://proxy:3128", "MY_TOKEN": "hunter2"}
    text = ticket_text(SlotSpec("a", runner_name=NAME, url="https://github.com/acme", version="1", env=env))
    path = tmp_path / "etc/runnerctl/mint/a.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    assert "hunter2" not in text
    assert read_ticket(Layout(tmp_path), "a").env == {"https_proxy": "http://proxy:3128"}


def test_answers_that_are_lost_leave_one_record(github: GithubApi, tmp_path: Path) -> None:
    """And while GitHub is down nothing is handed over."""
    github.control.fault("lost_answer", path=MINT, count=1)
    agent_id = minting(github, tmp_path).run()
    assert [each["id"] for each in github.control.runners(SCOPE)] == [agent_id]
    (tmp_path / "run/runnerctl/jit/a").unlink()
    github.control.fault("status", path=MINT, status=503, count=None)
    with pytest.raises(UnavailableError):
        minting(github, tmp_path).run()
    assert not (tmp_path / "run/runnerctl/jit/a").exists()


def test_a_group_that_is_gone_is_looked_up_again(github: GithubApi, tmp_path: Path) -> None:
    """Its id is remembered, but not beyond a failure."""
    github.control.add_group(SCOPE, "gpu")
    minting(github, tmp_path, group="gpu").run()
    memo = tmp_path / "run/runnerctl/mint/a.group"
    memo.write_text(json.dumps({"for": [f"{github.url}/acme", "gpu"], "id": 999}))
    with pytest.raises(Exception, match=r"404|Not Found|not found"):
        minting(github, tmp_path, group="gpu").run()
    minting(github, tmp_path, group="gpu").run()


@pytest.mark.parametrize(
    "text", ["", "!", base64.b64encode(b"[]").decode(), base64.b64encode(b'{"x": "eA=="}').decode()]
)
def test_a_configuration_that_is_none_is_refused(text: str) -> None:
    """Without showing it; a file elsewhere is none either."""
    with pytest.raises(DataError, match="cannot be understood"):
        listener_files(text)
    outside = {".runner": "eA==", "../../etc/passwd": "eA=="}
    with pytest.raises(DataError):
        listener_files(base64.b64encode(json.dumps(outside).encode()).decode())


def test_without_ticket_app_or_credential_it_says_what_to_do(tmp_path: Path) -> None:
    """One clear line each."""
    layout = Layout(tmp_path)
    with pytest.raises(ConfigError, match=r"mint/a.json: is not there; run provision.yml"):
        read_ticket(layout, "a")
    ticket = Ticket("a", NAME, "https://github.com/acme", "1", (), env={"http_proxy": "http://p", "X": "1"})
    with pytest.raises(ConfigError, match=r"app.json: is not there"):
        app_environment(layout, {}, ticket)
    (tmp_path / "etc/runnerctl/credentials").mkdir(parents=True)
    (tmp_path / "etc/runnerctl/credentials/app.json").write_text('{"id": "4711", "installation_id": null}')
    with pytest.raises(ConfigError, match="no credential of the unit's"):
        app_environment(layout, {}, ticket)
    made = app_environment(layout, {"CREDENTIALS_DIRECTORY": "/run/credentials/x"}, ticket)
    assert made["http_proxy"] == "http://p"
    assert made["RUNNERCTL_APP_KEY_FILE"] == "/run/credentials/x/app-key"
    assert "X" not in made


def test_the_key_becomes_roots_alone_and_its_source_goes(tmp_path: Path) -> None:
    """Once; then nothing changes; another key is taken again; one that arrived damaged is not."""
    layout, source = Layout(tmp_path), tmp_path / "source"
    source.write_bytes(b"KEY")
    source.chmod(0o600)
    app = App("1", hashlib.sha256(b"KEY").hexdigest(), source=str(source))
    assert app_changes(layout, app) == ["App's private key", "App's settings"]
    install_app(layout, app)
    assert not source.exists()
    assert app_changes(layout, app) == []
    key = tmp_path / "etc/runnerctl/credentials/app-key.pem"
    assert (key.stat().st_mode & 0o7777, key.parent.stat().st_mode & 0o7777) == (0o600, 0o700)
    key.chmod(0o644)
    assert app_changes(layout, app) == ["owner of the App's private key"]
    install_app(layout, app)
    source.write_bytes(b"OTHER")
    with pytest.raises(Exception, match="damaged"):
        install_app(layout, App("1", "0" * 64, source=str(source)))
    assert key.read_bytes() == b"KEY"


def test_directories_are_new_and_logs_go_to_root(tmp_path: Path) -> None:
    """What a job wrote, links included, is put aside; a second time there is nothing to do."""
    layout = Layout(tmp_path)
    root = layout.slot_root("a")
    for folder in ("_work", "_diag", "home"):
        (root / folder).mkdir(parents=True, mode=0o700)
    (root / "_diag/Worker_1.log").write_text("log")
    (root / "_diag/evil.log").symlink_to("/etc/passwd")
    (root / "home/mark").write_text("x")
    ids = {"uid": os.geteuid(), "gid": os.getegid()}
    new_directories(layout, "a", **ids)
    assert not list((root / "home").iterdir())
    assert not list((root / "_diag").iterdir())
    logs = layout.path("/var/lib/runnerctl/logs/a")
    assert [path.name for path in logs.iterdir()] == ["Worker_1.log"]
    before = sorted(path.name for path in root.iterdir())
    new_directories(layout, "a", **ids)
    assert sorted(path.name for path in root.iterdir()) == before
