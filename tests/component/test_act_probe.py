"""`health --act` has GPUs prove that they work: which, when, and what follows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import Result
from msgspec.structs import replace

from runnerctl.cli.act import act
from runnerctl.cli.notes import MOST_EVENTS, Notes
from runnerctl.core.deep_readings import DeepFailure, DeepGpu, DeepKind, DeepProbe, Extent, MemoryTest
from runnerctl.core.driver_readings import GpuEvent, KernelEvent, KernelLog
from runnerctl.core.gpu_readings import GpuProcess
from runnerctl.core.health import judge
from runnerctl.core.snapshot import (
    Gpu,
    Host,
    NvidiaModule,
    Nvml,
    Snapshot,
    SpecFile,
    TimeSync,
    Unavailable,
)
from runnerctl.core.spec import GithubRunner, HostSpec, Runnerctl, Slot
from tests.component.hold_place import BOOT, NOW, A, B, Place, make_place

SPEC = HostSpec(
    host="h1",
    runnerctl=Runnerctl(health_clean_probes=2),
    github_runner=GithubRunner(
        url="https://github.com/acme", slots=(Slot("a", gpus=(A,)), Slot("b", gpus=(B,)), Slot("c"))
    ),
)
GPUS = (
    Gpu(0, uuid=A, pci_bus_id="00000000:11:00.0", minor=0, processes=()),
    Gpu(1, uuid=B, pci_bus_id="00000000:21:00.0", minor=1, processes=()),
)
CONTAINED = KernelEvent(NOW, BOOT, "xid", code=8, pci="0000:11:00")  # of class PROBE
OF_ANOTHER = replace(CONTAINED, pci="0000:21:00")


@dataclass
class Rounds:
    """Rounds on one host. ``fails``: what stops the workload of GPU 0, ``bad_memory`` its memory test.

    ``job_begins``: the slot that gets a job while GPUs are probed.
    """

    place: Place
    log: tuple[KernelEvent, ...] = (CONTAINED,)
    fails: DeepKind | None = None
    bad_memory: bool = False
    users: tuple[GpuProcess, ...] | None = ()
    job_begins: str = ""
    probed: list[tuple[str, Extent]] = field(default_factory=list)
    resets: int = 0
    minutes: int = 0

    @property
    def time(self) -> datetime:
        return NOW + timedelta(minutes=self.minutes)

    def snapshot(self) -> Snapshot:
        return Snapshot(
            time=self.time,
            duration_seconds=0.1,
            host=Host("h1", "debian", "12", "Debian 12", "6.1.0", "x86_64"),
            spec=SpecFile("/etc/runnerctl/host.json", SPEC),
            nvml=Nvml(count=2, gpus=(replace(GPUS[0], processes=self.users), GPUS[1])),
            nvidia_module=NvidiaModule("575.57.08"),
            pci_gpus=(),
            filesystems=(),
            time_sync=TimeSync(True),
            conda=Unavailable("not asked"),
            slots=(),
            kernel_log=KernelLog(BOOT, "journal", self.log),
        )

    def probe(self, gpus: Sequence[Gpu], extent: Extent) -> DeepProbe:
        self.probed += [(gpu.uuid or "", extent) for gpu in gpus]
        if self.job_begins:
            self.place.system.workers[f"gha-runner@{self.job_begins}.service"] = os.getpid()
        return DeepProbe(gpus=tuple(self.device(gpu, extent) for gpu in gpus))

    def device(self, gpu: Gpu, extent: Extent) -> DeepGpu:
        first = gpu.index == 0
        if first and self.fails:
            failure = DeepFailure(self.fails, "cuInit", "it went wrong")
            return DeepGpu(gpu.index, gpu.uuid or "", failure=failure)
        memory = MemoryTest(
            total_bytes=8, tested_bytes=8, passes=4, mismatches=int(first and self.bad_memory)
        )
        return DeepGpu(gpu.index, gpu.uuid or "", kernels=True, memory=None if extent == "small" else memory)

    def run(self, argv: list[str], seconds: float) -> Result:
        assert seconds > 0
        self.resets += "--gpu-reset" in argv
        return Result(0, "", "")

    def __call__(self, *, deep: bool = False) -> list[str]:
        self.minutes += 1
        taken = self.snapshot()
        if deep:
            taken = replace(taken, deep=DeepProbe(gpus=tuple(self.device(gpu, "all") for gpu in GPUS)))
        return act(
            taken,
            judge(taken),
            layout=self.place.layout,
            say=self.place.said.append,
            clock=self.time.timestamp,
            user_id=lambda: 0,
            run=self.run,
            system=self.place.system,
            probe=self.probe,
        )

    def events(self) -> list[str]:
        return [f"{each.kind} {each.uuid}" for each in self.notes().history.events]

    def notes(self) -> Notes:
        return Notes(self.place.layout.root, self.place.said.append)


@pytest.fixture
def rounds(tmp_path: Path) -> Rounds:
    """That host."""
    return Rounds(make_place(tmp_path))


def test_a_gpu_that_should_prove_itself_is_probed_once(rounds: Rounds) -> None:
    """It passes, and that ends it; no slot is touched, and its neighbour is not probed."""
    assert rounds() == []
    assert rounds() == []
    assert rounds.probed == [(A, "small")]
    assert rounds.events() == [f"probe_passed {A}"]
    rounds.log = (CONTAINED, replace(OF_ANOTHER, time=rounds.time))
    rounds()
    assert rounds.probed[1:] == [(B, "small")]


@pytest.mark.parametrize(("slot", "noted"), [("a", []), ("b", [f"probe_failed {A}"])])
def test_a_probe_beside_a_job_that_began_proves_nothing(rounds: Rounds, slot: str, noted: list[str]) -> None:
    """A job must not have its GPU reset by hogging it; one on another GPU has no part in it."""
    rounds.fails, rounds.job_begins = "hang", slot
    rounds()
    assert rounds.events() == noted
    assert any("a job began meanwhile" in line for line in rounds.place.said) is (not noted)


def test_what_the_driver_itself_goes_on_asking_for_is_probed_once(rounds: Rounds) -> None:
    """Its word stands whatever a probe says; a later fault is another matter."""
    rounds.log = (replace(CONTAINED, code=154, recovery="imex"),)
    for _ in range(3):
        rounds()
    assert rounds.probed == [(A, "small")]
    rounds.log = (*rounds.log, replace(CONTAINED, time=rounds.time))
    rounds()
    rounds()
    assert len(rounds.probed) == 2


def test_a_gpu_that_fails_its_probe_is_held_reset_probed_and_brought_back(rounds: Rounds) -> None:
    """A clean NVML does not bring it back; a probe that passes after the reset does."""
    rounds.fails = "hang"
    held, stopped = rounds()
    assert held.startswith("slot a is put on hold: GPU 0: its probe failed: a small CUDA program hangs")
    assert stopped == "slot a is stopped: it is on hold and idle"
    assert rounds() == ["GPU 0 was reset"]
    rounds.fails = None
    assert len(rounds.probed) == 1, "it was probed again before it was treated"
    assert rounds() == []
    assert rounds.probed[1:] == [(A, "memory")]
    assert rounds() == ["slot a is released: 2 clean verdicts in a row"]
    assert rounds.events() == [
        f"{kind} {A}" for kind in ("probe_failed", "reset", "probe_passed", "released")
    ]
    assert rounds() == []
    assert len(rounds.probed) == 2


def test_a_gpu_that_fails_again_climbs_the_ladder(rounds: Rounds) -> None:
    """Two resets, then it waits for a human: no reboot without leave."""
    rounds.fails = "wrong_data"
    for _ in range(8):
        rounds()
    assert rounds.resets == 2
    assert [extent for _, extent in rounds.probed] == ["small", "memory", "memory"]
    assert "taken out" in str(rounds.place.hold("a"))


def test_it_is_not_released_while_it_cannot_be_probed(rounds: Rounds) -> None:
    """No library, or somebody on it: neither a pass nor a failure, and it says so."""
    rounds.fails = "hang"
    rounds()
    rounds()
    rounds.fails = "library_missing"
    for _ in range(4):
        assert rounds() == []
    assert "GPU 0 was not probed: CUDA's library cannot be loaded" in rounds.place.said[-1]
    assert rounds.place.hold("a")
    rounds.fails, rounds.users = None, (GpuProcess(4711, "compute"),)
    rounds()
    assert "is to be probed, and is in use by 4711" in rounds.place.said[-1]
    rounds.users = ()
    rounds()
    assert rounds() == ["slot a is released: 2 clean verdicts in a row"]


def test_a_gpu_in_use_is_left_alone(rounds: Rounds) -> None:
    """A process on it, processes that nobody can tell, or a job of its slot."""
    for users in ((GpuProcess(4711, "compute"),), None):
        rounds.users = users
        rounds()
    rounds.users = ()
    rounds.place.system.workers["gha-runner@a.service"] = 1
    rounds()
    assert "in use by a job" in rounds.place.said[-1]
    assert rounds.probed == []
    assert rounds.events() == []
    rounds.place.system.workers = {"gha-runner@b.service": 1}
    rounds()
    assert rounds.probed == [(A, "small")]


def test_a_host_without_cudas_library_keeps_its_warning(rounds: Rounds) -> None:
    """Nothing is noted and nothing held; the reason is said."""
    rounds.fails = "library_missing"
    assert rounds() == []
    assert rounds.events() == []
    assert "was not probed: CUDA's library cannot be loaded" in rounds.place.said[-1]
    found = [each.status for each in judge(rounds.snapshot()).findings if each.id == "xid.events"]
    assert found == ["WARNING", "OK"]


def test_what_deep_finds_holds_until_a_probe_passes(rounds: Rounds) -> None:
    """The timer runs without --deep: its clean verdicts do not bring bad memory back."""
    rounds.log, rounds.bad_memory = (), True
    assert "memory does not keep what is written" in rounds(deep=True)[0]
    assert rounds.events() == [f"probe_failed {A}", f"probe_passed {B}"]
    assert rounds() == ["GPU 0 was reset"]
    assert rounds() == ["GPU 0 was reset"], "its memory is bad still"
    assert rounds.probed == [(A, "memory")]
    rounds.bad_memory = False
    rounds()
    assert rounds() == ["slot a is released: 2 clean verdicts in a row"]


def test_probes_push_nothing_out_of_the_notes(rounds: Rounds) -> None:
    """Of those in a row the last is kept, and the last word of each kind in any case."""
    notes = rounds.notes()
    out = GpuEvent(NOW - timedelta(days=90), BOOT, "taken_out", B)
    notes.add([out])
    for minute in range(3):
        notes.add([GpuEvent(NOW + timedelta(minutes=minute), BOOT, "probe_passed", A)])
    assert [event.kind for event in notes.history.events] == ["taken_out", "probe_passed"]
    assert notes.history.events[-1].time == NOW + timedelta(minutes=2)
    notes.add([GpuEvent(NOW, BOOT, "reset", A) for _ in range(MOST_EVENTS + 5)])
    assert len(notes.history.events) == MOST_EVENTS
    assert notes.history.events[0] == out
