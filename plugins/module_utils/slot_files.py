"""Where everything of a slot stands on its host, and what it should be. Pure; standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "MANAGED",
    "MODES",
    "STORE",
    "Layout",
    "SlotSpec",
    "env_text",
    "read_runner_file",
    "runner_fields",
    "unit_name",
]

MANAGED = "# Managed by runnerctl: changes here are undone by the next converge.\n"
STORE = "/var/lib/runnerctl/env"  # of conda environments

# A slot's mode -> its unit template. An exit of 0 means the opposite in the two.
MODES = {"persistent": "gha-runner", "ephemeral": "gha-ephemeral"}


def unit_name(slot: str, mode: str = "persistent") -> str:
    """The systemd unit that runs a slot's listener."""
    return f"{MODES[mode]}@{slot}.service"


@dataclass(frozen=True)
class Layout:
    """Where everything of a slot stands. ``root`` is ``/`` on a host."""

    root: Path = Path("/")

    def path(self, absolute: str) -> Path:
        """A path of the host under ``root``."""
        return self.root / absolute.lstrip("/")

    def slot_root(self, slot: str) -> Path:
        """The runner's root directory."""
        return self.path(f"/var/lib/gha-runner/{slot}")

    def release(self, version: str) -> Path:
        """The one verified copy of a runner release on this host."""
        return self.path(f"/opt/actions-runner/{version}")

    @property
    def units(self) -> Path:
        """Where systemd reads the administrator's units."""
        return self.path("/etc/systemd/system")

    def drop_in(self, slot: str, mode: str = "persistent") -> Path:
        """What is this slot's own in its unit."""
        return self.units / f"{unit_name(slot, mode)}.d" / "10-slot.conf"

    def wanted(self, slot: str, mode: str = "persistent") -> Path:
        """The link that starts the slot at boot."""
        return self.units / "multi-user.target.wants" / unit_name(slot, mode)

    def state(self, kind: str, slot: str) -> Path:
        """A file of our own state: ``slots`` (JSON), ``hold`` (a reason), ``pending`` (a restart is due)."""
        name = f"{slot}.json" if kind == "slots" else slot
        return self.path(f"/var/lib/runnerctl/{kind}/{name}")


@dataclass(frozen=True)
class SlotSpec:
    """One slot as the controller wants it; every field is final.

    ``cpus``: as the kernel lists them, None for all; ``memory_bytes``, ``tasks`` and ``disk_bytes`` are
    limits, None for none; ``containers``: ``none`` or ``rootless``. ``store``: whether the host has one of
    environments; ``store_owner``: whose private ones this slot sees.
    """

    name: str
    runner_name: str
    url: str
    version: str
    labels: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    group: str | None = None
    no_default_labels: bool = False
    env: dict[str, str] = field(default_factory=dict)
    mode: str = "persistent"
    containers: str = "none"
    cpus: str | None = None
    memory_bytes: int | None = None
    tasks: int | None = None
    disk_bytes: int | None = None
    store: bool = False
    store_owner: str | None = None

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SlotSpec:
        """Read the module's argument."""
        known = {key: data[key] for key in cls.__dataclass_fields__ if data.get(key) is not None}
        for key in ("labels", "gpus"):
            known[key] = tuple(known.get(key, ()))
        return cls(**known)

    @property
    def user(self) -> str:
        """The system user the slot's jobs run as."""
        return f"gha-{self.name}"

    @property
    def unit(self) -> str:
        """The systemd unit that runs the listener."""
        return unit_name(self.name, self.mode)


def env_text(slot: SlotSpec) -> str:
    """The runner's ``.env``: ``KEY=VALUE`` lines, no quotes, no comments (actions/runner, Program.cs)."""
    return "".join(f"{key}={value}\n" for key, value in sorted(slot.env.items()))


def read_runner_file(path: Path) -> dict[str, Any] | None:
    """The runner's own ``.runner``; None when it is absent or says nothing: the slot is not registered."""
    try:
        return runner_fields(path.read_bytes())
    except OSError:
        return None


def runner_fields(content: bytes) -> dict[str, Any] | None:
    """What a ``.runner`` says: JSON, perhaps with a byte order mark; keys lower-cased.

    None when it cannot be read as JSON, or holds no id.
    """
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    fields = {str(key).lower(): value for key, value in data.items()} if isinstance(data, dict) else {}
    agent_id = fields.get("agentid")
    texts = (fields.get("agentname"), fields.get("githuburl"))
    known = isinstance(agent_id, int) and not isinstance(agent_id, bool) and 0 < agent_id < 1 << 63
    return fields if known and all(text is None or isinstance(text, str) for text in texts) else None
