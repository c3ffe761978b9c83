"""The verdict on a fleet: what the hosts say, what GitHub says, and which runner can take a job."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from time import monotonic
from typing import Any

import msgspec
import pytest

from runnerctl.cli.fleet_hosts import answer_of
from runnerctl.cli.inventory import Resolved
from runnerctl.cli.render_fleet import render_text
from runnerctl.core.findings import Finding
from runnerctl.core.fleet import FleetRow, GithubView, HostAnswer, judge_fleet
from runnerctl.core.fleet_causes import FleetRecord
from tests.fleets import NOW, URL, answer, finding, healthy, judged, record, spec

OLD = 4 * 3600
DISK = finding("host.disk", "CRITICAL", "/", "0.4 GB free of 894.0 GB, under 4 %", "remove what fills it")
ENDED = finding(
    "slot.unit", "CRITICAL", "a", "ended by itself with status 0", "provision", active_state="inactive"
)


def held(reason: str = "new fans") -> Finding:
    """A slot on hold."""
    return finding(
        "slot.unit", "WARNING", "a", f"held: {reason}", "`runnerctl resume a`", active_state="inactive"
    )


def row(
    changes: list[Finding] | None = None,
    found: FleetRecord | None = None,
    *,
    gone: bool = False,
    base: list[Finding] | None = None,
    **variables: Any,
) -> FleetRow:
    """The row of slot a of gpu-1, with these findings in place of the healthy ones."""
    changed = changes or []
    ids = {(each.id, each.subject) for each in changed}
    findings = [each for each in base or healthy("a", 7) if (each.id, each.subject) not in ids]
    if any(each.id == "slot.unit" for each in changed):  # a unit that is not active has no listener
        findings = [each for each in findings if each.id not in ("slot.listener", "slot.connection")]
    here = spec("gpu-1", "a", **variables)
    records = [] if gone else [found or record("gpu-1-a", 7)]
    return judged([answer(here, [*findings, *changed])], records).rows[0]


CASES: dict[str, tuple[FleetRow, str, str, str]] = {
    "well": (row(), "yes", "OK", ""),
    "busy": (row(base=healthy("a", 7, busy=True)), "busy", "OK", ""),
    "busy by GitHub": (row(None, record("gpu-1-a", 7, busy=True)), "busy", "OK", ""),
    "held": (row([held()], record("gpu-1-a", 7, online=False)), "no", "WARNING", "held: new fans"),
    "held and cut": (
        row([held()], record("gpu-1-a", 7, labels=("runnerctl-drained",))),
        "no",
        "WARNING",
        "held: new fans",
    ),
    "cut, not held": (
        row(None, record("gpu-1-a", 7, labels=("runnerctl-drained",))),
        "no",
        "WARNING",
        "is cut from routing",
    ),
    "disk before offline": (
        row([DISK, ENDED], record("gpu-1-a", 7, online=False)),
        "no",
        "CRITICAL",
        "disk is full: 0.4 GB free of 894.0 GB, under 4 % (/)",
    ),
    "record gone before the unit": (row([ENDED], gone=True), "no", "CRITICAL", "GitHub has no record"),
    "expired before the unit": (
        row([ENDED], record("gpu-1-a", 7, online=False, expires_at=NOW - timedelta(days=1))),
        "no",
        "CRITICAL",
        "runner 2.336.0 is expired",
    ),
    "expires soon": (
        row(None, record("gpu-1-a", 7, expires_at=NOW + timedelta(days=3))),
        "yes",
        "WARNING",
        "runner 2.336.0 expires on 2026-11-25, in 3 days",
    ),
    "another's record": (row(None, record("gpu-1-a", 8)), "no", "CRITICAL", "GitHub's record of this name"),
    "stopped": (
        row([finding("slot.listener", "CRITICAL", "a", "the listener is stopped", "restart", busy=False)]),
        "no",
        "CRITICAL",
        "the listener is stopped",
    ),
    "labels": (
        row(None, record("gpu-1-a", 7), github_runner_labels=["h100"]),
        "no",
        "WARNING",
        "lacks the labels h100",
    ),
    "more labels": (row(None, record("gpu-1-a", 7, labels=("x",))), "yes", "WARNING", "has besides"),
    "offline, young": (
        row(None, record("gpu-1-a", 7, online=False)),
        "no",
        "WARNING",
        "GitHub shows it offline, and its listener runs: GitHub may lag",
    ),
    "offline for hours": (
        row(None, record("gpu-1-a", 7, online=False), base=healthy("a", 7, line_age_seconds=OLD)),
        "no",
        "CRITICAL",
        "GitHub shows it offline, and its listener runs, silent for 4 h, but",
    ),
    "warnings of the host": (row([finding("host.time_sync", "WARNING", "host", "nothing")]), "yes", "OK", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_one_runner(case: str) -> None:
    """Able or not, how bad, and the root cause first."""
    found, able, status, why = CASES[case]
    assert (found.can_take_a_job, found.status) == (able, status), found
    assert found.why.startswith(why) and bool(found.why) == bool(why)
    assert not found.why or found.remedy


@pytest.mark.parametrize("missing", ["slot.registered", "slot.unit", "slot.listener"])
def test_what_a_host_leaves_out_is_not_well(missing: str) -> None:
    """Another runnerctl, or a forged verdict, may say less than ours."""
    here = spec("gpu-1", "a")
    said = [each for each in healthy("a", 7) if each.id != missing]
    found = judged([answer(here, said)]).rows[0]
    assert (found.can_take_a_job, found.status, "the host does not say" in found.why) == (
        "unknown",
        "UNKNOWN",
        True,
    )


def test_a_host_is_no_better_than_its_findings() -> None:
    """A verdict's own status is a word like any other."""
    here, worse = spec("gpu-1", "a"), finding("host.time_sync", "WARNING", "host", "nothing")
    given = answer(here, [*healthy("a", 7), worse])
    assert given.health is not None
    forged = replace(given, health=msgspec.structs.replace(given.health, status="OK"))
    assert judged([forged], [record("gpu-1-a", 7)]).status == "WARNING"


