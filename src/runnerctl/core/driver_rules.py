"""The rules of the variables ``nvidia_driver_*`` that types cannot say."""

from __future__ import annotations

import re

from runnerctl.core.repository_keys import key_problem
from runnerctl.core.scope import split_url
from runnerctl.core.sections import MigLayout, NvidiaDriver, Problem
from runnerctl.core.templates import check_template

__all__ = ["driver_rules"]

BRANCH = re.compile(r"\d{3}")
VERSION = re.compile(r"\d{3}\.\d{1,3}(\.\d{1,3})?")
DEVICE_ID = re.compile(r"[0-9a-fA-F]{4}")
FINGERPRINT = re.compile(r"[0-9a-fA-F]{40}")
GPU_UUID = re.compile(r"GPU-[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
# As `nvidia-smi mig -lgip` prints them, without the leading "MIG ": 1g.10gb, 1g.10gb+me, 4g.71gb+me.all
MIG_PROFILE = re.compile(r"[1-7]g\.\d{1,3}gb([+-]me(\.all)?|\+gfx)?")


def driver_rules(driver: NvidiaDriver) -> list[Problem]:
    """Every rule that the section breaks."""
    problems = [*_version_problems(driver), *_repository_problems(driver), *_mig_problems(driver)]
    if driver.gpu_count is not None and driver.gpu_count < 0:
        problems.append(Problem("nvidia_driver_gpu_count", f"is {driver.gpu_count}", "give 0 or more"))
    for device in driver.device_ids:
        if not DEVICE_ID.fullmatch(device):
            remedy = 'give four hexadecimal digits in quotes, as `lspci -nn -d 10de:` shows them: "2330"'
            problems.append(Problem("nvidia_driver_device_ids", f"{device!r} is no PCI device id", remedy))
    return problems


def _version_problems(driver: NvidiaDriver) -> list[Problem]:
    problems = []
    if driver.branch is not None and not BRANCH.fullmatch(str(driver.branch)):
        problems.append(Problem("nvidia_driver_branch", f"is {driver.branch!r}", 'give it as "580"'))
    if driver.version is not None and not VERSION.fullmatch(driver.version):
        problems.append(Problem("nvidia_driver_version", f"is {driver.version!r}", "give it as 580.95.05"))
    elif driver.version and driver.branch and not driver.version.startswith(f"{driver.branch}."):
        message = f"{driver.version} is not of nvidia_driver_branch {driver.branch}"
        problems.append(Problem("nvidia_driver_version", message, "leave one of the two out"))
    return problems


def _repository_problems(driver: NvidiaDriver) -> list[Problem]:
    problems = []
    url, key, fingerprint = (
        driver.repository_url,
        driver.repository_key,
        driver.repository_key_fingerprint,
    )
    parts = split_url(url)
    if wrong := check_template(url, "distribution", "architecture"):
        remedy = "use {distribution} and {architecture}, or the whole address"
        problems.append(Problem("nvidia_driver_repository_url", wrong, remedy))
    elif parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        problems.append(
            Problem("nvidia_driver_repository_url", f"is {url!r}", "give it as https://HOST/PATH")
        )
    if problem := key_problem("nvidia_driver_repository_key", key):
        problems.append(problem)
    if fingerprint is not None and not FINGERPRINT.fullmatch(fingerprint.replace(" ", "")):
        remedy = "give forty hexadecimal digits, as `gpg --show-keys KEY` prints them"
        problems.append(Problem("nvidia_driver_repository_key_fingerprint", f"is {fingerprint!r}", remedy))
    return problems


def _mig_problems(driver: NvidiaDriver) -> list[Problem]:
    if not driver.mig:
        return []
    problems: list[Problem] = []
    claimed: set[str] = set()
    if not driver.manage:
        message = "is given, and nvidia_driver_manage is false"
        problems.append(Problem("nvidia_driver_mig", message, "leave the layout to who manages the driver"))
    if len(driver.mig) > 1 and any(not layout.gpus for layout in driver.mig):
        remedy = "name the GPUs of each layout"
        problems.append(Problem("nvidia_driver_mig", "one of several layouts is for all GPUs", remedy))
    for index, layout in enumerate(driver.mig):
        problems += _layout_problems(f"nvidia_driver_mig[{index}]", layout)
        problems += [
            Problem(f"nvidia_driver_mig[{index}]", f"GPU {gpu} has a layout already", "give it one")
            for gpu in layout.gpus
            if gpu in claimed
        ]
        claimed.update(layout.gpus)
    return problems


def _layout_problems(where: str, layout: MigLayout) -> list[Problem]:
    problems = [] if layout.profiles else [Problem(where, "has no profiles", "name some, such as 1g.10gb")]
    for profile in layout.profiles:
        if not MIG_PROFILE.fullmatch(profile):
            remedy = "give it as `nvidia-smi mig -lgip` prints it: 1g.10gb"
            problems.append(Problem(where, f"{profile!r} is no MIG profile", remedy))
    for gpu in layout.gpus:
        if not GPU_UUID.fullmatch(gpu):
            remedy = "give it as `nvidia-smi -L` prints it: GPU-..."
            problems.append(Problem(where, f"{gpu!r} is no UUID of a GPU", remedy))
    return problems
