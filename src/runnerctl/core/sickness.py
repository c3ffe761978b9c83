"""From a snapshot and its verdict to the state of each GPU, as the ladder takes it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from runnerctl.core.driver_readings import Baseline, DriverInstall, GpuHistory, KernelLog, Residue
from runnerctl.core.findings import Finding
from runnerctl.core.gpu_readings import NvmlFailure, NvmlKind
from runnerctl.core.health import Health
from runnerctl.core.kernel_lines import normal_pci
from runnerctl.core.ladder import GpuState
from runnerctl.core.snapshot import Gpu, Nvml, Snapshot, Unavailable
from runnerctl.core.xid import GpuCondition, Moment, assess
from runnerctl.core.xid_table import ACTIONS, Action, rank

__all__ = ["gpu_states", "slot_gpus"]

# What a call that failed asks for (nvml.h, nvmlReturn_t; docs.nvidia.com/deploy/nvml-api).
_FAILURES: Mapping[NvmlKind, Action] = {
    "gpu_lost": "REBOOT",
    "reset_required": "RESET",
    "irq": "REBOOT",
    "hang": "REBOOT",
    "unknown": "RESET",
    "corrupted_inforom": "RMA",
}
_DRIVER: Mapping[NvmlKind, Action] = {"mismatch": "REBOOT", "hang": "REBOOT", "unknown": "REBOOT"}
# What a CRITICAL finding asks for; one that is not here only holds the slot until it is gone.
_CHECKS: Mapping[str, Action] = {
    "gpu.ecc": "RESET",
    "gpu.sram_ecc": "RMA",
    "gpu.row_remap": "RMA",
    "gpu.retired_pages": "RMA",
}
_HOST_WIDE = ("driver.nvml", "driver.mismatch", "driver.nouveau")
_NO_POWER = 8  # NVML_ERROR_INSUFFICIENT_POWER: a cable is missing, and no reset attaches it
_AMPERE = 7  # nvmlDeviceArchitecture_t
# They keep every GPU open, and a reset copes with them.
_DAEMONS = frozenset({"nvidia-persiste", "nv-fabricmanage"})


def slot_gpus(snapshot: Snapshot) -> dict[str, tuple[str, ...]]:
    """The UUIDs of the whole GPUs that each slot of the spec uses; one that is not known stands as it is."""
    spec = snapshot.host_spec
    whole = _whole(snapshot)
    return {
        slot.name: tuple(dict.fromkeys(whole.get(uuid.lower(), uuid) for uuid in slot.gpus))
        for slot in (spec.github_runner.slots if spec else ())
    }


def _whole(snapshot: Snapshot) -> dict[str, str]:
    """UUID in lower case, of a GPU or of a MIG device -> the GPU's own."""
    found: dict[str, str] = {}
    for gpu in _listed(snapshot):
        if gpu.uuid:
            found |= {uuid.lower(): gpu.uuid for uuid in (gpu.uuid, *gpu.mig_uuids)}
    return found


def _listed(snapshot: Snapshot) -> tuple[Gpu, ...]:
    return snapshot.nvml.gpus if isinstance(snapshot.nvml, Nvml) else ()


def gpu_states(
    snapshot: Snapshot, health: Health, *, history: GpuHistory, moment: Moment
) -> tuple[GpuState, ...]:
    """The state of every GPU that NVML lists or a slot claims; none on a host without either."""
    sight = _sight(snapshot, health, history, moment)
    states = {state.uuid: state for gpu in _listed(snapshot) if (state := sight.listed(gpu))}
    claimed = [uuid for uuids in slot_gpus(snapshot).values() for uuid in uuids]
    missing = {uuid: sight.missing(uuid) for uuid in claimed if uuid not in states}
    return tuple({**states, **missing}.values())


