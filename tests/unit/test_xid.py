"""Kernel log lines -> events -> what a GPU needs."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from runnerctl.core.driver_readings import GpuEvent, GpuHistory, KernelEvent
from runnerctl.core.gpu_readings import EccCounts, Gpu, RemappedRows
from runnerctl.core.kernel_lines import Line, normal_pci, parse_lines
from runnerctl.core.xid import GpuCondition, Moment, assess
from runnerctl.core.xid_table import ACTIONS, BUCKETS, TABLE, xid

NOW = datetime(2026, 11, 22, 9, 0, tzinfo=timezone.utc)
BOOT, EARLIER_BOOT = "b" * 32, "a" * 32
PCI = "0000:11:00"
UUID = "GPU-1"
NOTE: dict[str, Any] = {"boot_id": BOOT, "uuid": UUID}


def parsed(*messages: str) -> list[KernelEvent]:
    """Events of messages that came one second after the other."""
    return parse_lines(
        Line(NOW + timedelta(seconds=number), BOOT, message) for number, message in enumerate(messages)
    )


def at(hours: float, code: int, **more: Any) -> KernelEvent:
    """An Xid some hours ago."""
    settings = {"boot_id": BOOT, "pci": PCI, **more}
    return KernelEvent(time=NOW - timedelta(hours=hours), kind="xid", code=code, **settings)


def judged(*events: KernelEvent, gpu: Gpu | None = None, notes: tuple[GpuEvent, ...] = ()) -> GpuCondition:
    """The condition of the GPU at PCI."""
    gpu = gpu or Gpu(index=0, uuid=UUID, pci_bus_id="00000000:11:00.0")
    conditions = assess(events, Moment(NOW, BOOT), gpus=[gpu], history=GpuHistory(events=notes))
    return next(condition for condition in conditions if condition.pci == PCI)


def gpu(**fields: Any) -> Gpu:
    """The GPU at PCI with more fields."""
    return Gpu(index=0, uuid=UUID, pci_bus_id="00000000:11:00.0", **fields)


def note(kind: Any, hours: float, boot_id: str = BOOT) -> GpuEvent:
    """Something done to the GPU some hours ago."""
    return GpuEvent(NOW - timedelta(hours=hours), boot_id, kind, UUID)


@pytest.mark.parametrize(
    "message",
    [
        "NVRM: Xid ([42]: segfault at 0 ip 0 sp 0 error 14 in 0000:11:00.0): 79, it is gone[400000+1000]",
        "<3>NVRM: Xid (P[42] bad frame in sigreturn frame:0 ip:0 sp:0 in CI:0000:11:00): 79[4000+1000]",
        "NVRM: x[42]: segfault at 0 ip 0 sp 0 error 4 in GPU 0000:11:00.0 has fallen off the bus[4000+1000]",
        "NVRM: x[42]: unhandled exception: ESR 0x0 in 0000:11:00.0 RmInitAdapter failed![400000+1000]",
        "NVRM: Xid: 79[42]: segfault at 0 ip 0 sp 0 error 4",
        "NVRM: Xid: 79 invoked oom-killer: gfp_mask=0xcc0, order=0, oom_score_adj=0",
        "x[42]: segfault at 0 ip 0 sp 0 error 14 in Key was rejected by service[400000+1000]",
    ],
)
def test_names_that_a_job_chose_are_not_the_drivers_word(message: str) -> None:
    """A program and its file may have any name, and the kernel writes both when it dies."""
    assert parsed(message) == []
    assert len(parsed("NVRM: Xid (PCI:0000:11:00): 79, gone", message)) == 1


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "NVRM: Xid (PCI:0000:11:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
            {"code": 79, "pci": PCI, "pid": None, "process": None, "message": "GPU has fallen off the bus."},
        ),
        (
            "NVRM: Xid (PCI:0001:11:00.0): 31, pid=1234, name=python, Ch 00000008, intr 00000000. MMU Fault",
            {"code": 31, "pci": "0001:11:00", "pid": 1234, "process": "python"},
        ),
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", {"code": 14, "pci": "0000:03:00"}),
        ("NVRM: Xid (PCI:0000:03:00): 8, Channel 00000001", {"code": 8, "message": "Channel 00000001"}),
        ("NVRM: GPU0 Xid (PCI:0000:03:00): 62, 0000(0000)", {"code": 62, "pci": "0000:03:00"}),
        ("NVRM: Xid (PCI:0000:03:00): 95", {"code": 95, "message": ""}),
        ("NVRM: Xid (PCI:0000:03:00): 4711, something new", {"code": 4711}),
        (
            "NVRM: Xid (PCI:0008:01:00): 149, NETIR_LINK_EVT Fatal XC0 i0 Link 08 (0x004505c6 0x00000000)",
            {"code": 149, "pci": "0008:01:00", "fatal": True, "subcode": 4},
        ),
        (
            "NVRM: Xid (PCI:0018:01:00): 145, pid=876767, name=ray::WorkerDict, RLW_RXPIPE Nonfatal XC0 i0 "
            "Link 13 (0x0409a0c2 0x00000008 0x00000001)",
            {"code": 145, "pid": 876767, "process": "ray::WorkerDict", "fatal": False, "subcode": 0},
        ),
        (
            "NVRM: Xid (PCI:0018:01:00): 145, pid=8, name=x, Nonfatal, RLW_RXPIPE Fatal XC0 i0 Link 13 "
            "(0x0409a0c2 0x00000008)",
            {"code": 145, "fatal": True, "subcode": 0},
        ),
        (
            "NVRM: Xid (PCI:0018:01:00): 149, pid=8, name=x,(0x1 0x2), NETIR_LINK_EVT Fatal XC0 i0 Link 08 "
            "(0x004505c6 0x00000000)",
            {"code": 149, "fatal": True, "subcode": 4},
        ),
        (
            "NVRM: Xid (PCI:0000:11:00): 154, GPU recovery action changed from 0x0 (None) to "
            "0x1 (GPU Reset Required)",
            {"code": 154, "recovery": "reset"},
        ),
        (
            "NVRM: Xid (PCI:0000:11:00): 154, GPU recovery action changed from 0x0 (None) to 0x2 (OS Reboot)",
            {"code": 154, "recovery": "reboot"},
        ),
        (
            "NVRM: Xid (PCI:0000:11:00): 154, GPU recovery action changed from None to Drain and Reset",
            {"code": 154, "recovery": "drain_and_reset"},
        ),
        (
            "NVRM: GPU 0000:18:00.0: GPU has fallen off the bus.",
            {"kind": "off_the_bus", "code": None, "pci": "0000:18:00"},
        ),
        (
            "NVRM: The NVIDIA GPU 0000:b3:00.0\nNVRM: (PCI ID: 10de:26b5) installed in this system has\n"
            "NVRM: fallen off the bus and is not responding to commands.",
            {"kind": "off_the_bus", "pci": "0000:b3:00"},
        ),
        (
            "nvidia-nvswitch3: SXid (PCI:0000:05:00.0): 12028, Non-fatal, Link 32 egress error (First)",
            {
                "kind": "sxid",
                "code": 12028,
                "pci": "0000:05:00",
                "fatal": False,
                "device": "nvidia-nvswitch3",
            },
        ),
        (
            "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): 11001, Fatal, ingress invalid command",
            {"kind": "sxid", "code": 11001, "fatal": True},
        ),
        ("NVRM: GPU 0000:01:00.0: RmInitAdapter failed! (0x62:0x40:2393)", {"kind": "init_failed"}),
        ("NVRM: GPU at PCI:0000:11:00 GSP heartbeat timed out", {"kind": "gsp", "pci": PCI}),
        ("Loading of module with unavailable key is rejected", {"kind": "key_rejected", "fatal": True}),
        (
            "nvidia: module verification failed: signature and/or required key missing - tainting kernel",
            {"kind": "key_rejected", "fatal": False},
        ),
    ],
)
def test_every_form_of_a_line_is_understood(message: str, expected: dict[str, Any]) -> None:
    """All forms of the driver's lines, old and new."""
    (event,) = parsed(message)
    assert {name: getattr(event, name) for name in expected} == expected


