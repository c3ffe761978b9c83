"""The engine: absence, failing judges, the worst of several, the contract of the JSON, the text."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runnerctl.cli.render_health import render_json, render_text
from runnerctl.core import health, snapshot
from runnerctl.core.checks import CHECKS
from runnerctl.core.findings import Check, Finding, Status, Verdict, ok, warning
from runnerctl.core.health import Health, exit_code, judge, worst
from runnerctl.core.snapshot import Snapshot, Unavailable
from runnerctl.errors import DataError

HEALTHY = (Path(__file__).parent / "cases" / "healthy.json").read_bytes()


@pytest.fixture
def host() -> Snapshot:
    """A healthy, provisioned host."""
    return snapshot.decode(HEALTHY)


def _check(judge: Any, **more: Any) -> Check:
    return Check(id="some.check", title="", docs="", remedy="do this", judge=judge, **more)


def _silent(*_: object, **__: object) -> Iterable[Verdict]:
    return ()


def _warns(**_: object) -> Iterable[Verdict]:
    yield warning("look", number=1)


def _finding(status: Status, **more: Any) -> Finding:
    return Finding(**{"id": "some.check", "status": status, "subject": "host", "summary": "so", **more})


def test_a_healthy_host_is_ok(host: Snapshot) -> None:
    """Nothing in a healthy snapshot is worth a warning."""
    verdict = judge(host)
    assert verdict.status == "OK"
    assert exit_code(verdict.status) == 0


def test_a_missing_reading_is_unknown_and_the_judge_is_not_asked(host: Snapshot) -> None:
    """No judge handles absence; call and GPU reach the finding."""
    reading = Unavailable("it hangs", call="nvmlInit", gpu=1, kind="timeout")
    broken = msgspec.structs.replace(host, nvml=reading)

    def never(*_: object, **__: object) -> Iterable[Verdict]:
        raise AssertionError

    (finding,) = judge(broken, [_check(never, needs=("nvml",))]).findings
    assert finding.status == "UNKNOWN"
    assert finding.summary == "not known: it hangs [nvmlInit (GPU 1)]"
    assert finding.data == {"kind": "timeout", "call": "nvmlInit", "gpu": 1}


def test_what_only_root_may_read_says_so(host: Snapshot) -> None:
    """The remedy for a refusal is root, whatever the check would say otherwise."""
    broken = msgspec.structs.replace(host, nvml=Unavailable("refused", kind="denied"))
    (finding,) = judge(broken, [_check(_silent, needs=("nvml",))]).findings
    assert finding.remedy == "run it as root"


def test_what_did_not_answer_is_not_mended_by_the_checks_own_remedy(host: Snapshot) -> None:
    """That is for what the check finds; a remedy of the reading's own comes first."""
    for remedy, wanted in (("", "see what it waits for"), ("look at the server", "look at the server")):
        late = Unavailable("statvfs /opt did not return", kind="timeout", remedy=remedy)
        broken = msgspec.structs.replace(host, nvml=late)
        (finding,) = judge(broken, [_check(_silent, needs=("nvml",))]).findings
        assert finding.remedy.startswith(wanted)


def test_a_judge_that_fails_is_unknown_and_hides_no_other(host: Snapshot) -> None:
    """Our own mistake is one finding, not a crash."""

    def wrong(*, spec: object) -> Iterable[Verdict]:
        raise KeyError(spec.__class__.__name__)

    def right(*, spec: object) -> Iterable[Verdict]:
        yield ok(f"fine with {spec.__class__.__name__}")

    first, second = judge(host, [_check(wrong), _check(right)]).findings
    assert (first.status, second.status) == ("UNKNOWN", "OK")
    assert "KeyError" in first.summary


def test_nothing_found_is_unknown(host: Snapshot) -> None:
    """A verdict without a finding is no good news."""
    assert judge(host, []).status == "UNKNOWN"


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (("OK", "OK"), "OK"),
        (("OK", "WARNING"), "WARNING"),
        (("WARNING", "UNKNOWN"), "UNKNOWN"),
        (("UNKNOWN", "CRITICAL", "OK"), "CRITICAL"),
    ],
)
def test_the_worst_wins(statuses: tuple[Status, ...], expected: str) -> None:
    """CRITICAL > UNKNOWN > WARNING > OK."""
    assert worst([_finding(status) for status in statuses]) == expected


