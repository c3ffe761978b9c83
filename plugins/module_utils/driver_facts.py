"""What a host says of its GPUs and the driver it has. Standard library only; reads and changes nothing.

The same fields as ``runnerctl.core.driver_structs.DriverFacts``, whose docstrings say what they mean.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from .process import run
from .receipt import Receipt

__all__ = ["pci_devices", "read_driver_facts"]

NVIDIA = "0x10de"
DISPLAY, BRIDGE = "0x03", "0x0680"  # PCI classes: display controllers; other bridges, as NVSwitches are
QUERY_SECONDS = 60.0
KEYS = ("/var/lib/shim-signed/mok/MOK.der", "/var/lib/dkms/mok.pub")
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
DPKG = "${Package}\t${Version}\t${db:Status-Status}\n"
RPM = "%{NAME}\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\tinstalled\n"


def read_driver_facts(
    *, driver: str = "gpus", root: str = "/", receipt: Receipt | None = None
) -> dict[str, Any]:
    """GPUs on the bus, and what is installed for them.

    ``driver``: ``never`` asks for the GPUs only, ``gpus`` for the rest too when there is one, ``always`` for
    both.
    """
    top = Path(root)
    pci, nvswitches = pci_devices(top)
    facts: dict[str, Any] = {"pci": pci, "nvswitches": nvswitches, "container": _container(top)}
    if driver == "never" or (driver == "gpus" and not pci):
        return facts
    secure_boot = _secure_boot(top)
    return {
        **facts,
        "kernels": _kernels(top, os.uname().release),
        "secure_boot": secure_boot,
        "mok_enrolled": _enrolled(top) if secure_boot else None,
        "installed": _installed(top, receipt or Receipt()),
    }


def pci_devices(top: Path) -> tuple[list[str], int]:
    """Device ids of NVIDIA's GPUs that this kernel may drive, and the number of NVSwitches."""
    gpus, switches = [], 0
    for place in sorted(top.joinpath("sys/bus/pci/devices").glob("*")):
        if _text(place / "vendor") != NVIDIA:
            continue
        kind = _text(place / "class")
        switches += kind.startswith(BRIDGE)
        if kind.startswith(DISPLAY) and not (place / "physfn").is_symlink() and not _handed_on(place):
            gpus.append(_text(place / "device").removeprefix("0x").lower())
    return gpus, switches


def _handed_on(place: Path) -> bool:
    """Bound to vfio: the GPU belongs to a virtual machine."""
    link = place / "driver"
    return link.is_symlink() and "vfio" in os.path.basename(os.readlink(link))


def _container(top: Path) -> bool:
    if any(
        top.joinpath(name).exists() for name in ("run/systemd/container", "run/.containerenv", ".dockerenv")
    ):
        return True
    try:
        return b"container=" in top.joinpath("proc/1/environ").read_bytes()
    except OSError:
        return False


def _kernels(top: Path, running: str) -> list[str]:
    """Kernels with modules, the running one first, then the newest."""
    folder = top / "lib/modules"
    there = [
        each.name
        for each in folder.glob("*")
        if (each / "modules.dep").is_file() or (each / "kernel").is_dir()
    ]
    return sorted(there, key=lambda name: (name == running, _order(name)), reverse=True)


def _order(release: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", release)]


def _secure_boot(top: Path) -> bool | None:
    """The firmware's variable: four bytes of attributes, then the value."""
    try:
        return top.joinpath(SECURE_BOOT.lstrip("/")).read_bytes()[4:5] == b"\x01"
    except OSError:
        return False if top.joinpath("sys/firmware/efi").is_dir() else None


def _enrolled(top: Path) -> bool | None:
    """Whether the key that DKMS signs with is enrolled; None when there is no key, or no ``mokutil``."""
    keys = [key for key in KEYS if top.joinpath(key.lstrip("/")).is_file()]
    mokutil = next((each for each in ("/usr/bin/mokutil", "/bin/mokutil") if os.path.exists(each)), None)
    if not keys or mokutil is None:
        return None
    # The exit status differs between versions, the words do not.
    answers = [run([mokutil, "--test-key", key], timeout=QUERY_SECONDS) for key in keys]
    return any("already enrolled" in answer.out + answer.err for answer in answers)


def _installed(top: Path, receipt: Receipt) -> dict[str, Any]:
    packages = _packages()
    noted = {entry.name for entry in receipt.entries("package")}
    version = top / "proc/driver/nvidia/version"
    return {
        "loaded": _text(top / "sys/module/nvidia/version") or None,
        "open": "Open Kernel Module" in _text(version) if version.is_file() else None,
        "packages": packages,
        "run_file": top.joinpath("usr/bin/nvidia-uninstall").exists(),
        "noted": sorted(noted & set(packages)),
    }


def _packages() -> dict[str, str]:
    """Packages of the driver and their versions. Patterns without a match make both programs exit with 1."""
    if os.path.exists("/usr/bin/dpkg-query"):
        names = ["nvidia-*", "linux-modules-nvidia-*"]
        argv = ["/usr/bin/dpkg-query", "-W", "-f", DPKG, *names]
    elif os.path.exists("/usr/bin/rpm"):
        argv = ["/usr/bin/rpm", "-qa", "--qf", RPM, "nvidia-*", "kmod-nvidia*", "akmod-nvidia*"]
    else:
        return {}
    rows = [line.split("\t") for line in run(argv, timeout=QUERY_SECONDS).out.splitlines()]
    return {row[0]: row[1] for row in rows if len(row) == 3 and row[2] == "installed"}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