def _sight(snapshot: Snapshot, health: Health, history: GpuHistory, moment: Moment) -> _Sight:
    log = snapshot.kernel_log
    events = log.events if isinstance(log, KernelLog) else ()
    conditions = assess(events, moment, gpus=_listed(snapshot), history=history)
    critical = [finding for finding in health.findings if finding.status == "CRITICAL"]
    wide = next((finding for finding in critical if finding.id in _HOST_WIDE), None)
    return _Sight(snapshot, critical, wide, conditions, history, moment)


@dataclass(frozen=True)
class _Sight:
    """Everything that is known of a host's GPUs."""

    snapshot: Snapshot
    critical: Sequence[Finding]
    wide: Finding | None
    conditions: Sequence[GpuCondition]
    history: GpuHistory
    moment: Moment

    def listed(self, gpu: Gpu) -> GpuState | None:
        """The state of a GPU that NVML lists; None when it does not even tell its UUID."""
        if not gpu.uuid:
            return None
        name = f"GPU {gpu.index}"
        condition = next((each for each in self.conditions if each.gpu == gpu.index), None)
        findings = [finding for finding in self.critical if _is_about(finding, gpu)]
        if self.wide is not None:
            return self._sick(gpu.uuid, "the driver", [self._driver(self.wide)])
        causes = [*_findings(findings, gpu), *_condition(condition)]
        if causes:
            return self._sick(gpu.uuid, name, causes, gpu=gpu)
        unread = gpu.failure is not None or isinstance(self.snapshot.gpus, Unavailable)
        owed = condition is not None and condition.probe_owed
        return GpuState(
            gpu.uuid,
            "unknown" if unread or owed or self._deaf() else "clean",
            name=name,
            pci=gpu.pci_bus_id,
            users=self._users(gpu),
            probe="none" if unread else self._probe(gpu.uuid, condition),
        )

    def missing(self, uuid: str) -> GpuState:
        """The state of a GPU that a slot claims and NVML does not list."""
        if self.wide is not None:
            return self._sick(uuid, "the driver", [self._driver(self.wide)])
        if isinstance(self.snapshot.gpus, Unavailable):
            return GpuState(uuid, "unknown")
        pci = self._address(uuid)
        condition = next((each for each in self.conditions if pci and each.pci == pci), None)
        causes = [*_condition(condition), *self._nameless()]
        # One that was well here has gone; one that was never seen may be a mistake in the inventory.
        seen = uuid in self.history.clean_probes
        causes.append(("REBOOT" if seen else "WARN", "a slot claims it, and NVML does not list it"))
        return self._sick(uuid, f"GPU {uuid}", causes)

    def _probe(self, uuid: str, condition: GpuCondition | None) -> Literal["none", "small", "thorough"]:
        """What a GPU that looks well has still to prove."""
        if condition is None or condition.action != "PROBE":
            return "none"
        if condition.probe_owed:
            return "thorough"
        # What the driver itself asks for does not end with a probe: once in a boot is enough.
        passed = (
            event.boot_id == self.moment.boot_id and (not condition.last or event.time >= condition.last)
            for event in self.history.events
            if event.uuid == uuid and event.kind == "probe_passed"
        )
        return "none" if any(passed) else "small"

    def _deaf(self) -> bool:
        """Whether a fault may stand in a kernel log that should be readable and was not, or not wholly."""
        log = self.snapshot.kernel_log
        if isinstance(log, KernelLog):
            return log.truncated
        return isinstance(log, Unavailable) and not self.snapshot.host.container

    def _driver(self, wide: Finding) -> _Cause:
        nvml = self.snapshot.nvml
        failure = nvml.failure if isinstance(nvml, Nvml) else None
        return (_DRIVER.get(failure.kind, "WARN") if failure else "WARN", wide.summary)

    def _nameless(self) -> Iterator[_Cause]:
        """What GPUs say that do not even tell their UUID: the missing one may be one of them."""
        for gpu in _listed(self.snapshot):
            if not gpu.uuid and gpu.failure:
                yield _asked(gpu.failure), gpu.failure.message

    def _address(self, uuid: str) -> str | None:
        baseline = self.snapshot.baseline
        known = baseline.gpus if isinstance(baseline, Baseline) else ()
        saved = next((gpu.pci_bus_id for gpu in known if gpu.uuid == uuid), None)
        noted = next((event.pci for event in self.history.events if event.uuid == uuid and event.pci), None)
        return normal_pci(saved or noted)

    def _sick(self, uuid: str, name: str, causes: Sequence[_Cause], *, gpu: Gpu | None = None) -> GpuState:
        action, reason = max(causes, key=lambda cause: rank(cause[0]))
        return GpuState(
            uuid,
            "sick",
            action,
            reason,
            name,
            pci=gpu.pci_bus_id if gpu else None,
            users=self._users(gpu) if gpu else None,
            together=_together(self.snapshot, uuid),
            alone=gpu is not None and (gpu.architecture or 0) >= _AMPERE,
        )

    def _users(self, gpu: Gpu) -> str | None:
        """The processes on a GPU, by NVML and by their open files; None when neither tells."""
        residue = self.snapshot.residue
        told = isinstance(residue, Residue) and residue.complete and gpu.minor is not None
        opened = residue.processes if told and isinstance(residue, Residue) else None
        if gpu.processes is None and opened is None:
            return None
        found = [str(process.pid) for process in gpu.processes or ()]
        node = f"/dev/nvidia{gpu.minor}"
        for process in opened or ():
            daemon = process.comm in _DAEMONS and process.slot is None  # a job may bear any name
            if node in process.devices and not daemon:
                found.append(f"{process.pid} ({process.comm})")
        return ", ".join(found)


