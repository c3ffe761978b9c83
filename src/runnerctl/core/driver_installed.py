"""Which driver a host has already, told by the names and versions of its packages."""

from __future__ import annotations

import re

import msgspec

from runnerctl.core.driver_sources import Choice, branches
from runnerctl.core.driver_structs import DriverFacts, Flavour, Source

__all__ = ["Present", "present_driver"]


class Present(msgspec.Struct, frozen=True):
    """The driver that is there. ``choice`` is None where it is none that the role knows how to look after.

    ``what``: as a message calls it. ``packages``: the packages that brought its kernel modules. ``ours``: the
    receipt says that we installed some of them.
    """

    what: str
    choice: Choice | None = None
    packages: tuple[str, ...] = ()
    ours: bool = False


def present_driver(facts: DriverFacts) -> Present | None:
    """The driver of a host, or None without one."""
    installed = facts.installed
    if installed.run_file:
        return Present("the driver of a .run file")
    modules = {name: version for name, version in sorted(installed.packages.items()) if _MODULES.match(name)}
    if not modules:
        loaded = installed.loaded if not facts.container else None
        return Present(f"driver {loaded}, which belongs to no package,") if loaded else None
    choices = {_choice(name, version, facts) for name, version in modules.items()}
    only = choices.pop() if len(choices) == 1 else None
    shown = ", ".join(f"{name} {version}" for name, version in list(modules.items())[:3])
    return Present(
        f"the driver of {shown}",
        choice=only,
        packages=tuple(modules),
        ours=bool(set(modules) & set(installed.noted)),  # a kernel's upgrade brings more of them
    )


# Packages with kernel modules make a driver; libraries alone (for containers, for building) do not.
_MODULES = re.compile(
    r"(a?kmod-nvidia|linux-modules-nvidia-\d|nvidia-(?!headless|fs-|peer)(?:[a-z0-9-]+-)?dkms(?:-|$))"
)
_UBUNTU_SERVER = re.compile(r"(?:linux-modules-nvidia|nvidia-dkms)-(\d+)-server(-open)?(?:-(?!open)|$)")
_NVIDIA_UBUNTU = re.compile(r"nvidia-dkms(?:-(\d+))?(-open)?$")


def _choice(name: str, version: str, facts: DriverFacts) -> Choice | None:
    """The driver that a package with kernel modules belongs to."""
    branch = _branch(version)
    if facts.os_id == "debian":
        flavour = {
            "nvidia-kernel-dkms": "proprietary",
            "nvidia-open-kernel-dkms": "open",
            "nvidia-kernel-open-dkms": "open",
        }.get(name)
        source: Source = "distribution" if branch in branches("distribution", facts) else "nvidia"
        return Choice(source, branch, _flavour(flavour == "open")) if flavour else None
    if facts.os_id == "ubuntu":
        if match := _UBUNTU_SERVER.match(name):
            return Choice("distribution", int(match[1]), _flavour(bool(match[2])))
        match = _NVIDIA_UBUNTU.match(name)
        # Ubuntu's own desktop series has the same names, and versions such as 580.95.05-0ubuntu0.24.04.2.
        return (
            Choice("nvidia", branch, _flavour(bool(match[2])))
            if match and "0ubuntu0." not in version
            else None
        )
    if name in ("kmod-nvidia-open-dkms", "kmod-nvidia-latest-dkms"):
        return Choice("nvidia", branch, _flavour("open" in name))
    return None


def _flavour(is_open: bool) -> Flavour:
    return "open" if is_open else "proprietary"


def _branch(version: str) -> int:
    """580 of ``3:580.95.05-1.el9``; 0 when it is no such version."""
    match = re.match(r"(?:\d+:)?(\d+)\.", version)
    return int(match[1]) if match else 0
