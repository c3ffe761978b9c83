"""What decides at boot whether the driver comes up: nouveau, the initramfs, Secure Boot and its keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from runnerctl.probes.files import read_bytes, read_line, under
from runnerctl.probes.kernels import text_of
from runnerctl.probes.modules_on_disk import has_module

__all__ = ["mok_enrolled", "mok_key", "nouveau", "secure_boot"]

_MODPROBE = ("/etc/modprobe.d", "/run/modprobe.d", "/usr/lib/modprobe.d", "/lib/modprobe.d")
_BLACKLIST = re.compile(
    r"^\s*(?:blacklist\s+nouveau|alias\s+nouveau\s+off|install\s+nouveau\s+\S*(?:false|true))\s*$",
    re.MULTILINE,
)
_CMDLINE = re.compile(
    r"(?:^|\s)(?:(?:rd\.driver|modprobe)\.blacklist=(?:\S*,)?nouveau(?=[,\s]|$)|nouveau\.modeset=0)"
)
_EFIVARS = "/sys/firmware/efi/efivars"
_GLOBAL = "8be4df61-93ca-11d2-aa0d-00e098032b8c"  # EFI_GLOBAL_VARIABLE
_SHIM = "605dab50-e046-4300-abb6-3dd810dd8b23"  # SHIM_LOCK
_KEYS = ("/var/lib/dkms/mok.pub", "/var/lib/shim-signed/mok/MOK.der")  # DKMS 3, and Ubuntu's shim-signed


def nouveau(rootfs: Path, kernel: str | None) -> dict[str, bool | None]:
    """Whether nouveau is loaded, blacklisted and there at all; whether the initramfs knows the blacklist."""
    blacklists = [path for path in _modprobe_files(rootfs) if _BLACKLIST.search(text_of(path))]
    by_cmdline = _CMDLINE.search(read_line(under(rootfs, "/proc/cmdline")) or "") is not None
    return {
        "nouveau_loaded": under(rootfs, "/sys/module/nouveau").exists(),
        "nouveau_blacklisted": bool(blacklists) or by_cmdline,
        "nouveau_present": not kernel or has_module(rootfs, kernel, "drivers/gpu/drm/nouveau/nouveau.ko*"),
        "initramfs_newer": None if by_cmdline else _newer(rootfs, kernel, blacklists),
    }


def _modprobe_files(rootfs: Path) -> Iterator[Path]:
    seen = set()
    for directory in _MODPROBE:
        for path in sorted(under(rootfs, directory).glob("*.conf")):
            # The first directory that has a file of a name hides those of the others (modprobe.d(5)).
            if path.name not in seen:
                seen.add(path.name)
                yield path


def _newer(rootfs: Path, kernel: str | None, blacklists: list[Path]) -> bool | None:
    """One blacklist that the initramfs can know of is enough."""
    if not kernel or not blacklists:
        return None
    for name in (f"initrd.img-{kernel}", f"initramfs-{kernel}.img"):
        try:
            made = under(rootfs, f"/boot/{name}").stat().st_mtime
            return any(path.stat().st_mtime <= made for path in blacklists)
        except OSError:
            continue
    return None


def secure_boot(rootfs: Path) -> bool | None:
    """Whether the firmware enforces signatures and shim passes that on; None without EFI."""
    variable = read_bytes(under(rootfs, f"{_EFIVARS}/SecureBoot-{_GLOBAL}"), 8)
    if not isinstance(variable, bytes) or len(variable) < 5:
        return None
    relaxed = read_bytes(under(rootfs, f"{_EFIVARS}/MokSBStateRT-{_SHIM}"), 8)
    off = isinstance(relaxed, bytes) and len(relaxed) > 4 and relaxed[4] == 1
    return variable[4] == 1 and not off


def mok_key(rootfs: Path) -> str | None:
    """The certificate that DKMS signs modules for, if there is one."""
    return next((path for path in _KEYS if under(rootfs, path).exists()), None)


def mok_enrolled(rootfs: Path) -> bool | None:
    """Whether that certificate is in shim's list, which the firmware shows as ``MokListRT``."""
    key = mok_key(rootfs)
    certificate = read_bytes(under(rootfs, key)) if key else None
    lists = [read_bytes(path) for path in under(rootfs, _EFIVARS).glob(f"MokListRT*-{_SHIM}")]
    readable = [data for data in lists if isinstance(data, bytes)]
    if not isinstance(certificate, bytes) or not certificate or not readable:
        return None
    return any(certificate in data for data in readable)
