"""The guard's pure parts: what a job claims, what the policy makes of it, what is read of a hook's line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerctl.core.sections import GithubRunner
from runnerctl.guard import work
from runnerctl.guard.claims import claims_of, danger, environment, fork_of, read_event
from runnerctl.guard.enforce import fate
from runnerctl.guard.gate import fitness
from runnerctl.guard.meter import GpuLook
from runnerctl.guard.policy import matches, refusal
from runnerctl.guard.ports import JobClaims
from runnerctl.guard.protocol import LONGEST_ANSWER, Answer, encode_answer, parse_request
from runnerctl.probes.gpu_verdict import GpuVerdict, Verdicts

CLAIMS = JobClaims(
    repository="acme/widgets",
    workflow_ref="acme/widgets/.github/workflows/ci.yml@refs/heads/main",
    event="push",
    fork=False,
)
POLICY: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "nothing asked for": ({}, {}, None),
    "a fork": ({}, {"fork": True}, "jobs of pull requests from forks"),
    "a fork, allowed": ({"policy_fork_pull_requests": "allow"}, {"fork": True}, None),
    "perhaps a fork": ({}, {"fork": None}, "cannot be told"),
    "perhaps a fork, allowed": ({"policy_fork_pull_requests": "allow"}, {"fork": None}, None),
    "a listed repository": ({"policy_repositories": ("ACME/*",)}, {}, None),
    "another repository": (
        {"policy_repositories": ("acme/gadgets",)},
        {},
        "no jobs of repository acme/widgets",
    ),
    "no repository told": ({"policy_repositories": ("*",)}, {"repository": None}, "cannot be told"),
    "a listed workflow": (
        {"policy_workflows": ("acme/*/ci.yml@refs/heads/main",)},
        {},
        None,
    ),
    "any ref": ({"policy_workflows": ("acme/widgets/.github/workflows/ci.yml",)}, {}, None),
    "another ref": ({"policy_workflows": ("acme/widgets/*@refs/heads/prod",)}, {}, "no jobs of workflow"),
    "no workflow told": ({"policy_workflows": ("*",)}, {"workflow_ref": None}, "cannot be told"),
}


@pytest.mark.parametrize("name", POLICY)
def test_what_the_policy_makes_of_a_job(name: str) -> None:
    settings, more, said = POLICY[name]
    told = refusal(msgspec.structs.replace(CLAIMS, **more), GithubRunner(**settings))
    assert (told is None) == (said is None)
    assert said is None or said in (told or "")


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("acme/*", "acme/widgets", True),
        ("acme/*", "acme-evil/widgets", False),
        ("*", "x/y", True),
        ("*/widgets", "acme/widgets", True),
        ("a*c*e", "abcde", True),
        ("a*c*e", "abde", False),
        ("ab*b", "ab", False),
        ("Acme/App", "acme/app", True),
        ("o/r/w.yml@refs/heads/Main", "o/r/w.yml@refs/heads/main", False),
        ("o/r/*@refs/*/v1", "o/r/w.yml@refs/tags/v1", True),
        ("*a" * 40, "a" * 20000, True),
    ],
)
def test_patterns(pattern: str, name: str, fits: bool) -> None:
    assert matches(pattern, name) is fits


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"HOME": "/x", "PYTHONPATH": "src", "ENV": "production", "LD_BIND_NOW": "1"}, ""),
        ({"BASH_ENV": ""}, "BASH_ENV"),
        ({"BASH_FUNC_cd%%": "() { :; }"}, "BASH_FUNC_cd%%"),
        ({"anything": "() { :;}; evil"}, "anything"),
        ({"SHELLOPTS": "xtrace"}, "SHELLOPTS"),
        ({"LD_PRELOAD": "x"}, "LD_PRELOAD"),
        ({"LD_AUDIT": "x"}, "LD_AUDIT"),
        ({"LD_LIBRARY_PATH": "/usr/lib:/usr/lib/none/such"}, ""),
        ({"LD_LIBRARY_PATH": "/usr/lib:"}, "LD_LIBRARY_PATH"),
        ({"LD_LIBRARY_PATH": "$ORIGIN"}, "LD_LIBRARY_PATH"),
        ({"LD_LIBRARY_PATH": "/tmp/x"}, "LD_LIBRARY_PATH"),
        ({"LD_LIBRARY_PATH": "/usr/../slot/_work"}, "LD_LIBRARY_PATH"),
    ],
)
def test_an_environment_that_changes_the_shell(environ: dict[str, str], named: str) -> None:
    assert danger(environ, writable=Path("/slot"), owner=Path("/usr/lib").stat().st_uid) == named


def _request(head: Any, base: Any = "acme/w") -> dict[str, Any]:
    sides = {"head": head, "base": base}
    return {
        "pull_request": {
            side: {"repo": {"full_name": name} if isinstance(name, str) else name}
            for side, name in sides.items()
        }
    }


@pytest.mark.parametrize(
    ("name", "event", "fork"),
    [
        ("push", {}, False),
        (None, {}, None),
        ("push", None, None),
        ("pull_request", _request("acme/w"), False),
        ("pull_request", _request("ACME/w"), False),
        ("pull_request_target", _request("evil/w"), True),
        ("pull_request_review", _request(None), True),
        ("pull_request", _request("acme/w", None), None),
        ("pull_request", {}, None),
        ("pull_request", {"pull_request": []}, None),
        ("push", _request("evil/w"), True),
    ],
)
def test_a_pull_request_of_a_fork(name: str | None, event: Any, fork: bool | None) -> None:
    assert fork_of(name, event) is fork


def test_claims_are_bounded_and_printable() -> None:
    """What was cut could be taken for another name: it is not known at all."""
    environ = {
        "GITHUB_REPOSITORY": "a/" + "x" * 600,
        "GITHUB_ACTOR": "mona\x1b[31m",
        "GITHUB_JOB": "build",
        "GITHUB_RUN_ID": "12",
        "GITHUB_RUN_ATTEMPT": "9" * 30,
    }
    found = claims_of(environ, {})
    assert (found.repository, found.actor, found.job, found.run_id, found.run_attempt) == (
        *(None, None, "build", 12),
        None,
    )
    assert environment(b"A=1\0A=2\0=x\0junk\0B=") == {"A": "1", "B": ""}


def test_an_event_is_a_small_regular_file_of_the_slot(tmp_path: Path) -> None:
    slot = tmp_path / "slot"
    slot.mkdir()
    view, root = tmp_path, Path("/slot")
    (slot / "event.json").write_text('{"a": 1}')
    assert read_event("/slot/event.json", root, view=view) == {"a": 1}
    (slot / "list.json").write_text("[]")
    (slot / "link.json").symlink_to("event.json")
    (slot / "up").symlink_to("..")
    (tmp_path / "outside.json").write_text("{}")
    for path in ("list.json", "link.json", "up/outside.json", "../outside.json", "none", "event.json/x"):
        assert read_event(f"/slot/{path}", root, view=view) is None, path
    assert read_event("/outside.json", root, view=view) is None


@pytest.mark.parametrize(
    ("line", "ask"),
    [
        (b'{"schema":"runnerctl.guard/1","ask":"started"}', "started"),
        (b'{"schema":"runnerctl.guard/2","ask":"started"}', None),
        (b'{"schema":"runnerctl.guard/1","ask":"root"}', None),
        (b'{"schema":"runnerctl.guard/1","ask":"started","slot":"b"}', None),
        (b"[" * 900, None),
        (b"\xff", None),
        (b" " * 2000 + b"{}", None),
    ],
)
def test_requests(line: bytes, ask: str | None) -> None:
    found = parse_request(line)
    assert (found.ask if found else None) == ask


def test_an_answer_is_one_line_of_bounded_length() -> None:
    long = "\x01" * LONGEST_ANSWER
    data = encode_answer(Answer("done", reason=long, text=long, summary=long, warnings=(long,) * 99))
    assert len(data) <= LONGEST_ANSWER
    assert data.count(b"\n") == 1
    assert msgspec.json.decode(data)["schema"] == "runnerctl.guard/1"


@pytest.mark.parametrize(
    ("look", "verdict", "state"),
    [
        ("healthy", "clean", "fit"),
        ("healthy", None, "fit"),
        ("healthy", "unknown", "fit"),
        ("healthy", "sick", "sick"),
        ("sick", "clean", "sick"),
        ("unknown", "clean", "fit"),
        ("unknown", "unknown", "unknown"),
        ("unknown", None, "unknown"),
        (None, None, "unknown"),
    ],
)
def test_fit_for_a_job(look: Any, verdict: Any, state: str) -> None:
    looks = {"GPU-1": GpuLook(look)} if look else {}
    verdicts = Verdicts(at=0, boot_id="b", gpus={"gpu-1": GpuVerdict(verdict)}) if verdict else None
    found = fitness(["GPU-1"], looks, verdicts)
    assert found.state == state
    assert bool(found.warning) == (look == "unknown" and state == "fit"), "never called healthy"


@pytest.mark.parametrize(
    ("program", "hook", "of_worker", "refused", "expected"),
    [
        ("/usr/bin/tar", False, True, False, "fine"),
        ("/usr/bin/tar", False, True, True, "wrong"),
        ("/slot/_work/tar", False, True, False, "wrong"),
        ("/usr/bin/bash", False, True, False, "check"),
        ("/usr/bin/bash", False, False, False, "wrong"),
        ("/usr/bin/bash", True, True, True, "fine"),
        ("/usr/bin/python3.11", True, False, False, "fine"),
        ("/usr/bin/curl", True, False, False, "wrong"),
        ("/usr/bin/bash (deleted)", False, True, False, "wrong"),
        ("", False, True, False, "fine"),
    ],
)
def test_what_may_run_before_a_job_is_admitted(
    program: str, hook: bool, of_worker: bool, refused: bool, expected: str
) -> None:
    found = fate(program, hook=hook, of_worker=of_worker, python="/usr/bin/python3.11", refused=refused)
    assert found == expected


@pytest.mark.parametrize(
    ("message", "at", "expected"),
    [
        ("Job build completed with result: Failed", 100.5, "Failed"),
        (list(b"Job \x1b[2J completed with result: Succeeded"), 100.5, "Succeeded"),
        ("Job before completed with result: Failed", 99.9, None),
        ("Job after completed with result: Failed", 110.0, None),
        ("Job completed with result: Failed, it says", 100.5, None),
        (None, 100.5, None),
        ([999], 100.5, None),
    ],
)
def test_the_result_of_a_job_is_its_listeners_own_line(
    message: object, at: float, expected: str | None
) -> None:
    """Of the time in which the job ended, whatever its name is made of."""
    line = json.dumps({"MESSAGE": message, "__REALTIME_TIMESTAMP": str(int(at * 1e6))})
    assert work._result_in(line, since=100, until=102) == expected
    assert work._result_in("no JSON", since=100, until=102) is None
