"""``list``, ``auth status`` and ``health`` against the GitHub stand-in."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.component.cli_support import TOKEN, call, host_json, spawn
from tests.fakes.github_api import GithubApi

ORG = "/orgs/acme"


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    """One stand-in for this file."""
    with GithubApi() as github:
        yield github


@pytest.fixture
def github(server: GithubApi) -> GithubApi:
    """The stand-in with nothing in it but a token that may everything an organisation's owner may."""
    server.control.reset()
    server.control.add_token(TOKEN, scopes=["admin:org", "repo"])
    return server


def env(github: GithubApi, token: str = TOKEN) -> dict[str, str]:
    """What a user exports."""
    return {"GH_TOKEN": token, "RUNNERCTL_URL": f"{github.url}/acme"}


def test_list_reads_every_page(github: GithubApi, tmp_path: Path) -> None:
    """More runners than fit on a page, or on two: all are listed, each once."""
    github.control.add_runners(ORG, 250, labels=["gpu"])
    ran = call("list", "-o", "json", env=env(github), root=tmp_path)
    assert ran.code == 0, ran.err
    names = [runner["name"] for runner in ran.json["runners"]]
    assert len(names) == len(set(names)) == 250
    assert ran.json["schema"] == "runnerctl.list/1"
    assert ran.json["checked_at"] == "2026-11-22T12:00:00Z"
    assert ran.json["slots"] == []


def test_list_as_a_process_shows_a_table(github: GithubApi) -> None:
    """The real command: table on stdout, the count on stderr, the token nowhere."""
    github.control.add_runner(ORG, "gpu-1-main", labels=["gpu"], status="online", version="2.336.0")
    ran = spawn("list", "--url", f"{github.url}/acme", env={"GH_TOKEN": TOKEN})
    assert ran.code == 0, ran.err
    head, row = ran.out.splitlines()
    assert head.split() == ["RUNNER", "STATUS", "BUSY", "GROUP", "VERSION", "LABELS"]
    assert row.split()[:5] == ["gpu-1-main", "online", "no", "Default", "2.336.0"]
    assert "gpu" in row
    assert ran.err == "1 runner of acme: 1 online, 0 busy\n"
    assert TOKEN not in ran.out + ran.err


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["--label", "GPU"], ["a"]),
        (["--label", "gpu", "--label", "big"], []),
        (["--status", "busy"], ["b"]),
        (["--status", "offline"], ["c"]),
        (["--status", "online", "--label", "self-hosted"], ["a", "b"]),
    ],
)
def test_list_filters(github: GithubApi, tmp_path: Path, options: list[str], names: list[str]) -> None:
    """Labels compare without case and must all be there; a state is GitHub's."""
    github.control.add_runner(ORG, "a", labels=["gpu"], status="online")
    github.control.add_runner(ORG, "b", labels=["big"], status="online", busy=True)
    github.control.add_runner(ORG, "c", labels=[], status="offline")
    ran = call("list", "-o", "json", *options, env=env(github), root=tmp_path)
    assert [runner["name"] for runner in ran.json["runners"]] == names, ran.err


def test_list_of_a_host_has_github_beside_it(github: GithubApi, tmp_path: Path) -> None:
    """A host's slots with GitHub's record of each; a slot without one is absent there."""
    host_json(tmp_path, url=f"{github.url}/acme", slots=[{"name": "one"}, {"name": "two"}])
    github.control.add_runner(ORG, "gpu-1-one", labels=["gpu"], status="online", busy=True)
    ran = call("list", env={"GH_TOKEN": TOKEN}, root=tmp_path)
    assert ran.code == 0, ran.err
    _, one, two = (line.split() for line in ran.out.splitlines())
    assert one[:3] == ["one", "gpu-1", "online"]
    assert two[:3] == ["two", "gpu-1", "absent"]
    slots = call("list", "-o", "json", env={"GH_TOKEN": TOKEN}, root=tmp_path).json["slots"]
    assert [slot["on_github"] for slot in slots] == [True, False]
    assert slots[0]["github"]["busy"] is True


def test_list_of_a_host_survives_a_dead_github(tmp_path: Path) -> None:
    """What the host knows is shown, what GitHub would know is missing, and the exit code says so."""
    host_json(tmp_path, url="http://127.0.0.1:9/acme", slots=[{"name": "one"}])
    bad = {"GH_TOKEN": "has a space"}
    ran = call("list", env=bad, root=tmp_path)
    assert ran.code == 78
    assert ran.out.splitlines()[1].split()[:3] == ["one", "gpu-1", "-"]
    assert "GitHub's view is missing" in ran.err


