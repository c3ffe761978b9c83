"""Are the GPUs' links whole: PCIe, NVLink, the fabric?"""

from __future__ import annotations

from runnerctl.core.findings import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = ()
