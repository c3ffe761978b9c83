"""Put the Ansible collection into the wheel.

Ansible finds collections in site-packages, so after ``pip install`` the playbooks, roles and modules work
from any directory. In an editable install the hook does nothing: it would leave copies that go stale, and
``scripts/setup`` links the checkout into site-packages instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COLLECTION = "ansible_collections/runnerctl/gpu_runner"
PARTS = ("galaxy.yml", "meta", "playbooks", "plugins", "roles")


class CollectionHook(BuildHookInterface):  # type: ignore[type-arg]
    """Add every file of the collection to ``force_include``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Map the checkout's collection to its place under site-packages."""
        if version == "editable":
            return
        for part in PARTS:
            source = Path(self.root) / part
            if source.exists():
                build_data["force_include"][str(source)] = f"{COLLECTION}/{part}"
