"""Which kernels are installed, and which one the next boot takes. Files only."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from runnerctl.probes.files import read_bytes, read_line, under

__all__ = ["installed_kernels", "kernel_order", "next_kernel", "real_path", "running_kernel", "text_of"]

_HOPS = 20  # of symbolic links, as in the kernel: more is a circle
_RELEASE = re.compile(r"\d+\.\d+[\w.+~-]*")
_LEFT_OVER = re.compile(r"\.(?:old|bak|dpkg-\w+|rpm\w+)$")
_SETTING = re.compile(r"^\s*(\w+)=(.*?)\s*$", re.MULTILINE)


def text_of(path: Path) -> str:
    """A small text file, or nothing when it is not there or cannot be read."""
    data = read_bytes(path)
    return data.decode("utf-8", "replace") if isinstance(data, bytes) else ""


def real_path(rootfs: Path, path: str) -> str | None:
    """Where a path below ``rootfs`` leads when its last part is a link, as a path below ``rootfs`` again.

    None when it leads nowhere. An absolute link is one of that root, not of the system that looks at it.
    """
    for _ in range(_HOPS):
        place = under(rootfs, path)
        try:
            target = os.readlink(place)
        except OSError:
            return path if os.path.lexists(place) else None
        path = os.path.normpath(os.path.join(os.path.dirname(path), target))
    return None


def running_kernel(rootfs: Path) -> str:
    """The release of the running kernel; below another root, that of the tree's own /proc."""
    return read_line(under(rootfs, "/proc/sys/kernel/osrelease")) or os.uname().release


def installed_kernels(rootfs: Path) -> tuple[str, ...]:
    """Releases with modules or an image, lowest first. A directory with mere headers is no kernel."""
    images = set(_images(rootfs))
    found = {
        name
        for name in _names(under(rootfs, "/lib/modules"))
        if name in images or (under(rootfs, "/lib/modules") / name / "modules.dep").exists()
    }
    return tuple(sorted(found | images, key=kernel_order))


def _images(rootfs: Path) -> tuple[str, ...]:
    """Kernels that can be booted: an image in /boot, or beside the modules as Fedora's family has it."""
    found = [name.removeprefix("vmlinuz-") for name in _names(under(rootfs, "/boot")) if "vmlinuz-" in name]
    modules = under(rootfs, "/lib/modules")
    found += [name for name in _names(modules) if (modules / name / "vmlinuz").exists()]
    return tuple(name for name in found if _RELEASE.fullmatch(name) and not _LEFT_OVER.search(name))


def _names(directory: Path) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def kernel_order(release: str) -> tuple[tuple[int, int, str], ...]:
    """A key that sorts releases as boot loaders do: numbers as numbers, ``~`` before the end of a name."""
    parts = re.findall(r"\d+|[A-Za-z]+|~", release.removesuffix(".img"))
    key: list[tuple[int, int, str]] = []
    for part in parts:
        if part.isdigit():
            key.append((3, int(part), ""))
        else:
            # A release candidate comes before its release.
            key.append((0 if part in ("~", "rc") else 2, 0, part))
    return (*key, (1, 0, ""))


def next_kernel(rootfs: Path) -> str | None:
    """The kernel that the next boot takes: what the boot loader was told, or else the highest one.

    None where no kernel image is (a container), and where a menu entry is chosen by its number.
    """
    images = tuple(sorted(set(_images(rootfs)), key=kernel_order))
    if not images:
        return None
    told, known = _told(rootfs, images)
    if not known:
        return None
    return told or images[-1]


def _told(rootfs: Path, images: Sequence[str]) -> tuple[str | None, bool]:
    """The kernel that GRUB is set to, and whether what it is set to can be understood."""
    defaults = dict(_SETTING.findall(text_of(under(rootfs, "/etc/default/grub"))))
    saved = _environment(rootfs)
    default = defaults.get("GRUB_DEFAULT", "").strip("\"'")
    entry = saved.get("next_entry") or (saved.get("saved_entry") if default in ("", "saved") else default)
    if not entry or entry in ("0", "saved"):
        return None, True
    if found := _release_in(entry, images):
        return found, True
    if (version := _loader_entry(rootfs, entry)) in images:
        return version, True
    return None, not re.fullmatch(r"[\d>]+", entry)


def _environment(rootfs: Path) -> dict[str, str]:
    for path in ("/boot/grub/grubenv", "/boot/grub2/grubenv"):
        if text := text_of(under(rootfs, path)):
            return dict(_SETTING.findall(text))
    return {}


def _release_in(entry: str, images: Sequence[str]) -> str | None:
    """``gnulinux-6.1.0-40-amd64-advanced-UUID``, ``... with Linux 6.1.0-40``, ``MACHINE-5.14.0-611``."""
    for release in sorted(images, key=len, reverse=True):
        if re.search(rf"(?:^|[-\s]){re.escape(release)}(?:$|[-\s])", entry):
            return release
    return None


def _loader_entry(rootfs: Path, entry: str) -> str | None:
    """The ``version`` of an entry of the Boot Loader Specification."""
    text = text_of(under(rootfs, f"/boot/loader/entries/{os.path.basename(entry)}.conf"))
    found = re.search(r"^version\s+(\S+)", text, re.MULTILINE)
    return found[1] if found else None
