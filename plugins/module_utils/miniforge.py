"""Miniforge for the jobs of a host: read, compare, install.

An installer writes its prefix into the files it installs, so an installation cannot be moved. Each version
therefore gets a directory of its own, ``/opt/miniforge3-<version>``, which counts only when its marker is
there (written last), and ``/opt/miniforge3`` is a link to the current one. A killed run leaves a directory
without a marker, which the next run clears; an upgrade switches the link in one step, so that no job ever
sees half a conda, as it would with the installer's own update in place; and the version before it goes when
no process uses it any more.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .atomic import Change, atomic_link, atomic_write, sync_file_system
from .download import Timeouts, fetch, fetch_text, need_space, working_directory
from .errors import HostError
from .lock import exclusive
from .process import in_use, run
from .receipt import Receipt

__all__ = ["ROLE", "Layout", "Miniforge", "Wanted", "condarc"]

ROLE = "conda"
MARKER = "conda-meta/runnerctl.json"
FROZEN = "conda-meta/frozen"
INSTALL_SECONDS = 900
GROWTH = 6  # an installer of 90 MB becomes an installation of some 500 MB
SHA256 = re.compile(r"[0-9a-f]{64}")
# An installer must not be led astray by what the calling shell had set.
LEFT_OUT = (
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "CONDARC",
    "CONDA_PREFIX",
    "CONDA_EXE",
    "CONDA_ROOT_PREFIX",
)


@dataclass(frozen=True)
class Layout:
    """Where things are on a host, or under a directory that holds a host's files."""

    root: str = "/"

    def path(self, path: str) -> str:
        """A path of the host."""
        return os.path.join(self.root, path.lstrip("/"))

    @property
    def link(self) -> str:
        """The path that jobs use."""
        return self.path("/opt/miniforge3")

    @property
    def condarc(self) -> str:
        """conda's settings for the whole host."""
        return self.path("/etc/conda/condarc.d/10-runnerctl.yml")

    def prefix(self, version: str) -> str:
        """The directory of one version."""
        return f"{self.link}-{version}"


@dataclass(frozen=True)
class Wanted:
    """The fields of section ``conda`` of the spec."""

    version: str
    url: str
    channels: tuple[str, ...]
    sha256: str | None = None
    installer: str | None = None  # a path on the host: brought there, with `sha256`

    def address(self, machine: str) -> str:
        """The URL (or path) of the installer for one architecture."""
        return self.url.replace("{version}", self.version).replace("{machine}", machine)


@dataclass
class Outcome:
    """What was done, or in check mode would be."""

    version: str
    installs: bool = False
    actions: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)


