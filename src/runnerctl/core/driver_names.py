"""Names of the packages that hold a driver's kernel module or its libraries. Pure."""

from __future__ import annotations

import re

__all__ = ["TOOLKIT_PACKAGES", "is_driver_package", "is_nvidia_package"]

# The four packages of the container toolkit, which must be of one version.
TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
_NVIDIA = re.compile(
    r"(?:nvidia|libnvidia|cuda-drivers|libcuda1|linux-(?:modules|objects|signatures)-nvidia"
    r"|kmod-nvidia|dkms-nvidia|firmware-nvidia|nvlsm)[\w.+-]*"
)
# Debian, Ubuntu, NVIDIA's repositories for either, and those for Fedora's family.
_DRIVER = re.compile(
    r"nvidia-(?:tesla-[\d-]*|legacy-\w+-)?(?:open-)?kernel-(?:open-)?dkms|nvidia-dkms[\w-]*"
    r"|(?:kmod|dkms)-nvidia[\w-]*|linux-modules-nvidia[\w.+-]*|libnvidia-(?:tesla-[\d-]*)?ml1"
    r"|libnvidia-compute[\w-]*|libcuda1|cuda-drivers[\w-]*|nvidia-driver-(?:cuda|libs|cuda-libs)"
)


def is_nvidia_package(name: str) -> bool:
    """Whether a package is of NVIDIA's driver, or of its tools for containers."""
    return _NVIDIA.fullmatch(name) is not None


def is_driver_package(name: str) -> bool:
    """Whether a package holds the kernel module or a library that must be of the module's version."""
    return _DRIVER.fullmatch(name) is not None
