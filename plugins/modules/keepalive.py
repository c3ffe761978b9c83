#!/usr/bin/python
"""Target half of the module; the controller's half is plugins/action/keepalive.py."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import Holds
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.keepalive import Touches
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

DOCUMENTATION = r"""
module: keepalive
short_description: Bring parked runners online for a moment, so that GitHub keeps their records
version_added: 0.1.0
description:
  - GitHub deletes the record of a runner that has not connected for 14 days. This cuts a parked slot from
    routing, starts its listener although the slot is on hold, waits until GitHub sees it online, stops it
    and gives its labels and its group back.
  - A slot that nothing holds is to run, and stays started.
  - The hold stays. A job that reaches the slot all the same is not killed; on a held slot the hold's reason
    ends it before its first step.
  - A host that cannot be reached is an answer, no failure.
options:
  runners:
    description: The names at GitHub of the runners to bring online. All slots that do not run when empty.
    type: list
    elements: str
    default: []
  output_dir:
    description: A directory on the controller. The answer is written there as C(<host>.json).
    type: path
  slot:
    description: Set by the action plugin. The slot to start or stop.
    type: str
  state:
    description: Set by the action plugin. What to do with the slot.
    type: str
    choices: [started, stopped]
    default: started
attributes:
  check_mode:
    description: Starts nothing and writes nothing.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Keep the records of the host's parked runners
  runnerctl.gpu_runner.keepalive:
"""

RETURN = r"""
slots:
  description: One entry a slot - its runner, what became of it, and why.
  returned: success
  type: list
  elements: dict
"""


def main() -> None:
    """Start or stop one slot."""
    module = AnsibleModule(
        argument_spec={
            "slot": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=False, ended="stopped")
    layout, system = Layout(), System()
    touches = Touches(layout, system, Holds(layout, system))
    slot = module.params["slot"]
    try:
        if module.params["state"] == "started":
            started = touches.start(slot)
            module.exit_json(changed=started, started=started)
        module.exit_json(changed=True, ended=touches.stop(slot))
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error))


if __name__ == "__main__":
    main()
