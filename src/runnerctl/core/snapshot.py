"""What a host is: the *snapshot*, taken by the probes and judged by the checks.

A field holds a reading, or `Unavailable` where it could not be taken, or None where it was not asked for (no
credential: no ``github``; no Docker wanted: no ``docker``). Sizes are bytes, times UTC. ``runnerctl snapshot
-o json`` saves one and ``runnerctl health --from FILE`` judges it anywhere.
"""

from __future__ import annotations

from datetime import datetime

import msgspec

from runnerctl.core.deep_readings import DeepProbe
from runnerctl.core.device_nodes import DeviceTable, UnitRules
from runnerctl.core.driver_readings import (
    Baseline,
    ContainerGpus,
    DriverInstall,
    GpuHistory,
    KernelLog,
    Memory,
    Residue,
    Zoned,
)
from runnerctl.core.gpu_readings import Gpu, NvidiaModule, Nvml, NvmlFailure, NvmlKind, PciGpu
from runnerctl.core.guard_readings import GuardState
from runnerctl.core.network_readings import Api, Clock, Stage, TimeSync
from runnerctl.core.reading import Taken, Unavailable, UnavailableKind
from runnerctl.core.slot_readings import PathFact, ReleaseFiles, SlotFiles
from runnerctl.core.spec import HostSpec
from runnerctl.core.store_readings import StoreState
from runnerctl.errors import DataError

__all__ = [
    "GIVEN_AWAY",
    "SCHEMA",
    "Api",
    "Clock",
    "Conda",
    "Docker",
    "DockerDue",
    "Filesystem",
    "GithubRecord",
    "Gpu",
    "Host",
    "LogLine",
    "NvidiaModule",
    "Nvml",
    "NvmlFailure",
    "NvmlKind",
    "PathFact",
    "PciGpu",
    "Process",
    "Registration",
    "ReleaseFiles",
    "SlotFiles",
    "SlotReading",
    "SlotState",
    "Snapshot",
    "SpecFile",
    "Stage",
    "Taken",
    "TimeSync",
    "Unavailable",
    "UnavailableKind",
    "Unit",
    "decode",
    "encode",
]

GIVEN_AWAY = "vfio-pci"  # the driver that holds a GPU for a virtual machine
SCHEMA = "runnerctl.snapshot/1"


class Host(Taken, frozen=True):
    """The machine itself. ``container`` names its kind when this is one; ``root``: probed as root."""

    name: str
    os_id: str
    os_version: str
    os_name: str
    kernel: str
    machine: str
    container: str | None = None
    root: bool = True
    systemd: bool = True


class SpecFile(Taken, frozen=True):
    """``/etc/runnerctl/host.json``; ``spec`` is None when there is none: a host never provisioned."""

    path: str
    spec: HostSpec | None = None


class Filesystem(msgspec.Struct, frozen=True):
    """One filesystem and the paths of interest on it; ``free`` is what an unprivileged user may still use."""

    paths: tuple[str, ...]
    device: str
    total_bytes: int
    free_bytes: int
    total_inodes: int
    free_inodes: int
    read_only: bool = False


class Docker(Taken, frozen=True):
    """The Docker Engine; ``failure`` says why it did not answer."""

    failure: str | None = None
    version: str | None = None
    api_version: str | None = None
    runtimes: tuple[str, ...] = ()


class DockerDue(Taken, frozen=True):
    """What a running Engine had still to do (``act``: reload or restart), and why.

    ``over``: that Engine ended; the one that runs now, if any, has its settings.
    """

    act: str
    reason: str
    over: bool = False


class Conda(Taken, frozen=True):
    """Miniforge at its prefix. ``version`` is conda's own; None when it is not installed."""

    prefix: str
    version: str | None = None
    owner_uid: int | None = None
    writable_by_others: bool = False