_Cause = tuple[Action, str]  # what is asked for, and why


def _is_about(finding: Finding, gpu: Gpu) -> bool:
    if not finding.id.startswith("gpu."):
        return False
    return finding.subject == f"GPU {gpu.index}" or (bool(gpu.uuid) and finding.data.get("uuid") == gpu.uuid)


def _findings(findings: Sequence[Finding], gpu: Gpu) -> Iterator[_Cause]:
    for finding in findings:
        action = _CHECKS.get(finding.id, "WARN")
        if finding.id == "gpu.answers" and gpu.failure:
            action = _asked(gpu.failure)
        named = finding.data.get("action")
        yield (next((each for each in ACTIONS if each == named), action), finding.summary)


def _asked(failure: NvmlFailure) -> Action:
    return "POWER" if failure.code == _NO_POWER else _FAILURES.get(failure.kind, "WARN")


def _condition(condition: GpuCondition | None) -> Iterator[_Cause]:
    if condition is not None and rank(condition.action) >= rank("RESET"):
        yield condition.action, condition.reason


def _together(snapshot: Snapshot, uuid: str) -> frozenset[str]:
    """The GPUs that a reset touches: all of a fabric, all that NVLink joins, or the one.

    nvidia-smi(1), --gpu-reset: GPUs before Ampere that NVLink joins are reset by one command, newer ones may
    be reset singly; their traffic is disturbed either way. One whose links cannot be read counts.
    """
    gpus = _listed(snapshot)
    install = snapshot.driver_install
    switched = isinstance(install, DriverInstall) and install.nvswitches > 0
    switched = switched or any(gpu.fabric is not None and gpu.fabric.state for gpu in gpus)
    if switched:
        return frozenset(gpu.uuid for gpu in gpus if gpu.uuid) | {uuid}
    linked = {gpu.uuid for gpu in gpus if gpu.uuid and any(link.active for link in gpu.nvlinks or ())}
    unread = {gpu.uuid for gpu in gpus if gpu.uuid and gpu.nvlinks is None and gpu.failure}
    joined = frozenset(linked | unread) if linked else frozenset[str]()
    return joined | {uuid} if uuid in joined else frozenset({uuid})
