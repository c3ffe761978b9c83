"""The nvidia module on disk for each installed kernel: its version, its signature, what DKMS made of it.

A module's version stands in its ``.modinfo`` section, which is read from the file itself: no process is
started for an uncompressed module. All modules of one driver carry the same version, so for a compressed one
the small ``nvidia-drm`` beside it is unpacked instead of some fifty megabytes.
"""

from __future__ import annotations

import io
import lzma
import os
import re
import struct
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from runnerctl.core.driver_readings import KernelModule
from runnerctl.probes.files import under
from runnerctl.probes.kernels import text_of

__all__ = ["dkms_sources", "has_module", "modinfo_of", "read_modules"]

_PLACES = ("updates", "extra", "weak-updates", "misc", "kernel/drivers/video")
# Debian puts variants side by side behind aliases: nvidia-current, nvidia-tesla-535, nvidia-current-open.
_NAME = re.compile(
    r"nvidia(?:-current|-open|-tesla|-legacy|-server|-\d+(?:xx)?)*\.ko(?P<packed>\.xz|\.zst|\.gz)?"
)
_DKMS_NAME = re.compile(r"nvidia(?:-current|-open|-tesla|-legacy|-server|-\d+(?:xx)?)*")
_SIGNATURE = b"~Module signature appended~\n"
_LARGEST_UNPACKED = 8 * 2**20
_LARGEST_SECTION = 2**20
_DEADLINE_SECONDS = 3.0  # of one `modinfo`


def read_modules(
    rootfs: Path, kernels: tuple[str, ...], *, machine: str, environ: Mapping[str, str]
) -> tuple[KernelModule, ...]:
    """One entry for each kernel. ``machine`` is the kernel's word for the architecture: x86_64, aarch64."""
    return tuple(_module(rootfs, kernel, machine=machine, environ=environ) for kernel in kernels)


def _module(rootfs: Path, kernel: str, *, machine: str, environ: Mapping[str, str]) -> KernelModule:
    tree = under(rootfs, "/lib/modules") / kernel
    state, built = _dkms_state(rootfs, kernel, machine)
    headers = _headers(rootfs, kernel)
    path = next(_candidates(tree), None)
    if path is None:
        return KernelModule(kernel=kernel, headers=headers, dkms=state)
    version, signed = modinfo_of(path, environ)
    return KernelModule(
        kernel=kernel,
        version=version or built or "unknown",
        path=f"/lib/modules/{kernel}/{path.relative_to(tree)}",
        headers=headers,
        dkms=state,
        signed=signed,
    )


def _headers(rootfs: Path, kernel: str) -> bool:
    """The kernel's build tree is there, wherever its distribution keeps it."""
    link = under(rootfs, f"/lib/modules/{kernel}/build")
    try:
        target = os.readlink(link)
    except OSError:
        return link.is_dir()
    place = under(rootfs, target) if os.path.isabs(target) else link.parent / target
    return place.is_dir()


def _candidates(tree: Path) -> Iterator[Path]:
    """Files that are the nvidia module itself, in the order in which depmod prefers them."""
    ubuntu = sorted(str(path.relative_to(tree)) for path in (tree / "kernel").glob("nvidia-*"))
    for place in (*_PLACES, *ubuntu):
        for directory, folders, files in os.walk(tree / place):
            folders.sort()
            yield from (Path(directory) / name for name in sorted(files) if _NAME.fullmatch(name))


def has_module(rootfs: Path, kernel: str, pattern: str) -> bool:
    """Whether a module of the kernel's own matches ``pattern``, a path below its ``kernel`` directory."""
    tree = under(rootfs, f"/lib/modules/{kernel}/kernel")
    return next(tree.glob(pattern), None) is not None


# ---- DKMS ------------------------------------------------------------------------------------------


def dkms_sources(rootfs: Path) -> tuple[str, ...]:
    """Versions of the nvidia source that DKMS knows."""
    return tuple(sorted({version for _, version in _sources(rootfs)}))


