"""Get an ephemeral slot its next registration, before each start of its listener.

It runs as root in ``gha-mint@SLOT.service``, which alone has the App's key. In the life of every job: it
imports what it needs, asks GitHub twice, and touches the disk little.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.atomic import atomic_write
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_app import NETWORK
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_modes import slot_state
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_units_ephemeral import (
    APP_FILE,
    JIT,
    MEMO,
    TICKETS,
    VARIABLE,
)

from runnerctl.errors import ConfigError, DataError, TryAgainError
from runnerctl.redact import register_secret

if TYPE_CHECKING:
    from runnerctl.github.models import JitConfig, Runner
    from runnerctl.github.registry import Registry

__all__ = ["Minting", "Ticket", "app_environment", "read_ticket"]

PROVISION = "run provision.yml again"
REAP_SECONDS = 20.0  # GitHub removes the record of a finished job by itself, perhaps a moment later
MOST_BYTES = 256 * 1024
_FILE = re.compile(r"\.[a-z_]{1,40}")
_REPOSITORY_GROUP = 1  # a repository has no groups, and the request none without one


@dataclass(frozen=True)
class Ticket:
    """What a slot's registrations look like, as the converge left it on the host."""

    slot: str
    runner_name: str
    url: str
    version: str
    labels: tuple[str, ...]
    group: str | None = None
    no_default_labels: bool = False
    gpus: tuple[str, ...] = ()
    containers: str = "none"
    env: Mapping[str, str] = field(default_factory=dict)

    def all_labels(self, machine: str) -> list[str]:
        """The labels to ask for: such a registration gets none by itself (GitHub's reference)."""
        from runnerctl.core.labels import architecture_label, normalise

        own = ["self-hosted", "Linux", architecture_label(machine).upper()]
        fixed = [] if self.no_default_labels else own
        taken = normalise(fixed)
        return [*fixed, *(label for label in self.labels if label.lower() not in taken)]


def _read(path: Path) -> dict[str, Any]:
    """A JSON object of ours. Raises ConfigError."""
    try:
        data = json.loads(path.read_bytes()[:MOST_BYTES])
    except FileNotFoundError:
        raise ConfigError("is not there", where=str(path), remedy=PROVISION) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot be read: {error}", where=str(path), remedy=PROVISION) from None
    if not isinstance(data, dict):
        raise ConfigError("is no JSON object", where=str(path), remedy=PROVISION)
    return data


def read_ticket(layout: Layout, slot: str) -> Ticket:
    """The ticket of a slot. Raises ConfigError."""
    path = layout.path(f"{TICKETS}/{slot}.json")
    data = _read(path)
    try:
        return Ticket(
            slot=slot,
            runner_name=str(data["runner_name"]),
            url=str(data["url"]),
            version=str(data["version"]),
            labels=tuple(map(str, data["labels"])),
            group=data.get("group"),
            no_default_labels=bool(data.get("no_default_labels")),
            gpus=tuple(map(str, data.get("gpus", ()))),
            containers=str(data.get("containers", "none")),
            env={str(name): str(value) for name, value in data.get("env", {}).items()},
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"cannot be understood: {error}", where=str(path), remedy=PROVISION) from None


def app_environment(layout: Layout, env: Mapping[str, str], ticket: Ticket) -> dict[str, str]:
    """The credential as an environment, and the host's way to the network; the key's path is systemd's word.

    Raises ConfigError.
    """
    app = _read(layout.path(APP_FILE))
    folder = env.get("CREDENTIALS_DIRECTORY", "")
    if not folder:
        remedy = "let its unit run it: systemctl start gha-ephemeral@" + ticket.slot
        raise ConfigError("has no credential of the unit's", where="CREDENTIALS_DIRECTORY", remedy=remedy)
    made = {name: value for name, value in ticket.env.items() if name in NETWORK}
    made |= {
        "RUNNERCTL_APP_ID": str(app.get("id") or ""),
        "RUNNERCTL_APP_KEY_FILE": f"{folder}/app-key",
        "RUNNERCTL_CACHE_DIR": str(layout.path(MEMO)),
    }
    optional = {
        "RUNNERCTL_APP_INSTALLATION_ID": app.get("installation_id"),
        "RUNNERCTL_API_URL": app.get("api_url"),
    }
    return made | {name: str(value) for name, value in optional.items() if value}