@pytest.mark.parametrize(
    "message",
    [
        "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  575.57.08",
        "NVRM: GPU at PCI:0000:11:00: GPU-b850f46d-d5ea-c752-ddf3-c4453e44d3f7",
        "python[77]: NVRM: Xid (PCI:0000:11:00): 79, forged by a program",
        "nvidia-nvswitch0: SXid (PCI:0000:05:00.0): garbled, Fatal",
        "",
    ],
)
def test_other_lines_are_no_events(message: str) -> None:
    """What a program can put into the log, and what the driver says in good times."""
    assert parsed(message) == []


@pytest.mark.parametrize(
    "before",
    [
        "[  12.345678] ",
        "<3>[ 12.3] ",
        "[ 12.3][ T1234] ",
        "[    T7] ",
        "\x1b[31m",
        "\x1b[0;1m[ 1.0] \x1b[31m",
    ],
)
def test_what_the_console_adds_to_a_line_is_left_out(before: str) -> None:
    """Level, time, caller and colours, as syslog and captured consoles have them."""
    (event,) = parsed(f"{before}NVRM: Xid (PCI:0000:11:00): 95, pid=7, name=python, Uncontained\x1b[0m")
    assert (event.code, event.pci, event.message) == (95, PCI, "Uncontained")


def test_a_code_is_never_too_large_to_be_seen() -> None:
    """An unknown code is a probe, never silence."""
    (event,) = parsed("NVRM: Xid (PCI:0000:11:00): 12345678, something new")
    assert judged(event).action == "PROBE"


