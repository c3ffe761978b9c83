"""Buffers in a GPU's memory, and checksums by all of a machine's processors."""

from gpubuffers.checksums import checksum, checksums
from gpubuffers.device import Device, DeviceError, open_device

__all__ = ["Device", "DeviceError", "checksum", "checksums", "open_device"]