def _sources(rootfs: Path) -> Iterator[tuple[Path, str]]:
    try:
        names = os.listdir(under(rootfs, "/var/lib/dkms"))
    except OSError:
        return
    for name in sorted(filter(_DKMS_NAME.fullmatch, names)):
        home = under(rootfs, f"/var/lib/dkms/{name}")
        for version in sorted(home.iterdir()):
            if os.path.lexists(version / "source"):
                yield home, version.name


def _dkms_state(rootfs: Path, kernel: str, machine: str) -> tuple[str | None, str | None]:
    """installed, built, failed or None, and the version that was built."""
    state = None
    for home, version in _sources(rootfs):
        link = home / f"kernel-{kernel}-{machine}"
        if os.path.lexists(link):
            return "installed", os.readlink(link).split("/")[0] if link.is_symlink() else version
        if (home / version / kernel / machine / "module").is_dir():
            return "built", version
        log = text_of(home / version / "build/make.log").partition("\n")[0]
        if f" {kernel} " in f"{log} ":
            state = "failed"
    return state, None


# ---- the module's file -----------------------------------------------------------------------------


def modinfo_of(path: Path, environ: Mapping[str, str]) -> tuple[str | None, bool | None]:
    """The version of a module file, and whether it carries a signature. None: it could not be told."""
    try:
        if path.suffix == ".ko":
            with path.open("rb") as stream:
                return _read(stream)
        small = path.with_name(path.name.replace(".ko", "-drm.ko"))
        if path.suffix == ".xz" and small.exists():
            return _read(io.BytesIO(_unpacked(small)))
    except (OSError, ValueError, struct.error, lzma.LZMAError):
        return None, None
    return _asked(path, environ)


def _unpacked(path: Path) -> bytes:
    data = lzma.LZMADecompressor().decompress(path.read_bytes(), _LARGEST_UNPACKED)
    if len(data) == _LARGEST_UNPACKED:
        raise ValueError(f"{path} is too large")
    return data


def _read(stream: BinaryIO) -> tuple[str | None, bool | None]:
    stream.seek(-len(_SIGNATURE), os.SEEK_END)
    signed = stream.read() == _SIGNATURE
    fields = dict(field.partition(b"=")[::2] for field in _section(stream, b".modinfo").split(b"\0"))
    version = fields.get(b"version")
    return (version.decode("ascii", "replace") if version else None), signed


def _section(stream: BinaryIO, name: bytes) -> bytes:
    """The content of a section of a 64-bit ELF file (elf(5)), both byte orders. Raises ValueError."""
    stream.seek(0)
    head = stream.read(64)
    if head[:5] != b"\x7fELF\x02" or len(head) < 64:
        raise ValueError("not a 64-bit ELF file")
    order = "<" if head[5] == 1 else ">"
    (table,) = struct.unpack_from(f"{order}Q", head, 40)
    size, count, names = struct.unpack_from(f"{order}HHH", head, 58)
    if size < 64 or not names < count:
        raise ValueError("no section table")
    stream.seek(table)
    sections = stream.read(size * count)
    places = [struct.unpack_from(f"{order}I20xQQ", sections, at) for at in range(0, size * count, size)]
    texts = _content(stream, places[names])
    for place in places:
        if texts[place[0] : texts.find(b"\0", place[0])] == name:
            return _content(stream, place)
    raise ValueError("no such section")


def _content(stream: BinaryIO, place: tuple[int, int, int]) -> bytes:
    _, offset, length = place
    if length > _LARGEST_SECTION:
        raise ValueError("an implausible section")
    stream.seek(offset)
    return stream.read(length)


def _asked(path: Path, environ: Mapping[str, str]) -> tuple[str | None, bool | None]:
    """What ``modinfo`` says: for compressions that Python has no module for."""
    try:
        done = subprocess.run(
            ["modinfo", str(path)],
            env={"PATH": "/usr/sbin:/sbin:/usr/bin:/bin", **environ, "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DEADLINE_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None, None
    text = done.stdout.decode("utf-8", "replace")
    found = re.search(r"^version:\s+(\S+)", text, re.MULTILINE)
    if done.returncode or not found:
        return None, None
    return found[1], re.search(r"^sig_id:\s+\S", text, re.MULTILINE) is not None
