"""GPU generations: which one a PCI device id belongs to, and which drivers can run it.

Sources: the PCI ID repository (August 2026) for the ranges of device ids; NVIDIA's list of supported chips in
the README of each driver release for the first and last branch of a generation; NVIDIA's driver installation
guide ("Kernel Modules") and its announcement of the move to open kernel modules for the flavours.
"""

from __future__ import annotations

import bisect
from typing import Literal

import msgspec

__all__ = [
    "DATA_CENTRE",
    "GENERATIONS",
    "NEWEST_BRANCH",
    "Generation",
    "fits",
    "generation_of",
    "has_mig",
    "needs_subnet_manager",
]

NEWEST_BRANCH = 620  # the newest one that this release knows of
OPEN_FIRST = 515  # the first branch with open modules, for data-centre GPUs
OPEN_FOR_ALL = 545  # from here they also drive workstation and GeForce GPUs without a module option
PROPRIETARY_LAST = 619  # branch 620 has no proprietary modules any more


class Generation(msgspec.Struct, frozen=True):
    """What drives a generation. Branches are numbers: 580 for 580.95.05.

    ``first``: the lowest branch that knows it. ``last``: the highest one, None for all so far.
    ``open``: open kernel modules can drive it. ``proprietary``: proprietary ones can.
    """

    name: str
    first: int
    last: int | None = None
    open: bool = True
    proprietary: bool = True


OLDER = Generation("Fermi or older", 1, 390, open=False)
KEPLER = Generation("Kepler", 304, 470, open=False)
MAXWELL = Generation("Maxwell", 343, 580, open=False)
PASCAL = Generation("Pascal", 367, 580, open=False)
VOLTA = Generation("Volta", 384, 580, open=False)
TURING = Generation("Turing", 410)
AMPERE = Generation("Ampere", 450)
ADA = Generation("Ada", 520)
HOPPER = Generation("Hopper", 515)
GRACE_HOPPER = Generation("Grace Hopper", 535, proprietary=False)
BLACKWELL = Generation("Blackwell", 570, proprietary=False)
BLACKWELL_ULTRA = Generation("Blackwell Ultra", 580, proprietary=False)
NEWER = Generation("newer generation", NEWEST_BRANCH, proprietary=False)

GENERATIONS = (
    OLDER,
    KEPLER,
    MAXWELL,
    PASCAL,
    VOLTA,
    TURING,
    AMPERE,
    ADA,
    HOPPER,
    GRACE_HOPPER,
    BLACKWELL,
    BLACKWELL_ULTRA,
    NEWER,
)

# First id of a range -> generation, up to the next entry. Ids are dealt out chip by chip, so that ranges hold
# even for products that come later; a few chips stand out of line.
_RANGES: tuple[tuple[int, Generation], ...] = (
    (0x0000, OLDER),
    (0x0FA0, KEPLER),  # GK10x
    (0x1040, OLDER),  # GF119, GF117, GT218
    (0x1180, KEPLER),  # GK104, GK106
    (0x1200, OLDER),  # GF114, GF116
    (0x1280, KEPLER),  # GK208, GK110B
    (0x1340, MAXWELL),  # GM10x, GM20x
    (0x15C0, PASCAL),  # GP100
    (0x1600, MAXWELL),  # GM204 mobile
    (0x1720, PASCAL),  # GP100
    (0x1740, MAXWELL),  # GM108, GM200
    (0x1B00, PASCAL),  # GP10x
    (0x1D80, VOLTA),  # GV100
    (0x1E00, TURING),  # TU102 to TU117
    (0x2080, AMPERE),  # GA100
    (0x2180, TURING),  # TU116
    (0x2200, AMPERE),  # GA102
    (0x2300, HOPPER),  # GH100
    (0x2340, GRACE_HOPPER),
    (0x2350, HOPPER),
    (0x2400, AMPERE),  # GA103 to GA107
    (0x2600, ADA),  # AD10x
    (0x2900, BLACKWELL),  # GB100, GB102, GB20x, GB10
    (0x3000, NEWER),  # GR100
    (0x3180, BLACKWELL_ULTRA),  # GB110, GB112
    (0x3400, NEWER),
)
_STARTS = [start for start, _ in _RANGES]

# Data-centre GPUs of generations that have others too: before 545 open modules drive only such GPUs.
DATA_CENTRE = frozenset(
    {
        *("1e37", "1e38", "1eb4", "1eb8", "1eb9"),  # T10, T4G, T4
        *("2235", "2236", "2237", "2238", "25b6"),  # A40, A10, A10G, A10M, A16 and A2
        *("26b5", "26b8", "26b9", "26ba", "27b6", "27b8"),  # L40, L40G, L40S, L20, L2, L4
    }
)
# GPUs of boards whose NVSwitches are no PCI devices: the subnet manager reaches them through other adapters.
_SWITCHED_BOARDS = frozenset({"2901", "2909", "3182"})  # HGX B200, HGX B300
BOARD_GPUS = 8


def generation_of(device: str) -> Generation:
    """The generation of a PCI device id of vendor 10de, four hexadecimal digits in either case.

    Raises ValueError for anything else.
    """
    if len(device) != 4:
        raise ValueError(f"{device!r} is no PCI device id")
    return _RANGES[bisect.bisect_right(_STARTS, int(device, 16)) - 1][1]


def fits(device: str, branch: int, flavour: Literal["open", "proprietary"]) -> str | None:
    """Why a driver cannot drive a GPU, in a few words; None when it can."""
    known = generation_of(device)
    if known.last is not None and branch > known.last:
        return f"no branch after {known.last} drives it"
    if branch < known.first:
        return f"no branch before {known.first} drives it"
    if flavour == "proprietary":
        if branch > PROPRIETARY_LAST:
            return f"branch {PROPRIETARY_LAST + 1} and newer have open kernel modules only"
        return None if known.proprietary else "only open kernel modules drive it"
    if not known.open:
        return "only proprietary kernel modules drive it"
    if branch < OPEN_FIRST:
        return f"branches before {OPEN_FIRST} have no open kernel modules"
    if branch < OPEN_FOR_ALL and not _is_data_centre(device):
        return f"open kernel modules before branch {OPEN_FOR_ALL} drive data-centre GPUs only"
    return None


def _is_data_centre(device: str) -> bool:
    number = int(device, 16)
    only = 0x20B0 <= number <= 0x20FF or generation_of(device) in (HOPPER, GRACE_HOPPER)
    return only or device.lower() in DATA_CENTRE


def has_mig(device: str) -> bool:
    """Whether a GPU may have MIG (MIG user guide: A100, A30, H100, H200, B200, RTX PRO 6000 and newer)."""
    known = generation_of(device)
    if known is AMPERE:
        return 0x20B0 <= int(device, 16) <= 0x20FF
    return known in (HOPPER, GRACE_HOPPER, BLACKWELL, BLACKWELL_ULTRA, NEWER)


def needs_subnet_manager(devices: tuple[str, ...]) -> bool:
    """Whether these GPUs are those of a whole HGX board with fifth-generation NVLink.

    Its fabric manager works with NVIDIA's subnet manager ``nvlsm`` (fabric manager user guide). Some of its
    GPUs alone are those of a virtual machine, whose fabric is managed outside.
    """
    return sum(device.lower() in _SWITCHED_BOARDS for device in devices) >= BOARD_GPUS
