"""What inventory says of the store and of who may ask, from the host's spec; read again when that changes."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from runnerctl.core.sections import Conda
from runnerctl.envs.owners import Askers, user_ids
from runnerctl.envs.policy import Policy, policy_of
from runnerctl.errors import ConfigError, RunnerctlError
from runnerctl.hostfile import HOST_FILE, load_host_spec

__all__ = ["HostPolicy", "PolicyFile"]

USERS_SECONDS = 2.0  # between looks for the users of slots that have none yet


@dataclass(frozen=True)
class HostPolicy:
    """One reading of the spec. ``channels``: its rules of channels; ``mark`` changes with any rule."""

    conda: Conda
    channels: Policy
    askers: Askers
    mark: str


@dataclass
class PolicyFile:
    """The spec's file. One that cannot be read refuses everybody: which channels are private is not known.

    ``credentials``: path of the file of channel credentials, which only the service can read.
    """

    path: Path = HOST_FILE
    say: Callable[[str], None] = lambda _text: None
    ids: Callable[[str], int | None] = user_ids
    credentials: str | None = None
    clock: Callable[[], float] = time.monotonic
    _seen: tuple[int, int, int] | None = field(default=(-1, -1, -1))
    _read_at: float = float("-inf")
    _policy: HostPolicy | None = None
    _fault: str = ""

    def current(self) -> HostPolicy:
        """The policy as the file says it now. Raises ConfigError."""
        seen = self._stamp()
        waits = self._policy is not None and self._policy.askers.missing
        if seen != self._seen or (waits and self.clock() - self._read_at > USERS_SECONDS):
            self._seen, self._read_at = seen, self.clock()
            self._read()
        if self._policy is None:
            remedy = "provision the host again: ansible-playbook provision.yml"
            raise ConfigError(
                f"cannot tell whose is what: {self._fault}", where=str(self.path), remedy=remedy
            )
        return self._policy

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self.path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _read(self) -> None:
        try:
            spec = load_host_spec(self.path)
        except RunnerctlError as error:
            self._policy, self._fault = None, error.what
            self.say(f"nobody is served until this is mended: {error}")
            return
        conda = spec.conda if spec is not None else Conda()
        channels = policy_of(conda, credentials=self.credentials)
        mark = hashlib.sha256(msgspec.json.encode([conda, channels])).hexdigest()
        self._policy = HostPolicy(conda, channels, Askers(spec, self.ids), mark)
