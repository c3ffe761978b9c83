"""``runnerctl fleet`` against the GitHub stand-in: hosts' answers, options, exit codes, progress, page."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerctl.cli import fleet_hosts, inventory
from runnerctl.cli.context import Context
from runnerctl.cli.fleet_hosts import Progress
from runnerctl.cli.main import run
from runnerctl.cli.playbook import Played
from runnerctl.core.health import Health
from tests.component.cli_support import TOKEN, Ran, call, spawn
from tests.fakes.github_api import GithubApi
from tests.fleets import NOW, answer, healthy, spec

ORG = "/orgs/acme"


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    """One stand-in for this file."""
    with GithubApi() as github:
        yield github


@pytest.fixture
def github(server: GithubApi) -> GithubApi:
    """GitHub with two groups and a token."""
    server.control.reset()
    server.control.add_token(TOKEN, scopes=["admin:org", "repo"])
    server.control.release("2.336.0")
    return server


@dataclass
class Plays:
    """What Ansible would bring from the hosts, and what it was asked."""

    url: str
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def __call__(self, _context: Context, playbook: str, **settings: Any) -> Played:
        self.asked.append((playbook, settings))
        if playbook == "spec":
            specs = {name: spec(name, "a", github_runner_url=self.url) for name in self.answers}
            plain = {name: msgspec.to_builtins(each) for name, each in specs.items()}
            return Played(0, {n: {"host": n, "spec": each, "problems": []} for n, each in plain.items()})
        for number, name in enumerate(self.answers, 1):
            settings["tell"](f"ok: [{name}]")
            settings["progress"](number)
        return Played(0, {name: data for name, data in self.answers.items() if data})

    def has(self, name: str, number: int, **settings: Any) -> None:
        """A host that gives this verdict."""
        verdict = answer(spec(name, "a"), healthy("a", number, **settings)).health
        self.answers[name] = {
            "host": name,
            "health": msgspec.to_builtins(verdict),
            "reason": "",
            "remedy": "",
        }


@pytest.fixture
def plays(monkeypatch: pytest.MonkeyPatch, server: GithubApi) -> Plays:
    """Ansible's answers, made here; tests/system has the real ones."""
    found = Plays(f"{server.url}/acme")
    monkeypatch.setattr(inventory, "play", found)
    monkeypatch.setattr(fleet_hosts, "play", found)
    return found


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., Ran]:
    """The command, with a credential unless told otherwise."""

    def asked(*words: str, token: bool = True) -> Ran:
        env = {"RUNNERCTL_CACHE_DIR": "off", **({"GH_TOKEN": TOKEN} if token else {})}
        return call("fleet", "-i", "hosts,", *words, env=env, root=tmp_path)

    return asked


def test_both_views_in_one_answer(github: GithubApi, plays: Plays, ask: Callable[..., Ran]) -> None:
    """Every host asked once, GitHub's runners listed once; the worst verdict is the exit code."""
    ids = {}
    for name, fields in (("gpu-1", {}), ("gpu-2", {"labels": ["runnerctl-drained"]}), ("gpu-3", {})):
        made = github.control.add_runner(ORG, f"{name}-a", status="online", version="2.336.0", **fields)
        ids[name] = made["id"]
        plays.has(name, made["id"])
    plays.answers["gpu-3"] = {"health": None, "reason": "is not provisioned", "remedy": "provision it"}
    plays.answers["gpu-4"] = {}
    ran = ask("-o", "json")
    assert (ran.code, ran.err) == (2, ""), ran.err
    assert (ran.json["schema"], ran.json["status"]) == ("runnerctl.fleet/1", "CRITICAL")
    rows = {row["host"]: row for row in ran.json["rows"]}
    assert [rows[f"gpu-{n}"]["can_take_a_job"] for n in range(1, 5)] == ["yes", "no", "unknown", "no"]
    assert rows["gpu-1"]["github"]["id"] == rows["gpu-1"]["agent_id"] == ids["gpu-1"]
    assert "cut from routing" in rows["gpu-2"]["why"]
    assert rows["gpu-3"]["why"] == "is not provisioned; GitHub shows it online"
    assert rows["gpu-4"]["why"].startswith("gave no answer within")
    paths = [each["path"] for each in github.control.requests()]
    assert paths.count(f"{ORG}/actions/runners") == 1 and [playbook for playbook, _ in plays.asked] == [
        "spec",
        "fleet",
    ]
    assert plays.asked[1][1]["variables"]["fleet_deadline_seconds"] == 20.0


def test_without_github_it_says_so(plays: Plays, ask: Callable[..., Ran]) -> None:
    """No credential, or none wanted: the hosts' own view, and a line that tells."""
    plays.has("gpu-1", 1)
    for words, token, said in (
        ((), False, "no GitHub credential"),
        (("--no-github",), True, "was not asked"),
    ):
        ran = ask(*words, token=token)
        assert ran.code == 0, ran.err
        assert ran.out.startswith("OK  1 of 1 runner can take a job\n1 host: 1 OK\nnote: ")
        assert said in ran.out and ran.out.splitlines()[-1].split() == ["gpu-1", "a", "yes", "-"]


