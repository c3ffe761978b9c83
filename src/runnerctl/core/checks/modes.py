"""Is each GPU set up as jobs expect: persistence, compute mode, MIG, firmware?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from runnerctl.core.baseline import COMPUTE_MODES
from runnerctl.core.checks.each import gpu_check, jobs_use, slots_on
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.sections import MigLayout
from runnerctl.core.snapshot import Gpu, Host, Nvml
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS", "wanted_layout"]

_MIG_ON = 1
_PROHIBITED = 2
_LAYOUT = "run the provision playbook with --tags nvidia_driver, or use `nvidia-smi mig -i {index} -cgi`"


def _judge_persistence(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    if gpu.persistence is None:
        return
    display = any(process.kind == "graphics" for process in gpu.processes or ())
    if gpu.persistence:
        yield ok("persistence mode is on")
    elif spec is not None and not spec.nvidia_driver.persistence:
        yield ok("persistence mode is off, as the spec says")
    elif display:
        yield ok("persistence mode is off; a display keeps the driver loaded")
    else:
        yield warning("persistence mode is off: each first use of the GPU takes seconds")


def _judge_compute_mode(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    mode = gpu.compute_mode
    if mode is None:
        return
    name = COMPUTE_MODES.get(mode, f"mode {mode}")
    remedy = f"`nvidia-smi -i {gpu.index} -c DEFAULT`"
    if mode == _PROHIBITED and jobs_use(gpu, spec):
        yield critical("compute mode prohibited: no CUDA program can use it", remedy, mode=name)
    elif mode not in (0, _PROHIBITED) and slots_on(gpu, spec):
        yield warning(f"compute mode {name}: a second process of a job would fail", remedy, mode=name)
    else:
        yield ok(f"compute mode {name}", mode=name)


def wanted_layout(gpu: Gpu, spec: HostSpec | None) -> MigLayout | None:
    """The MIG layout that the spec has for the GPU: one that names it, or one for all of the host."""
    layouts = spec.nvidia_driver.mig if spec else ()
    own = (gpu.uuid or "").lower()
    named = (each for each in layouts if own in [uuid.lower() for uuid in each.gpus])
    return next(named, None) or next((each for each in layouts if not each.gpus), None)


def _judge_mig(gpu: Gpu, gpus: tuple[Gpu, ...], host: Host, *, spec: HostSpec | None) -> Iterable[Verdict]:
    if gpu.mig_current is None:
        return
    count = _instances(gpu)
    profiles = dict(_profiles(gpu))
    data = {"current": gpu.mig_current, "pending": gpu.mig_pending, "devices": count, "profiles": profiles}
    fault = _mig_fault(gpu, spec)
    if gpu.mig_pending is not None and gpu.mig_pending != gpu.mig_current:
        mode = "on" if gpu.mig_pending == _MIG_ON else "off"
        remedy = f"drain its slots, then `nvidia-smi --gpu-reset -i {gpu.index}`, or reboot"
        yield warning(f"MIG will be {mode} after the next reset", remedy, **data)
    elif fault and not host.root:
        yield unknown(f"{fault} (as seen without root)", "run it as root", **data)
    elif fault:
        unusable = gpu.mig_current == _MIG_ON and not count and jobs_use(gpu, spec)
        say = critical if unusable or _claims_lost(gpus, spec) else warning
        yield say(fault, _LAYOUT.format(index=gpu.index), **data)
    elif gpu.mig_current == _MIG_ON:
        yield ok(f"MIG is on, with {count} instance{'' if count == 1 else 's'}", **data)


def _instances(gpu: Gpu) -> int:
    return max(len(gpu.mig_uuids), len(gpu.mig_devices))


def _profiles(gpu: Gpu) -> Counter[str]:
    return Counter(device.profile.lower() for device in gpu.mig_devices if device.profile)


def _mig_fault(gpu: Gpu, spec: HostSpec | None) -> str:
    """How the instances differ from what the spec says, or that there are none."""
    layout, here, count = wanted_layout(gpu, spec), _profiles(gpu), _instances(gpu)
    if layout is None or not layout.profiles:
        none = gpu.mig_current == _MIG_ON and not count
        return "MIG is on without an instance: CUDA finds no device" if none else ""
    wanted = Counter(profile.lower() for profile in layout.profiles)
    if gpu.mig_current != _MIG_ON:
        return f"MIG is off, and the spec has {_listed(wanted)}"
    if not here and count:  # their profiles are not told
        number = len(layout.profiles)
        return "" if count == number else f"{count} MIG instances, and the spec has {number}"
    missing, extra = wanted - here, here - wanted
    parts = (f"missing {_listed(missing)}" if missing else "", f"too many {_listed(extra)}" if extra else "")
    text = ", ".join(filter(None, parts))
    return f"MIG instances are not as the spec says: {text}" if text else ""


def _listed(profiles: Counter[str]) -> str:
    return ", ".join(f"{number} x {profile}" for profile, number in sorted(profiles.items()))


def _claims_lost(gpus: tuple[Gpu, ...], spec: HostSpec | None) -> bool:
    """Whether a slot claims a MIG device that is not there."""
    here = {uuid.lower() for gpu in gpus for uuid in gpu.mig_uuids}
    claims = {uuid.lower() for slot in (spec.github_runner.slots if spec else ()) for uuid in slot.gpus}
    return any(uuid.startswith("mig-") for uuid in claims - here)


def _judge_inforom(gpu: Gpu, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    if gpu.inforom_valid is None:
        return
    data = {"version": gpu.inforom}
    if gpu.inforom_valid:
        yield ok(f"the infoROM is intact{f' ({gpu.inforom})' if gpu.inforom else ''}", **data)
    else:
        yield warning("the infoROM is corrupted: settings and records of errors may be lost", **data)


def _judge_gsp(gpu: Gpu, nvml: Nvml, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    if gpu.gsp is None:
        return
    data = {"gsp": gpu.gsp, "version": gpu.gsp_version, "driver_version": nvml.driver_version}
    if gpu.gsp and gpu.gsp_version and nvml.driver_version and gpu.gsp_version != nvml.driver_version:
        yield warning(f"GSP firmware {gpu.gsp_version} under driver {nvml.driver_version}", **data)
    elif gpu.gsp:
        yield ok(f"GSP firmware {gpu.gsp_version or 'is in use'}", **data)
    else:
        yield ok("the GPU runs without GSP firmware", **data)


PERSISTENCE = gpu_check(
    "gpu.persistence",
    title="Persistence mode is on",
    docs=(
        "Without persistence the driver lets go of a GPU when its last user ends, and the next one waits 1 "
        "to 3 s for each GPU. Off is fine where nvidia_driver_persistence is false, and where a display "
        "keeps the driver loaded."
    ),
    remedy="`systemctl enable --now nvidia-persistenced`; its unit must not have --no-persistence-mode",
    judge=_judge_persistence,
)

COMPUTE_MODE = gpu_check(
    "gpu.compute_mode",
    title="The compute mode lets jobs in",
    docs=(
        "Prohibited keeps every CUDA program out: a fault unless the slots claim other GPUs only. The "
        "exclusive modes let one process in at a time: a warning where a slot claims the GPU."
    ),
    remedy="`nvidia-smi -c DEFAULT`",
    judge=_judge_compute_mode,
)

MIG = gpu_check(
    "gpu.mig",
    title="MIG is as the spec says",
    docs=(
        "A changed MIG mode waits for a reset. Instances are gone after every reboot and are compared, "
        "profile by profile, with the layout in nvidia_driver_mig. MIG on without an instance leaves CUDA "
        "without a device. MIG being on is no fault as such. Who is not root may not see all "
        "instances: UNKNOWN."
    ),
    remedy="run the provision playbook with --tags nvidia_driver",
    judge=_judge_mig,
    needs=("gpus", "host"),
)

INFOROM = gpu_check(
    "gpu.inforom",
    title="The infoROM is intact",
    docs=(
        "The GPU keeps its settings and its record of memory errors in the infoROM. It is read by deep "
        "probes only, since that reads flash memory."
    ),
    remedy="reboot; if it stays corrupted, have the GPU replaced",
    judge=_judge_inforom,
)

GSP = gpu_check(
    "gpu.gsp",
    title="The GSP firmware is the driver's",
    docs=(
        "The GPU system processor runs a part of the driver, whose version must be the driver's own. Running "
        "without it is a choice where the driver allows it."
    ),
    remedy="install the firmware package of the driver's version, and reboot",
    judge=_judge_gsp,
    needs=("nvml",),
)

CHECKS: tuple[Check, ...] = (PERSISTENCE, COMPUTE_MODE, MIG, INFOROM, GSP)
