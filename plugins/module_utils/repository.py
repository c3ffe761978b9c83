"""Foreign package repositories: whose key is known by its fingerprint, and that nobody else can speak for.

A repository's files are written, its lists fetched, and both taken back when that fails: a host never keeps a
repository that does not work. Where everything is as wanted nothing is asked of the network.
"""

from __future__ import annotations

import contextlib
import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .atomic import Change, atomic_write
from .download import Timeouts, fetch_bytes
from .errors import HostError
from .receipt import Receipt
from .repository_apt import AptRepository
from .repository_key import armoured, fingerprints, fingerprints_from_text, key_packets
from .repository_rpm import RpmRepository

__all__ = ["Pin", "Repository", "RepositoryOutcome", "ensure", "refresh"]

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
KEY_BYTES = 1 << 20
KEY_SECONDS = 60.0


@dataclass(frozen=True)
class Pin:
    """What ``apt_preferences(5)`` calls a record: ``pin`` is like ``version 1.2-1`` or ``origin "HOST"``."""

    packages: str
    pin: str
    priority: int


@dataclass(frozen=True)
class Repository:
    """One repository. ``format``: apt or rpm. ``suite`` is ``/`` for a flat one, which has no components.

    ``key_fingerprint`` may name several keys with commas between. ``variable`` is how the inventory variables
    of this repository begin; messages name them. ``pins`` are for apt. ``module_stream`` (``name:stream``),
    ``check_packages`` and ``check_lists`` are for dnf: which of the two are signed.
    """

    name: str
    format: str
    url: str
    suite: str = "/"
    components: tuple[str, ...] = ()
    key_url: str | None = None
    key_text: str | None = None
    key_fingerprint: str | None = None
    module_stream: str | None = None
    pins: tuple[Pin, ...] = ()
    variable: str = ""
    check_packages: bool = True
    check_lists: bool = True

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Repository:
        """From a module's argument; raises HostError on what cannot be."""
        values = {name: value for name, value in data.items() if value is not None}
        try:
            values["components"] = tuple(values.get("components", ()))
            values["pins"] = tuple(Pin(**pin) for pin in values.get("pins", ()))
            made = cls(**values)
        except TypeError as error:
            raise HostError(
                f"is no repository: {error}", where=str(data.get("name", "repository"))
            ) from error
        made.check()
        return made

    @property
    def where(self) -> str:
        """How messages call it."""
        return f"repository {self.name}"

    def check(self) -> None:
        """Raise HostError for what no package manager should be given."""
        if not NAME.fullmatch(self.name):
            raise HostError(f"{self.name!r} is no name of a repository")
        if self.format not in ("apt", "rpm"):
            raise HostError(f"format {self.format!r} is neither apt nor rpm", where=self.where)
        texts = [self.url, self.suite, *self.components, *(pin.packages + pin.pin for pin in self.pins)]
        scheme = urllib.parse.urlsplit(self.url).scheme
        if scheme not in ("http", "https", "file") or not all(text.isprintable() for text in texts):
            raise self._wrong(f"{self.url!r} is no http, https or file address", "url")
        if " " in self.url or "@" in urllib.parse.urlsplit(self.url).netloc:
            raise self._wrong("the address holds a space, a user or a password", "url")
        if not self.key_url and not self.key_text:
            raise self._wrong("has no key", "key", "give its address or its text")
        self.wanted_fingerprints()

    def wanted_fingerprints(self) -> set[str]:
        """Of the keys that may sign it; empty when any may. Raises HostError when there must be one."""
        if self.key_fingerprint:
            try:
                return fingerprints_from_text(self.key_fingerprint)
            except ValueError as error:
                raise self._wrong(str(error), "key_fingerprint", "give 40 hexadecimal digits") from error
        remote = [self.url, self.key_url or ""]
        if any(address.startswith(("http://", "https://")) for address in remote):
            remedy = "give the fingerprint that its owner publishes"
            raise self._wrong("has no key fingerprint to tell its key by", "key_fingerprint", remedy)
        return set()

    def _wrong(self, what: str, field_name: str, remedy: str = "check the address") -> HostError:
        variable = f"{self.variable}_{field_name}" if self.variable else field_name
        return HostError(what, where=self.where, remedy=f"{remedy} ({variable})")


