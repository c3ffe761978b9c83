"""What a host says of its GPUs and its driver, and what is planned for them: plain data.

`DriverPlan` is what the two halves of role ``nvidia_driver`` agree on: the controller decides it, the target
carries it out and decides nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = [
    "DriverFacts",
    "DriverPlan",
    "Flavour",
    "Headers",
    "InstalledDriver",
    "MigPlan",
    "Pin",
    "Repository",
    "Source",
]

Flavour = Literal["open", "proprietary"]
Source = Literal["distribution", "nvidia"]


class InstalledDriver(msgspec.Struct, frozen=True):
    """The driver that a host has already.

    ``loaded``: version of the loaded kernel module (``/sys/module/nvidia/version``), None when there is none.
    ``packages``: installed driver packages and their versions, as dpkg or rpm prints them.
    ``run_file``: NVIDIA's ``.run`` installer was used (it leaves ``/usr/bin/nvidia-uninstall``).
    ``noted``: packages of those that our receipt says we installed.
    ``open``: flavour of the loaded module; None when it is not known.
    """

    loaded: str | None = None
    packages: dict[str, str] = msgspec.field(default_factory=dict)
    run_file: bool = False
    noted: tuple[str, ...] = ()
    open: bool | None = None


class DriverFacts(msgspec.Struct, frozen=True):
    """What the target's half of ``preflight`` reports about GPUs and driver.

    ``pci``: device ids (four lower-case hexadecimal digits) of the PCI functions of class 03xx and vendor
    10de, without virtual functions and without those bound to vfio-pci. ``nvswitches``: functions of class
    0680 and vendor 10de. ``kernels``: releases with modules in ``/lib/modules``, the running one first.
    ``secure_boot``: None without EFI. ``mok_enrolled``: the key that DKMS signs with is enrolled; None: not
    known (no key yet, or no ``mokutil``). ``container``: the host is one and loads no modules of its own.
    """

    os_id: str
    os_version: str
    machine: str
    pci: tuple[str, ...] = ()
    nvswitches: int = 0
    kernels: tuple[str, ...] = ()
    secure_boot: bool | None = None
    mok_enrolled: bool | None = None
    container: bool = False
    installed: InstalledDriver = InstalledDriver()


class Pin(msgspec.Struct, frozen=True):
    """A record of apt's preferences: ``Package: <packages>``, ``Pin: <pin>``, ``Pin-Priority: <priority>``.

    ``packages``: globs. ``pin``: as apt_preferences(5) writes it, ``version 580.*`` or ``release o=Ubuntu``.
    The first record that fits a version of a package decides: the order of `DriverPlan.pins` matters.
    """

    packages: tuple[str, ...]
    pin: str
    priority: int


class Repository(msgspec.Struct, frozen=True):
    """A package repository to add.

    ``suite`` is ``/`` for NVIDIA's flat apt repositories, and empty for rpm. The key is ``key_text``
    (armoured, from a file on the controller) when given, else what ``key_url`` serves; it must have
    ``key_fingerprint`` (forty upper-case hexadecimal digits). ``module_stream``: dnf module stream to enable,
    such as ``nvidia-driver:580-open``.
    """

    name: str
    format: Literal["apt", "rpm"]
    url: str
    suite: str = ""
    components: tuple[str, ...] = ()
    key_url: str | None = None
    key_text: str | None = None
    key_fingerprint: str | None = None
    module_stream: str | None = None


class Headers(msgspec.Struct, frozen=True):
    """Kernel headers for DKMS: ``meta`` follows kernel upgrades, ``per_kernel`` has ``{kernel}`` in it."""

    meta: str | None = None
    per_kernel: str | None = None


class MigPlan(msgspec.Struct, frozen=True):
    """MIG profiles for GPUs, by UUID; no GPU named: all of the host."""

    profiles: tuple[str, ...]
    gpus: tuple[str, ...] = ()


class DriverPlan(msgspec.Struct, frozen=True):
    """What role ``nvidia_driver`` does on a host; `msgspec.to_builtins` makes it the module's argument.

    ``action``: ``install`` makes the host so; ``verify`` only proves ``gpu_count`` and ``require_loaded``
    (the driver is managed by others, or there is no GPU but an expectation); ``none`` has nothing to do.
    ``reason``: one line, why it is that.
    ``components``: apt components that the host's own sources must have.
    ``pins``: apt's preferences, so that two archives are never mixed; none for rpm.
    ``prerequisites``: packages to install before those, since they bring repositories (``epel-release``).
    ``packages``: names in the form that module ``host_packages`` takes (``a|b``: the first available).
    ``versions``: version globs of packages (``580.95.05-*``); empty: whatever the pins leave.
    ``hold``: what is kept back from upgrades: globs of installed packages (apt-mark hold), or patterns of
    name and version (dnf versionlock).
    ``upgrade_blacklist``: name prefixes for unattended-upgrades.
    ``module_names``: names to try with ``modinfo``, in this order (Debian's modules are nvidia-current).
    ``dkms``: modules are built on the host; ``prebuilt_signed``: they come built and signed.
    ``reboot``: ``auto`` or ``never``; the module on the target never reboots itself.
    ``gpu_count``: how many GPUs must answer; None: no expectation beyond ``require_loaded``.
    """

    action: Literal["install", "verify", "none"]
    reason: str
    source: Source | None = None
    branch: str | None = None
    version: str | None = None
    flavour: Flavour | None = None
    generations: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    repositories: tuple[Repository, ...] = ()
    pins: tuple[Pin, ...] = ()
    prerequisites: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    versions: dict[str, str] = msgspec.field(default_factory=dict)
    headers: Headers | None = None
    hold: tuple[str, ...] = ()
    upgrade_blacklist: tuple[str, ...] = ()
    module_names: tuple[str, ...] = ("nvidia-current", "nvidia")
    dkms: bool = False
    prebuilt_signed: bool = False
    persistence: bool = False
    fabric_manager: bool = False
    mig: tuple[MigPlan, ...] = ()
    reboot: Literal["auto", "never"] = "auto"
    require_loaded: bool = False
    gpu_count: int | None = None