class Miniforge:
    """Converge one host. Every method raises HostError with one line."""

    def __init__(self, layout: Layout, receipt: Receipt, *, check: bool) -> None:
        self.layout = layout
        self.receipt = receipt
        self.check = check

    def installed(self) -> str | None:
        """The version that ``/opt/miniforge3`` leads to, if it is whole."""
        link = self.layout.link
        if not os.path.lexists(link):
            return None
        prefix = os.path.join(os.path.dirname(link), os.readlink(link)) if os.path.islink(link) else ""
        if not prefix.startswith(f"{link}-"):
            remedy = "move it away and run again, or set conda_manage to false"
            raise HostError("was not installed by this role", where=link, remedy=remedy)
        version = _marked_version(prefix)
        return version if version and prefix == self.layout.prefix(version) else None

    def converge(self, wanted: Wanted) -> Outcome:
        """Make the host have this version and these settings."""
        if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]*", wanted.version):
            raise HostError(
                f"{wanted.version!r} is no version", where="conda_version", remedy="give it as 26.3.2-3"
            )
        outcome = Outcome(wanted.version)
        before = self.installed()
        old = self._old_prefixes(wanted.version)
        if self.check:
            self._settings(wanted, outcome)
            if before != wanted.version:
                self._note(outcome, before, wanted.version)
            self._clear(old, outcome)
            return outcome
        settings = self._settings_differ(wanted)
        if before == wanted.version and not settings and not old:
            return outcome
        with exclusive(self.layout.path("/run/runnerctl/miniforge.lock"), seconds=INSTALL_SECONDS) as lock:
            self._settings(wanted, outcome)
            before = self.installed()  # another run may have been at it while we waited
            if before != wanted.version:
                self._install(wanted, lock)
                self._note(outcome, before, wanted.version)
            self._clear(self._old_prefixes(wanted.version), outcome)
        return outcome

    def _note(self, outcome: Outcome, before: str | None, version: str) -> None:
        outcome.installs = True
        outcome.actions.append(f"installed Miniforge {version}")
        was = f"Miniforge {before}\n" if before else ""
        outcome.changes.append(Change(self.layout.link, True, before=was, after=f"Miniforge {version}\n"))

    def _settings_differ(self, wanted: Wanted) -> bool:
        return atomic_write(self.layout.condarc, condarc(wanted.channels), check=True).changed

    def _settings(self, wanted: Wanted, outcome: Outcome) -> None:
        """Written before conda: whoever runs it finds the channels that are meant."""
        if not self.check:
            folder = os.path.dirname(self.layout.condarc)
            self.receipt.record("path", [os.path.dirname(folder), folder, self.layout.condarc], role=ROLE)
        change = atomic_write(self.layout.condarc, condarc(wanted.channels), check=self.check)
        if change.changed:
            outcome.actions.append(f"wrote {self.layout.condarc}")
            outcome.changes.append(change)

    def _install(self, wanted: Wanted, lock: int) -> None:
        prefix = self.layout.prefix(wanted.version)
        if _marked_version(prefix) != wanted.version:
            self._install_prefix(wanted, prefix, lock)
        self.receipt.record("path", self.layout.link, role=ROLE)
        atomic_link(self.layout.link, os.path.basename(prefix))

    def _install_prefix(self, wanted: Wanted, prefix: str, lock: int) -> None:
        """Run the installer where the installation will stay; it counts once it is marked."""
        url = wanted.address(platform.machine())
        sha256 = wanted.sha256 or _published_sha256(url)
        with working_directory(self.layout.link) as work:
            installer = os.path.join(work, "installer.sh")
            fetch(wanted.installer or url, installer, sha256, timeouts=Timeouts())
            need_space(os.path.dirname(prefix), GROWTH * os.path.getsize(installer), what="Miniforge")
            self.receipt.record("path", prefix, role=ROLE)
            if os.path.lexists(prefix):
                _remove_tree(prefix)
            _run_installer(installer, prefix, work, lock)
        _harden(prefix)
        _mark(prefix, {"version": wanted.version, "url": url, "sha256": sha256})

    def _old_prefixes(self, version: str) -> list[str]:
        """Directories of other versions that this role made."""
        directory, name = os.path.split(self.layout.link)
        current = self.layout.prefix(version)
        try:
            found = [
                os.path.join(directory, entry)
                for entry in os.listdir(directory)
                if entry.startswith(f"{name}-")
            ]
        except FileNotFoundError:
            return []
        others = [path for path in found if path != current]
        if not others:
            return []
        ours = {entry.name for entry in self.receipt.entries("path", role=ROLE)}
        return sorted(path for path in others if path in ours)

    def _clear(self, prefixes: Iterable[str], outcome: Outcome) -> None:
        """Remove old versions that no process uses and nobody keeps an environment in."""
        for prefix in prefixes:
            if in_use(prefix) or _environments(prefix):
                outcome.kept.append(prefix)
                continue
            if not self.check:
                _remove_tree(prefix)
                self.receipt.forget("path", prefix)
            outcome.actions.append(f"removed {prefix}")
            outcome.changes.append(Change(prefix, True, before="an older Miniforge\n"))


def condarc(channels: Sequence[str]) -> bytes:
    """conda's settings for the whole host.

    ``#!final`` keeps a job's own ``~/.condarc`` from bringing other channels back; ``defaults`` in somebody's
    environment file means these channels too. Package caches are per user, for conda does not lock them.
    """
    named = json.dumps(list(channels))  # a JSON list is a YAML flow list
    return f"""\
# Written by runnerctl; the variable is conda_channels.
channels: {named}  #!final
default_channels: {named}  #!final
channel_priority: strict
auto_activate: false
auto_update_conda: false
notify_outdated_conda: false
pkgs_dirs: [~/.conda/pkgs]
envs_dirs: [~/.conda/envs]
""".encode()


