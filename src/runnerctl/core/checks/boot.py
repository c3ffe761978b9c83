"""Will the driver still be there after the next boot?"""

from __future__ import annotations

from runnerctl.core.findings import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = ()
