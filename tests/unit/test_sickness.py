"""From snapshot and verdict to the state of each GPU: whose finding it is, and what it asks for."""

from __future__ import annotations

from datetime import datetime, timezone

import pytest
from msgspec.structs import replace

from runnerctl.core.driver_readings import (
    Baseline,
    BaselineGpu,
    DriverInstall,
    GpuEvent,
    GpuHistory,
    KernelEvent,
    KernelLog,
    Residue,
    ResidueProcess,
)
from runnerctl.core.gpu_readings import EccCounts, Fabric, GpuProcess, NvLink, RemappedRows
from runnerctl.core.health import judge
from runnerctl.core.ladder import GpuState
from runnerctl.core.sickness import gpu_states, slot_gpus
from runnerctl.core.snapshot import (
    Gpu,
    Host,
    NvidiaModule,
    Nvml,
    NvmlFailure,
    NvmlKind,
    PciGpu,
    Snapshot,
    SpecFile,
    TimeSync,
    Unavailable,
)
from runnerctl.core.spec import GithubRunner, HostSpec, NvidiaDriver, Slot
from runnerctl.core.xid import Moment

A, B, MIG = "GPU-aaaaaaaa", "GPU-bbbbbbbb", "MIG-cccccccc"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=timezone.utc)
HOPPER = 9
WELL = (
    Gpu(
        0,
        uuid=A,
        name="NVIDIA H100",
        pci_bus_id="00000000:11:00.0",
        minor=0,
        processes=(),
        architecture=HOPPER,
    ),
    Gpu(
        1,
        uuid=B,
        name="NVIDIA H100",
        pci_bus_id="00000000:21:00.0",
        minor=1,
        processes=(),
        architecture=HOPPER,
    ),
)
SLOTS = (Slot("a", gpus=(A,)), Slot("b", gpus=(B,)), Slot("c"))


def snapshot(*gpus: Gpu, failure: NvmlFailure | None = None, **more: object) -> Snapshot:
    """A host with two H100 and a slot for each."""
    spec = HostSpec(
        host="h1",
        nvidia_driver=NvidiaDriver(gpu_count=2),
        github_runner=GithubRunner(url="https://github.com/acme", slots=SLOTS),
    )
    taken = Snapshot(
        time=NOW,
        duration_seconds=0.1,
        host=Host("h1", "debian", "12", "Debian 12", "6.1.0", "x86_64"),
        spec=SpecFile("/etc/runnerctl/host.json", spec),
        nvml=Nvml(failure, driver_version="575.57.08", count=len(gpus), gpus=gpus),
        nvidia_module=NvidiaModule("575.57.08"),
        pci_gpus=(),
        filesystems=(),
        time_sync=TimeSync(True),
        conda=Unavailable("not asked"),
        slots=(),
    )
    return replace(taken, **more)


def states(taken: Snapshot, history: GpuHistory | None = None) -> dict[str, GpuState]:
    """UUID -> state, by the verdict of the real checks."""
    found = gpu_states(taken, judge(taken), history=history or GpuHistory(), moment=Moment(NOW, "b0"))
    return {state.uuid: state for state in found}


def told(taken: Snapshot, history: GpuHistory | None = None) -> dict[str, str]:
    """UUID -> status and action."""
    return {uuid: f"{each.status} {each.action}" for uuid, each in states(taken, history).items()}


def with_a(**fields: object) -> Snapshot:
    """GPU a differs."""
    return snapshot(replace(WELL[0], **fields), WELL[1])


def failing(kind: NvmlKind) -> Snapshot:
    """A call about GPU a fails."""
    return with_a(failure=NvmlFailure(kind, "nvmlDeviceGetName", "it failed", 1, 0))


def test_healthy_gpus_are_clean() -> None:
    """And slots know their GPUs."""
    assert told(snapshot(*WELL)) == {A: "clean INFO", B: "clean INFO"}
    assert slot_gpus(snapshot(*WELL)) == {"a": (A,), "b": (B,), "c": ()}


