"""Checksums of blocks, one process a block: what a coverage report misses when it does not look into children."""

from __future__ import annotations

import multiprocessing
import zlib
from collections.abc import Sequence

__all__ = ["checksum", "checksums"]


def checksum(block: bytes) -> int:
    """CRC-32 of a block; that of an empty one is 0."""
    if not block:
        return 0
    return zlib.crc32(block)


def checksums(blocks: Sequence[bytes], *, processes: int = 2, method: str = "spawn") -> list[int]:
    """The checksum of each block, in order, computed by ``processes`` at once."""
    context = multiprocessing.get_context(method)
    with context.Pool(processes) as pool:
        found = pool.map(_in_child, blocks)
        pool.close()
        pool.join()
    return found


def _in_child(block: bytes) -> int:
    """Runs in child processes only: it counts as covered when their measurements are combined."""
    halves = len(block) // 2
    rest = zlib.crc32(block[halves:], zlib.crc32(block[:halves]))
    return rest if block else 0
