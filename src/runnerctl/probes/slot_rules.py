"""What systemd holds the slots' units to: from the same ``systemctl show`` that tells their states."""

from __future__ import annotations

import re
from pathlib import Path

from runnerctl.core.device_nodes import UnitRules, parse_rules
from runnerctl.core.isolation import SETTINGS
from runnerctl.probes.files import under
from runnerctl.probes.kernels import text_of

__all__ = ["PROPERTIES", "parse_slot_rules"]

PROPERTIES = ("DeviceAllow", *SETTINGS)
_ID = re.compile(r"^Id=(\S+)$", re.MULTILINE)


def parse_slot_rules(shown: str, rootfs: Path) -> dict[str, UnitRules]:
    """Unit -> its rules: blocks of ``Name=value`` lines with an empty line between them."""
    found = {}
    for block in re.split(r"\n\s*\n", shown.strip()):
        if name := _ID.search(block):
            text = text_of(under(rootfs, f"/etc/systemd/system/{name[1]}.d/10-slot.conf"))
            found[name[1]] = parse_rules(block, text, settings=SETTINGS)
    return found