CASES: list[tuple[str, Snapshot, str]] = [
    ("lost", failing("gpu_lost"), "sick REBOOT"),
    ("reset required", failing("reset_required"), "sick RESET"),
    ("hang", failing("hang"), "sick REBOOT"),
    ("infoROM", failing("corrupted_inforom"), "sick RMA"),
    ("crash of the library", failing("crash"), "sick WARN"),
    ("behind another GPU's hang", failing("not_reached"), "unknown INFO"),
    ("not allowed", failing("no_permission"), "unknown INFO"),
    (
        "a power cable is missing",
        with_a(failure=NvmlFailure("unknown", "nvmlDeviceGetHandleByIndex", "it failed", 8, 0)),
        "sick POWER",
    ),
    ("the driver wants peer-to-peer traffic drained", with_a(recovery_action=3), "clean INFO"),
    ("the driver says reset", with_a(recovery_action=1), "sick RESET"),
    ("the driver says reboot", with_a(recovery_action=2), "sick REBOOT"),
    ("uncorrectable ECC", with_a(ecc=True, ecc_counts=EccCounts(0, 1, 0, 1)), "sick RESET"),
    ("its whole life's ECC", with_a(ecc=True, ecc_counts=EccCounts(0, 0, 9, 9)), "clean INFO"),
    ("no spare row", with_a(remapped_rows=RemappedRows(0, 1, False, True)), "sick RMA"),
    ("a row that waits", with_a(remapped_rows=RemappedRows(0, 1, True, False)), "clean INFO"),
]


