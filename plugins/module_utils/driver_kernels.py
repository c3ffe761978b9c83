"""The kernels of a host: which have headers, which have the driver's module, and which one boots next.

Standard library only; reads and changes nothing but what `build_missing` and `switch_nouveau_off` say.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .driver_work import MANAGED, Work

__all__ = [
    "NOUVEAU",
    "Kernel",
    "build_missing",
    "kernels",
    "module_version",
    "next_kernel",
    "running_kernel",
    "switch_nouveau_off",
]

NOUVEAU = "/etc/modprobe.d/runnerctl-nouveau.conf"
NOUVEAU_TEXT = MANAGED + "blacklist nouveau\noptions nouveau modeset=0\n"
INITRAMFS = ("initrd.img-{}", "initramfs-{}.img")  # Debian's and Enterprise Linux' names, by the kernel's
INITRAMFS_SECONDS = 900.0  # all kernels of a host, on a slow disk
BUILD_SECONDS = 1800.0  # NVIDIA's modules take 140 s on two cores
PLACES = ("updates", "extra", "weak-updates")  # below /lib/modules/K; prebuilt ones stand in kernel/nvidia-*
SUFFIXES = (".ko", ".ko.xz", ".ko.zst", ".ko.gz")


@dataclass(frozen=True)
class Kernel:
    """One directory of /lib/modules. ``installed``: the kernel itself is there, not its headers alone."""

    release: str
    installed: bool
    headers: bool
    module: Path | None


def running_kernel() -> str:
    """The release of the kernel that runs."""
    return os.uname().release


def kernels(work: Work, names: Sequence[str]) -> list[Kernel]:
    """Every kernel that is installed or has headers, the newest first."""
    folder = work.path("/lib/modules")
    found = [_kernel(work, place, names) for place in folder.iterdir()] if folder.is_dir() else []
    there = [kernel for kernel in found if kernel.installed or kernel.headers]
    return sorted(there, key=lambda kernel: _order(kernel.release), reverse=True)


def _kernel(work: Work, place: Path, names: Sequence[str]) -> Kernel:
    release = place.name
    image = any(os.path.lexists(path) for path in (work.path(f"/boot/vmlinuz-{release}"), place / "vmlinuz"))
    build = place / "build"
    # The link is absolute: below another root it is read as that root's.
    target = work.path(os.readlink(build)) if build.is_symlink() else build
    return Kernel(
        release, image or (place / "kernel").is_dir(), (target / "Makefile").is_file(), _module(place, names)
    )


def _module(place: Path, names: Sequence[str]) -> Path | None:
    wanted = {name + suffix for name in names for suffix in SUFFIXES}
    for path in _files(place):
        if path.name in wanted and path.stat().st_size > 0:
            return path
    return None


def _files(place: Path) -> Iterator[Path]:
    """Module files at the places where drivers from outside the kernel stand."""
    folders = [place / name for name in PLACES]
    prebuilt = place / "kernel"
    if prebuilt.is_dir():
        folders += [path for path in prebuilt.iterdir() if path.name.startswith("nvidia")]
    for folder in folders:
        for directory, _, files in os.walk(folder):
            yield from (Path(directory) / name for name in files if ".ko" in name)


def next_kernel(work: Work) -> str | None:
    """The newest installed kernel: what boot loaders take unless somebody chose; None when none is known."""
    found = [path.name[len("vmlinuz-") :] for path in work.path("/boot").glob("vmlinuz-*")]
    found = [name for name in found if work.path(f"/lib/modules/{name}").is_dir()]
    return max(found, key=_order) if found else None


def module_version(work: Work, module: Path | None) -> str | None:
    """The driver's version of a module file, by modinfo."""
    if module is None:
        return None
    done = work.ask("modinfo", "-F", "version", str(module))
    return done.out.strip() or None if done.rc == 0 else None


def _order(release: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.findall(r"\d+|[a-z]+", release)]


def switch_nouveau_off(work: Work) -> None:
    """Blacklist nouveau, also in every initramfs that was made before the blacklist; note a loaded one."""
    changed = work.write(NOUVEAU, NOUVEAU_TEXT)
    if work.path("/sys/module/nouveau").is_dir():
        work.reboot.append("nouveau is loaded and holds the GPU")
    old = _older_initramfs(work, changed)
    command = _initramfs_command()
    if not old or command is None:
        return
    if not work.check:
        work.do(command, seconds=INITRAMFS_SECONDS, remedy="see what it says, then run again")
    work.actions.append(f"initramfs made again, without nouveau ({', '.join(old)})")


def _older_initramfs(work: Work, changed: bool) -> list[str]:
    try:
        since = work.path(NOUVEAU).stat().st_mtime
    except FileNotFoundError:
        since = float("inf")  # check mode: it is written in the real run
    # Of kernels that are there: copies of images, and those of kernels removed, are never made again.
    releases = [path.name[len("vmlinuz-") :] for path in work.path("/boot").glob("vmlinuz-*")]
    names = [name.format(each) for each in releases for name in INITRAMFS if "rescue" not in each]
    images = [path for name in names if (path := work.path(f"/boot/{name}")).is_file()]
    return sorted(path.name for path in images if changed or path.stat().st_mtime < since)


def _initramfs_command() -> list[str] | None:
    if shutil.which("update-initramfs"):
        return ["update-initramfs", "-u", "-k", "all"]
    if shutil.which("dracut"):
        return ["dracut", "--force", "--regenerate-all"]
    return None


def build_missing(work: Work, names: Sequence[str]) -> list[Kernel]:
    """Have DKMS build the module for every kernel with headers that lacks it; gives all kernels afterwards.

    A build that was killed leaves half a result, which DKMS takes for a whole one: that is removed first. And
    ``dkms autoinstall`` takes a module that was deleted for installed, hence ``install --force``.
    """
    before = kernels(work, names)
    lacking = [kernel for kernel in before if kernel.headers and kernel.module is None]
    if not lacking or not shutil.which("dkms"):
        return before
    for kernel in lacking:
        if not work.check:
            _remove_half_built(work, kernel.release)
            for source in _dkms_sources(work):
                argv = ["dkms", "install", "--force", source, "-k", kernel.release]
                work.run(argv, timeout=BUILD_SECONDS)  # how it went is seen by what is there
        work.actions.append(f"module built for kernel {kernel.release}")
    return kernels(work, names)


def _dkms_sources(work: Work) -> list[str]:
    """The newest source of each of NVIDIA's modules that DKMS knows, as ``module/version``."""
    newest: dict[str, str] = {}
    for link in work.path("/var/lib/dkms").glob("nvidia*/*/source"):
        name, version = link.parts[-3:-1]
        known = work.path(f"/usr/src/{name}-{version}").is_dir()
        if known and _order(version) > _order(newest.get(name, "")):
            newest[name] = version
    return [f"{name}/{version}" for name, version in sorted(newest.items())]


def _remove_half_built(work: Work, release: str) -> None:
    """``/var/lib/dkms/<module>/<version>/<kernel>/<machine>`` is whole when it holds modules."""
    folder = work.path("/var/lib/dkms")
    for place in folder.glob(f"nvidia*/*/{release}"):
        if not any(path.stat().st_size > 0 for path in place.glob("*/module/*.ko*")):
            shutil.rmtree(place, ignore_errors=True)
    for link in folder.glob(f"nvidia*/kernel-{release}-*"):
        if link.is_symlink() and not link.exists():
            link.unlink()
