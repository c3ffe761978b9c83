"""A repository of Enterprise Linux' kind: a key of its own, a ``.repo`` file, and a module stream."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from .errors import HostError
from .packages_rpm import OPTIONS, UPDATE_SECONDS, dnf_error
from .process import Result, run

if TYPE_CHECKING:
    from .repository import Repository

__all__ = ["RpmRepository", "makecache_error"]

MODULE_SECONDS = 120.0
CAUSES = (
    (
        r"GPG verification is enabled, but GPG signature is not available|signature is not available",
        "it is not signed",
    ),
    (
        r"repomd\.xml GPG signature verification error|Bad GPG signature|signature verification",
        "it is signed by another key",
    ),
    (r"Status code: 404", "a file is missing there (404)"),
    (
        r"[Cc]hecksum doesn't match|Downloading successful, but checksum",
        "a file differs from the signed list",
    ),
    (r"Could not resolve host", "its server's name cannot be resolved"),
    (r"Could not connect|Connection refused|Timeout was reached", "its server does not answer"),
    (r"certificate", "its server's certificate is not trusted"),
)


class RpmRepository:
    """The files and lists of one repository under ``root``."""

    def __init__(self, repository: Repository, root: str = "/") -> None:
        self.repository = repository
        self.id = f"runnerctl-{repository.name}"
        self.key_path = os.path.join(root, "etc/pki/rpm-gpg", f"RPM-GPG-KEY-{self.id}")
        self.source_path = os.path.join(root, "etc/yum.repos.d", f"{self.id}.repo")
        self.cache = os.path.join(root, "var/cache/dnf")
        self.modules = os.path.join(root, "etc/dnf/modules.d")

    def files(self) -> dict[str, bytes]:
        """Path -> content, the key apart."""
        repository = self.repository
        lines = [
            "# Written by runnerctl: the next run puts back what is changed here.",
            f"[{self.id}]",
            f"name={repository.name} (runnerctl)",
            f"baseurl={repository.url}",
            "enabled=1",
            f"gpgcheck={int(repository.check_packages)}",
            f"repo_gpgcheck={int(repository.check_lists)}",
            f"gpgkey=file://{self.key_path}",
            "skip_if_unavailable=0",
        ]
        if not (repository.check_packages or repository.check_lists):
            raise HostError("neither its packages nor its lists are signed", where=repository.where)
        return {self.source_path: ("\n".join(lines) + "\n").encode()}

    def optional(self) -> tuple[str, ...]:
        """None: versions are locked by ``dnf versionlock``."""
        return ()

    def has_lists(self) -> bool:
        """Whether dnf has lists of this repository and its module stream is the wanted one."""
        try:
            names = os.listdir(self.cache)
        except FileNotFoundError:
            return False
        fetched = any(re.fullmatch(rf"{re.escape(self.id)}-[0-9a-f]+", name) for name in names)
        return fetched and self._stream_is_right()

    def fetch(self) -> None:
        """``dnf makecache`` of this repository alone, and its module stream. Raises HostError."""
        only = ("--disablerepo=*", f"--enablerepo={self.id}")
        self._run(["dnf", *OPTIONS, *only, "makecache", "--refresh"], UPDATE_SECONDS)
        stream = self.repository.module_stream
        if stream and not self._stream_is_right():
            # Another stream is left first: dnf refuses to switch while one is enabled.
            self._run(["dnf", *OPTIONS, "module", "reset", stream.split(":")[0]], MODULE_SECONDS)
            self._run(["dnf", *OPTIONS, "module", "enable", stream], MODULE_SECONDS)

    def _stream_is_right(self) -> bool:
        if not self.repository.module_stream:
            return True
        name, _, stream = self.repository.module_stream.partition(":")
        try:
            with open(os.path.join(self.modules, f"{name}.module"), encoding="utf-8") as file:
                lines = {line.replace(" ", "").strip() for line in file}
        except FileNotFoundError:
            return False
        return {f"stream={stream}", "state=enabled"} <= lines

    def _run(self, argv: list[str], seconds: float) -> None:
        done = run(argv, timeout=seconds)
        if done.rc != 0:
            shown = f"{self.repository.where} ({self.repository.url})"
            raise HostError(f"its lists cannot be used: {makecache_error(done)}", where=shown)


def makecache_error(done: Result) -> str:
    """The cause, from all that dnf wrote."""
    text = f"{done.out}\n{done.err}"
    return next((cause for pattern, cause in CAUSES if re.search(pattern, text)), dnf_error(done))
