"""The verdict on what was tried, the unit that tries, and the settings that checks expect."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import SlotSpec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_hardening import hardening
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_units import (
    limit_lines,
    slot_unit_text,
    templates,
    unit_text,
)

from runnerctl.core.checks.slot_devices import CHECKS
from runnerctl.core.device_nodes import DeviceTable, UnitRules
from runnerctl.core.health import judge
from runnerctl.core.isolation import SETTINGS, Attempt, Status, Tried, judge_status, judge_tried
from runnerctl.core.snapshot import SlotReading, Snapshot, Unit, decode
from runnerctl.probes.isolation import parse_status
from runnerctl.probes.isolation_attempts import attempt
from runnerctl.probes.isolation_oneshot import oneshot_text
from runnerctl.probes.isolation_plan import Ground, plan
from tests.component.cli_support import call

UNIT = "gha-runner@a.service"
HEALTHY = (Path(__file__).parent / "cases" / "healthy.json").read_bytes()
SLOT = SlotSpec(name="a", runner_name="h-a", url="https://github.com/acme", version="1.2.3")
STATUS = """Name:\tx
Uid:\t999\t999\t999\t999
Gid:\t997\t997\t997\t997
Groups:\t997 44
CapPrm:\t0000000000000000
CapEff:\t0000000000000000
CapBnd:\t0000000000000000
CapAmb:\t0000000000000000
NoNewPrivs:\t1
Seccomp:\t2
"""


def tried(outcome: str, expect: str = "blocked", target: str = "/dev/nvidia1") -> Tried:
    """One attempt on a node, and what became of it."""
    return Tried(Attempt("devices", "device", target, expect, target), outcome, "ENXIO")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "status", "said"),
    [
        ([tried("blocked"), tried("absent")], "OK", "2 attempts, none succeeded"),
        ([tried("blocked"), tried("allowed", "allowed", "/dev/nvidia0")], "OK", "1 of its own allowed"),
        ([tried("allowed"), tried("blocked")], "CRITICAL", "within reach: /dev/nvidia1"),
        ([tried("blocked", "allowed", "/dev/nvidia0")], "CRITICAL", "out of reach: /dev/nvidia0 (ENXIO)"),
        ([tried("allowed", target=f"/dev/x{n}") for n in range(9)], "CRITICAL", "and 4 more"),
    ],
)
def test_what_is_within_reach_and_must_not_be_is_named(found: list[Tried], status: str, said: str) -> None:
    """And what must be and is not: a slot without its own GPU is no better."""
    (finding,) = judge_tried("a", UNIT, found)
    assert (finding.id, finding.subject, finding.status) == ("isolation.devices", "a", status)
    assert said in finding.summary
    assert bool(finding.remedy) == (status != "OK")


@pytest.mark.parametrize(
    ("line", "instead", "status"),
    [
        ("Name", "Name", "OK"),
        ("NoNewPrivs:\t1", "NoNewPrivs:\t0", "CRITICAL"),
        ("Seccomp:\t2", "Seccomp:\t0", "CRITICAL"),
        ("CapEff:\t0000000000000000", "CapEff:\t0000000000000001", "CRITICAL"),
        ("Uid:\t999\t999", "Uid:\t0\t0", "CRITICAL"),
    ],
)
def test_every_process_of_a_unit_is_held_by_the_kernel(line: str, instead: str, status: str) -> None:
    """What settings say counts for nothing here."""
    found = {7: parse_status(STATUS), 8: parse_status(STATUS.replace(line, instead))}
    assert judge_status("a", UNIT, found, uid=999, engine=False).status == status


def test_the_status_of_a_process_has_its_groups() -> None:
    """A group that opens a socket must be tried with."""
    assert parse_status(STATUS) == Status(999, 997, (997, 44), no_new_privileges=True, filtered=True)


def test_the_unit_that_tries_is_the_slots_own_with_another_program() -> None:
    """All of its sandbox and of what was added, nothing of what starts, orders and restarts the runner."""
    added = "# /etc/systemd/system/x.conf\n[Service]\nDeviceAllow=/dev/nvidia1 rw\nRestart=always\n"
    shown = f"# /etc/systemd/system/gha-runner@.service\n{unit_text()}{slot_unit_text(SLOT)}{added}"
    text = oneshot_text(shown, "a")
    kept = set(hardening().splitlines()) | {"User=gha-%i", "DeviceAllow=/dev/nvidia1 rw"}
    assert kept <= set(text.splitlines())
    starts = [line for line in text.splitlines() if line.startswith("Exec")]
    assert len(starts) == 1
    assert starts[0].endswith("isolation_attempts.py")
    for gone in ("Restart", "Condition", "WantedBy", "Wants=", "After="):
        assert f"\n{gone}" not in text


def test_the_checks_expect_what_the_units_set() -> None:
    """A line that is added to the hardening is expected, too, unless systemd prints it in its own form."""
    set_here = dict(line.split("=", 1) for line in hardening().splitlines())
    assert {name: set_here[name] for name in SETTINGS} == dict(SETTINGS)
    not_compared = {
        "BindReadOnlyPaths",
        "InaccessiblePaths",
        "RestrictAddressFamilies",
        "SystemCallErrorNumber",
        "SystemCallFilter",
        "TemporaryFileSystem",
    }
    assert set(set_here) - set(SETTINGS) == not_compared
    jobs = [text for name, text in templates().items() if name.startswith(("gha-runner", "gha-ephemeral"))]
    assert all(hardening() in text for text in jobs)


def test_limits_stand_in_the_drop_in_where_there_are_some() -> None:
    """Version 1 of control groups has no AllowedCPUs: affinity and quota there."""
    assert limit_lines(SLOT) == []
    slot = replace(SLOT, cpus="0-3,8", memory_bytes=1 << 30, tasks=4096)
    assert limit_lines(slot) == [
        "AllowedCPUs=0-3,8",
        "CPUAffinity=0-3,8",
        "CPUQuota=500%",
        "MemoryMax=1073741824",
        "TasksMax=4096",
    ]


def host(rules: UnitRules, **unit: object) -> Snapshot:
    """The healthy host with one slot whose unit has these rules."""
    found = decode(HEALTHY)
    assert isinstance(found.slots, tuple)
    slot: SlotReading = found.slots[0]
    assert isinstance(slot.unit, Unit)
    slot = msgspec.structs.replace(slot, rules=rules, unit=msgspec.structs.replace(slot.unit, **unit))
    return msgspec.structs.replace(found, slots=(slot,), device_table=DeviceTable())


RULES = UnitRules(policy="closed", settings=dict(SETTINGS))


@pytest.mark.parametrize(
    ("rules", "check", "status", "said"),
    [
        (RULES, "slot.devices", "OK", "opens no GPU"),
        (UnitRules(policy="auto"), "slot.devices", "CRITICAL", "every device of the host"),
        (UnitRules(policy="closed", allow=("/dev/nvidia3 rw",)), "slot.devices", "CRITICAL", "/dev/nvidia3"),
        (UnitRules(policy="closed", gpus=("GPU-gone",)), "slot.devices", "CRITICAL", "GPU-gone is not on"),
        (UnitRules(policy="closed", allow=("/dev/kvm rw",)), "slot.devices", "WARNING", "/dev/kvm"),
        (RULES, "slot.exposure", "OK", f"{len(SETTINGS)} settings"),
        (UnitRules(settings={"NoNewPrivileges": "no"}), "slot.exposure", "CRITICAL", "NoNewPrivileges=no"),
    ],
)
def test_health_names_what_a_unit_opens(rules: UnitRules, check: str, status: str, said: str) -> None:
    """Without making an attempt: from what systemd has loaded."""
    finding = next(each for each in judge(host(rules), CHECKS).findings if each.id == check)
    assert (finding.status, said in finding.summary) == (status, True), finding


def test_a_drop_in_of_somebody_elses_is_a_warning() -> None:
    """It may be meant; the attempts tell."""
    findings = judge(host(RULES, drop_ins=("10-slot.conf", "99-more.conf")), CHECKS).findings
    assert [each.summary for each in findings if each.status == "WARNING"] == [
        "somebody added 99-more.conf to its unit"
    ]


@pytest.mark.parametrize(("mode", "tried"), [("gha-runner", True), ("gha-ephemeral", False)])
def test_an_ephemeral_slots_registration_is_its_jobs_own(mode: str, tried: bool) -> None:
    """It lies in memory, is good for that job, and goes with it; a persistent one stays as it is."""
    made = plan(Ground("a", f"{mode}@a.service", 64999, "/none"))
    written = {each.target for each in made if each.kind == "write"}
    assert ("/var/lib/gha-runner/a/.runner" in written) is tried
    assert "/opt/runnerctl/hooks/job-started.sh" in written


def test_attempts_change_nothing(tmp_path: Path) -> None:
    """What is allowed is said, and all is as it was."""
    (tmp_path / "file").write_text("as it was")
    said = {kind: attempt(kind, str(tmp_path / "file"))[0] for kind in ("read", "write")}
    said |= {"list": attempt("list", str(tmp_path))[0], "create": attempt("create", str(tmp_path))[0]}
    said["device"] = attempt("device", "/dev/null")[0]
    assert set(said.values()) == {"allowed"}
    assert attempt("read", str(tmp_path / "none")) == ("absent", "ENOENT")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["as it was"]


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["isolation", "verify"], 3),
        (["isolation", "verify", "-o", "yaml"], 3),
        (["isolation", "devices", "a", "--apply"], 77),
        (["isolation", "devices"], 64),
    ],
)
def test_only_verify_has_a_verdict_as_its_exit_code(words: list[str], code: int) -> None:
    """Its own failure is UNKNOWN; the other command fails as commands do."""
    assert call(*words, user_id=1000).code == code


def test_a_slot_without_a_unit_is_named(tmp_path: Path) -> None:
    """One line, and what to do."""
    ran = call("isolation", "devices", "a", root=tmp_path, env={"PATH": os.environ["PATH"]})
    assert ran.code == 78
    assert "a: has no unit on this host; `runnerctl list`" in ran.err
    assert not ran.out
