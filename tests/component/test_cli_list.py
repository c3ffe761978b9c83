"""``list``: columns, filters, inventories, watching, and ten thousand runners."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.inventory import Resolved
from runnerctl.cli.listing_host import gpu_states
from runnerctl.cli.listing_rows import Row, sort_rows
from runnerctl.cli.listing_view import text_table
from runnerctl.cli.local import LocalSlot
from runnerctl.cli.main import run
from runnerctl.core.labels import DRAINED
from runnerctl.github.models import Label, Runner
from tests.component.cli_support import TOKEN, call, host_json
from tests.fakes.github_api import GithubApi

ORG = "/orgs/acme"
OLD, NEW = "2.335.1", "2.337.0"
GPUS = ["GPU-aaaaaaaa-0000-0000-0000-000000000000", "GPU-bbbbbbbb-0000-0000-0000-000000000000"]


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    """One stand-in for this file."""
    with GithubApi() as github:
        yield github


@pytest.fixture
def github(server: GithubApi) -> GithubApi:
    """Two versions, a group, and three runners: one is drained, one is of nobody's inventory."""
    control = server.control
    control.reset()
    control.add_token(TOKEN, scopes=["admin:org"])
    control.release(OLD, runtime_deprecates_at="2026-12-01T00:00:00Z")
    control.release(NEW)
    group = control.add_group(ORG, "fleet")["id"]
    control.add_runner(ORG, "a-main", labels=["gpu"], status="online", version=OLD, group_id=group)
    control.add_runner(ORG, "b-main", labels=[DRAINED], status="online", busy=True, version=NEW)
    control.add_runner(ORG, "stranger", labels=[], status="offline")
    return server


def env(github: GithubApi) -> dict[str, str]:
    """What a user exports."""
    return {"GH_TOKEN": TOKEN, "RUNNERCTL_URL": f"{github.url}/acme"}


