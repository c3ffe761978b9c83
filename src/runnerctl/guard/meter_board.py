"""A piece of memory that one process writes and another one reads, without either ever waiting.

The reader must not depend on the writer in any way: that one sits in NVML, and may never come back. What it
had written stays readable when it hangs, and when it is dead. Two pages take turns; a page counts when its
checksum is right, so a writer that dies half-way leaves the page before.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from typing import NamedTuple

__all__ = ["Board", "Stage"]

_PAGE_BYTES = 256 * 1024  # about 500 bytes for each GPU of each running job
_CURRENT = struct.Struct("<I")  # which of the two pages
_STAGE = struct.Struct("<dH")  # since when (CLOCK_MONOTONIC, seconds), length of the text
_HEAD = struct.Struct("<II")  # length and CRC-32 of what follows
_STAGE_AT, _PAGES_AT = 64, 1024
_STAGE_BYTES = _PAGES_AT - _STAGE_AT - _STAGE.size
_SIZE = _PAGES_AT + 2 * _PAGE_BYTES


class Stage(NamedTuple):
    """What the writer is about to do, and since when (CLOCK_MONOTONIC, seconds); no text: nothing."""

    text: str
    since: float


class Board:
    """Both ends of it. The file descriptor is what the other process needs."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, _SIZE)

    @classmethod
    def new(cls) -> Board:
        """An empty one, in memory only. Raises OSError."""
        descriptor = os.memfd_create("runnerctl-meter", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, _SIZE)
        return cls(descriptor)

    def write(self, data: bytes) -> bool:
        """Replace the content; False when it is too large, and the old content stays."""
        if len(data) > _PAGE_BYTES - _HEAD.size:
            return False
        turn = 1 - self._turn()
        at = _PAGES_AT + turn * _PAGE_BYTES
        self._map[at : at + _HEAD.size] = _HEAD.pack(len(data), zlib.crc32(data))
        self._map[at + _HEAD.size : at + _HEAD.size + len(data)] = data
        _CURRENT.pack_into(self._map, 0, turn)
        return True

    def read(self) -> bytes | None:
        """The content; None as long as there is none."""
        turn = self._turn()
        for page in (turn, 1 - turn, self._turn()):
            at = _PAGES_AT + page * _PAGE_BYTES
            length, checksum = _HEAD.unpack_from(self._map, at)
            if 0 < length <= _PAGE_BYTES - _HEAD.size:
                data = self._map[at + _HEAD.size : at + _HEAD.size + length]
                if zlib.crc32(data) == checksum:
                    return data
        return None

    def enter(self, text: str, now: float) -> None:
        """Say what comes next; an empty text: nothing that could hang."""
        data = text.encode("utf-8", "replace")[:_STAGE_BYTES]
        at = _STAGE_AT + _STAGE.size
        self._map[at : at + len(data)] = data
        _STAGE.pack_into(self._map, _STAGE_AT, now, len(data))

    def stage(self) -> Stage:
        """What the writer is in."""
        since, length = _STAGE.unpack_from(self._map, _STAGE_AT)
        at = _STAGE_AT + _STAGE.size
        text = self._map[at : at + min(length, _STAGE_BYTES)].decode("utf-8", "replace")
        return Stage(text, since)

    def _turn(self) -> int:
        (turn,) = _CURRENT.unpack_from(self._map, 0)
        return int(turn) & 1

    def close(self) -> None:
        """Give the memory back."""
        self._map.close()
        os.close(self.descriptor)