def test_messages_over_several_records_are_joined() -> None:
    """The kernel may keep the lines of one message apart; an Xid between them is not swallowed."""
    events = parsed(
        "NVRM: The NVIDIA GPU 0000:18:00.0",
        "NVRM: (PCI ID: 10de:2330) installed in this system has",
        "NVRM: fallen off the bus and is not responding to commands.",
        "NVRM: API mismatch: the client has the version 570.1, but",
        "NVRM: this kernel module has the version 575.57.08.  Please",
        "NVRM: The NVIDIA GPU 0000:19:00.0",
        "NVRM: Xid (PCI:0000:18:00): 79, GPU has fallen off the bus.",
    )
    assert [(event.kind, event.pci) for event in events] == [
        ("off_the_bus", "0000:18:00"),
        ("api_mismatch", None),
        ("xid", "0000:18:00"),
    ]
    assert "575.57.08" in events[1].message


def test_a_domain_is_part_of_an_address() -> None:
    """NVML writes eight digits, the kernel four."""
    assert normal_pci("00000000:3B:00.0") == normal_pci("PCI:0000:3b:00") == "0000:3b:00"
    assert normal_pci("00010000:3B:00.0") == "10000:3b:00"
    assert normal_pci("no address") is normal_pci(None) is None


def test_the_table_is_sound() -> None:
    """Known buckets, known actions; unknown codes are probes."""
    assert all(entry.bucket in BUCKETS or not entry.bucket for entry in TABLE.values())
    assert all(entry.action in ACTIONS and entry.meaning and entry.cause for entry in TABLE.values())
    assert list(TABLE) == sorted(TABLE)
    assert (xid(999).action, xid(999).known) == ("PROBE", False)
    referenced = {
        8,
        11,
        13,
        25,
        31,
        32,
        43,
        45,
        46,
        48,
        54,
        60,
        79,
        92,
        93,
        94,
        95,
        109,
        110,
        119,
        120,
        121,
        140,
    }
    assert referenced | set(range(37, 42)) | set(range(61, 65)) | set(range(126, 138)) <= set(TABLE)
    assert set(range(143, 151)) | set(range(154, 162)) | {167, 169, 171, 172} <= set(TABLE)


@pytest.mark.parametrize(
    ("events", "action"),
    [
        ([], "INFO"),
        ([at(1, 13), at(2, 31), at(3, 43)], "INFO"),
        ([at(hour, 31) for hour in range(20)], "INFO"),
        ([at(1, 45)], "INFO"),
        ([at(1, 8)], "PROBE"),
        ([at(1, 9999)], "PROBE"),
        ([at(1, 32)], "INFO"),
        ([at(1, 32), at(2, 32)], "PROBE"),
        ([at(1, 48), at(1, 171), at(1, 45)], "RESET"),
        ([at(1, 119)], "RESET"),
        ([at(1, 119), at(3, 119)], "REBOOT"),
        ([at(1, 119), at(3, 95)], "REBOOT"),
        ([at(1, 119), at(30, 119)], "RESET"),
        ([at(1, 79)], "REBOOT"),
        ([at(1, 79), at(2, 79)], "POWER"),
        ([at(1, 74), at(2, 74)], "RMA"),
        ([at(1, 64), at(2, 64)], "RMA"),
        ([at(1, 54)], "POWER"),
        ([at(1, 92)], "WARN"),
        ([at(30, 92)], "INFO"),
        ([at(1, 122), at(2, 122)], "RMA"),
        ([at(1, 149, fatal=True)], "RESET"),
        ([at(1, 149, fatal=False)], "INFO"),
        ([at(1, 149)], "PROBE"),
        ([at(1, 109)], "PROBE"),
        ([at(1, 109), at(1, 154, recovery="reset")], "RESET"),
        ([at(1, 31), at(1, 154, recovery="reboot")], "REBOOT"),
        ([at(1, 154, recovery=None)], "PROBE"),
        ([at(1, 119), at(0.9, 154, recovery="none")], "PROBE"),
        ([at(0.9, 119), at(1, 154, recovery="none")], "RESET"),
        ([at(30, 119)], "RESET"),
    ],
)
def test_the_policy(events: list[KernelEvent], action: str) -> None:
    """Code by code, alone and repeated."""
    condition = judged(*events)
    assert condition.action == action
    assert condition.reason


