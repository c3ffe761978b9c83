"""The wheels a runner host needs for the CLI, fetched once so that converging a host costs no download."""

from __future__ import annotations

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tests.hosts.machine import CACHE, call, locked, say

__all__ = ["PYTHONS", "wheelhouse"]

PYTHONS = ("3.11", "3.13")  # of the images' suites
PLATFORMS = (
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_34_x86_64",
)
DOWNLOAD_SECONDS = 600


def wheelhouse() -> Path:
    """A folder with the dependencies of the package for every Python of the images. Raises HostsError."""
    wanted = sorted(_wanted(metadata.requires("runnerctl") or []))
    key = hashlib.sha256(repr((wanted, PYTHONS, PLATFORMS)).encode()).hexdigest()[:12]
    place = CACHE / f"wheelhouse-{key}"
    with locked("wheelhouse"):
        if not place.exists():
            say("fetching the wheels that hosts need")
            with tempfile.TemporaryDirectory(dir=CACHE, prefix="wheelhouse-") as directory:
                for python in PYTHONS:
                    call(_download(python, directory, wanted), seconds=DOWNLOAD_SECONDS)
                shutil.copytree(directory, place.with_suffix(".part"), dirs_exist_ok=True)
            place.with_suffix(".part").rename(place)
    return place


def _wanted(requirements: list[str]) -> Iterator[str]:
    """What a host needs, the store of environments included."""
    for line in requirements:
        needed, _, marker = line.partition(";")
        if "extra" not in marker:
            yield line
        elif "'env'" in marker.replace('"', "'"):
            yield needed.strip()


def _download(python: str, directory: str, wanted: list[str]) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary=:all:", "-d", directory]
    command += ["--python-version", python, "--implementation", "cp"]
    return [*command, *(f"--platform={platform}" for platform in PLATFORMS), *wanted]