@dataclass
class Minting:
    """One registration for one slot. ``registry``: that of its scope."""

    ticket: Ticket
    layout: Layout
    registry: Registry
    machine: str = field(default_factory=lambda: os.uname().machine)
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep

    def run(self) -> int:
        """Mint, and hand over to the unit; returns the runner's id. Raises RunnerctlError."""
        config = self._config()
        text = listener_files(config.encoded_jit_config)
        self._note(config.runner.id)
        path = self.layout.path(f"{JIT}/{self.ticket.slot}")
        atomic_write(str(path), f'{VARIABLE}="{text}"\n'.encode(), mode=0o600)
        return config.runner.id

    # -- GitHub ------------------------------------------------------------------------------------------

    def _config(self) -> JitConfig:
        try:
            return self._mint()
        except DataError:  # a record of that name is there
            self._reap()
            return self._mint()

    def _mint(self) -> JitConfig:
        ticket = self.ticket
        group = self._group()
        try:
            labels = ticket.all_labels(self.machine)
            return self.registry.jit_config(ticket.runner_name, group_id=group, labels=labels)
        except DataError:
            raise
        except Exception:
            self._memo.unlink(missing_ok=True)  # the group may be another one by now
            raise

    @property
    def _memo(self) -> Path:
        return self.layout.path(f"{MEMO}/{self.ticket.slot}.group")

    def _group(self) -> int:
        """The group's id; asked once, and again when something went wrong."""
        if self.registry.scope.kind == "repository":
            return _REPOSITORY_GROUP
        wanted = [self.ticket.url, self.ticket.group]
        try:
            known = json.loads(self._memo.read_bytes())
            if known["for"] == wanted:
                return int(known["id"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        name = self.ticket.group
        found = self.registry.group_id(name) if name else self.registry.default_group_id()
        group = _REPOSITORY_GROUP if found is None else found
        atomic_write(str(self._memo), json.dumps({"for": wanted, "id": group}).encode(), mode=0o600)
        return group

    def _reap(self) -> None:
        """Remove the record that an earlier start left, and no other. Raises DataError or TryAgainError."""
        deadline = self.clock() + REAP_SECONDS
        while (runner := self.registry.runner_by_name(self.ticket.runner_name)) is not None:
            known = self._is_ours(runner.id)
            idle = not runner.online and not runner.busy
            if not known and not (idle and runner.ephemeral):
                raise self._foreign(runner)
            try:
                self.registry.delete(runner.id)
                return
            except TryAgainError:
                if self.clock() >= deadline:
                    raise TryAgainError(
                        f"GitHub still counts a job to its last record ({runner.id})",
                        where=f"runner {runner.name}",
                        remedy="nothing: it is tried again by itself",
                    ) from None
            self.sleep(1.0)

    def _is_ours(self, agent_id: int) -> bool:
        """Whether the slot's last registration had this id: each scope counts its own."""
        state = slot_state(self.layout, self.ticket.slot)
        return state.get("agent_id") == agent_id and state.get("url") in (None, self.ticket.url)

    def _foreign(self, runner: Runner) -> DataError:
        state = "online" if runner.online else "offline"
        return DataError(
            f"the name belongs to another runner (id {runner.id}, {state})",
            where=f"{self.registry.scope.name}: runner {runner.name}",
            remedy="remove that runner, or rename the slot",
        )

    def _note(self, agent_id: int) -> None:
        state = slot_state(self.layout, self.ticket.slot)
        state |= {"agent_id": agent_id, "runner_name": self.ticket.runner_name, "url": self.ticket.url}
        state |= {"version": self.ticket.version, "mode": "ephemeral", "registering": False}
        path = self.layout.state("slots", self.ticket.slot)
        atomic_write(str(path), (json.dumps(state, indent=2) + "\n").encode(), mode=0o644)


def listener_files(encoded: str) -> str:
    """The files of a configuration as ``NAME:BASE64`` words (actions/runner, Runner.cs: JIT configuration).

    Raises DataError when it is none; the configuration itself is never shown.
    """
    register_secret(encoded)
    try:
        files = json.loads(base64.b64decode(encoded, validate=True))
        decoded = {str(name): base64.b64decode(value, validate=True) for name, value in files.items()}
    except (ValueError, binascii.Error, AttributeError, TypeError):
        decoded = {}
    if ".runner" not in decoded or any(not _FILE.fullmatch(name) for name in decoded):
        raise DataError(
            "GitHub's configuration cannot be understood", remedy="upgrade runnerctl on this host"
        )
    words = {name: base64.b64encode(content).decode() for name, content in decoded.items()}
    for word in words.values():
        register_secret(word)
    return " ".join(f"{name}:{word}" for name, word in words.items())