def test_a_copied_disk_is_seen_on_both_hosts() -> None:
    """Both hold one registration, whose record is online: only one of them can have its session."""
    answers = [answer(spec(name, "a"), healthy("a", 7)) for name in ("gpu-1", "gpu-2")]
    found = judged(answers, [record("gpu-1-a", 7)]).rows
    assert [(row.can_take_a_job, row.status) for row in found] == [("no", "CRITICAL")] * 2
    assert found[0].why == "slot a of gpu-2 has the same registration: one disk is a copy"


@pytest.mark.parametrize(
    "findings",
    [[finding("x", "OK", "host", "")] * 2001, [finding("x", "OK", "host", "x" * 10_001)]],
    ids=["many", "long"],
)
def test_a_verdict_that_is_none_keeps_nobody_waiting(findings: list[Finding]) -> None:
    """A host may send megabytes: it is not known, and that is all."""
    here = spec("gpu-1", "a")
    health: Any = msgspec.to_builtins(answer(here, findings).health)
    found = answer_of(Resolved("gpu-1", {}, ()), here, {"health": health}, missing="")
    assert (found.health, found.reason) == (None, "its verdict is longer than any verdict is")


def test_no_part_of_a_finding_steers_a_terminal() -> None:
    """Its id comes from the host, too."""
    bad = finding("\x1b[2J", "WARNING", "\x1b[2J", "\x1b[2J", "\x1b[2J")
    found = judged([answer(spec("gpu-1", "a"), [*healthy("a", 7), bad])], [record("gpu-1-a", 7)])
    assert "\x1b" not in render_text(found, verbose=True)


def test_large_fleets_and_endless_names_take_no_time() -> None:
    """A scope may hold thousands of other people's runners, and a server may call one anything."""
    names = [f"other-{number}-{'x-' * 20}" for number in range(3000)] + ["gpu-1" + "-" * 1_000_000]
    records = [record(name, number) for number, name in enumerate(names)]
    one = answer(spec("gpu-0"), [])
    begin = monotonic()
    found = judged([replace(one, host=f"gpu-{number}") for number in range(2000)], records)
    assert monotonic() - begin < 1.5
    assert [row.kind for row in found.rows].count("record") == 1


def test_what_was_drained_from_here_is_resumed_from_here() -> None:
    """On its host it would start, and stay out of routing."""
    cut = record("gpu-1-a", 7, labels=("runnerctl-drained",))
    for found in (row([held()], cut), row(None, cut)):
        assert "`runnerctl resume -i INVENTORY --limit gpu-1 --slot a`" in found.remedy
    assert row([held()]).remedy == "`runnerctl resume a`"


