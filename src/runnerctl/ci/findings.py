"""What the workflow checks find. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["SCHEMA", "LintFinding"]

SCHEMA = "runnerctl.ci/1"


class LintFinding(msgspec.Struct, frozen=True, order=True):
    """One thing that makes CI red, slow or unsafe; ``file`` is below the repository, ``line`` from one."""

    file: str
    line: int
    id: str
    severity: Literal["error", "warning", "note"]
    message: str
    remedy: str = ""
    fixable: bool = False
