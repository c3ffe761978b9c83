"""Is each GPU connected as it should be: PCIe, NVLink, the NVLink fabric?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from runnerctl.core.checks.each import gpu_check, saved_gpu
from runnerctl.core.driver_readings import Baseline, BaselineGpu, DriverInstall
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.gpu_readings import Fabric, NvLink
from runnerctl.core.snapshot import Gpu
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS", "NVLINK", "PCIE"]

_BUSY_PERCENT = 50  # at this utilisation a link has left its power saving
_MIG_ON = 1
# Flit CRC errors are repaired by a replay and happen on sound links; DCGM's health watch allows as many.
_CRC_FLITS_ALLOWED = 100
_NOT_STARTED = 1  # NVML_GPU_FABRIC_STATE_NOT_STARTED; a GPU without a fabric says NOT_SUPPORTED, 0
_COMPLETED = 3  # NVML_GPU_FABRIC_STATE_COMPLETED
_FABRIC_MANAGER = (
    "start the fabric manager: `systemctl restart nvidia-fabricmanager`; its version must be the driver's"
)
# nvml.h, NVML_GPU_FABRIC_HEALTH_MASK_SHIFT_*: where two bits stand that are 1 for true, 2 for false.
_MASK_FAULTS = {
    0: "its bandwidth is degraded",
    2: "a route is being recovered",
    4: "a route is unhealthy",
    6: "an access timeout is being recovered",
}
_SHIFT_CONFIGURATION = 8
_CONFIGURATIONS = {
    2: "wrong system GUID",
    3: "wrong chassis serial number",
    4: "no partition",
    5: "too few NVLinks",
    6: "incompatible GPU firmware",
    7: "invalid location",
    8: "invalid GPU state",
}
_SHIFT_MANAGER = 14
_DISCONNECTED = 2


def _judge_pcie(gpu: Gpu, baseline: Baseline | None, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    width, most = gpu.pcie_width, gpu.pcie_width_max
    if not width or not most:
        return
    data = {
        "width": width,
        "width_max": most,
        "generation": gpu.pcie_generation,
        "generation_max": gpu.pcie_generation_max,
        "utilization_percent": gpu.utilization_percent,
        "replays": gpu.pcie_replays,
    }
    then = saved_gpu(gpu, baseline)
    always = then.pcie_width if then else None
    slow = _slow(gpu)
    if slow:
        yield warning(slow, **data)
    elif width < most and (always is None or width < always):
        yield warning(f"PCIe x{width}, and x{most} is possible", **data)
    elif width < most:
        yield ok(f"PCIe x{width} of x{most}, as in the baseline", **data)
    else:
        yield ok(f"PCIe x{width}, generation {gpu.pcie_generation or 'not told'}", **data)


def _slow(gpu: Gpu) -> str:
    """What is wrong with the generation. An idle link rests at generation 1, so only load tells."""
    now, most, load = gpu.pcie_generation, gpu.pcie_generation_max, gpu.utilization_percent
    if now is None or most is None or load is None or load < _BUSY_PERCENT or now >= most:
        return ""
    return f"PCIe generation {now} of {most} at {load} % load"


def _judge_nvlink(
    gpu: Gpu,
    gpus: tuple[Gpu, ...],
    install: DriverInstall | None,
    baseline: Baseline | None,
    *,
    spec: HostSpec | None,
) -> Iterable[Verdict]:
    del spec
    # With MIG on the NVLinks are not in use, and on hosts with NVSwitches they are off.
    if not gpu.nvlinks or gpu.mig_current == _MIG_ON:
        return
    active = _active(gpu.nvlinks)
    then = saved_gpu(gpu, baseline)
    switched = bool(install and install.nvswitches) or bool(gpu.fabric and gpu.fabric.state == _COMPLETED)
    down = [link.link for link in gpu.nvlinks if not link.active]
    data = {"active": active, "links": len(gpu.nvlinks), "inactive": down if active else []}
    wanted = _wanted_links(gpu, gpus, then, switched=switched)
    errors = list(_link_errors(gpu.nvlinks))
    if active < wanted:
        say = critical if switched or not active else warning
        yield say(f"{active} of {wanted} NVLinks are active", **data)
    elif errors:
        yield warning(f"NVLink errors: {'; '.join(errors)}", **data)
    elif active:
        yield ok(f"{active} NVLink{'' if active == 1 else 's'} active, no errors", **data)


def _active(links: tuple[NvLink, ...]) -> int:
    return sum(link.active for link in links)


def _wanted_links(gpu: Gpu, gpus: tuple[Gpu, ...], then: BaselineGpu | None, *, switched: bool) -> int:
    """How many links should be active, as far as can be told.

    The baseline knows. Otherwise GPUs of one model have as many as each other; with an NVSwitch that is
    certain, but bridges may join only some of the cards, so none at all is no fault without one. A lone GPU
    some of whose links are active should have them all.
    """
    if then is not None and then.nvlinks_active is not None:
        return then.nvlinks_active
    links = gpu.nvlinks or ()
    active = _active(links)
    if not active and not switched:
        return 0
    siblings = [
        _active(each.nvlinks)
        for each in gpus
        if each.index != gpu.index and each.name == gpu.name and each.nvlinks and each.mig_current != _MIG_ON
    ]
    return max(siblings) if siblings else len(links)


def _link_errors(links: tuple[NvLink, ...]) -> Iterator[str]:
    for link in links:
        counted = {
            "replay": link.replay_errors or 0,
            "recovery": link.recovery_errors or 0,
            "data CRC": link.crc_data_errors or 0,
            "flit CRC": max((link.crc_flit_errors or 0) - _CRC_FLITS_ALLOWED, 0),
        }
        said = [name for name, count in counted.items() if count]
        if said and link.active:
            yield f"link {link.link} ({', '.join(said)})"


def _judge_fabric(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    fabric = gpu.fabric
    if fabric is None or not fabric.state or gpu.mig_current == _MIG_ON:
        return
    data = {"state": fabric.state, "status": fabric.status, "health_mask": fabric.health_mask}
    if fabric.state == _COMPLETED:
        yield _registered(fabric, data)
    elif fabric.state == _NOT_STARTED:
        summary = "not registered in the NVLink fabric: CUDA fails with error 802 (not yet initialized)"
        yield critical(summary, _FABRIC_MANAGER, **data)
    else:
        summary = "is being registered in the NVLink fabric; until that is done CUDA fails with error 802"
        yield warning(summary, **data)


def _registered(fabric: Fabric, data: Mapping[str, object]) -> Verdict:
    if fabric.status:
        summary = f"its registration in the NVLink fabric failed (NVML error {fabric.status}): CUDA error 802"
        return critical(summary, _FABRIC_MANAGER, **data)
    faults = _mask_faults(fabric.health_mask or 0)
    if faults:
        return warning(f"NVLink fabric: {'; '.join(faults)}", **data)
    return ok("registered in the NVLink fabric", **data)


def _mask_faults(mask: int) -> list[str]:
    """What NVML's health mask says is wrong; fields that are 0 are not supported."""
    faults = [text for shift, text in _MASK_FAULTS.items() if mask >> shift & 3 == 1]
    configuration = mask >> _SHIFT_CONFIGURATION & 15
    if configuration > 1:
        named = _CONFIGURATIONS.get(configuration, f"kind {configuration}")
        faults.append(f"wrong configuration ({named})")
    if mask >> _SHIFT_MANAGER & 3 == _DISCONNECTED:
        faults.append("the fabric manager is not connected")
    return faults