def test_hostile_names_do_not_reach_the_terminal(github: GithubApi, tmp_path: Path) -> None:
    """A runner's name may hold an escape sequence or reversed text: neither passes, in text or JSON."""
    evil = "gpu\x1b]0;owned\x07\u202etxt"
    github.control.add_runner(ORG, evil, labels=[])
    ran = call("list", env=env(github), root=tmp_path)
    assert "\\x1b]0;owned\\x07\\u202etxt" in ran.out
    assert all(char.isprintable() or char == "\n" for char in ran.out)
    ran = call("list", "-o", "json", env=env(github), root=tmp_path)
    assert ran.out.isascii() and "\x1b" not in ran.out
    assert ran.json["runners"][0]["name"] == evil


def test_auth_status_tells_what_a_token_may(github: GithubApi) -> None:
    """Identity, scopes, and whether it is enough; the token itself is nowhere."""
    ran = call("auth", "status", env=env(github))
    assert ran.code == 0, ran.err
    assert "GH_TOKEN" in ran.out and "admin:org" in ran.out
    assert "lists runners:     yes" in ran.out and "registers runners: yes" in ran.out
    assert TOKEN not in ran.out + ran.err
    answer = call("auth", "status", "-o", "json", env=env(github)).json
    assert answer["schema"] == "runnerctl.auth/1"
    assert answer["may_list_runners"] is True and answer["may_register_runners"] is True
    assert TOKEN not in json.dumps(answer)


def test_auth_status_of_a_weak_token(github: GithubApi) -> None:
    """Too weak: 77, and the line names the permission that is missing."""
    weak = github.control.add_token("ghp_" + "weaktoken00000000", scopes=["read:user"])
    ran = call("auth", "status", env=env(github, weak))
    assert ran.code == 77
    assert "admin:org" in ran.err and ran.err.count("\n") == 1
    answer = call("auth", "status", "-o", "json", env=env(github, weak)).json
    assert answer["may_list_runners"] is False and "admin:org" in answer["problem"]


def test_auth_status_of_an_unknown_token(github: GithubApi) -> None:
    """Expired or never valid: 77 and one line, without the token."""
    unknown = "ghp_" + "neverheardof00000"
    ran = call("auth", "status", env=env(github, unknown))
    assert ran.code == 77 and ran.out == ""
    assert "expired or revoked" in ran.err and unknown not in ran.err


def test_health_asks_github(github: GithubApi, tmp_path: Path) -> None:
    """With a credential the verdict has github.* findings; without one it has none."""
    host_json(tmp_path, url=f"{github.url}/acme", slots=[{"name": "one"}])
    settings = {"RUNNERCTL_API_URL": f"{github.url}/api/v3"}
    ran = call("health", "-o", "json", env={**settings, "GH_TOKEN": TOKEN}, root=tmp_path)
    found = {finding["id"]: finding for finding in ran.json["findings"]}
    assert found["github.record"]["status"] == "CRITICAL"
    github.control.add_runner(ORG, "gpu-1-one", labels=["extra"], status="online")
    ran = call("health", "-o", "json", env={**settings, "GH_TOKEN": TOKEN}, root=tmp_path)
    found = {finding["id"]: finding for finding in ran.json["findings"]}
    assert found["github.online"]["status"] == "OK"
    assert found["github.labels"]["status"] == "WARNING"
    assert "extra" in found["github.labels"]["summary"]
    ran = call("health", "-o", "json", env=settings, root=tmp_path)
    assert not [finding for finding in ran.json["findings"] if finding["id"].startswith("github.")]
    # The probe of the API asks for its root, which GitHub answers and its description leaves out.
    assert github.control.violations() == []


@pytest.mark.exhaustive
def test_an_app_whose_github_says_nothing_keeps_no_verdict_waiting(tmp_path: Path) -> None:
    """The token is minted within the verdict's own deadline too."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file = tmp_path / "app.pem"
    file.write_bytes(pem)
    file.chmod(0o600)
    app = {"RUNNERCTL_APP_ID": "7", "RUNNERCTL_APP_KEY_FILE": str(file)}
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/acme"
        host_json(tmp_path, url=url, slots=[{"name": "main"}])
        started = time.monotonic()
        ran = call("health", "--deadline", "1", "-o", "json", env=app, root=tmp_path)
        assert time.monotonic() - started < 15
    found = [finding for finding in ran.json["findings"] if finding["id"] == "github.record"]
    assert [finding["status"] for finding in found] == ["UNKNOWN"]