@dataclass
class RepositoryOutcome:
    """What was done, or in check mode would be: files, and whether the lists were fetched."""

    changes: list[Change] = field(default_factory=list)
    fetched: bool = False
    actions: list[str] = field(default_factory=list)

    @property
    def changed(self) -> bool:
        """Fetched lists alone are no change: nothing that anybody configured differs."""
        return bool(self.actions)


def ensure(
    repository: Repository, *, receipt: Receipt, role: str, check: bool = False, root: str = "/"
) -> RepositoryOutcome:
    """Make the repository known to the host, with lists that its own key signs. Raises HostError."""
    repository.check()
    kind = _kind(repository, root)
    outcome = RepositoryOutcome()
    key = _key(repository, kind.key_path, check=check)
    wanted = {kind.key_path: key, **kind.files()}
    outcome.changes = [
        atomic_write(path, data, check=True) for path, data in wanted.items() if data is not None
    ]
    stale = [path for path in kind.optional() if path not in wanted and os.path.lexists(path)]
    outcome.changes += [Change(path, True, before=_text(path)) for path in stale]
    differing = [change.path for change in outcome.changes if change.changed]
    outcome.actions = [f"{repository.where}: {path}" for path in differing]
    if key is None:
        outcome.actions.append(f"{repository.where}: {kind.key_path}")
        shown = f"# the key {repository.key_fingerprint} from {repository.key_url}\n"
        outcome.changes.append(Change(kind.key_path, True, after=shown))
    if check:
        return outcome
    if differing:
        receipt.record("path", [path for path in differing if path not in stale], role=role)
        _write_and_fetch(kind, {path: wanted.get(path) for path in differing}, receipt)
        outcome.fetched = True
    elif not kind.has_lists():
        kind.fetch()
        outcome.fetched = True
    return outcome


def refresh(repository: Repository, *, root: str = "/") -> None:
    """Fetch the lists of this repository alone. Raises HostError with the repository and the cause."""
    _kind(repository, root).fetch()


def _kind(repository: Repository, root: str) -> AptRepository | RpmRepository:
    return (AptRepository if repository.format == "apt" else RpmRepository)(repository, root)


def _write_and_fetch(
    kind: AptRepository | RpmRepository, wanted: Mapping[str, bytes | None], receipt: Receipt
) -> None:
    """All of it or nothing: what does not work is put back as it was."""
    before = {path: _bytes(path) for path in wanted}
    try:
        _put(wanted)
        kind.fetch()
    except BaseException:
        _put(before)
        receipt.forget("path", [path for path, data in before.items() if data is None])
        raise


def _put(files: Mapping[str, bytes | None]) -> None:
    for path, data in files.items():
        if data is None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        else:
            atomic_write(path, data)


def _key(repository: Repository, path: str, *, check: bool) -> bytes | None:
    """The key as it is to be written; None when only fetching it would tell, which check mode does not do."""
    wanted = repository.wanted_fingerprints()
    if repository.key_text:
        return _judged(repository, repository.key_text.encode(), wanted)
    there = _bytes(path)
    if there is not None and wanted:
        with contextlib.suppress(HostError):
            return _judged(repository, there, wanted)
    if check:
        return None
    address = repository.key_url or ""
    data = fetch_bytes(address, limit_bytes=KEY_BYTES, timeouts=Timeouts(idle=20, total=KEY_SECONDS))
    return _judged(repository, data, wanted)


def _judged(repository: Repository, data: bytes, wanted: set[str]) -> bytes:
    """The key in its one written form. Raises HostError unless every primary key in it is a wanted one."""
    where = f"key of {repository.where}"
    packets = key_packets(data, where=where)
    found = fingerprints(packets, where=where)
    foreign = [each for each in found if wanted and each not in wanted]
    if foreign:
        variable = f"{repository.variable}_key_fingerprint" if repository.variable else "key_fingerprint"
        what = f"has fingerprint {_list(foreign)}, expected {_list(sorted(wanted))}"
        remedy = f"nothing was changed: it is another key than the one you trust, or {variable} is wrong"
        raise HostError(what, where=where, remedy=remedy)
    return armoured(packets)


def _list(words: Sequence[str]) -> str:
    return " and ".join(words)


def _bytes(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _text(path: str) -> str:
    return (_bytes(path) or b"").decode("utf-8", "replace")