def _published_sha256(url: str) -> str:
    """The checksum that stands beside the installer as ``<installer>.sha256``."""
    remedy = "set conda_sha256 to the installer's SHA-256"
    try:
        text = fetch_text(f"{url}.sha256")
    except HostError as error:
        raise HostError(
            f"no published checksum: {error.what}", where=f"{url}.sha256", remedy=remedy
        ) from error
    words = text.split()
    if not words or not SHA256.fullmatch(words[0].lower()):
        raise HostError("does not begin with a SHA-256", where=f"{url}.sha256", remedy=remedy)
    return words[0].lower()


def _run_installer(installer: str, prefix: str, work: str, lock: int) -> None:
    env: dict[str, str | None] = {"HOME": work, "TMPDIR": work, **dict.fromkeys(LEFT_OUT)}
    argv = ["/bin/bash", installer, "-b", "-p", prefix]
    # The installer keeps the lock: one left behind by a killed run still keeps the next run waiting.
    done = run(argv, timeout=INSTALL_SECONDS, env=env, cwd=work, keep_open=[lock])
    if done.rc != 0:
        lines = [line.strip() for line in f"{done.out}\n{done.err}".splitlines() if line.strip()]
        reason = lines[-1] if lines else f"exit status {done.rc}"
        raise HostError(f"the Miniforge installer failed: {reason}", where=prefix, remedy="run again")
    python = os.path.join(prefix, "bin", "python")
    if _conda_version(prefix) is None or not os.access(python, os.X_OK):
        raise HostError("the Miniforge installer left no working conda there", where=prefix)


def _harden(prefix: str) -> None:
    """Everything root's, readable by all, writable by nobody else (as ``chmod -R a+rX,go-w`` does)."""
    uid, gid = os.geteuid(), os.getegid()
    for directory, names, files in os.walk(prefix):
        for name in (*names, *files):
            _harden_one(os.path.join(directory, name), uid, gid)
    _harden_one(prefix, uid, gid)


def _harden_one(path: str, uid: int, gid: int) -> None:
    status = os.lstat(path)
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.lchown(path, uid, gid)
    if stat.S_ISLNK(status.st_mode):
        return
    mode = stat.S_IMODE(status.st_mode)
    runs = stat.S_ISDIR(status.st_mode) or mode & 0o111
    right = (mode | 0o444 | (0o111 if runs else 0)) & ~0o7022
    if mode != right:
        os.chmod(path, right)


def _mark(prefix: str, facts: dict[str, str]) -> None:
    """Freeze the base environment (CEP 22), put all on the disk, and only then say that it is whole."""
    message = (
        "This installation belongs to the whole host. Make an environment of your own: conda create -n NAME"
    )
    atomic_write(os.path.join(prefix, FROZEN), (json.dumps({"message": message}) + "\n").encode())
    sync_file_system(prefix)
    atomic_write(os.path.join(prefix, MARKER), (json.dumps(facts, indent=2) + "\n").encode())


def _marked_version(prefix: str) -> str | None:
    """The version of a whole installation, read without running it."""
    try:
        with open(os.path.join(prefix, MARKER), encoding="utf-8") as file:
            version = json.load(file)["version"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = _conda_version(prefix) and os.path.exists(os.path.join(prefix, "bin", "python"))
    return str(version) if whole else None


def _conda_version(prefix: str) -> str | None:
    """conda's own version, from its record in ``conda-meta``, if its command is there too."""
    try:
        names = os.listdir(os.path.join(prefix, "conda-meta"))
    except OSError:
        return None
    found = [match[1] for name in names if (match := re.fullmatch(r"conda-(\d[^-]*)-[^-]*\.json", name))]
    return found[0] if found and os.access(os.path.join(prefix, "bin", "conda"), os.X_OK) else None


def _environments(prefix: str) -> list[str]:
    """Environments that an administrator made in an installation; jobs' own are in their homes.

    A directory that is not there holds none; one that cannot be read is an OSError: then it is not removed.
    """
    try:
        return [name for name in os.listdir(os.path.join(prefix, "envs")) if not name.startswith(".")]
    except FileNotFoundError:
        return []


def _remove_tree(path: str) -> None:
    try:
        shutil.rmtree(path)
    except OSError as error:
        raise HostError(f"cannot be removed: {error.strerror}", where=path) from error
