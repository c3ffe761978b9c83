"""Every check, in the order in which findings are listed. A new check is one more name here.

What may be the cause of others stands before them: among findings of one status the first is the one that a
pager shows.
"""

from __future__ import annotations

from runnerctl.core.checks import (
    boot,
    containers,
    deep,
    drift,
    kernel,
    links,
    memory,
    pending,
    ram,
    residue,
    slot_devices,
    slot_files,
    state,
)
from runnerctl.core.checks.driver import DRIVER_MISMATCH, DRIVER_NVML
from runnerctl.core.checks.github import (
    GITHUB_GROUP,
    GITHUB_LABELS,
    GITHUB_ONLINE,
    GITHUB_RECORD,
    GITHUB_VERSION,
)
from runnerctl.core.checks.gpu import GPU_ANSWERS, GPU_COUNT, GPU_SLOTS
from runnerctl.core.checks.guard import HOST_GUARD
from runnerctl.core.checks.host import (
    HOST_API,
    HOST_CLOCK,
    HOST_DISK,
    HOST_INODES,
    HOST_READ_ONLY,
    HOST_SPEC,
    HOST_TIME_SYNC,
)
from runnerctl.core.checks.services import CONDA_INSTALLED, DOCKER_ENGINE
from runnerctl.core.checks.slot import (
    SLOT_CONNECTION,
    SLOT_LISTENER,
    SLOT_PENDING_RESTART,
    SLOT_REGISTERED,
    SLOT_VERSION,
)
from runnerctl.core.checks.slot_ephemeral import SLOT_MINTING
from runnerctl.core.checks.slot_unit import SLOT_UNIT
from runnerctl.core.checks.store import CONDA_STORE
from runnerctl.core.findings import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = (
    HOST_SPEC,
    DRIVER_NVML,
    DRIVER_MISMATCH,
    GPU_COUNT,
    GPU_ANSWERS,
    GPU_SLOTS,
    *memory.CHECKS,
    *state.CHECKS,
    *links.CHECKS,
    *kernel.CHECKS,
    *residue.CHECKS,
    *drift.CHECKS,
    *deep.CHECKS,
    *boot.CHECKS,
    *ram.CHECKS,
    HOST_READ_ONLY,
    HOST_DISK,
    HOST_INODES,
    HOST_API,
    HOST_CLOCK,
    HOST_TIME_SYNC,
    HOST_GUARD,
    SLOT_REGISTERED,
    GITHUB_RECORD,
    *slot_files.CHECKS,
    SLOT_MINTING,
    SLOT_UNIT,
    *slot_devices.CHECKS,
    SLOT_LISTENER,
    SLOT_CONNECTION,
    SLOT_VERSION,
    SLOT_PENDING_RESTART,
    DOCKER_ENGINE,
    *pending.CHECKS,
    *containers.CHECKS,
    CONDA_INSTALLED,
    CONDA_STORE,
    GITHUB_ONLINE,
    GITHUB_LABELS,
    GITHUB_GROUP,
    GITHUB_VERSION,
)