def test_a_refusal_by_github_is_unknown(github: GithubApi, plays: Plays, ask: Callable[..., Ran]) -> None:
    """The hosts' verdicts are not lost over it."""
    github.control.expire_token(TOKEN)
    plays.has("gpu-1", 1)
    ran = ask()
    assert ran.code == 3 and "GitHub did not tell" in ran.out and "1 not known" in ran.out


@pytest.mark.parametrize(
    ("verdict", "said"),
    [
        ({"schema": "runnerctl.health/9"}, "schema 'runnerctl.health/9'"),
        ("garbage", "schema 'None'"),
        ({"schema": "runnerctl.health/1", "status": "FINE"}, "cannot be read"),
    ],
)
def test_answers_that_cannot_be_used(plays: Plays, ask: Callable[..., Ran], verdict: Any, said: str) -> None:
    """Of another version, or no verdict at all: UNKNOWN with the reason."""
    plays.answers["gpu-1"] = {"host": "gpu-1", "health": verdict}
    ran = ask("--no-github", "-o", "json")
    assert ran.code == 3 and said in ran.json["rows"][0]["why"], ran.out


def test_wrong_options_are_told_before_anything_is_asked(plays: Plays, ask: Callable[..., Ran]) -> None:
    """One line, UNKNOWN; nobody was asked."""
    for option, value in (
        ("--deadline", "soon"),
        ("--watch", "1"),
        ("--html", "/no/such/f.html"),
        ("--html", "/"),
    ):
        ran = ask(option, value)
        assert (ran.code, ran.out, ran.err.count("\n")) == (3, "", 1) and option in ran.err
    assert plays.asked == []


def test_a_page_that_a_timer_renews(plays: Plays, ask: Callable[..., Ran], tmp_path: Path) -> None:
    """--refresh without --watch: one answer, and a page that reloads itself."""
    plays.has("gpu-1", 1)
    page = tmp_path / "fleet.html"
    assert ask("--no-github", "--html", str(page), "--refresh", "120").code == 0
    assert '<meta http-equiv="refresh" content="120">' in page.read_text()


def test_the_page_is_written_whole_and_the_watch_goes_on(plays: Plays, tmp_path: Path) -> None:
    """--watch asks again, renews the page, and survives a round that fails."""
    plays.has("gpu-1", 1)
    page, rounds = tmp_path / "fleet.html", []

    def sleep(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 1:
            page.unlink()
            plays.has("gpu-2", 2)
        else:
            raise KeyboardInterrupt

    out, err = io.StringIO(), io.StringIO()
    context = Context(env={}, stdout=out, stderr=err, sleep=sleep, clock=NOW.timestamp)
    words = ["fleet", "-i", "hosts,", "--no-github", "--html", str(page), "--watch", "60"]
    assert run(words, context) == 130 and len(rounds) == 2 and 0 < rounds[0] <= 60
    text = page.read_text()
    assert "2 of 2 runners can take a job" in text and '<meta http-equiv="refresh" content="60">' in text
    assert page.stat().st_mode & 0o777 == 0o644 and [each.name for each in tmp_path.iterdir()] == [
        "fleet.html"
    ]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_names_whom_it_waits_for() -> None:
    """One line, written over itself, wiped at the end; nothing where nobody watches."""
    for stream, env, shown in (
        (_Terminal(), {}, True),
        (_Terminal(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ):
        context = Context(env=env, stdout=io.StringIO(), stderr=stream)
        progress = Progress(context, [f"gpu-{number}\x1b[2J" for number in range(40)])
        progress.begin()
        progress.heard("ok: [gpu-0\x1b[2J]")
        progress.counted(1)
        assert progress.text().startswith("1 of 40 hosts answered, waiting for gpu-1\\x1b[2J")
        assert len(progress.text()) <= 78
        progress.end()
        assert bool(stream.getvalue()) == shown and "\x1b" not in stream.getvalue()
        assert not shown or stream.getvalue().endswith(" \r")


@pytest.mark.exhaustive
def test_ansible_asks_for_real(tmp_path: Path) -> None:
    """The playbook itself, on this machine, which has no runnerctl: every host says so."""
    hosts = {
        f"here-{n}": {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        for n in range(3)
    }
    variables = {"github_runner_url": "https://github.com/acme"}
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps({"all": {"children": {"runner_hosts": {"hosts": hosts, "vars": variables}}}}))
    ran = spawn("fleet", "-i", str(path), "-o", "json")
    assert (ran.code, ran.err) == (3, ""), ran.err
    for row in ran.json["rows"]:
        assert row["why"] == "is not provisioned: it has no runnerctl" and "provision" in row["remedy"]


def test_the_schema_of_health_is_read_back() -> None:
    """What a host prints is what the controller reads."""
    verdict = answer(spec("gpu-1", "a"), healthy("a", 1)).health
    assert msgspec.convert(json.loads(msgspec.json.encode(verdict)), Health) == verdict
