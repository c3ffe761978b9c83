"""What of this host decides which packages fit, found out without the engine: conda's virtual packages.

https://docs.conda.io/projects/conda/en/stable/user-guide/tasks/manage-virtual.html says what they are.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from runnerctl.envs.model import HostFacts, VirtualPackage
from runnerctl.envs.store import boot_id
from runnerctl.envs.store_files import write_file
from runnerctl.errors import ConfigError, UnavailableError, UsageError

__all__ = ["Driver", "check_cuda", "cuda_version", "host_facts"]

SUBDIRS = {"x86_64": "linux-64", "aarch64": "linux-aarch64", "ppc64le": "linux-ppc64le"}
CUDA_SECONDS = 10.0
DRIVER = "proc/driver/nvidia/version"
_VERSION = re.compile(r"[1-9][0-9]?(\.[0-9]{1,2})?")
# The levels of the x86-64 psABI, by the names that /proc/cpuinfo gives their features (lzcnt is abm there).
LEVELS = (
    ("x86_64_v2", "cx16 lahf_lm popcnt pni sse4_1 sse4_2 ssse3"),
    ("x86_64_v3", "abm avx avx2 bmi1 bmi2 f16c fma movbe xsave"),
    ("x86_64_v4", "avx512f avx512bw avx512cd avx512dq avx512vl"),
)
# cuDriverGetVersion needs neither a device nor cuInit, so a sick GPU cannot stop it; it is asked where
# the kernel module is loaded. NVML says the same where it can start.
_ASK = """
import ctypes, json, sys
answer = {"library": False, "cuda": 0, "error": ""}
value = ctypes.c_int(0)
if sys.argv[1] == "1":
    try:
        if ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(value)) == 0:
            answer["cuda"] = value.value
    except (OSError, AttributeError):
        pass
if answer["cuda"] <= 0:
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
        answer["library"] = True
        code = nvml.nvmlInit_v2()
        if code == 0:
            code = nvml.nvmlSystemGetCudaDriverVersion_v2(ctypes.byref(value))
        answer["cuda"] = value.value if code == 0 else 0
        answer["error"] = "" if code == 0 else "NVML answers with error %d" % code
    except OSError as error:
        answer["error"] = str(error)
    except AttributeError:
        answer["error"] = "NVML is too old to be asked"
print(json.dumps(answer))
"""


class Driver(msgspec.Struct, frozen=True):
    """What the NVIDIA driver said once, and of which one: boot, driver, where libraries were looked for."""

    tag: str
    cuda: str | None


def check_cuda(value: str) -> str:
    """``auto``, ``none`` or a version such as ``12.8``. Raises UsageError for anything else."""
    if value in ("auto", "none") or _VERSION.fullmatch(value):
        return value
    remedy = "give auto, none or a version such as 12.8"
    raise UsageError(f"{value[:40]!r} is no CUDA version", where="--cuda", remedy=remedy)


def host_facts(
    cuda: str = "auto",
    *,
    cache: Path | None = None,
    rootfs: Path = Path("/"),
    environ: Mapping[str, str] | None = None,
) -> HostFacts:
    """The facts of this host, with the CUDA version that is asked for (see `check_cuda`).

    ``cache``: a file where the driver's answer is kept until the next boot or driver. Raises UsageError;
    ConfigError on a machine that conda has no platform for; UnavailableError when there is an NVIDIA driver
    that cannot say its CUDA version.
    """
    environ = os.environ if environ is None else environ
    subdir = SUBDIRS.get(platform.machine())
    if subdir is None or sys.platform != "linux":
        remedy = "use a Linux host with x86_64 or aarch64"
        raise ConfigError(f"no conda platform for {platform.machine()}", where="this host", remedy=remedy)
    virtual = [
        VirtualPackage("__archspec", "1", _archspec(rootfs)),
        VirtualPackage("__linux", _kernel()),
        VirtualPackage("__unix", "0"),
    ]
    glibc = _glibc()
    if glibc:
        virtual.append(VirtualPackage("__glibc", glibc))
    version = _cuda(check_cuda(cuda), cache, rootfs, environ)
    if version:
        virtual.append(VirtualPackage("__cuda", version))
    return HostFacts(subdir, tuple(sorted(virtual)))


def _cuda(wanted: str, cache: Path | None, rootfs: Path, environ: Mapping[str, str]) -> str | None:
    """The version for ``__cuda``. conda's own CONDA_OVERRIDE_CUDA counts as if the driver had said it."""
    if wanted != "auto":
        return None if wanted == "none" else wanted
    override = environ.get("CONDA_OVERRIDE_CUDA")
    if override is None:
        return cuda_version(cache=cache, rootfs=rootfs, environ=environ)
    if override and not _VERSION.fullmatch(override):
        remedy = "set it to a version such as 12.8, or to nothing for no CUDA"
        raise UsageError(f"{override[:40]!r} is no CUDA version", where="CONDA_OVERRIDE_CUDA", remedy=remedy)
    return override or None


