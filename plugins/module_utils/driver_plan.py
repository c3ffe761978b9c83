"""What the controller decided about a host's driver, as the target reads it. Standard library only.

The same fields as ``runnerctl.core.driver_structs.DriverPlan`` (a contract test compares them), whose
docstrings say what they mean. The target carries the plan out and decides nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from .errors import HostError

__all__ = ["DriverPlan", "Headers", "MigPlan", "Pin", "Repository"]

REMEDY = (
    "controller and collection must be of one version: install the same runnerctl on the controller again"
)


@dataclass(frozen=True)
class Pin:
    """An apt preference."""

    packages: tuple[str, ...]
    pin: str
    priority: int


@dataclass(frozen=True)
class Repository:
    """A package repository to add."""

    name: str
    format: str
    url: str
    suite: str = ""
    components: tuple[str, ...] = ()
    key_url: str | None = None
    key_text: str | None = None
    key_fingerprint: str | None = None
    module_stream: str | None = None


@dataclass(frozen=True)
class Headers:
    """Kernel headers for DKMS."""

    meta: str | None = None
    per_kernel: str | None = None


@dataclass(frozen=True)
class MigPlan:
    """MIG profiles for GPUs, by UUID; no GPU named: all of the host."""

    profiles: tuple[str, ...]
    gpus: tuple[str, ...] = ()


@dataclass(frozen=True)
class DriverPlan:
    """What role ``nvidia_driver`` does on a host."""

    action: str
    reason: str
    source: str | None = None
    branch: str | None = None
    version: str | None = None
    flavour: str | None = None
    generations: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    repositories: tuple[Repository, ...] = ()
    pins: tuple[Pin, ...] = ()
    prerequisites: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    headers: Headers | None = None
    hold: tuple[str, ...] = ()
    upgrade_blacklist: tuple[str, ...] = ()
    module_names: tuple[str, ...] = ("nvidia-current", "nvidia")
    dkms: bool = False
    prebuilt_signed: bool = False
    persistence: bool = False
    fabric_manager: bool = False
    mig: tuple[MigPlan, ...] = ()
    reboot: str = "auto"
    require_loaded: bool = False
    gpu_count: int | None = None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> DriverPlan:
        """Read the module's argument. Raises HostError when it is no plan."""
        given = dict(data)
        for name, kind in (("repositories", Repository), ("pins", Pin), ("mig", MigPlan)):
            given[name] = tuple(_struct(kind, each) for each in given.get(name) or ())
        headers = given.get("headers")
        given["headers"] = _struct(Headers, headers) if headers else None
        plan: DriverPlan = _struct(cls, given)
        return plan


def _struct(kind: Any, data: Any) -> Any:
    """A struct from plain data: lists become tuples, an unknown or missing field is refused."""
    if not isinstance(data, Mapping):
        raise HostError(f"{kind.__name__} is {type(data).__name__}, no mapping", where="plan", remedy=REMEDY)
    known = {each.name: each for each in fields(kind)}
    required = {name for name, each in known.items() if each.default is each.default_factory is MISSING}
    wrong = [f"has no field {name}" for name in sorted(set(data) - set(known))]
    wrong += [f"lacks {name}" for name in sorted(required - set(data))]
    if wrong:
        raise HostError(f"{kind.__name__} {wrong[0]}", where="plan", remedy=REMEDY)
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in data.items()})
