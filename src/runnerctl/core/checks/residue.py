"""Did a job leave something behind?"""

from __future__ import annotations

from runnerctl.core.findings import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = ()