class Unit(Taken, frozen=True):
    """A slot's systemd unit, as ``systemctl show`` prints it; ``drop_ins`` are file names."""

    name: str
    load_state: str
    active_state: str
    sub_state: str
    result: str = "success"
    exec_main_code: int = 0
    exec_main_status: int = 0
    main_pid: int = 0
    restarts: int = 0
    enabled: str = ""
    ever_started: bool = False
    control_group: str = ""
    invocation_id: str = ""
    user: str = ""
    fragment: str = ""
    drop_ins: tuple[str, ...] = ()
    last_pid: int = 0


class Process(msgspec.Struct, frozen=True):
    """A process in a unit's control group. ``state`` is the kernel's letter (``T``: stopped), or unknown."""

    pid: int
    comm: str
    parent: int = 0
    state: str = ""
    uid: int | None = None


class LogLine(msgspec.Struct, frozen=True):
    """A line the unit's processes wrote to the journal."""

    time: datetime
    message: str
    invocation_id: str = ""


class Registration(Taken, frozen=True):
    """The runner's own ``.runner``. ``url`` is absent in a just-in-time configuration."""

    agent_id: int
    name: str
    url: str | None = None


class SlotState(Taken, frozen=True):
    """What the toolkit wrote down about a slot when it registered it.

    ``adopted``: the runner's id, when a stock installation's registration was taken over with its name.
    ``mode``: persistent, or ephemeral: registered anew for each job.
    """

    name: str
    url: str | None = None
    runner_name: str | None = None
    agent_id: int | None = None
    version: str | None = None
    registering: bool = False
    adopted: int | None = None
    mode: str = "persistent"

    @property
    def ephemeral(self) -> bool:
        """Whether the slot registers anew for each job."""
        return self.mode == "ephemeral"


class Minting(Taken, frozen=True):
    """Why an ephemeral slot has to wait for its next registration.

    ``failures``: in a row, of getting one; ``ends``: how often in a row its listener ended with an error.
    ``since`` and ``not_before`` are seconds since the epoch; before the latter it is not tried again.
    """

    reason: str = ""
    failures: int = 0
    ends: int = 0
    since: float | None = None
    not_before: float | None = None


class GithubRecord(Taken, frozen=True):
    """A runner's record on GitHub; ``labels`` are the custom ones. ``found`` is False when there is none."""

    found: bool
    id: int | None = None
    name: str | None = None
    status: str | None = None
    busy: bool | None = None
    labels: tuple[str, ...] = ()
    group: str | None = None
    group_is_default: bool | None = None
    version: str | None = None
    deprecations_known: bool = False
    registration_deprecates_at: datetime | None = None
    runtime_deprecates_at: datetime | None = None


