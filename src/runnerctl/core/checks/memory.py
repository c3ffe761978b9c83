"""Is the GPUs' own memory sound: ECC, remapped rows, retired pages?"""

from __future__ import annotations

from runnerctl.core.findings import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = ()
