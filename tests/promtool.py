"""Prometheus' own checker, ``promtool``: the one on PATH, or that of Debian's package, unpacked only.

Installing the package would start a server; one program of it is all that is wanted.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.hosts.machine import CACHE, HostsError, call, locked

__all__ = ["promtool"]

DOWNLOAD_SECONDS = 300


def promtool() -> Path:
    """The program; fetched at its first use. Raises HostsError where it cannot be had."""
    if found := shutil.which("promtool"):
        return Path(found)
    program = CACHE / "promtool/promtool"
    with locked("promtool"):
        if not program.exists():
            _unpack(program)
    return program


def _unpack(program: Path) -> None:
    if not shutil.which("apt-get"):
        raise HostsError("install promtool (Debian: the package prometheus), or put it on PATH")
    with tempfile.TemporaryDirectory(dir=CACHE) as name:
        folder = Path(name)
        folder.chmod(0o755)  # apt downloads as a user of its own
        download = ["apt-get", "-q", "download", "prometheus"]
        if subprocess.run(download, cwd=folder, capture_output=True, timeout=DOWNLOAD_SECONDS).returncode:
            call(["apt-get", "-q", "update"], seconds=DOWNLOAD_SECONDS)
            call(["env", "-C", str(folder), *download], seconds=DOWNLOAD_SECONDS)
        package = next(folder.glob("prometheus_*.deb"))
        call(["dpkg-deb", "-x", str(package), str(folder / "tree")], seconds=DOWNLOAD_SECONDS)
        program.parent.mkdir(exist_ok=True)
        os.replace(folder / "tree/usr/bin/promtool", program)
