"""Fleets for tests: hosts with verdicts, GitHub's records of their runners, and what may be wrong."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from runnerctl.core.findings import Finding, Status
from runnerctl.core.fleet import Fleet, GithubView, HostAnswer, judge_fleet
from runnerctl.core.fleet_causes import FleetRecord
from runnerctl.core.health import Health, worst
from runnerctl.core.spec import HostSpec, host_spec

__all__ = [
    "NOW",
    "URL",
    "answer",
    "big_fleet",
    "finding",
    "healthy",
    "judged",
    "record",
    "small_fleet",
    "spec",
]

NOW = datetime(2026, 11, 22, 15, 4, 5, tzinfo=timezone.utc)
URL = "https://github.com/acme"
GPU = "GPU-6f1a0c3e-2d4b-4c5a-9e8f-0a1b2c3d4e5f"


def spec(host: str, *slots: str, **variables: Any) -> HostSpec:
    """The spec of a host with these slots."""
    values = {
        "github_runner_url": URL,
        "github_runner_slots": [{"name": name} for name in slots],
        **variables,
    }
    found, problems = host_spec(host, values)
    assert found is not None, problems
    return found


def finding(check: str, status: Status, subject: str, summary: str, remedy: str = "", **data: Any) -> Finding:
    """One finding."""
    return Finding(check, status, subject, summary, remedy, data)


def healthy(slot: str, number: int, *, busy: bool = False, line_age_seconds: float = 30) -> list[Finding]:
    """What a host says of a slot whose runner listens."""
    said = f"{NOW - timedelta(seconds=line_age_seconds):%Y-%m-%dT%H:%M:%SZ}"
    return [
        finding("slot.registered", "OK", slot, "registered", agent_id=number),
        finding("slot.unit", "OK", slot, "active (running)", active_state="active"),
        finding("slot.listener", "OK", slot, "the listener runs", busy=busy),
        finding("slot.connection", "OK", slot, "connected", last_line_at=said),
    ]


def record(name: str, number: int, **fields: Any) -> FleetRecord:
    """GitHub's record of a runner that is online and idle."""
    settings: dict[str, Any] = {
        "online": True,
        "busy": False,
        "group": "Default",
        "group_is_default": True,
        "version": "2.336.0",
        "expires_at": NOW + timedelta(days=60),
        **fields,
    }
    return FleetRecord(id=number, name=name, **settings)


def answer(host: HostSpec, findings: list[Finding]) -> HostAnswer:
    """A host's answer with these findings."""
    health = Health(
        status=worst(findings),
        host=host.host,
        checked_at=NOW,
        duration_seconds=1.0,
        findings=tuple(findings),
    )
    return HostAnswer(host.host, host, health=health)


def judged(answers: list[HostAnswer], records: list[FleetRecord] | None = None, **settings: Any) -> Fleet:
    """The verdict on a fleet; without ``records`` GitHub was not asked."""
    github = GithubView(note="GitHub was not asked: this is the hosts' own view")
    if records is not None:
        github = GithubView(records={URL: tuple(records)})
    return judge_fleet(answers, settings.pop("github", github), time=NOW, **settings)


def small_fleet() -> Fleet:
    """Three hosts: one fine, one with a full disk, one away."""
    first, second, third = (spec(f"gpu-{number}", "a", "b") for number in (1, 2, 3))
    disk = finding(
        "host.disk",
        "CRITICAL",
        "/var/lib/gha-runner",
        "0.4 GB free of 894.0 GB, under 4 %",
        "remove what fills it: `du -xh --max-depth=2 / | sort -h | tail`",
    )
    answers = [
        answer(first, [*healthy("a", 1), *healthy("b", 2, busy=True)]),
        answer(second, [disk, *healthy("a", 3), *healthy("b", 4)]),
        HostAnswer(
            "gpu-3",
            third,
            reason="cannot be reached: ssh: connect to host 10.0.0.3 port 22: No route to host",
            remedy="see why it does not answer to SSH",
        ),
    ]
    records = [record(f"gpu-{1 + number // 2}-{'ab'[number % 2]}", number + 1) for number in range(4)]
    records += [record("gpu-3-a", 5, online=False), record("gpu-3-b", 6, online=False)]
    return judged(answers, records, duration_seconds=7.4)


def big_fleet(hosts: int = 60) -> Fleet:
    """A fleet as it is: nearly all is well, and a few things are wrong in different ways."""
    answers, records = [], []
    for number in range(1, hosts + 1):
        name = f"gpu-{number:02}.hall2"
        here = spec(name, "a", "b", "c", "d", github_runner_labels=["h100"])
        findings = []
        for place, slot in enumerate("abcd"):
            ident = number * 10 + place
            busy = (number * 7 + place * 3) % 5 < 2
            findings += healthy(slot, ident, busy=busy)
            records.append(record(f"{name}-{slot}", ident, busy=busy, labels=("h100",)))
        answers.append(answer(here, _faults(number, findings, records)))
    away = spec("gpu-61.hall2", "a", "b", "c", "d")
    answers.append(
        HostAnswer("gpu-61.hall2", away, reason="gave no answer within 50 s", remedy="see why it is slow")
    )
    records.append(record("gpu-07.hall2-old", 9999, online=False))
    return judged(answers, records, duration_seconds=23.0)


def _faults(number: int, findings: list[Finding], records: list[FleetRecord]) -> list[Finding]:
    """What is wrong with a few of the hosts."""
    found = findings
    if number == 12:
        held = finding(
            "slot.unit",
            "WARNING",
            "a",
            "held: GPU 0 fell off the bus (Xid 79)",
            "mend what the reason says: it is released after clean verdicts in a row",
        )
        found = [held if each.id == "slot.unit" and each.subject == "a" else each for each in found]
    if number == 23:
        stopped = finding(
            "slot.listener",
            "CRITICAL",
            "c",
            "the listener is stopped (SIGSTOP) and takes no job",
            "`systemctl restart gha-runner@c.service`; a job may have stopped it",
        )
        found = [stopped if each.id == "slot.listener" and each.subject == "c" else each for each in found]
    if number == 31:
        records[-1] = record(records[-1].name, records[-1].id, labels=("a100",))
    if number == 40:
        found = [
            *found,
            finding(
                "host.time_sync",
                "WARNING",
                "host",
                "nothing keeps the clock right",
                "`timedatectl set-ntp true`",
            ),
        ]
    return found
