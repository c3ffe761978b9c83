#!/usr/bin/python
"""Remove what the receipt of a host names."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.removal import STAYING, Removal
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

DOCUMENTATION = r"""
module: receipt_removal
short_description: Remove from a host what the receipt says the toolkit installed
version_added: 0.1.0
description:
  - Reads C(/var/lib/runnerctl/receipt.json) and removes the units, paths, users, groups and packages it
    names, then the
    receipt itself.
  - A package that another installed package needs by now is kept, and reported.
  - The driver and the container toolkit stay, with their entries in the receipt, unless they are named.
  - Without a receipt nothing is removed and nothing changes.
options:
  nvidia_driver:
    description: Whether the driver that role C(nvidia_driver) installed goes as well.
    type: bool
    default: false
  container_toolkit:
    description: Whether what role C(container_toolkit) installed goes as well, Docker included.
    type: bool
    default: false
attributes:
  check_mode:
    description: Predicts what would be removed.
    support: full
  diff_mode:
    description: Lists what goes.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Remove what the receipt names
  runnerctl.gpu_runner.receipt_removal:
"""

RETURN = r"""
removed:
  description: What was removed, or in check mode would be.
  returned: success
  type: list
  elements: str
kept:
  description: Packages that others need by now, and roles whose work stays.
  returned: success
  type: list
  elements: str
"""


def main() -> None:
    """Remove, or predict."""
    options = {name: {"type": "bool", "default": False} for name in STAYING}
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    also = tuple(name for name in STAYING if module.params[name])
    removal = Removal(Layout(), System(), check=module.check_mode, also=also)
    try:
        removal.run()
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error), removed=removal.removed)
    lines = "".join(f"{name}\n" for name in removal.removed)
    module.exit_json(
        changed=bool(removal.removed),
        removed=removal.removed,
        kept=removal.kept,
        diff={"before": lines, "after": ""},
    )


if __name__ == "__main__":
    main()
