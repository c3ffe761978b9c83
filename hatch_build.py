"""Put the Ansible collection, and the action that ``ci init`` hands out, into the wheel.

Ansible finds collections in site-packages, so after ``pip install`` the playbooks, roles and modules work
from any directory. In an editable install the hook does nothing: it would leave copies that go stale, and
``scripts/setup`` links the checkout into site-packages instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COLLECTION = "ansible_collections/runnerctl/gpu_runner"
ACTION = ".github/actions/conda-env/action.yml"
ACTION_INSIDE = "runnerctl/ci/templates/conda-env.yml"
PARTS = ("galaxy.yml", "meta", "playbooks", "plugins", "roles")


class CollectionHook(BuildHookInterface):  # type: ignore[type-arg]
    """Add every file of the collection, and the action, to ``force_include``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Map the checkout's files to their places under site-packages."""
        if version == "editable":
            return
        places = {part: f"{COLLECTION}/{part}" for part in PARTS} | {ACTION: ACTION_INSIDE}
        for part, inside in places.items():
            source = Path(self.root) / part
            if source.exists():
                build_data["force_include"][str(source)] = inside