@pytest.fixture
def inventory(github: GithubApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An inventory of the hosts a, b and c, as Ansible would have resolved it."""
    specs = []
    for host in "abc":
        path = host_json(tmp_path / host, url=f"{github.url}/acme", slots=[{"name": "main"}])
        specs.append(Resolved(host, {**json.loads(path.read_text()), "host": host}, ()))
    monkeypatch.setattr("runnerctl.cli.inventory.resolve", lambda *_args, **_options: specs)
    return "inventory"


def test_a_line_tells_version_end_group_and_drain(github: GithubApi, tmp_path: Path) -> None:
    """Columns that say something stand there; each version is asked for once, and groups once."""
    ran = call("list", "--columns", "all", env=env(github), root=tmp_path)
    assert ran.code == 0, ran.err
    _, a, b, stranger = (line.split() for line in ran.out.splitlines())
    assert a == ["-", "-", "a-main", "online", "-", "no", "fleet", OLD, "8", "d", "-", "-", "gpu"]
    assert b[3:] == ["online", "-", "yes", "Default", NEW, "no", "end", "-", "drained", DRAINED]
    assert stranger[3:] == ["offline", "-", "no", "Default", "-", "-", "-", "-", "-"]
    assert github.control.counts() == (4, 0)  # runners, groups, two versions
    assert github.control.violations() == []


def test_json_has_everything_of_a_runner(github: GithubApi, tmp_path: Path) -> None:
    """The keys that were there before, and the new ones."""
    a, b, stranger = call("list", "-o", "json", env=env(github), root=tmp_path).json["runners"]
    assert (a["group"], a["version_days_left"], a["version_ends_at"]) == ("fleet", 8, "2026-12-01T00:00:00Z")
    assert (b["drained"], b["version_end_known"], b["version_ends_at"]) == (True, True, None)
    assert (stranger["version"], stranger["version_end_known"]) == (None, False)
    assert {"id", "name", "os", "status", "busy", "labels", "runner_group_id", "ephemeral"} <= set(a)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        (["*-MAIN"], ["a-main", "b-main"]),
        (["--status", "drained"], ["b-main"]),
        (["--status", "expiring"], ["a-main"]),
        (["--host", "a"], ["a-main"]),
        (["--group", "flee*"], ["a-main"]),
        (["--version", "2.337*"], ["b-main"]),
        (["--sort", "status"], ["stranger", "a-main", "b-main"]),
        (["--sort", "expiry"], ["a-main", "b-main", "stranger"]),
        (["--sort", "busy"], ["b-main", "a-main", "stranger"]),
    ],
)
def test_filters_and_order(github: GithubApi, tmp_path: Path, options: list[str], names: list[str]) -> None:
    """Patterns compare without case; what is not known comes last."""
    ran = call("list", "-o", "json", *options, env=env(github), root=tmp_path)
    assert [runner["name"] for runner in ran.json["runners"]] == names, ran.err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--status", "held"], "on the host"),
        (["--limit", "a"], "-i INVENTORY"),
        (["--interval", "5"], "--watch"),
        (["--watch", "--interval", "0.1"], "--interval"),
        (["--columns", "status,nope"], "nope"),
    ],
)
def test_what_makes_no_sense_is_refused(
    github: GithubApi, tmp_path: Path, options: list[str], word: str
) -> None:
    """One line, exit code 64, and GitHub is not asked."""
    ran = call("list", *options, env=env(github), root=tmp_path)
    assert (ran.code, ran.err.count("\n")) == (64, 1)
    assert word in ran.err and github.control.counts() == (0, 0)


def test_an_inventory_tells_host_and_slot(github: GithubApi, tmp_path: Path, inventory: str) -> None:
    """Slots without a record are absent; a runner of nobody's has no host."""
    ran = call("list", "-i", inventory, env=env(github), root=tmp_path)
    assert ran.code == 0, ran.err
    rows = {line.split()[2]: line.split() for line in ran.out.splitlines()}
    assert rows["a-main"][:4] == ["main", "a", "a-main", "online"]
    assert rows["c-main"][:4] == ["main", "c", "c-main", "absent"]
    assert rows["stranger"][:4] == ["-", "-", "stranger", "offline"]
    answer = call("list", "-i", inventory, "--limit", "x", "-o", "json", env=env(github), root=tmp_path).json
    assert [runner["host"] for runner in answer["runners"]] == ["a", "b"]
    assert answer["absent"] == [{"name": "c-main", "host": "c", "slot": "main"}]


def test_a_scope_that_cannot_be_read_hides_no_other(
    github: GithubApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are listed, the missing one is named, and the exit code is that of its error."""
    slots = [{"name": "main"}, {"name": "far", "url": f"{github.url}/acme/widgets"}]
    path = host_json(tmp_path / "a", url=f"{github.url}/acme", slots=slots)
    resolved = [Resolved("a", {**json.loads(path.read_text()), "host": "a"}, ())]
    monkeypatch.setattr("runnerctl.cli.inventory.resolve", lambda *_args, **_options: resolved)
    ran = call("list", "-i", "x", "-o", "json", env=env(github), root=tmp_path)
    assert (ran.code, len(ran.json["urls"]), len(ran.json["runners"])) == (77, 2, 3)
    assert "a scope is missing" in ran.err and "acme/widgets" in ran.err


def test_a_host_shows_holds_drains_and_gpus(github: GithubApi, tmp_path: Path) -> None:
    """What the last verdict took out stands in its notes and holds; no GPU is asked."""
    host_json(tmp_path, url=f"{github.url}/acme", slots=[{"name": "one", "gpus": GPUS}, {"name": "two"}])
    github.control.add_runner(ORG, "gpu-1-one", labels=[DRAINED], version=OLD)
    hold = tmp_path / "var/lib/runnerctl/hold/one"
    hold.parent.mkdir(parents=True)
    hold.write_text(f"bad\n\nby: health\nsince: 2026-11-01T00:00:00Z\nreason: bad\ngpus: {GPUS[0]}\n")
    ran = call("list", env=env(github), root=tmp_path)
    assert ran.code == 0, ran.err
    head, one, two, note = ran.out.splitlines()
    assert head.split()[:5] == ["SLOT", "STATUS", "BUSY", "VERSION", "EXPIRY"]
    assert "8 d" in one and "1 of 2 out" in one and "held,drained" in one
    assert two.split()[:2] == ["two", "absent"] and "none" in two
    assert note == "one: held: bad"
    only = call("list", "--status", "held", "-o", "json", env={}, root=tmp_path).json["slots"]
    assert [(slot["slot"], slot["gpus_out"]) for slot in only] == [("one", [GPUS[0]])]
    refused = call("list", "--status", "drained", env={}, root=tmp_path)
    assert refused.code == 64 and "credential" in refused.err


def test_gpus_of_a_host_without_a_verdict_are_not_known(tmp_path: Path) -> None:
    """Nothing was taken out, and nobody looked: that is not "in service"."""
    host_json(tmp_path, url="https://github.com/acme", slots=[{"name": "one", "gpus": GPUS}])
    assert "2 not known" in call("list", root=tmp_path).out


@pytest.mark.parametrize(
    ("ago", "status", "text"),
    [
        (60, 0, "2 in service"),
        (60, 2, "2 in service"),
        (60, 3, "2 not known"),
        (3600, 0, "2 not known"),
        (None, 0, "2 not known"),
    ],
)
def test_gpus_are_in_service_where_a_verdict_was_made_lately(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ago: int | None, status: int, text: str
) -> None:
    """systemd tells when the timer's verdict ended; one of an hour ago tells nothing of now."""
    ended = 0 if ago is None else int((time.monotonic() - ago) * 1e6)
    program = tmp_path / "systemctl"
    said = f"ExecMainStatus={status}\nExecMainExitTimestampMonotonic={ended}\n"
    program.write_text(f"#!/bin/sh\nprintf '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    context = Context({}, io.StringIO(), io.StringIO())
    state = gpu_states(context, Paths(), [LocalSlot("no-such-slot", gpus=tuple(GPUS), in_spec=True)])
    assert [each.text for each in state.values() if each] == [text]


def test_names_with_numbers_are_in_their_order() -> None:
    """As people count, whatever the letters' case."""
    names = ["gpu-10-a", "GPU-2-a", "10", "gpu-2-b", "gpu"]
    rows = sort_rows([Row(name) for name in names], "name")
    assert [row.runner for row in rows] == ["10", "gpu", "GPU-2-a", "gpu-2-b", "gpu-10-a"]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _watch(
    github: GithubApi, root: Path, *options: str, terminal: bool, rounds: int = 3
) -> tuple[int, str, str]:
    """Watch until the pause after the last round is interrupted as Ctrl-C does."""
    out = _Terminal() if terminal else io.StringIO()
    err = io.StringIO()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2 and not github.control.runner(ORG, "late"):
            github.control.add_runner(ORG, "late", labels=[])
        if len(slept) >= rounds:
            raise KeyboardInterrupt

    variables = {**env(github), "COLUMNS": "80", "TERM": "xterm"}
    context = Context(variables, out, err, clock=lambda: 1795348800.0, sleep=sleep, paths=Paths(root))
    code = run(["list", "--watch", "--interval", "7", *options], context)
    assert slept == [7.0] * rounds, err.getvalue()
    return code, out.getvalue(), err.getvalue()


def test_watch_redraws_a_terminal(github: GithubApi, tmp_path: Path) -> None:
    """It draws over the last picture, sees what is new, and ends on Ctrl-C with 130."""
    code, out, _ = _watch(github, tmp_path, terminal=True)
    assert code == 130
    pictures = out.split("\x1b[H")[1:]
    assert ["late" in picture for picture in pictures] == [False, False, True]
    assert "every 7 s" in pictures[1]


def test_watch_without_a_terminal_appends(github: GithubApi, tmp_path: Path) -> None:
    """One block a round with its time, and no escape sequence; as JSON one document a line."""
    code, out, _ = _watch(github, tmp_path, terminal=False)
    assert (code, out.count("2026-11-22T12:00:00Z"), "\x1b" in out) == (130, 3, False)
    code, out, _ = _watch(github, tmp_path, "-o", "json", "late", terminal=False)
    assert [len(json.loads(line)["runners"]) for line in out.splitlines()] == [1, 1, 1]


def test_ten_thousand_lines_are_drawn_at_once() -> None:
    """The table of a large scope costs a fraction of a second."""
    labels = tuple(Label(name) for name in ("gpu", "a100", "cuda-12"))
    rows = [
        Row(f"gpu-{n}-main", record=Runner(n, f"gpu-{n}-main", "online", False, labels=labels))
        for n in range(10000)
    ]
    begin = time.process_time()
    text, hidden = text_table(rows, width=80)
    assert time.process_time() - begin < 1.0
    assert text.count("\n") == 10000 and hidden == ()