class SlotReading(msgspec.Struct, frozen=True):
    """One slot of this host: from the spec, or found on disk. None: there is no such file.

    ``oom_kills``: processes that this run of the unit lost because memory ran out; ``oom_at``: the last time,
    within a day, that systemd noticed.
    """

    name: str
    unit: Unit | Unavailable
    processes: tuple[Process, ...] | Unavailable
    log: tuple[LogLine, ...] | Unavailable
    connections: int | Unavailable
    registration: Registration | Unavailable | None = None
    state: SlotState | Unavailable | None = None
    hold: str | Unavailable | None = None
    pending_restart: str | Unavailable | None = None
    bound_version: str | Unavailable | None = None
    running_version: str | None = None
    github: GithubRecord | Unavailable | None = None
    files: SlotFiles | Unavailable | None = None
    oom_kills: int | None = None
    oom_at: datetime | None = None
    rules: UnitRules | Unavailable | None = None
    minting: Minting | Unavailable | None = None

    @property
    def ephemeral(self) -> bool:
        """Whether the slot registers anew for each job; False where nothing is known of it."""
        return isinstance(self.state, SlotState) and self.state.ephemeral

    @property
    def runs_job(self) -> bool | None:
        """Whether a job runs: a ``Runner.Worker`` of the listener's own; None when that is not known.

        What a job left behind may bear that name, but never that parent (0: of an older snapshot).
        """
        if isinstance(self.processes, Unavailable):
            return None
        listener = 0 if isinstance(self.unit, Unavailable) else self.unit.main_pid
        workers = [process for process in self.processes if process.comm == "Runner.Worker"]
        return any(not listener or worker.parent in (0, listener) for worker in workers)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """One host at one time."""

    schema: str = SCHEMA
    tool_version: str = ""
    redacted: bool = False
    time: Zoned
    duration_seconds: float
    host: Host
    spec: SpecFile | Unavailable
    nvml: Nvml | Unavailable
    nvidia_module: NvidiaModule | Unavailable
    pci_gpus: tuple[PciGpu, ...] | Unavailable
    filesystems: tuple[Filesystem, ...] | Unavailable
    time_sync: TimeSync | Unavailable
    conda: Conda | Unavailable
    slots: tuple[SlotReading, ...] | Unavailable
    api: tuple[Api, ...] | Unavailable | None = None
    clock: Clock | Unavailable | None = None
    docker: Docker | Unavailable | None = None
    docker_due: DockerDue | Unavailable | None = None
    driver_install: DriverInstall | Unavailable | None = None
    kernel_log: KernelLog | Unavailable | None = None
    residue: Residue | Unavailable | None = None
    container_gpus: ContainerGpus | Unavailable | None = None
    memory: Memory | Unavailable | None = None
    baseline: Baseline | Unavailable | None = None
    gpu_history: GpuHistory | Unavailable | None = None
    deep: DeepProbe | Unavailable | None = None
    guard: GuardState | Unavailable | None = None
    env_store: StoreState | Unavailable | None = None
    device_table: DeviceTable | Unavailable | None = None

    @property
    def host_spec(self) -> HostSpec | None:
        """What the host should be, when that is known."""
        return self.spec.spec if isinstance(self.spec, SpecFile) else None

    @property
    def measured_skew_seconds(self) -> float | None:
        """The measured skew of the local clock, when it could be measured."""
        return self.clock.skew_seconds if isinstance(self.clock, Clock) else None

    @property
    def gpus(self) -> tuple[Gpu, ...] | Unavailable:
        """The GPUs that NVML shows; none at all where neither NVML nor the PCI bus knows of any."""
        if isinstance(self.nvml, Unavailable):
            return self.nvml
        failure = self.nvml.failure
        if failure is None or self.nvml.gpus:
            return self.nvml.gpus
        pci = self.pci_gpus
        none = not isinstance(pci, Unavailable) and all(gpu.driver == GIVEN_AWAY for gpu in pci)
        if none and failure.kind in ("library_missing", "driver_not_loaded"):
            return ()
        return Unavailable(failure.message, call=failure.call, gpu=failure.gpu)

    @property
    def listed_gpus(self) -> tuple[Gpu, ...]:
        """The GPUs that NVML lists; none where it could not be asked. For what is known without NVML."""
        return () if isinstance(self.nvml, Unavailable) else self.nvml.gpus

    @property
    def known_history(self) -> GpuHistory | None:
        """What was done to the GPUs, where that was written down and can be read."""
        return self.gpu_history if isinstance(self.gpu_history, GpuHistory) else None


def encode(snapshot: Snapshot) -> bytes:
    """The snapshot as indented JSON with a final line break."""
    return msgspec.json.format(msgspec.json.encode(snapshot), indent=2) + b"\n"


def decode(data: bytes, *, where: str = "snapshot") -> Snapshot:
    """Read a saved snapshot. Raises DataError when it is none, or of a newer schema."""
    try:
        head = msgspec.json.decode(data, type=dict[str, msgspec.Raw])
        schema = msgspec.json.decode(head.get("schema", msgspec.Raw(b'""')), type=str)
    except msgspec.MsgspecError as error:
        raise DataError(
            f"is not a snapshot: {error}", where=where, remedy="save one with `runnerctl snapshot -o json`"
        ) from None
    if schema != SCHEMA:
        message = f"has schema {schema[:40]!r}, and this runnerctl reads {SCHEMA!r}"
        raise DataError(message, where=where, remedy="use the runnerctl that wrote it, or a newer one")
    try:
        return msgspec.json.decode(data, type=Snapshot)
    except msgspec.MsgspecError as error:
        raise DataError(f"is damaged: {error}", where=where, remedy="save the snapshot again") from None