def test_exit_codes_are_those_of_monitoring_plugins() -> None:
    """0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN."""
    assert {status: exit_code(status) for status in ("OK", "WARNING", "CRITICAL", "UNKNOWN")} == {
        "OK": 0,
        "WARNING": 1,
        "CRITICAL": 2,
        "UNKNOWN": 3,
    }


def test_the_json_keeps_its_contract(host: Snapshot) -> None:
    """Other tools read these fields and no others."""
    text = render_json(judge(host, [_check(_warns)]))
    verdict = json.loads(text)
    assert list(verdict) == ["schema", "status", "host", "checked_at", "duration_seconds", "findings"]
    assert verdict["schema"] == "runnerctl.health/1"
    assert verdict["checked_at"] == "2026-11-22T09:00:00Z"
    assert verdict["findings"] == [
        {
            "id": "some.check",
            "status": "WARNING",
            "subject": "host",
            "summary": "look",
            "remedy": "do this",
            "data": {"number": 1},
        }
    ]
    assert health.decode(text.encode()).status == "WARNING"


def _verdict(host: Snapshot, *findings: Finding) -> Health:
    return Health(
        status=worst(findings),
        host=host.host.name,
        checked_at=host.time,
        duration_seconds=0.2,
        findings=findings,
    )


def test_the_text_shows_the_worst_first_with_its_remedy(host: Snapshot) -> None:
    """A reader sees what is wrong and what to do before anything else."""
    bad = _finding("CRITICAL", id="gpu.answers", subject="GPU 1", summary="lost", remedy="reboot")
    lines = render_text(_verdict(host, _finding("OK"), bad)).splitlines()
    assert lines[0] == "gpu-box: CRITICAL  (1 CRITICAL, 1 OK; 2026-11-22 09:00:00Z, took 0.20 s)"
    assert lines[2] == "CRITICAL  gpu.answers GPU 1  lost"
    assert lines[3].strip() == "-> reboot"
    assert lines[4] == "OK        some.check         so"


def test_the_text_keeps_to_80_columns_and_escapes(host: Snapshot) -> None:
    """A job's name in a summary must not steer the terminal."""
    evil = _finding(
        "WARNING", subject="x" * 40, summary="\x1b[31mred\x1b[0m\n " + "long " * 60, remedy="w " * 90
    )
    text = render_text(_verdict(host, evil))
    assert "\x1b" not in text
    assert "\\x1b[31mred" in text
    assert max(map(len, text.splitlines())) <= 80


def test_colour_comes_only_when_asked(host: Snapshot) -> None:
    """NO_COLOR and pipes are the caller's to know."""
    verdict = _verdict(host, _finding("OK"))
    assert "\x1b[32mOK" in render_text(verdict, colour=True)
    assert "\x1b" not in render_text(verdict)


def test_json_is_ascii(host: Snapshot) -> None:
    """Reversed text and the like cannot reach a terminal through it."""
    text = render_json(_verdict(host, _finding("OK", summary="\u202e 🙂 °C")))
    assert text.isascii()
    assert json.loads(text)["findings"][0]["summary"] == "\u202e 🙂 °C"


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.id)
def test_every_check_can_be_documented(check: Check) -> None:
    """Each has a page: a title, a paragraph, a remedy; and an id of a known family."""
    families = ("driver", "gpu", "xid", "slot", "host", "docker", "conda", "github")
    assert check.id.split(".")[0] in families
    assert check.title
    assert check.docs.endswith(".")
    assert check.remedy


def test_ids_are_unique() -> None:
    """An id names one check."""
    assert len({check.id for check in CHECKS}) == len(CHECKS)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is not a snapshot"),
        (b"[]", "is not a snapshot"),
        (HEALTHY[:500], "is not a snapshot"),
        (b'{"schema": "runnerctl.snapshot/2"}', "has schema 'runnerctl.snapshot/2'"),
        (b'{"schema": "runnerctl.snapshot/1"}', "is damaged"),
        (b'{"schema": 7}', "is not a snapshot"),
    ],
)
def test_a_saved_file_that_is_no_snapshot_is_refused(content: bytes, says: str) -> None:
    """One line that names the file and what is wrong with it."""
    with pytest.raises(DataError) as caught:
        snapshot.decode(content, where="saved.json")
    assert str(caught.value).startswith(f"saved.json: {says}")


def test_a_snapshot_survives_being_saved(host: Snapshot) -> None:
    """What was probed here can be judged anywhere."""
    assert snapshot.decode(snapshot.encode(host)) == host