def test_what_hurts_another_slot_hurts_none_here() -> None:
    """Findings on a slot are its own; those on a GPU are those of the slots that claim it."""
    uuids = [f"GPU-{number}f1a0c3e-2d4b-4c5a-9e8f-0a1b2c3d4e5f" for number in (1, 2)]
    slots = [{"name": name, "gpus": [uuid]} for name, uuid in zip("ab", uuids, strict=True)]
    here = spec("gpu-1", github_runner_slots=slots, nvidia_driver_gpu_count=2)
    findings = [
        *healthy("a", 1),
        *healthy("b", 2),
        finding("gpu.answers", "OK", "GPU 0", "H100", uuid=uuids[0]),
        finding("gpu.answers", "OK", "GPU 1", "H100", uuid=uuids[1]),
        finding("gpu.ecc", "CRITICAL", "GPU 1", "uncorrectable errors", "reset it"),
    ]
    first, second = judged([answer(here, findings)]).rows
    assert (first.can_take_a_job, first.status) == ("yes", "OK")
    assert (second.can_take_a_job, second.why) == ("no", "GPU 1: uncorrectable errors")


def test_a_host_that_says_nothing() -> None:
    """GitHub's word counts where there is no other; a record that is offline settles it."""
    away = HostAnswer("gpu-1", spec("gpu-1", "a", "b"), reason="cannot be reached", remedy="look")
    fleet = judged([away], [record("gpu-1-a", 1), record("gpu-1-b", 2, online=False)])
    first, second = fleet.rows
    assert (first.can_take_a_job, first.status) == ("unknown", "UNKNOWN")
    assert first.why == "cannot be reached; GitHub shows it online"
    assert (second.can_take_a_job, second.status) == ("no", "CRITICAL")
    assert second.why == "cannot be reached; GitHub shows it offline"
    alone = judged([away])
    assert [each.can_take_a_job for each in alone.rows] == ["unknown", "unknown"]
    assert (alone.status, alone.counts.hosts_unknown) == ("UNKNOWN", 1)


def test_a_slot_that_is_not_there_and_one_that_nobody_wants() -> None:
    """Both have a row: the one of the spec that the host lacks, the one of the host that the spec lacks."""
    extra = finding("slot.registered", "WARNING", "old", "is on this host, but not in its spec", "provision")
    fleet = judged([answer(spec("gpu-1", "a"), [extra, *healthy("old", 5)[1:]])])
    wanted, found = fleet.rows
    assert (wanted.slot, wanted.can_take_a_job) == ("a", "no") and "not on the host" in wanted.why
    assert (found.slot, found.status) == ("old", "WARNING") and found.can_take_a_job == "yes"


def test_records_that_no_host_has() -> None:
    """Named like a runner of the inventory, and none of it; others in the scope are not ours to judge."""
    hosts = [answer(spec(name, "a"), healthy("a", number)) for number, name in ((1, "gpu-1"), (2, "gpu-1-x"))]
    records = [
        record("gpu-1-a", 1),
        record("GPU-1-X-A", 2),
        record("gpu-1-x-b", 3, online=False),
        record("z-a", 4),
    ]
    fleet = judged(hosts, records)
    left = [each for each in fleet.rows if each.kind == "record"]
    assert [(each.host, each.runner_name, each.status) for each in left] == [
        ("gpu-1-x", "gpu-1-x-b", "WARNING")
    ]
    assert "prune" in left[0].remedy
    assert fleet.counts.runners == 2 and fleet.counts.able == 2
    assert not [each for each in judged(hosts, records, whole=False).rows if each.kind == "record"]


def test_an_adopted_runner_keeps_its_name() -> None:
    """Its record is found by the id that the host has; it is no left-over, whatever it is called."""
    fleet = judged([answer(spec("gpu-1", "a"), healthy("a", 7))], [record("gpu-1-before", 7)])
    (found,) = fleet.rows
    assert (found.runner_name, found.can_take_a_job, found.status) == ("gpu-1-before", "yes", "OK")


def test_github_that_does_not_tell_and_a_host_with_a_bad_spec() -> None:
    """UNKNOWN, with the reason; the exit code's order is CRITICAL, UNKNOWN, WARNING, OK."""
    view = GithubView(failures={URL: "403: the token lacks admin:org"})
    fleet = judged([answer(spec("gpu-1", "a"), healthy("a", 1))], [], github=view)
    assert (fleet.rows[0].can_take_a_job, fleet.status) == ("unknown", "UNKNOWN")
    assert "lacks admin:org" in fleet.rows[0].why and "lacks admin:org" in fleet.notes[0]
    wrong = HostAnswer(
        "gpu-2", None, reason="inventory: github_runner_lables is no variable", remedy="did you mean"
    )
    fleet = judge_fleet([wrong], GithubView(note="n"), time=NOW)
    assert (fleet.rows[0].kind, fleet.status) == ("host", "UNKNOWN")
