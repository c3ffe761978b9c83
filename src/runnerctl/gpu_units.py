"""Amounts of memory and of time as people write them: ``"2GiB"``, ``"5ms"``. Standard library only."""

from __future__ import annotations

import re

__all__ = ["bytes_of", "said_bytes", "said_seconds", "seconds_of"]

_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-zµ]*)\s*")
_BYTES = {"": 1, "B": 1}
_BYTES |= {f"{letter}iB": 1024**power for power, letter in enumerate("KMGT", start=1)}
_BYTES |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", start=1)}
_BYTES["kB"] = 1000
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}


def bytes_of(amount: object) -> int:
    """Bytes of ``"2GiB"``, ``"500 MB"`` or a whole number. Raises ValueError."""
    if isinstance(amount, int) and not isinstance(amount, bool) and amount >= 0:
        return amount
    match = _AMOUNT.fullmatch(amount) if isinstance(amount, str) else None
    if match is None or match[2] not in _BYTES:
        raise ValueError(f"{amount!r} is no amount of memory: give it like '2GiB', '500MB', or in bytes")
    return round(float(match[1]) * _BYTES[match[2]])


def seconds_of(amount: object) -> float:
    """Seconds of ``"5ms"``, ``"200us"``, ``"1.5s"`` or a number of seconds. Raises ValueError."""
    if isinstance(amount, (int, float)) and not isinstance(amount, bool) and amount >= 0:
        return float(amount)
    match = _AMOUNT.fullmatch(amount) if isinstance(amount, str) else None
    if match is None or match[2] not in _SECONDS:
        raise ValueError(f"{amount!r} is no time: give it like '5ms', '200us', '1.5s', or in seconds")
    return float(match[1]) * _SECONDS[match[2]]


def said_bytes(amount: float) -> str:
    """A short text: ``1.50 GiB``."""
    for power, unit in ((3, "GiB"), (2, "MiB"), (1, "KiB")):
        if amount >= 1024**power:
            return f"{amount / 1024**power:.2f} {unit}"
    return f"{amount:.0f} B"


def said_seconds(amount: float) -> str:
    """A short text: ``5.00 ms``."""
    for unit in ("s", "ms", "us"):
        if amount >= _SECONDS[unit]:
            return f"{amount / _SECONDS[unit]:.2f} {unit}"
    return f"{amount / 1e-6:.2f} us"
