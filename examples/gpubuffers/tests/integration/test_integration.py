"""Everything together: blocks go through the GPU, and child processes check them."""

from __future__ import annotations

import pytest

from gpubuffers import checksum, checksums, open_device


@pytest.mark.gpu
def test_blocks_survive_the_gpu() -> None:
    blocks = [bytes([number]) * 65536 for number in range(8)]
    with open_device() as device:
        back = [device.round_trip(block) for block in blocks]
    assert checksums(back) == [checksum(block) for block in blocks]
