"""The driver's packages and what keeps upgrades off them: the package databases, read as files."""

from __future__ import annotations

import re
import sqlite3
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from fnmatch import fnmatchcase
from pathlib import Path

from runnerctl.core.driver_names import is_nvidia_package
from runnerctl.probes.files import read_bytes, under
from runnerctl.probes.kernels import text_of

__all__ = ["held_packages", "read_packages", "upgrades_blocked"]

_LARGEST_STATUS = 64 * 2**20
_RPM_DATABASES = ("/usr/lib/sysimage/rpm/rpmdb.sqlite", "/var/lib/rpm/rpmdb.sqlite")
_RPM_TAGS = {1000: "name", 1001: "version", 1002: "release"}


def read_packages(rootfs: Path) -> tuple[dict[str, str], tuple[str, ...]]:
    """Installed packages of NVIDIA's driver and container stack with their versions; those held by dpkg."""
    data = read_bytes(under(rootfs, "/var/lib/dpkg/status"), _LARGEST_STATUS)
    if isinstance(data, bytes):
        return _dpkg(data)
    for path in _RPM_DATABASES:
        if under(rootfs, path).exists():
            return dict(_rpm(under(rootfs, path))), ()
    return {}, ()


def _dpkg(data: bytes) -> tuple[dict[str, str], tuple[str, ...]]:
    packages, held = {}, []
    for block in data.split(b"\n\n"):
        name = block[9 : block.find(b"\n")].decode("utf-8", "replace")
        if not is_nvidia_package(name):
            continue
        status = re.search(rb"^Status: (\S+) \S+ (\S+)", block, re.MULTILINE)
        version = re.search(rb"^Version: (\S+)", block, re.MULTILINE)
        if not status or not version or status[2] in (b"config-files", b"not-installed"):
            continue
        packages[name] = version[1].decode("utf-8", "replace")
        if status[1] == b"hold":
            held.append(name)
    return packages, tuple(held)


def _rpm(path: Path) -> Iterator[tuple[str, str]]:
    """RPM's own database: an index of names, and headers of packages. Nothing where it cannot be read."""
    query = (
        "select distinct p.blob from Packages p join Name n on n.hnum = p.hnum "
        "where n.key glob '*nvidia*' or n.key glob 'cuda-drivers*' or n.key glob 'nvlsm*'"
    )
    try:
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as database:
            blobs = [row[0] for row in database.execute(query)]
    except sqlite3.Error:
        return
    for blob in blobs:
        fields = _rpm_header(blob)
        if is_nvidia_package(fields.get("name", "")):
            yield fields["name"], f"{fields.get('version', '')}-{fields.get('release', '')}"


def _rpm_header(blob: bytes) -> dict[str, str]:
    """Name, version and release in a header: two sizes, an index of (tag, type, offset, count), the data."""
    entries, _ = struct.unpack_from(">II", blob)
    data = 8 + 16 * entries
    fields = {}
    for at in range(8, data, 16):
        tag, _, offset, _ = struct.unpack_from(">IIII", blob, at)
        if tag in _RPM_TAGS:
            start = data + offset
            fields[_RPM_TAGS[tag]] = blob[start : blob.index(b"\0", start)].decode("utf-8", "replace")
    return fields


# ---- holds -----------------------------------------------------------------------------------------


def held_packages(rootfs: Path, packages: Mapping[str, str]) -> tuple[str, ...]:
    """Packages that dnf's versionlock keeps."""
    lines = text_of(under(rootfs, "/etc/dnf/plugins/versionlock.list")).splitlines()
    patterns = [line.strip() for line in lines if line.strip() and line.strip()[0] not in "#!"]
    patterns += re.findall(
        r'^\s*name\s*=\s*"([^"]+)"', text_of(under(rootfs, "/etc/dnf/versionlock.toml")), re.MULTILINE
    )
    return tuple(name for name, version in packages.items() if _locked(name, version, patterns))


def _locked(name: str, version: str, patterns: Iterable[str]) -> bool:
    """Lines are ``name``, ``name-epoch:version-release.*`` or a shell pattern of either."""
    forms = (name, f"{name}-{version}", f"{name}-{version}.x86_64", f"{name}-0:{version}")
    return any(
        fnmatchcase(form, pattern)
        or fnmatchcase(form, re.sub(r"-\d+:", "-", pattern))
        or fnmatchcase(form, re.sub(r"\.\*$", "", re.sub(r"-\d+:", "-", pattern)))
        for form in forms
        for pattern in patterns
    )


def upgrades_blocked(rootfs: Path, packages: Iterable[str]) -> bool | None:
    """Whether automatic upgrades leave all these packages alone; None where there are no such upgrades."""
    wanted = tuple(packages)
    if under(rootfs, "/usr/bin/unattended-upgrade").exists():
        return _apt_blocks(rootfs, wanted)
    if under(rootfs, "/etc/dnf/automatic.conf").exists():
        return _dnf_blocks(rootfs, wanted)
    return None


def _apt_blocks(rootfs: Path, packages: tuple[str, ...]) -> bool | None:
    text = "\n".join(_apt_texts(rootfs))
    switches = re.findall(r'APT::Periodic::Unattended-Upgrade\s+"([^"]*)"', text)
    if not switches or switches[-1] in ("0", "false", "no"):
        return None
    patterns = re.findall(r'Unattended-Upgrade::Package-Blacklist::?\s+"([^"]+)"', text)
    for block in re.findall(r"Unattended-Upgrade::Package-Blacklist\s*\{(.*?)\}", text, re.DOTALL):
        patterns += re.findall(r'"([^"]+)"', block)
    return all(any(_matches(pattern, name) for pattern in patterns) for name in packages)


def _apt_texts(rootfs: Path) -> Iterator[str]:
    directory = under(rootfs, "/etc/apt/apt.conf.d")
    for path in (*sorted(directory.glob("*")), under(rootfs, "/etc/apt/apt.conf")):
        if re.fullmatch(r"[\w-]+(?:\.conf)?", path.name) and path.is_file():
            yield re.sub(r"^\s*(?://|#).*$", "", text_of(path), flags=re.MULTILINE)


def _matches(pattern: str, name: str) -> bool:
    """Unattended-upgrades takes Python's regular expressions, from the name's beginning."""
    try:
        return re.match(pattern, name) is not None
    except re.error:
        return False


def _dnf_blocks(rootfs: Path, packages: tuple[str, ...]) -> bool | None:
    settings = text_of(under(rootfs, "/etc/dnf/automatic.conf"))
    applies = re.search(
        r"^\s*apply_updates\s*=\s*(?:yes|true|1|on)\s*$", settings, re.MULTILINE | re.IGNORECASE
    )
    wants = under(rootfs, "/etc/systemd/system/timers.target.wants")
    if not applies or not any(wants.glob("dnf*automatic*.timer")):
        return None
    main = text_of(under(rootfs, "/etc/dnf/dnf.conf"))
    lists = re.findall(r"^\s*(?:exclude|excludepkgs)\s*=\s*(.+)$", f"{main}\n{settings}", re.MULTILINE)
    patterns = re.split(r"[\s,]+", " ".join(lists).strip())
    return all(any(fnmatchcase(name, pattern) for pattern in patterns) for name in packages)
