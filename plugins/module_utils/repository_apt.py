"""A repository of Debian's kind: its key, a deb822 source, a pin, and lists that were fetched alone."""

from __future__ import annotations

import os
import re
import time
from typing import TYPE_CHECKING

from .errors import HostError
from .packages_apt import ENVIRONMENT, OPTIONS, UPDATE_SECONDS, apt_error
from .process import Result, run

if TYPE_CHECKING:
    from .repository import Repository

__all__ = ["AptRepository", "update_error"]

BUSY = "Could not get lock"
ESCAPED = '\\|{}[]<>"^~_=!@#$%^&*'  # apt's own set, in names of list files
KEY_REMEDY = "find out which key signs it, and give that one"
CLOCK_REMEDY = "set the clock of the host right"
MIRROR_REMEDY = "bring the mirror up to date, or use its source"
AGAIN_REMEDY = "run again; if it stays so, the repository or the way to it is changed"
ADDRESS_REMEDY = "check the address, the proxy settings of apt and the host's way to that server"
# What apt, gpgv and sqv write -> what it means and what to do. The first that fits is said.
CAUSES = (
    (r"EXPKEYSIG|KEYEXPIRED|key.{0,40} expired", "its key has expired", "ask its owner for the new key"),
    (r"BADSIG|Bad ?Signature", "its signature is wrong: somebody changed its Release file", AGAIN_REMEDY),
    (
        r"NO_PUBKEY|Missing key|public key is not available|couldn't be verified",
        "it is signed by another key",
        KEY_REMEDY,
    ),
    (
        r"is expired|is not valid anymore|[Ee]xpired \(invalid since",
        "its Release file has expired",
        MIRROR_REMEDY,
    ),
    (r"is not valid yet", "its Release file is from the future", CLOCK_REMEDY),
    (
        r"Hash Sum mismatch|unexpected size|Hashes of expected",
        "a file differs from the signed list",
        AGAIN_REMEDY,
    ),
    (
        r"is not signed|no longer signed|Clearsigned file isn't valid|NOSPLIT|NODATA",
        "it is not signed",
        "use one that is signed",
    ),
    (
        r"does not have a Release file|no longer has a Release file",
        "there is no Release file",
        ADDRESS_REMEDY,
    ),
    (r"404  Not Found", "a file is missing there (404)", ADDRESS_REMEDY),
    (
        r"Could not resolve|Temporary failure resolving",
        "its server's name cannot be resolved",
        ADDRESS_REMEDY,
    ),
    (
        r"Could not connect|Connection failed|timed out|Connection refused|Unable to connect",
        "its server does not answer",
        ADDRESS_REMEDY,
    ),
    (r"[Cc]ertificate", "its server's certificate is not trusted", "install its authority's certificate"),
)


class AptRepository:
    """The files and lists of one repository under ``root``."""

    def __init__(self, repository: Repository, root: str = "/") -> None:
        self.repository = repository
        name = f"runnerctl-{repository.name}"
        self.key_path = os.path.join(root, "etc/apt/keyrings", f"{name}.asc")
        self.source_path = os.path.join(root, "etc/apt/sources.list.d", f"{name}.sources")
        self.pin_path = os.path.join(root, "etc/apt/preferences.d", name)
        self.lists = os.path.join(root, "var/lib/apt/lists")

    def files(self) -> dict[str, bytes]:
        """Path -> content, the key apart."""
        made = {self.source_path: self._source()}
        if self.repository.pins:
            made[self.pin_path] = self._pins()
        return made

    def optional(self) -> tuple[str, ...]:
        """Files that go when the repository needs them no more."""
        return (self.pin_path,)

    def has_lists(self) -> bool:
        """Whether lists of this repository were fetched before."""
        try:
            names = os.listdir(self.lists)
        except FileNotFoundError:
            return False
        start = _list_name(self._release_base())
        mine = [name[len(start) :] for name in names if name.startswith(start)]
        return any(name in ("InRelease", "Release") for name in mine) and any(
            "Packages" in name for name in mine
        )

    def fetch(self) -> None:
        """``apt-get update`` of this source alone. Raises HostError; then apt keeps the lists it had.

        The time of the whole stays: the lists of other sources are no newer for it.
        """
        before = os.stat(self.lists) if os.path.isdir(self.lists) else None
        self._update()
        if before:
            os.utime(self.lists, ns=(before.st_atime_ns, before.st_mtime_ns))

    def _update(self) -> None:
        options = (
            *("-o", f"Dir::Etc::sourcelist={self.source_path}", "-o", "Dir::Etc::sourceparts=-"),
            *("-o", "APT::Get::List-Cleanup=0", "-o", f"Dir::State::lists={self.lists}"),
            # Without it a wrong signature is a warning where an older list is cached.
            *("-o", "APT::Update::Error-Mode=any"),
            # Whatever the host has set for its other sources.
            *("-o", "Acquire::Check-Valid-Until=true", "-o", "Acquire::Check-Date=true"),
            *(
                word
                for kind in ("Insecure", "Weak", "DowngradeToInsecure")
                for word in ("-o", f"Acquire::Allow{kind}Repositories=false")
            ),
        )
        deadline = time.monotonic() + UPDATE_SECONDS
        while True:
            left = max(1.0, deadline - time.monotonic())
            done = run(["apt-get", *OPTIONS, *options, "update"], timeout=left, env=ENVIRONMENT)
            if done.rc == 0 or BUSY not in done.err or left < 5:
                break
            time.sleep(2)
        if done.rc != 0:
            cause, remedy = update_error(done)
            shown = f"{self.repository.where} ({self.repository.url})"
            raise HostError(f"its lists cannot be used: {cause}", where=shown, remedy=remedy)

    def _source(self) -> bytes:
        repository = self.repository
        lines = [
            "# Written by runnerctl: the next run puts back what is changed here.",
            "Types: deb",
            f"URIs: {repository.url}",
            f"Suites: {repository.suite}",
            *([f"Components: {' '.join(repository.components)}"] if repository.components else []),
            f"Signed-By: {self.key_path}",
        ]
        return ("\n".join(lines) + "\n").encode()

    def _pins(self) -> bytes:
        records = [
            f"Package: {pin.packages}\nPin: {pin.pin}\nPin-Priority: {pin.priority}\n"
            for pin in self.repository.pins
        ]
        head = "Explanation: Written by runnerctl: the next run puts back what is changed here.\n"
        return "\n".join(head + record for record in records).encode()

    def _release_base(self) -> str:
        base, suite = f"{self.repository.url.rstrip('/')}/", self.repository.suite
        if suite == "/":
            return base
        return f"{base}{suite}" if suite.endswith("/") else f"{base}dists/{suite}/"


def update_error(done: Result) -> tuple[str, str]:
    """Cause and remedy, from all that apt wrote."""
    text = f"{done.out}\n{done.err}"
    for pattern, cause, remedy in CAUSES:
        if re.search(pattern, text):
            return cause, remedy
    return apt_error(done), "run `apt-get update` on the host and mend what it says"


def _list_name(address: str) -> str:
    """How the name of a list file begins (apt's ``URItoFileName``)."""
    rest = address.split("://", 1)[-1]
    escaped = "".join(f"%{ord(char):02x}" if char in ESCAPED else char for char in rest)
    return escaped.replace("/", "_")