def cuda_version(
    *, cache: Path | None, rootfs: Path = Path("/"), environ: Mapping[str, str], seconds: float = CUDA_SECONDS
) -> str | None:
    """The highest CUDA version that the driver supports; None when there is no NVIDIA driver.

    Raises UnavailableError when there is one that cannot be asked: no CUDA would be a lie.
    """
    driver = _line(rootfs / DRIVER)
    tag = json.dumps([boot_id(rootfs / "proc"), driver, environ.get("LD_LIBRARY_PATH", ""), _has_gpu(rootfs)])
    known = _cached(cache)
    if known and known.tag == tag:
        return known.cuda
    answer = _ask(bool(driver), environ, seconds)
    number = answer.get("cuda")
    number = number if isinstance(number, int) else 0
    version = f"{number // 1000}.{number % 1000 // 10}" if number > 0 else None
    if version is None and (driver or (answer.get("library") and _has_gpu(rootfs))):
        what = f"the NVIDIA driver cannot say its CUDA version: {answer.get('error') or 'it gives no number'}"
        remedy = "see runnerctl health, or say it with --cuda none or --cuda VERSION"
        raise UnavailableError(what, where="this host", remedy=remedy)
    if cache:
        with contextlib.suppress(OSError):
            write_file(cache, msgspec.json.encode(Driver(tag, version)), sync=False)
    return version


def _ask(loaded: bool, environ: Mapping[str, str], seconds: float) -> dict[str, object]:
    """The libraries' answer, from a child: a call into a sick driver may hang, and cannot be ended then."""
    argv = [sys.executable, "-I", "-S", "-c", _ASK, "1" if loaded else "0"]
    try:
        child = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(environ),
            start_new_session=True,
        )
    except OSError as error:
        return {"error": f"{sys.executable} cannot be run: {error.strerror}"}
    try:
        output, _ = child.communicate(timeout=seconds)
        answer = json.loads(output)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1)
        return {"library": True, "error": f"no answer within {seconds:.0f} s"}
    except ValueError:
        what = f"its library ended the process that asked (exit {child.returncode})"
        return {"library": True, "error": what}
    return answer if isinstance(answer, dict) else {}


def _cached(cache: Path | None) -> Driver | None:
    try:
        return msgspec.json.decode(cache.read_bytes(), type=Driver) if cache else None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return None


def _has_gpu(rootfs: Path) -> bool:
    """Whether a display or 3D controller of NVIDIA is on the PCI bus."""
    with contextlib.suppress(OSError):
        for device in (rootfs / "sys/bus/pci/devices").iterdir():
            if _line(device / "vendor") == "0x10de" and (_line(device / "class") or "").startswith("0x03"):
                return True
    return False


def _line(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip() or None
    except OSError:
        return None


def _kernel() -> str:
    """The kernel's version without what a distribution adds to it."""
    match = re.match(r"[0-9]+(\.[0-9]+)*", platform.release())
    return match[0] if match else "0"


def _glibc() -> str | None:
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return None
    return version if name == "glibc" and version else None


def _archspec(rootfs: Path) -> str:
    """The psABI level of an x86-64 processor; of any other one its family."""
    machine = platform.machine()
    if machine != "x86_64":
        return machine
    flags: set[str] = set()
    with contextlib.suppress(OSError):
        for line in (rootfs / "proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("flags"):
                flags = set(line.partition(":")[2].split())
                break
    level = machine
    for name, needs in LEVELS:
        if not set(needs.split()) <= flags:
            break
        level = name
    return level
