"""What needs a GPU: correctness, memory and time."""

from __future__ import annotations

import pytest

from gpubuffers import open_device

DATA = bytes(range(256)) * 4096  # 1 MiB


@pytest.mark.gpu
def test_what_goes_to_the_gpu_comes_back() -> None:
    with open_device() as device:
        assert device.round_trip(DATA) == DATA


@pytest.mark.gpu(vram="2GiB")
def test_a_round_trip_needs_little_memory() -> None:
    with open_device() as device:
        for _ in range(8):
            device.round_trip(DATA)
