"""The labels that say what a slot's GPUs are; the families stand in `runnerctl.core.labels.DERIVED`.

``gpu-model-h100-80gb-hbm3``  NVML's name without the maker
``gpu-count-2``               GPUs, or MIG devices, of the slot
``gpu-vram-80gib``            memory of one, in GiB to the nearest; of different ones the smallest
``gpu-cc-9.0``                compute capability; of different ones the lowest
``gpu-cuda-12``               the newest CUDA major version that the driver serves
``gpu-driver-575``            the driver's major version
``gpu-mig-1g.10gb``           the profile of a MIG device
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from runnerctl.core.hardware import Gpu, Hardware, MigDevice

__all__ = ["derived_labels", "slug"]

GIB = 1 << 30
LONGEST = 60  # characters of a model


def slug(text: str) -> str:
    """A name as part of a label: lower case, digits, dots and hyphens."""
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-.")[:LONGEST].rstrip("-.")


def derived_labels(hardware: Hardware, devices: Sequence[tuple[Gpu, MigDevice | None]]) -> tuple[str, ...]:
    """The labels of a slot with these GPUs, sorted; of a MIG device the GPU it is a part of comes with it."""
    if not devices:
        return ()
    found = {f"gpu-count-{len(devices)}"}
    found |= {f"gpu-model-{slug(_model(gpu.name))}" for gpu, _ in devices if slug(_model(gpu.name or ""))}
    found |= {f"gpu-mig-{_profile(part.profile)}" for _, part in devices if part and part.profile}
    memory = [part.memory_bytes if part else gpu.memory_bytes for gpu, part in devices]
    if sizes := [size for size in memory if size]:
        found.add(f"gpu-vram-{max(round(min(sizes) / GIB), 1)}gib")
    capabilities = [gpu.compute_capability for gpu, _ in devices if gpu.compute_capability]
    if capabilities:
        found.add(f"gpu-cc-{min(capabilities, key=_version)}")
    for family, version in (("cuda", hardware.cuda_version), ("driver", hardware.driver_version)):
        major = (version or "").partition(".")[0]
        if major.isdigit():
            found.add(f"gpu-{family}-{major}")
    return tuple(sorted(found))


def _model(name: str | None) -> str:
    return re.sub(r"^nvidia\s+", "", name or "", flags=re.IGNORECASE)


def _profile(profile: str) -> str:
    """As NVIDIA writes it (``1g.10gb+me``), but nothing that could end a label."""
    return re.sub(r"[^a-z0-9.+-]+", "-", profile.lower())


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())
