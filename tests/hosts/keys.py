"""The SSH identity of one test session: one user key, one host key that all its hosts carry.

Hosts have their host key before they start, so known_hosts is written first and checking stays on.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.hosts.engine import Network
from tests.hosts.machine import HostsError, call, ensure_programs

__all__ = ["Keys", "make_keys"]

CONNECT_SECONDS = 10
LONGEST = 60  # of a directory of sockets: ssh appends a hash, and a suffix while it connects


@dataclass(frozen=True)
class Keys:
    """A directory (mode 0700) with the keys, known_hosts and the sockets of open connections."""

    directory: Path

    @property
    def private_key(self) -> Path:
        """The user's key."""
        return self.directory / "id"

    @property
    def known_hosts(self) -> Path:
        """One line that names every address of the hosts' network."""
        return self.directory / "known_hosts"

    @property
    def control_path(self) -> Path:
        """Where Ansible keeps its sockets, whose path has 108 bytes at most."""
        near = self.directory / "cp"
        if len(str(near)) <= LONGEST:
            return near
        return Path(f"/tmp/rh-{os.getuid()}-{hashlib.sha256(str(near).encode()).hexdigest()[:12]}")

    def public_key(self) -> str:
        """The line for authorized_keys."""
        return (self.directory / "id.pub").read_text()

    def host_key(self) -> dict[str, str]:
        """Path on a host -> content."""
        return {
            "/etc/ssh/ssh_host_ed25519_key": (self.directory / "host").read_text(),
            "/etc/ssh/ssh_host_ed25519_key.pub": (self.directory / "host.pub").read_text(),
        }

    def options(self) -> list[str]:
        """ssh options that use nothing of the person who runs the tests."""
        return [
            f"-oUserKnownHostsFile={self.known_hosts}",
            "-oGlobalKnownHostsFile=/dev/null",
            "-oStrictHostKeyChecking=yes",
            "-oIdentitiesOnly=yes",
            "-oBatchMode=yes",
            f"-oConnectTimeout={CONNECT_SECONDS}",
            "-oServerAliveInterval=5",
            "-oServerAliveCountMax=3",
        ]

    def ssh(self, user: str, ip: str) -> list[str]:
        """The command line of a connection."""
        return ["ssh", "-F/dev/null", f"-i{self.private_key}", *self.options(), f"{user}@{ip}"]

    def hang_up(self) -> None:
        """End connections kept open by Ansible: a host that stops takes its end with it, unsaid."""
        for socket in self.control_path.glob("*"):
            command = ["ssh", "-F/dev/null", f"-oControlPath={socket}", "-Oexit", "any"]
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10)


def make_keys(directory: Path, network: Network) -> Keys:
    """Make the keys, or take those that are there. Raises HostsError."""
    keys = Keys(directory)
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    keys.control_path.mkdir(mode=0o700, exist_ok=True)
    if keys.control_path.lstat().st_uid != os.getuid():
        raise HostsError(f"{keys.control_path} belongs to another user: remove it")
    ensure_programs({"ssh": "openssh-client", "ssh-keygen": "openssh-client"})
    for name in ("id", "host"):
        if not (directory / name).exists():
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"runnerctl-test-{name}"]
            call([*make, "-f", str(directory / name)], seconds=30)
    pattern = str(network.subnet.network_address).rsplit(".", 1)[0] + ".*"
    host_key = " ".join((directory / "host.pub").read_text().split()[:2])
    keys.known_hosts.write_text(f"{pattern} {host_key}\n")
    return keys
