"""What does the kernel log say of GPUs and NVSwitches?"""

from __future__ import annotations

from runnerctl.core.findings import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = ()
