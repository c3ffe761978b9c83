"""Makes channels: a folder with packages and the index that conda's own tools would write."""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from rattler.index import index as rattler_index

from tests.fakes.conda_channel import archive, interpreter, samples, wheels
from tests.fakes.conda_channel.archive import CondaPackage, write_package
from tests.fakes.conda_channel.tools import PLACE
from tests.fakes.conda_channel.tools import wheels as fetch
from tests.hosts.machine import locked, say

__all__ = ["BASE", "TESTING", "add_packages", "build_channel", "reindex"]

BASE = ("pip", "setuptools", "wheel")
TESTING = ("pytest", "pytest-cov", "coverage", "pluggy", "iniconfig", "packaging")
PARTS = (archive, interpreter, samples, wheels)  # whose text decides what a channel holds


def build_channel(
    folder: Path, packages: Sequence[str] = (*BASE, *TESTING), *, extra: Iterable[CondaPackage] = ()
) -> Path:
    """Make a channel in ``folder``, which is made and has to be empty; its files are private copies.

    It holds ``python``, the samples, a package for each wheel of ``packages`` and of what these depend on,
    and ``extra``. Kept under ``.cache``: a second time costs a copy. Raises HostsError.
    """
    kept = _kept(tuple(sorted(packages)))
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    if extra := list(extra):
        add_packages(folder, *extra)
    return folder


def add_packages(folder: Path, *packages: CondaPackage) -> list[Path]:
    """Write more packages into a channel and index it again."""
    places = [write_package(package, folder) for package in packages]
    reindex(folder)
    return places


def reindex(folder: Path) -> None:
    """Write the indexes anew; keeps the wrong hash of the package ``broken``."""
    broken = folder / samples.BROKEN.subdir / f"{samples.BROKEN.stem}.conda"
    if broken.exists():
        write_package(samples.BROKEN, folder)
    asyncio.run(rattler_index.index_fs(folder, write_zst=True, write_shards=True, force=True))
    if broken.exists():
        write_package(samples.tampered(), folder)


def _kept(packages: tuple[str, ...]) -> Path:
    texts = [Path(str(part.__file__)).read_bytes() for part in PARTS]
    key = hashlib.sha256(repr((interpreter.VERSION, packages)).encode() + b"".join(texts)).hexdigest()[:12]
    place = PLACE / f"channel-{key}"
    if not place.exists():
        PLACE.mkdir(parents=True, exist_ok=True)
        with locked("conda-channel"):
            if not place.exists():
                _make(place, packages)
    return place


def _make(place: Path, packages: tuple[str, ...]) -> None:
    say(f"making a conda channel with {', '.join(packages) or 'the samples'}")
    with tempfile.TemporaryDirectory(dir=PLACE, prefix="part-") as directory:
        part = Path(directory, "channel")
        part.mkdir()
        os.link(_python(), _folder(part) / _python().name)
        for wheel in fetch(packages) if packages else ():
            write_package(wheels.from_wheel(wheel), part)
        for package in samples.samples():
            write_package(package, part)
        reindex(part)
        part.rename(place)


def _folder(channel: Path) -> Path:
    place = channel / archive.SUBDIR
    place.mkdir(parents=True, exist_ok=True)
    return place


def _python() -> Path:
    texts = [Path(str(part.__file__)).read_bytes() for part in (archive, interpreter)]
    key = hashlib.sha256(interpreter.VERSION.encode() + b"".join(texts)).hexdigest()[:12]
    place = PLACE / f"python-{key}"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=PLACE, prefix="part-") as directory:
            staging = Path(directory, "staging")
            staging.mkdir()
            write_package(interpreter.python_package(staging), Path(directory, "channel"))
            Path(directory, "channel", archive.SUBDIR).rename(place)
    (package,) = place.glob("*.conda")
    return package
