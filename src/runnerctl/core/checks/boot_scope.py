"""Where the checks of an installed driver apply. Pure."""

from __future__ import annotations

from runnerctl.core.checks.expect import expects_gpus
from runnerctl.core.driver_readings import DriverInstall
from runnerctl.core.snapshot import NvidiaModule, Snapshot, Unavailable

__all__ = ["boots", "driver_due", "loaded"]


def boots(snapshot: Snapshot) -> bool:
    """Whether a driver's next boot can be told at all, or should be and could not be read.

    A container boots no kernel: what /lib/modules holds there is for another kernel, or for a build.
    """
    install = snapshot.driver_install
    if install is None or snapshot.host.container:
        return False
    if isinstance(install, Unavailable):
        return expects_gpus(snapshot.host_spec) or bool(_module_version(snapshot))
    return bool(_module_version(snapshot)) or _on_disk(install)


def driver_due(snapshot: Snapshot) -> bool:
    """Whether a driver is installed and could be read; what could not be read, driver.next_boot says once."""
    return boots(snapshot) and isinstance(snapshot.driver_install, DriverInstall)


def loaded(snapshot: Snapshot) -> bool:
    """Whether a driver is installed and loaded."""
    return driver_due(snapshot) and bool(_module_version(snapshot))


def _module_version(snapshot: Snapshot) -> str | None:
    module = snapshot.nvidia_module
    return module.version if isinstance(module, NvidiaModule) else None


def _on_disk(install: DriverInstall) -> bool:
    """Whether any part of a driver is on disk."""
    return bool(
        install.library_version or install.dkms_sources or any(module.version for module in install.modules)
    )
