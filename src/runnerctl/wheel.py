"""The controller's own wheel, so that a host gets exactly the code that manages it.

From an installed distribution it is put together again from the files that its RECORD names; from an editable
checkout it is built with hatchling. Either way the result is written in one canonical form (sorted, stored,
fixed times), so that equal content has an equal SHA-256, whoever made it and wherever.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.metadata
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from runnerctl.errors import ConfigError, UnavailableError
from runnerctl.private import locked

__all__ = ["Wheel", "cache_directory", "controller_wheel", "extra_distributions", "file_sha256"]

DISTRIBUTION = "runnerctl"
FORMAT = "1"  # of the canonical form: part of every cache key
SOURCES = (
    *("LICENSE", "README.md", "galaxy.yml", "hatch_build.py", "meta", "playbooks", "plugins"),
    *("pyproject.toml", "roles", "src", ".github/actions"),
)
BUILD_SECONDS = 180
KEEP = 4  # wheels in the cache
EPOCH = (1980, 1, 1, 0, 0, 0)  # the oldest time a zip file can hold


class Wheel(msgspec.Struct, frozen=True):
    """A wheel file: where it is, the version in its name, and its SHA-256."""

    path: Path
    version: str
    sha256: str


def cache_directory(environ: Mapping[str, str] | None = None) -> Path:
    """Where wheels are kept: ``$XDG_CACHE_HOME/runnerctl/wheels``, or under ``~/.cache``.

    Raises ConfigError for a user without a home directory.
    """
    base = (os.environ if environ is None else environ).get("XDG_CACHE_HOME", "")
    root = Path(base if base.startswith("/") else os.path.expanduser("~/.cache"))
    if not root.is_absolute():
        raise ConfigError("there is no home directory to keep files in", remedy="set HOME or XDG_CACHE_HOME")
    return root / "runnerctl" / "wheels"


def controller_wheel(
    cache_dir: Path | None = None, *, distribution: importlib.metadata.Distribution | None = None
) -> Wheel:
    """The wheel of the runnerctl that is running, from the cache or made now.

    Raises ConfigError when the installation is damaged or hatchling is missing in an editable one, and
    UnavailableError when the build fails.
    """
    cache = cache_dir or cache_directory()
    try:
        dist = distribution or importlib.metadata.distribution(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        what = "runnerctl is not installed in this Python, so its wheel cannot be made"
        raise ConfigError(what, remedy="run `pip install 'runnerctl[controller]'`") from None
    checkout = _checkout(dist)
    key = _sources_key(checkout) if checkout else _record_key(dist)
    cached = cache / key
    with locked(cache, seconds=2 * BUILD_SECONDS):  # one builder: a play runs for many hosts at once
        if not (found := _wheel_in(cached)):
            _store(_built(checkout) if checkout else _installed(dist), cached)
            found = _wheel_in(cached)
            _forget_old(cache, keep=cached)
    if found is None:
        raise UnavailableError("the wheel vanished from its cache", where=str(cached), remedy="run again")
    return found


def extra_distributions(extra: str) -> set[str]:
    """What an extra of this package names, as file names of wheels have it: ``py_rattler``."""
    wanted = re.compile(rf"""([A-Za-z0-9._-]+)[^;]*;.*\bextra\s*==\s*['"]{re.escape(extra)}['"]""")
    lines = importlib.metadata.requires(DISTRIBUTION) or []
    names = (found[1] for line in lines if (found := wanted.match(line)))
    return {re.sub(r"[-_.]+", "_", name).lower() for name in names}


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _checkout(dist: importlib.metadata.Distribution) -> Path | None:
    """The source tree of an editable installation (PEP 610), or None."""
    origin = json.loads(dist.read_text("direct_url.json") or "{}")
    if not origin.get("dir_info", {}).get("editable"):
        return None
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(origin["url"]).path))


def _sources(checkout: Path) -> Iterator[Path]:
    """Every file that can get into the wheel, in a fixed order."""
    for part in SOURCES:
        top = checkout / part
        if top.is_file():
            yield top
        for directory, names, files in os.walk(top):
            names[:] = sorted(name for name in names if name != "__pycache__")
            yield from (Path(directory) / name for name in sorted(files) if not name.endswith(".pyc"))


