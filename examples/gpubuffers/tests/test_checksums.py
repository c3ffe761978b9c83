"""What needs no GPU."""

from __future__ import annotations

import zlib

import pytest

from gpubuffers import DeviceError, checksum, checksums, open_device

BLOCKS = [b"one", b"", b"three" * 1000]


def test_a_checksum_is_crc32() -> None:
    assert [checksum(block) for block in BLOCKS] == [zlib.crc32(block) for block in BLOCKS]


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_child_processes_find_the_same(method: str) -> None:
    assert checksums(BLOCKS, method=method) == [checksum(block) for block in BLOCKS]


def test_without_a_driver_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpubuffers.device.LIBRARY", "libcuda-that-is-not-there.so.1")
    with pytest.raises(DeviceError, match="no CUDA driver"), open_device():
        pass
