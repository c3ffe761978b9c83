"""Is each GPU in the state jobs expect: recovery action, temperature, power, clocks, modes, firmware?"""

from __future__ import annotations

from runnerctl.core.findings import Check

__all__ = ["CHECKS"]

CHECKS: tuple[Check, ...] = ()