PCIE = gpu_check(
    "gpu.pcie",
    title="The PCIe link is as wide and as fast as it can be",
    docs=(
        "Compares the link's width with the widest that GPU and slot allow; a narrower one that the saved "
        "baseline has too is how the host was built. The generation is judged at "
        f"{_BUSY_PERCENT} % utilisation or more only: an idle link rests at a lower one."
    ),
    remedy="reseat the GPU and its riser, and look at the slot's settings in the firmware",
    judge=_judge_pcie,
    needs=("baseline?",),
)

NVLINK = gpu_check(
    "gpu.nvlink",
    title="The NVLinks are up and without errors",
    docs=(
        "Counts active links against the saved baseline, or else against other GPUs of the same model. With "
        "NVSwitches every GPU must have as many; without, GPUs may be joined by bridges or not at all. "
        f"Replay, recovery and data CRC errors alarm, flit CRC errors beyond {_CRC_FLITS_ALLOWED}, as DCGM "
        "does it. GPUs in MIG mode are left out: their NVLinks are not in use."
    ),
    remedy="drain the host and reset all its GPUs; if it comes back, look at bridges, baseboard and switches",
    judge=_judge_nvlink,
    needs=("gpus", "driver_install?", "baseline?"),
)

FABRIC = gpu_check(
    "gpu.fabric",
    title="Each GPU is part of the NVLink fabric",
    docs=(
        "On hosts with NVSwitches CUDA works only after the fabric manager has registered every GPU; until "
        "then it fails with error 802. Reads state, status and health mask (nvmlDeviceGetGpuFabricInfoV): "
        "degraded bandwidth, routes, configuration, connection to the fabric manager. GPUs without a fabric "
        "and GPUs in MIG mode are left out."
    ),
    remedy="look at `systemctl status nvidia-fabricmanager` and `journalctl -u nvidia-fabricmanager`",
    judge=_judge_fabric,
)

CHECKS: tuple[Check, ...] = (PCIE, NVLINK, FABRIC)
