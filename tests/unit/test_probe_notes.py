"""Probes and treatments as the host noted them, and what is noted of a probe."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from runnerctl.core.deep_readings import DeepFailure, DeepGpu, DeepProbe, MemoryTest, Transfers
from runnerctl.core.driver_readings import GpuEvent, GpuHistory, KernelEvent
from runnerctl.core.gpu_readings import Gpu
from runnerctl.core.probe_notes import failed_probe, in_effect
from runnerctl.core.probe_results import probe_results
from runnerctl.core.snapshot import (
    Host,
    NvidiaModule,
    Nvml,
    Snapshot,
    SpecFile,
    TimeSync,
    Unavailable,
)
from runnerctl.core.xid import Moment, assess

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
BOOT, BEFORE = "b1", "b0"
A = "GPU-aaaaaaaa"


def events(*kinds: str, boot: str = BOOT) -> tuple[GpuEvent, ...]:
    """So many minutes apart, the last one just now."""
    return tuple(
        GpuEvent(NOW - timedelta(minutes=len(kinds) - number), boot, kind, A, reason="cuInit hangs")  # type: ignore[arg-type]
        for number, kind in enumerate(kinds)
    )


@pytest.mark.parametrize(
    ("kinds", "treated"),
    [
        ((), None),
        (("reset",), None),
        (("probe_failed",), False),
        (("probe_failed", "reset"), True),
        (("probe_failed", "reset", "reset_failed"), False),
        (("probe_failed", "reset", "reset_failed", "reset"), True),
        (("probe_failed", "reset", "probe_failed"), False),
        (("probe_failed", "reset", "probe_passed"), None),
        (("probe_failed", "released"), None),
        (("probe_failed", "reboot"), False),
        (("probe_failed", "taken_out"), False),
        (("probe_passed", "probe_failed"), False),
    ],
)
def test_a_failed_probe_holds_until_a_later_one_passes(kinds: tuple[str, ...], treated: bool | None) -> None:
    """A treatment does not make up for it; a reset that failed is none."""
    found = failed_probe(in_effect(events(*kinds)), BOOT)
    assert (found.treated if found else None) is treated


def test_a_boot_is_a_treatment() -> None:
    """Whoever booted the host; a boot that is not known is this one."""
    found = failed_probe(events("probe_failed", boot=BEFORE), BOOT)
    assert found
    assert found.treated
    for one, other in (("", BOOT), (BOOT, "")):
        found = failed_probe(events("probe_failed", boot=one), other)
        assert found
        assert not found.treated


def needs(*kinds: str, code: int | None = None, boot: str = BOOT) -> tuple[str, bool, str]:
    """Action, whether a probe is owed, and the reason."""
    gpu = Gpu(0, uuid=A, pci_bus_id="00000000:11:00.0")
    log = [KernelEvent(NOW - timedelta(hours=1), BOOT, "xid", code=code, pci="0000:11:00")] if code else []
    found = assess(log, Moment(NOW, BOOT), gpus=(gpu,), history=GpuHistory(events(*kinds, boot=boot)))
    return found[0].action, found[0].probe_owed, found[0].reason


def test_a_gpu_that_failed_its_probe_needs_a_reset_then_a_probe() -> None:
    """Beside whatever the kernel log says; NVML's clean reading is no proof."""
    assert needs("probe_failed") == ("RESET", False, "its probe failed: cuInit hangs")
    assert needs("probe_failed", code=8)[0] == "RESET"
    assert needs("probe_failed", "reset")[:2] == ("PROBE", True)
    assert needs("probe_failed", boot=BEFORE)[:2] == ("PROBE", True)
    assert needs("probe_failed", "reset", "probe_passed", code=8)[:2] == ("INFO", False)
    assert needs("probe_failed", "taken_out")[0] == "RMA"


def test_a_reset_that_failed_ends_nothing() -> None:
    """It is noted before it is tried."""
    assert needs("reset", code=119)[0] == "INFO"
    assert needs("reset", "reset_failed", code=119)[0] == "RESET"


def result(*devices: dict[str, Any], thorough: bool = False) -> tuple[str | None, str]:
    """What is noted of these devices of one GPU."""
    taken = Snapshot(
        time=NOW,
        duration_seconds=0.1,
        host=Host("h1", "debian", "12", "Debian 12", "6.1.0", "x86_64"),
        spec=SpecFile("/etc/runnerctl/host.json"),
        nvml=Nvml(count=1, gpus=(Gpu(0, uuid=A),)),
        nvidia_module=NvidiaModule(),
        pci_gpus=(),
        filesystems=(),
        time_sync=TimeSync(True),
        conda=Unavailable("not asked"),
        slots=(),
    )
    deep = DeepProbe(gpus=tuple(DeepGpu(0, A, kernels=True, **device) for device in devices))
    return tuple(probe_results(taken, deep, thorough={A} if thorough else ())[A])  # type: ignore[return-value]


def failure(kind: Any, code: int | None = None) -> DeepFailure:
    """A part that was stopped."""
    return DeepFailure(kind, "cuInit", "it went wrong", code)


GOOD = MemoryTest(total_bytes=10, tested_bytes=9, passes=4)


@pytest.mark.parametrize(
    ("device", "thorough", "kind"),
    [
        ({}, False, "probe_passed"),
        ({}, True, None),
        ({"memory": GOOD}, True, "probe_passed"),
        ({"memory": MemoryTest(failure=failure("in_use"))}, False, "probe_passed"),
        ({"memory": MemoryTest(failure=failure("in_use"))}, True, None),
        ({"memory": MemoryTest(mismatches=1, first_bad=4)}, False, "probe_failed"),
        ({"memory": MemoryTest(failure=failure("hang"))}, False, "probe_failed"),
        ({"memory": GOOD, "transfers": Transfers(failure=failure("error", 700))}, False, "probe_passed"),
        ({"failure": failure("error", 719)}, False, "probe_failed"),
        ({"failure": failure("hang")}, False, "probe_failed"),
        ({"failure": failure("crash")}, False, "probe_failed"),
        ({"failure": failure("wrong_data")}, False, "probe_failed"),
        ({"failure": failure("in_use", 2)}, False, None),
        ({"failure": failure("library_missing")}, False, None),
        ({"failure": failure("error", 802)}, False, None),
        ({"failure": failure("error", 804)}, False, None),
    ],
)
def test_what_a_probe_says_of_a_gpu(device: dict[str, Any], thorough: bool, kind: str | None) -> None:
    """The host's software and a GPU that somebody uses say nothing about it, good or bad."""
    found, reason = result(device, thorough=thorough)
    assert found == kind
    assert reason


def test_a_gpu_in_mig_mode_is_as_good_as_its_worst_device() -> None:
    """Each of its devices is probed."""
    one, other = {"mig": "MIG-1"}, {"mig": "MIG-2"}
    assert result(one, other)[0] == "probe_passed"
    assert result(one, {**other, "failure": failure("hang")})[0] == "probe_failed"
    assert result(one, {**other, "failure": failure("in_use")})[0] is None
