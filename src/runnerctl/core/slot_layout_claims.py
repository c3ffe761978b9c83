"""Who has which GPU: claims on whole GPUs and MIG devices, and what is still free."""

from __future__ import annotations

from collections.abc import Sequence

from runnerctl.core.hardware import Gpu, Hardware, MigDevice
from runnerctl.core.layout import Layout
from runnerctl.core.sections import Problem

__all__ = ["Board"]

GIB = 1 << 30
ONE_SLOT = "give each GPU to one slot"


class Board:
    """The GPUs of a host while slots are laid out. ``problems`` and ``notes`` gather what is found."""

    def __init__(self, hardware: Hardware, current: Layout) -> None:
        self.hardware = hardware
        self.current = current
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self._owner: dict[str, str] = {}
        self._whole = {gpu.uuid.lower(): gpu for gpu in hardware.gpus}
        self._parts = {part.uuid.lower(): (gpu, part) for gpu in hardware.gpus for part in gpu.mig_devices}

    # -- what there is -----------------------------------------------------------------------------------

    def device(self, uuid: str) -> tuple[Gpu, MigDevice | None] | None:
        """The GPU with this UUID, or the MIG device with the GPU that it is a part of."""
        whole = self._whole.get(uuid.lower())
        return (whole, None) if whole else self._parts.get(uuid.lower())

    def spelt(self, uuid: str) -> str:
        """The UUID as the driver writes it, or wrote it when it still answered."""
        found = self.device(uuid)
        return self.current.spelt(uuid) if found is None else (found[1] or found[0]).uuid

    def free_gpus(self) -> list[Gpu]:
        """Whole GPUs that nobody has, those in MIG mode left out."""
        return [gpu for gpu in self.hardware.gpus if not gpu.mig and not self._holder(gpu.uuid)]

    def free_parts(self, profile: str) -> list[MigDevice]:
        """MIG devices of a profile that nobody has."""
        parts = (part for gpu in self.hardware.gpus for part in gpu.mig_devices)
        return [part for part in parts if part.profile == profile and not self._holder(part.uuid)]

    def profiles(self) -> list[str]:
        """The profiles of the host's MIG devices."""
        return sorted({part.profile for _, part in self._parts.values() if part.profile})

    def mapping(self) -> str:
        """Every GPU and who has it, in one line."""
        lines = [self._line(gpu) for gpu in self.hardware.gpus]
        lines += [f"GPU {gpu.index} does not answer: {gpu.reason}" for gpu in self.hardware.unread]
        return "; ".join(lines) or "no GPU at all"

    def _line(self, gpu: Gpu) -> str:
        text = f"GPU {gpu.index} {gpu.uuid} {gpu.name or 'of unknown model'}"
        if not gpu.mig:
            return f"{text} ({self._said(gpu.uuid)})"
        parts = [f"{part.uuid} {part.profile} ({self._said(part.uuid)})" for part in gpu.mig_devices]
        return f"{text}, in MIG mode: {', '.join(parts) or 'without MIG devices'}"

    def _said(self, uuid: str) -> str:
        owner = self._owner.get(uuid.lower())
        return f"slot {owner}" if owner else "free"

    # -- claims ------------------------------------------------------------------------------------------

    def take(self, slot: str, uuids: Sequence[str]) -> tuple[str, ...]:
        """Give free GPUs to a slot."""
        for uuid in uuids:
            self._owner[uuid.lower()] = slot
        return tuple(self.spelt(uuid) for uuid in uuids)

    def claim(self, where: str, slot: str, uuid: str) -> None:
        """A GPU that inventory gives to a slot; what is wrong with that is noted."""
        found = self.device(uuid)
        if holder := self._holder(uuid):
            self.problems.append(Problem(where, f"GPU {uuid} is already claimed: {holder}", ONE_SLOT))
        elif found is None and not self.may_keep(slot, uuid):
            remedy = "name GPUs that `nvidia-smi -L` lists there"
            self.problems.append(Problem(where, f"GPU {uuid} is not on this host", remedy))
        elif found is not None and found[1] is None and found[0].mig:
            remedy = "name MIG devices of it (MIG-...), or a profile as mig"
            self.problems.append(Problem(where, f"GPU {uuid} is in MIG mode", remedy))
        elif found is None:
            self.note_missing(slot, uuid)
        self._owner.setdefault(uuid.lower(), slot)

    def may_keep(self, slot: str, uuid: str) -> bool:
        """Whether a GPU that is not seen may be one of those that do not answer just now."""
        share = self.current.share(slot)
        return self.hardware.incomplete and share is not None and self.current.spelt(uuid) in share.gpus

    def is_free(self, uuid: str) -> bool:
        """Whether there is such a GPU or MIG device, and nobody has it."""
        found = self.device(uuid)
        in_mig_mode = found is not None and found[1] is None and bool(found[0].mig)
        return found is not None and not in_mig_mode and not self._holder(uuid)

    def note_missing(self, slot: str, uuid: str) -> None:
        """Say that a slot keeps a GPU that does not answer."""
        self.notes.append(f"GPU {uuid} does not answer: slot {slot} keeps it")

    def _holder(self, uuid: str) -> str | None:
        """Who has this GPU, or a part of it, or the whole that it is a part of."""
        if owner := self._owner.get(uuid.lower()):
            return f"slot {owner!r} has it"
        found = self.device(uuid)
        if found is None:
            return None
        gpu, part = found
        if part is not None:
            owner = self._owner.get(gpu.uuid.lower())
            return f"slot {owner!r} has all of {gpu.uuid}, which it is a part of" if owner else None
        for each in gpu.mig_devices:
            if owner := self._owner.get(each.uuid.lower()):
                return f"slot {owner!r} has {each.uuid}, a part of it"
        return None
