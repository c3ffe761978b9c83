"""How systemd calls the state of units of our own."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence

__all__ = ["unit_states"]


def unit_states(units: Sequence[str], *, environ: Mapping[str, str], timeout_seconds: float) -> list[str]:
    """Each unit's ``ActiveState``, empty where systemd does not tell. Raises OSError or TimeoutExpired."""
    done = subprocess.run(
        ["systemctl", "show", "--no-pager", "--property=Id,ActiveState", *units],
        env={**environ, "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=timeout_seconds,
        check=False,
    )
    found = {}
    for block in done.stdout.decode("utf-8", "replace").strip().split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        found[fields.get("Id", "")] = fields.get("ActiveState", "")
    return [found.get(unit, "") for unit in units]