@pytest.mark.parametrize(("taken", "expected"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_what_a_gpu_needs(taken: Snapshot, expected: str) -> None:
    """A finding is its own GPU's; warnings and what is not known are no sickness."""
    assert told(taken)[A] == expected
    assert told(taken)[B] == "clean INFO"


@pytest.mark.parametrize(
    ("kind", "action"), [("mismatch", "REBOOT"), ("hang", "REBOOT"), ("driver_not_loaded", "WARN")]
)
def test_a_driver_that_fails_as_a_whole_is_every_gpus_affair(kind: NvmlKind, action: str) -> None:
    """NVML lists none then: the slots' own UUIDs stand for them."""
    taken = snapshot(failure=NvmlFailure(kind, "nvmlInitWithFlags", "it failed", 18))
    assert told(taken) == {A: f"sick {action}", B: f"sick {action}"}
    assert states(taken)[A].name == "the driver"


def test_gpus_that_nouveau_holds_are_no_use_to_any_job() -> None:
    """The driver is installed and cannot have them: every slot with GPUs is held."""
    taken = snapshot(
        failure=NvmlFailure("driver_not_loaded", "nvmlInitWithFlags", "it failed", 9),
        nvidia_module=NvidiaModule(),
        pci_gpus=tuple(PciGpu(f"0000:{n}1:00.0", "0x2330", "nouveau") for n in (1, 2)),
        driver_install=DriverInstall(
            "6.1.0", next_kernel="6.1.0", library_version="575.57.08", dkms_sources=("575.57.08",)
        ),
    )
    assert told(taken) == {A: "sick WARN", B: "sick WARN"}


def test_a_kernel_log_with_a_gap_may_hide_a_fault() -> None:
    """Lines that were lost are not known to be harmless: nothing is released for them."""
    log = KernelLog(boot_id="b0", source="kmsg", truncated=True)
    assert told(snapshot(*WELL, kernel_log=log)) == {A: "unknown INFO", B: "unknown INFO"}


def test_a_reading_that_was_not_taken_is_unknown() -> None:
    """Of NVML, and of the kernel log, where a fault may stand; in a container it is another's log."""
    assert told(snapshot(nvml=Unavailable("no answer"))) == {A: "unknown INFO", B: "unknown INFO"}
    deaf = snapshot(*WELL, kernel_log=Unavailable("journalctl did not answer"))
    assert told(deaf) == {A: "unknown INFO", B: "unknown INFO"}
    assert told(replace(deaf, host=replace(deaf.host, container="docker")))[A] == "clean INFO"


def xid(code: int, pci: str = "0000:11:00") -> KernelLog:
    """A line of the kernel log."""
    return KernelLog("b0", "journal", (KernelEvent(NOW, "b0", "xid", code, pci),))


def test_the_kernel_log_counts_from_reset_on() -> None:
    """A program's own fault and a warning hold no slot; what was recovered is over."""
    assert told(snapshot(*WELL, kernel_log=xid(31)))[A] == "clean INFO"
    assert told(snapshot(*WELL, kernel_log=xid(79))) == {A: "sick REBOOT", B: "clean INFO"}
    assert told(snapshot(*WELL, kernel_log=xid(95, "0000:21:00")))[B] == "sick RESET"
    done = GpuHistory((GpuEvent(NOW, "b0", "reset", A),))
    assert told(snapshot(*WELL, kernel_log=xid(95)), done)[A] == "clean INFO"


def test_a_gpu_that_vanished_is_missed_and_one_that_never_was_may_be_a_mistake() -> None:
    """A reboot is tried only for one that was well on this host; its address tells what the kernel said."""
    gone = snapshot(WELL[1])
    assert told(gone) == {B: "clean INFO", A: "sick WARN"}
    assert told(gone, GpuHistory((), {A: 3}))[A] == "sick REBOOT"
    saved = Baseline(NOW, gpus=(BaselineGpu(A, pci_bus_id="00000000:11:00.0"),))
    assert told(replace(gone, baseline=saved, kernel_log=xid(79)))[A] == "sick REBOOT"


def test_a_gpu_without_a_name_may_be_the_missing_one() -> None:
    """It is lost so early that it does not tell its UUID."""
    nameless = Gpu(0, NvmlFailure("gpu_lost", "nvmlDeviceGetHandleByIndex_v2", "it is lost", 15, 0))
    assert told(snapshot(nameless, WELL[1])) == {B: "clean INFO", A: "sick REBOOT"}


def test_a_mig_device_is_its_gpus() -> None:
    """A slot of a slice is held with the whole GPU."""
    sliced = with_a(mig_current=1, mig_uuids=(MIG,), recovery_action=1)
    spec = sliced.host_spec
    assert spec is not None
    runner = replace(spec.github_runner, slots=(Slot("a", gpus=(MIG.upper(),)),))
    taken = replace(sliced, spec=SpecFile("x", replace(spec, github_runner=runner)))
    assert slot_gpus(taken) == {"a": (A,)}
    assert told(taken)[A] == "sick RESET"


@pytest.mark.parametrize(
    ("processes", "opened", "minor", "expected"),
    [
        ((), None, 0, ""),
        ((GpuProcess(7, "compute"),), None, 0, "7"),
        (None, None, 0, None),
        (None, (), 0, ""),
        (None, (), None, None),
        ((), (ResidueProcess(8, "python", ("/dev/nvidia0", "/dev/nvidiactl")),), 0, "8 (python)"),
        ((), (ResidueProcess(8, "python", ("/dev/nvidia1",)),), 0, ""),
        ((), (ResidueProcess(9, "nvidia-persiste", ("/dev/nvidia0",)),), 0, ""),
        ((), (ResidueProcess(9, "nvidia-persiste", ("/dev/nvidia0",), "a"),), 0, "9 (nvidia-persiste)"),
    ],
)
def test_who_uses_a_gpu(
    processes: tuple[GpuProcess, ...] | None,
    opened: tuple[ResidueProcess, ...] | None,
    minor: int | None,
    expected: str | None,
) -> None:
    """By NVML and by open files; the driver's own daemons do not count; nothing told is not nobody."""
    taken = with_a(processes=processes, minor=minor, recovery_action=1)
    taken = replace(taken, residue=None if opened is None else Residue(opened))
    assert states(taken)[A].users == expected


def test_gpus_that_belong_together() -> None:
    """All of a fabric; those that NVLink joins; else each its own. Before Ampere they are reset together."""
    alone = states(with_a(recovery_action=1))[A]
    assert (alone.together, alone.alone) == (frozenset({A}), True)
    joined = [replace(gpu, nvlinks=(NvLink(0, True),)) for gpu in WELL]
    sick = states(snapshot(replace(joined[0], recovery_action=1), joined[1]))[A]
    assert (sick.together, sick.alone) == (frozenset({A, B}), True)
    unread = failing("reset_required")
    unread = replace(unread, nvml=replace(unread.nvml, gpus=(unread.nvml.gpus[0], joined[1])))  # type: ignore[union-attr]
    assert states(unread)[A].together == {A, B}
    volta = [replace(gpu, architecture=5, recovery_action=1) for gpu in joined]
    assert states(snapshot(*volta))[A].alone is False
    switched = replace(with_a(recovery_action=1), driver_install=DriverInstall("6.1.0", nvswitches=4))
    assert states(switched)[A].together == {A, B}
    fabric = with_a(recovery_action=1, fabric=Fabric(3, 0))
    assert states(fabric)[A].together == {A, B}
