"""Where a host's GPUs are now, which nodes a slot's unit may open, and telling systemd so.

NVML is asked in a child with a deadline, and once for each load of the driver: minors do not change while it
stays loaded. MIG's capabilities do, and are part of what the answer is kept under.
"""

from __future__ import annotations

import contextlib
import hashlib
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec

from runnerctl.core.device_nodes import (
    SPARED,
    DeviceTable,
    Node,
    Place,
    UnitRules,
    parse_majors,
    parse_mig_minors,
    parse_rules,
)
from runnerctl.errors import UnavailableError
from runnerctl.probes.bounded import Report, Task, run_all
from runnerctl.probes.child import kill_group
from runnerctl.probes.files import read_bytes, read_line, under
from runnerctl.probes.kernels import text_of
from runnerctl.probes.stuck import DIRECTORY, Guard
from runnerctl.replace import replace_file

__all__ = [
    "CACHE",
    "driver_identity",
    "end_sparing",
    "find_places",
    "load_uvm",
    "open_nodes",
    "read_rules",
    "read_table",
    "show_unit",
    "unit_files",
    "wait_for_places",
]

CACHE = "/run/runnerctl/devices.json"
SECONDS = 30.0  # eight GPUs that nothing keeps initialised, each 1 to 3 s (NVIDIA)
_SYSTEMCTL_SECONDS = 30.0  # of a host whose processors are all busy
_BOOT_SECONDS, _BOOT_PAUSE_SECONDS = 60.0, 2.0
_MODPROBE_SECONDS = 20.0
_MODULE = "/sys/module/nvidia"
_CAPABILITIES = "/proc/driver/nvidia-caps/mig-minors"
_UNITS = "/etc/systemd/system"


class _Kept(msgspec.Struct, frozen=True):
    """What NVML answered, and for which load of the driver."""

    identity: str
    places: dict[str, Place]


def read_table(rootfs: Path = Path("/")) -> DeviceTable:
    """The kernel's majors and MIG's minors, as they are now."""
    return DeviceTable(
        majors=parse_majors(text_of(under(rootfs, "/proc/devices"))),
        mig_minors=parse_mig_minors(text_of(under(rootfs, _CAPABILITIES))),
    )


def driver_identity(rootfs: Path = Path("/")) -> str | None:
    """What is another after a reboot, another load of the driver, or other MIG devices.

    None where the driver cannot be told apart from its successor (a container that has the library only):
    then nothing may be kept. The inode of a directory in sysfs lives as long as the module stays loaded.
    """
    try:
        loaded = under(rootfs, _MODULE).stat().st_ino
    except OSError:
        return None
    boot = read_line(under(rootfs, "/proc/sys/kernel/random/boot_id")) or ""
    parts = [boot, str(loaded), text_of(under(rootfs, _CAPABILITIES))]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def find_places(
    claims: Sequence[str], *, rootfs: Path = Path("/"), seconds: float = SECONDS
) -> dict[str, Place]:
    """UUID -> where it is, at least for the claims that are there; from the cache while that is true.

    Raises UnavailableError when NVML gives no answer within ``seconds``.
    """
    identity = driver_identity(rootfs)
    cache = under(rootfs, CACHE)
    kept = _kept(cache)
    if kept and identity and kept.identity == identity and set(claims) <= kept.places.keys():
        return kept.places
    places = _ask(rootfs, seconds)
    if identity and identity == driver_identity(rootfs):
        cache.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        replace_file(cache, msgspec.json.encode(_Kept(identity, places)), mode=0o644)
    return places


def wait_for_places(
    claims: Sequence[str], *, rootfs: Path = Path("/"), sleep: Callable[[float], None] = time.sleep
) -> dict[str, Place]:
    """As `find_places`; in the first minute of a boot the driver may be on its way, and is waited for."""
    while True:
        failure: UnavailableError | None = None
        places: dict[str, Place] = {}
        try:
            places = find_places(claims, rootfs=rootfs)
        except UnavailableError as error:
            failure = error
        if set(claims) <= places.keys() or _uptime(rootfs) > _BOOT_SECONDS:
            if failure:
                raise failure
            return places
        sleep(_BOOT_PAUSE_SECONDS)


def _uptime(rootfs: Path) -> float:
    """Seconds since the kernel started; endless where that is not told."""
    first = (read_line(under(rootfs, "/proc/uptime")) or "").partition(" ")[0]
    return float(first) if first.replace(".", "", 1).isdigit() else float("inf")


def _kept(path: Path) -> _Kept | None:
    data = read_bytes(path)
    try:
        return msgspec.json.decode(data, type=_Kept) if isinstance(data, bytes) else None
    except msgspec.MsgspecError:
        return None


def _ask(rootfs: Path, seconds: float) -> dict[str, Place]:
    task = Task(_read, seconds, guard="nvml")
    outcome = run_all({"nvml": task}, guard=Guard(under(rootfs, DIRECTORY)), kill=kill_group)["nvml"]
    if outcome.failure or outcome.repeated or not isinstance(outcome.value, dict):
        why = (
            outcome.failure.reason if outcome.failure else "an earlier question is still stuck in the driver"
        )
        remedy = "see `runnerctl health`; `nvidia-smi -L` shows what the driver knows"
        raise UnavailableError(f"NVML does not tell which GPUs there are: {why}", remedy=remedy)
    return msgspec.convert(outcome.value, dict[str, Place])


