"""Peak bandwidths of GPU models, and the floors under which a measured one is too low.

From NVIDIA's data sheets: the memory's bandwidth in GB/s, and the PCI Express generation. The floors are
far below the peaks on purpose: they find a link that came up at a fraction of its width or speed, and memory
that runs at idle clocks, not a virtual machine's share or a slower slot. A model that is not known is
measured and not judged.
"""

from __future__ import annotations

import re

import msgspec

__all__ = ["Floors", "floors_of"]

_GIGA = 1e9
_MEMORY_SHARE = 0.4
_LINK_SHARE = 0.15  # a link of half the generations or a quarter of the lanes still passes
_LINK_PEAKS = {3: 15.75, 4: 31.5, 5: 63.0}  # GB/s in one direction, 16 lanes

_SHARED = re.compile(r"Laptop|Max-Q|^GRID|-\d+[A-Z]$")  # slower kinds of the same name; profiles of a vGPU

# (part of the name, memory GB/s, PCI Express generation); the first that fits counts.
_MODELS: tuple[tuple[str, float, int], ...] = (
    ("GB200", 8000, 5),
    ("GB300", 8000, 5),
    ("B300", 8000, 5),
    ("B200", 8000, 5),
    ("B100", 8000, 5),
    ("GH200", 4000, 5),
    ("H200", 4800, 5),
    ("H20", 4000, 5),
    ("H100 NVL", 3938, 5),
    ("H100 PCIe", 2039, 5),
    ("H100", 2000, 5),
    ("H800", 2000, 5),
    ("A100", 1555, 4),
    ("A800", 1555, 4),
    ("A40", 696, 4),
    ("A30", 933, 4),
    ("A16", 200, 4),
    ("A10G", 600, 4),
    ("A10", 600, 4),
    ("A2", 200, 4),
    ("RTX A6000", 768, 4),
    ("RTX A5000", 768, 4),
    ("RTX A4000", 448, 4),
    ("RTX PRO 6000", 1597, 5),
    ("RTX 6000 Ada", 960, 4),
    ("RTX 5000 Ada", 576, 4),
    ("RTX 4000 Ada", 280, 4),
    ("L40", 864, 4),
    ("L4", 300, 4),
    ("V100", 900, 3),
    ("P100", 549, 3),
    ("P40", 346, 3),
    ("P4", 192, 3),
    ("T4", 300, 3),
    ("Quadro RTX 8000", 672, 3),
    ("Quadro RTX 6000", 672, 3),
    ("RTX 5090", 1792, 5),
    ("RTX 5080", 960, 5),
    ("RTX 4090", 1008, 4),
    ("RTX 4080", 716, 4),
    ("RTX 3090", 936, 4),
    ("RTX 3080", 760, 4),
    ("TITAN RTX", 672, 3),
    ("RTX 2080 Ti", 616, 3),
)


class Floors(msgspec.Struct, frozen=True):
    """Bytes per second that a sound GPU of a model reaches anywhere; within the device both ways count."""

    host: float
    device: float


def floors_of(name: str | None) -> Floors | None:
    """The floors of a model by the name that NVML gives; None for one that is not known."""
    words = f" {name or ''} ".replace("-", " ")
    if _SHARED.search(name or ""):
        return None
    for part, memory, generation in _MODELS:
        # A whole word, perhaps with what follows within it: "L40S", "A100X"; never L4 in L40.
        at = words.find(f" {part}")
        if at >= 0 and not words[at + 1 + len(part)].isdigit():
            return Floors(_LINK_SHARE * _LINK_PEAKS[generation] * _GIGA, _MEMORY_SHARE * memory * _GIGA)
    return None