def test_a_burst_is_one_occurrence() -> None:
    """A fault logged by every unit, and one logged every 45 seconds, do not climb."""
    per_unit = [at(1 + number / 36000, 95) for number in range(300)]
    assert (judged(*per_unit).action, judged(*per_unit).count) == ("RESET", 1)
    waiting = [at(1 + number * 45 / 3600, 119) for number in range(20)]
    assert (judged(*waiting).action, judged(*waiting).count) == ("RESET", 1)


@pytest.mark.parametrize(
    ("event", "what", "action"),
    [
        (at(2, 119), note("reset", 1), "INFO"),
        (at(1, 119), note("reset", 2), "RESET"),
        (at(2, 119), note("probe_passed", 1), "RESET"),
        (at(2, 8), note("probe_passed", 1), "INFO"),
        (at(2, 8), note("probe_failed", 1), "RESET"),
        (at(2, 79), note("reset", 1), "REBOOT"),
        (at(2, 54), note("reset", 1), "POWER"),
        (at(2, 54), note("released", 1), "INFO"),
        (at(2, 154, recovery="reset"), note("reset", 1), "INFO"),
    ],
)
def test_what_was_recovered_is_over(event: KernelEvent, what: GpuEvent, action: str) -> None:
    """Each class ends with what it asked for, not with less."""
    assert judged(event, notes=(what,)).action == action


def test_a_boot_ends_a_reset_and_a_reboot_but_no_replacement() -> None:
    """The boot id tells."""
    for code in (8, 48, 79):
        condition = judged(at(2, code, boot_id=EARLIER_BOOT))
        assert (condition.action, condition.settled) == ("INFO", 1)
    assert judged(at(2, 54, boot_id=EARLIER_BOOT)).action == "POWER"
    assert judged(at(2, 154, recovery="reboot", boot_id=EARLIER_BOOT)).action == "INFO"


def test_it_climbs_after_a_recovery_too() -> None:
    """A reset that did not last; then a reboot that did not."""
    again = judged(at(3, 119), at(1, 119), notes=(note("reset", 2),))
    assert (again.action, again.count) == ("REBOOT", 2)
    third = judged(at(3, 119, boot_id=EARLIER_BOOT), at(2.5, 119, boot_id=EARLIER_BOOT), at(1, 119))
    assert (third.action, third.count) == ("POWER", 3)


def test_a_gpu_taken_out_stays_out_until_it_is_released() -> None:
    """What the host wrote down outlives the log."""
    assert judged(notes=(note("taken_out", 90),)).action == "RMA"
    assert judged(notes=(note("taken_out", 90), note("released", 80))).action == "INFO"


def test_the_drivers_own_word_wins() -> None:
    """Field 230, upwards and downwards; a repeated fault is not talked away."""
    assert judged(gpu=gpu(recovery_action=1)).action == "RESET"
    assert judged(at(1, 31), gpu=gpu(recovery_action=2)).action == "REBOOT"
    assert judged(at(1, 109), gpu=gpu(recovery_action=4)).action == "RESET"
    assert judged(at(1, 119), gpu=gpu(recovery_action=0)).action == "PROBE"
    assert judged(at(1, 119), at(3, 119), gpu=gpu(recovery_action=0)).action == "REBOOT"
    assert judged(at(1, 154, recovery="reset"), gpu=gpu(recovery_action=0)).action == "INFO"
    assert judged(gpu=gpu(recovery_action=99)).action == "PROBE"


def test_memory_is_judged_with_what_nvml_knows() -> None:
    """The SRAM threshold makes it a replacement; a pending remap a reset at idle."""
    worn = gpu(ecc_counts=EccCounts(sram_threshold_exceeded=True))
    assert judged(at(1, 48), at(1, 172), gpu=worn).action == "RMA"
    assert judged(at(1, 63)).reset_when_idle
    assert judged(at(1, 94)).reset_when_idle
    assert not judged(at(1, 63), notes=(note("reset", 0.5),)).reset_when_idle
    done = gpu(remapped_rows=RemappedRows(0, 1, pending=False, failure=False))
    assert not judged(at(1, 63), gpu=done).reset_when_idle


def test_another_domain_is_another_gpu() -> None:
    """Same bus, other domain: the healthy one stays healthy."""
    events = [at(1, 79, pci="0001:11:00")]
    mine, other = assess(events, Moment(NOW, BOOT), gpus=[gpu()])
    assert (mine.pci, mine.action) == (PCI, "INFO")
    assert (other.pci, other.gpu, other.action) == ("0001:11:00", None, "REBOOT")