def _sources_key(checkout: Path) -> str:
    digest = hashlib.sha256(f"{FORMAT} sources\n".encode())
    for path in _sources(checkout):
        data = path.read_bytes()
        digest.update(f"{path.relative_to(checkout)}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()[:20]


def _record_key(dist: importlib.metadata.Distribution) -> str:
    record = dist.read_text("RECORD")
    if not record:
        raise _damaged("it has no RECORD")
    return hashlib.sha256(f"{FORMAT} record\n{record}".encode()).hexdigest()[:20]


def _damaged(why: str) -> ConfigError:
    remedy = "run `pip install --force-reinstall 'runnerctl[controller]'`"
    return ConfigError(f"the installation of runnerctl is damaged: {why}", remedy=remedy)


def _installed(dist: importlib.metadata.Distribution) -> dict[str, bytes]:
    """The content of the wheel that ``dist`` was installed from: name -> data, without RECORD."""
    content: dict[str, bytes] = {}
    for file in dist.files or ():
        name = file.as_posix()
        if name.startswith("..") or name.endswith(".pyc") or _made_by_installer(name):
            continue
        try:
            content[name] = Path(str(dist.locate_file(file))).read_bytes()
        except OSError as error:
            raise _damaged(f"{name}: {error.strerror}") from error
    return content


def _made_by_installer(name: str) -> bool:
    """Files of the dist-info directory that are not from the wheel."""
    info = re.fullmatch(r"[^/]+\.dist-info/([^/]+)", name)
    return (
        bool(info) and info[1] in {"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"} if info else False
    )


def _built(checkout: Path) -> dict[str, bytes]:
    """The content of the wheel that hatchling builds from ``checkout``, without RECORD."""
    if importlib.util.find_spec("hatchling") is None:
        what = f"the wheel for hosts is built from {checkout}, and hatchling is missing"
        raise ConfigError(what, remedy="run `pip install hatchling` in the controller's environment")
    with tempfile.TemporaryDirectory(prefix="runnerctl-wheel-") as directory:
        argv = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", directory]
        try:
            done = subprocess.run(
                argv, cwd=checkout, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            what = f"hatchling did not end within {BUILD_SECONDS} s"
            raise UnavailableError(what, where=str(checkout), remedy="run again") from None
        wheels = list(Path(directory).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            lines = (done.stderr.strip() or done.stdout.strip() or f"exit {done.returncode}").splitlines()
            raise UnavailableError(f"hatchling failed: {lines[-1]}", where=str(checkout))
        with zipfile.ZipFile(wheels[0]) as archive:
            names = [
                name for name in archive.namelist() if not name.endswith("/") and not _made_by_installer(name)
            ]
            return {name: archive.read(name) for name in names}


def _store(content: Mapping[str, bytes], directory: Path) -> None:
    """Write the canonical wheel; it is whole when it has its name."""
    directory.mkdir(parents=True, exist_ok=True)
    info = next((name.split("/")[0] for name in content if name.split("/")[0].endswith(".dist-info")), None)
    if info is None or f"{info}/WHEEL" not in content:
        raise _damaged("it has no dist-info directory")
    partial = directory / "partial"
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as archive:
        for name in sorted(content):
            archive.writestr(_entry(name), content[name])
        archive.writestr(_entry(f"{info}/RECORD"), _record(content, f"{info}/RECORD"))
    os.replace(partial, directory / f"{info.removesuffix('.dist-info')}-py3-none-any.whl")


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, EPOCH)
    entry.create_system, entry.external_attr = 3, 0o100644 << 16
    return entry


def _record(content: Mapping[str, bytes], own_name: str) -> str:
    """RECORD as the wheel specification has it: name, unpadded base64 SHA-256, size."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for name in sorted(content):
        digest = base64.urlsafe_b64encode(hashlib.sha256(content[name]).digest()).rstrip(b"=").decode()
        rows.writerow([name, f"sha256={digest}", len(content[name])])
    rows.writerow([own_name, "", ""])
    return text.getvalue()


def _wheel_in(directory: Path) -> Wheel | None:
    for path in directory.glob("*.whl"):
        os.utime(directory)  # used now: `_forget_old` goes by it
        return Wheel(path, path.name.split("-")[1], file_sha256(path))
    return None


def _forget_old(cache: Path, *, keep: Path) -> None:
    entries = sorted(
        (path for path in cache.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime
    )
    for path in entries[:-KEEP]:
        if path != keep:
            shutil.rmtree(path, ignore_errors=True)
