#!/usr/bin/python
"""Target half of the module; the controller's half is plugins/action/registrations.py."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.registrations import read_registrations
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout

DOCUMENTATION = r"""
module: registrations
short_description: Read which GitHub Actions runners a host holds
version_added: 0.1.0
description:
  - Reads every registration on the host, the collection's slots and runners that C(svc.sh) installed, so
    that C(runnerctl prune) never deletes the record of one of them.
  - Nothing is changed, and GitHub is not contacted. A host that cannot be reached is an answer, no failure.
options:
  output_dir:
    description: A directory on the controller. The answer is written there as C(<host>.json).
    type: path
attributes:
  check_mode:
    description: The same; nothing is changed in any mode.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Read which runners the host holds
  runnerctl.gpu_runner.registrations:
"""

RETURN = r"""
found:
  description: One entry a registration - the slot or directory, and the runner's id at GitHub.
  returned: success
  type: list
  elements: dict
registering:
  description: Slots whose registration was begun and not noted as done.
  returned: success
  type: list
  elements: str
problems:
  description: Why this is not everything the host holds.
  returned: success
  type: list
  elements: str
"""


def main() -> None:
    """Read, and answer."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    module.exit_json(changed=False, **read_registrations(Layout()).as_dict())


if __name__ == "__main__":
    main()
