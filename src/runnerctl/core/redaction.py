"""Take names out of a snapshot so that it can be shown: serials, UUIDs, names, URLs.

The same thing gets the same pseudonym everywhere in a snapshot, so that the verdict on it stays the same:
``GPU-2`` of a slot's claim is ``GPU-2`` of NVML's list. Pseudonyms are numbers in order of appearance, not
hashes: a hash of a host's name can be guessed.
"""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import msgspec

from runnerctl.core.labels import DRAINED
from runnerctl.core.snapshot import Snapshot
from runnerctl.core.spec import Conda, ContainerToolkit, NvidiaDriver

__all__ = ["redacted"]

# Hosts that everybody's snapshot has.
_PUBLIC = frozenset({"github.com", "api.github.com", "localhost", "127.0.0.1", "::1"})
_PUBLIC_URLS = frozenset(
    {
        Conda().url,
        NvidiaDriver().repository_url,
        ContainerToolkit().repository_url,
        ContainerToolkit().docker_repository_url,
    }
)
# Fields by what they hold, wherever in the snapshot they stand.
_UUIDS = frozenset({"uuid", "mig", "mig_uuids", "gpus"})
_SERIALS = frozenset({"serial"})
_URLS = frozenset({"url", "api_url", "download_url"})
_NAMES = frozenset(
    {"group", "drain_group", "issuer", "wheelhouse", "host", "repository_key", "docker_repository_key"}
)
_TEXTS = frozenset({"cdi_devices", "reason", "message", "failure", "hold", "pending_restart", "source"})
_LABELS = frozenset({"labels"})
_OWN_AFFAIRS = frozenset({"env", "docker_config"})  # of the site: keys tell enough
_KEPT_LABELS = frozenset({DRAINED, "gpu", "self-hosted", "linux", "x64", "arm64"})
_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s'\"<>]+", re.IGNORECASE)
_UUID = re.compile(r"\b(?:GPU|MIG)-[0-9A-Za-z][0-9A-Za-z/-]{3,}")
_JOB = re.compile(r"(Running job: |: Job )(.+?)(?= completed with result:|$)")
_SHORTEST = 4  # a shorter name in running text is more likely an ordinary word


def redacted(snapshot: Snapshot) -> Snapshot:
    """The snapshot with pseudonyms, marked as such; one that is redacted already comes back as it is."""
    if snapshot.redacted:
        return snapshot
    book = _Book()
    spec = snapshot.host_spec
    for name in filter(None, (spec.host if spec else "", snapshot.host.name)):
        book.name(name, "host")
    tree = _fields(msgspec.to_builtins(snapshot), book)
    tree["host"]["name"] = book.name(snapshot.host.name, "host")
    tree = _texts(tree, book)
    return msgspec.convert({**tree, "redacted": True}, Snapshot)


class _Book:
    """Which original has which pseudonym."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def name(self, original: str, kind: str = "name") -> str:
        """A name of a host, an owner, a group ...; compared without case, as GitHub does."""
        if not original:
            return original
        key = original.lower()
        if key not in self.known:
            self._numbers[kind] = self._numbers.get(kind, 0) + 1
            self.known[key] = f"{kind}-{self._numbers[kind]}"
        return self.known[key]

    def runner(self, original: str) -> str:
        """A runner's name: that of its host keeps the slot at its end, as the slot is named elsewhere."""
        for host, pseudonym in list(self.known.items()):
            if pseudonym.startswith("host-") and original.lower().startswith(f"{host}-"):
                return pseudonym + original[len(host) :]
        return self.name(original, "runner")

    def uuid(self, original: str) -> str:
        """A GPU or a MIG device."""
        kind = "MIG" if original.startswith("MIG-") else "GPU"
        return self.name(original, kind)

    def url(self, original: str) -> str:
        """A URL that still has its scheme, its port, and the shape of its path."""
        if original in _PUBLIC_URLS:
            return original
        try:
            parts = urlsplit(original)
            port = f":{parts.port}" if parts.port else ""
        except ValueError:  # no URL after all
            return self.name(original, "url")
        host = parts.hostname or ""
        shown = host if host in _PUBLIC else f"{self.name(host, 'site')}.invalid"
        segments = [
            each if each.lower() in ("", "api", "v3", "enterprises") else self.name(each)
            for each in parts.path.split("/")
        ]
        return f"{parts.scheme}://{shown}{port}{'/'.join(segments)}"

    def text(self, original: str) -> str:
        """Running text: URLs, UUIDs, names of jobs, and every name that is known by now."""
        text = _JOB.sub(lambda found: found[1] + self.name(found[2], "job"), original)
        text = _URL.sub(lambda found: self.url(found[0]), text)
        text = _UUID.sub(lambda found: self.uuid(found[0]), text)
        for name in sorted(self.known, key=len, reverse=True):
            if len(name) >= _SHORTEST:
                pattern = rf"(?<![\w-]){re.escape(name)}(?![\w])"
                text = re.sub(pattern, self.known[name], text, flags=re.IGNORECASE)
        return text


def _fields(tree: Any, book: _Book, key: str = "") -> Any:
    """Replace what stands in fields of its own; running text waits until all names are known."""
    if isinstance(tree, dict):
        if key in _OWN_AFFAIRS:
            return dict.fromkeys(tree, "")
        if key == "clean_probes":
            return {book.uuid(uuid): count for uuid, count in tree.items()}
        return {name: _field(name, value, tree, book) for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_fields(item, book, key) for item in tree]
    return _value(key, tree, book) if isinstance(tree, str) else tree


def _field(name: str, value: Any, parent: dict[str, Any], book: _Book) -> Any:
    if isinstance(value, str) and (name == "runner_name" or (name == "name" and _is_runner(parent))):
        return book.runner(value)
    if isinstance(value, str) and name in ("id", "name") and "denied" in parent:  # a container's
        return book.name(value, "container")
    return _fields(value, book, name)


def _is_runner(fields: dict[str, Any]) -> bool:
    """Whether these are fields of a `Registration` or a `GithubRecord`, whose name is a runner's."""
    return "found" in fields or ("agent_id" in fields and "runner_name" not in fields)


def _value(key: str, value: str, book: _Book) -> str:
    if key in _UUIDS:
        return book.uuid(value)
    if key == "process":  # of a job, in the kernel log
        return book.name(value, "process")
    if key in _SERIALS:
        return book.name(value, "serial")
    if key in _URLS or (_URL.fullmatch(value) and key not in _TEXTS):
        return book.url(value)
    if key in _NAMES:
        return book.name(value, "host" if key == "host" else "name")
    if key in _LABELS and value.lower() not in _KEPT_LABELS:
        return book.name(value, "label")
    return value


def _texts(tree: Any, book: _Book, key: str = "") -> Any:
    if isinstance(tree, dict):
        return {name: _texts(value, book, name) for name, value in tree.items()}
    if isinstance(tree, list):
        return [_texts(item, book, key) for item in tree]
    return book.text(tree) if isinstance(tree, str) and key in _TEXTS else tree