def _read(report: Report) -> dict[str, dict[str, int | None]]:
    """In a child: minor and instances of everything that has a UUID, and nothing else."""
    from runnerctl.probes.nvml_calls import CallError, Calls

    places: dict[str, dict[str, int | None]] = {}
    try:
        calls = Calls(report)
        calls.init()
        for index in range(calls.must("nvmlDeviceGetCount")):
            _read_gpu(calls, index, places)
    except CallError as error:
        raise OSError(error.failure.message) from None
    return places


def _read_gpu(calls: object, index: int, places: dict[str, dict[str, int | None]]) -> None:
    """One GPU; a GPU that fails is left out: only the slot that claims it must not start."""
    from runnerctl.core.snapshot import NvmlFailure
    from runnerctl.probes.nvml_calls import INVALID_ARGUMENT, NOT_FOUND, CallError, Calls, Device, text

    assert isinstance(calls, Calls)
    failures: list[NvmlFailure] = []
    try:
        device = Device(calls, index, calls.ask("nvmlDeviceGetHandleByIndex", index, gpu=index), failures)
        uuid, minor = text(device.ask("nvmlDeviceGetUUID")), device.ask("nvmlDeviceGetMinorNumber")
        if not isinstance(uuid, str) or not isinstance(minor, int):
            return
        places[uuid] = {"minor": minor}
        absent = (NOT_FOUND, INVALID_ARGUMENT)
        for number in range(device.ask("nvmlDeviceGetMaxMigDeviceCount") or 0):
            handle = device.ask("nvmlDeviceGetMigDeviceHandleByIndex", number, absent=absent)
            if handle is None:
                continue
            mig = device.other(handle)
            name = text(mig.ask("nvmlDeviceGetUUID"))
            places[str(name)] = {
                "minor": minor,
                "gpu_instance": mig.ask("nvmlDeviceGetGpuInstanceId"),
                "compute_instance": mig.ask("nvmlDeviceGetComputeInstanceId"),
            }
    except CallError:
        return


def unit_files(slot: str, rootfs: Path = Path("/")) -> dict[str, str]:
    """Unit -> text of its drop-in, of the units that this slot has.

    One, or two while its mode changes; and its container engine's, if it has one.
    """
    units = [f"{kind}@{slot}.service" for kind in ("gha-runner", "gha-ephemeral", "gha-containers")]
    texts = {unit: text_of(under(rootfs, f"{_UNITS}/{unit}.d/10-slot.conf")) for unit in units}
    return {unit: text for unit, text in texts.items() if text}


def show_unit(unit: str, names: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Properties of a unit, one value each. Raises UnavailableError."""
    shown = _systemctl(["show", "--no-pager", f"--property={','.join(names)}", unit], environ)
    found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    return {name: found.get(name, "") for name in names}


def read_rules(unit: str, text: str, environ: Mapping[str, str]) -> UnitRules:
    """What systemd lets a unit open now, and what its drop-in claims. Raises UnavailableError."""
    shown = _systemctl(["show", "--no-pager", "--property=DevicePolicy,DeviceAllow", unit], environ)
    return parse_rules(shown, text)


def open_nodes(unit: str, nodes: Sequence[Node], environ: Mapping[str, str]) -> None:
    """Have systemd open these nodes and no others to a unit, until the next boot. Raises UnavailableError."""
    allow = ["DeviceAllow=", *(f"DeviceAllow={node.allow} rw" for node in nodes)]
    _systemctl(["set-property", "--runtime", unit, *allow], environ)


def end_sparing(unit: str, environ: Mapping[str, str], *, rootfs: Path = Path("/")) -> None:
    """Before a unit starts: what its last job was allowed to keep ends with that job.

    While the unit runs nothing is taken from it. Raises UnavailableError.
    """
    path = under(rootfs, f"/run/systemd/system/{unit}.d/{SPARED}")
    if not path.exists() or show_unit(unit, ["MainPID"], environ)["MainPID"] != "0":
        return
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # somebody's else may stand there
    _systemctl(["daemon-reload"], environ)


def _systemctl(words: Sequence[str], environ: Mapping[str, str]) -> str:
    try:
        done = subprocess.run(
            ["systemctl", *words],
            env={**environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SYSTEMCTL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"systemctl {words[0]} did not answer: {error}") from None
    if done.returncode:
        said = " ".join(done.stderr.split())[:300]
        raise UnavailableError(f"systemctl {words[0]} failed: {said}", where=words[-1])
    return done.stdout


def load_uvm(table: DeviceTable, environ: Mapping[str, str], *, rootfs: Path = Path("/")) -> DeviceTable:
    """Have NVIDIA's own program load nvidia-uvm where the driver is there and that is not; CUDA needs it.

    A job cannot do it: the program is set-user-ID, and gives nothing within a slot.
    """
    program = under(rootfs, "/usr/bin/nvidia-modprobe")
    if "nvidia-uvm" in table.majors or not under(rootfs, _MODULE).exists() or not program.exists():
        return table
    command = partial(subprocess.run, [str(program), "-u", "-c", "0"], env=dict(environ), check=False)
    try:
        command(stdin=subprocess.DEVNULL, capture_output=True, timeout=_MODPROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return table
    return read_table(rootfs)
