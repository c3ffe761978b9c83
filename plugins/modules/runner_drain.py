#!/usr/bin/python
"""Target half of the module; the controller's half is plugins/action/runner_drain.py."""

from __future__ import annotations

import os

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.drain import Drains
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

DOCUMENTATION = r"""
module: runner_drain
short_description: Take a host's runners out of service and bring them back, without losing a job
version_added: 0.1.0
description:
  - V(drained) cuts the runners of a host from routing on GitHub, waits a quiet period for jobs that were on
    their way, puts the slots on hold and waits until their jobs have ended. No job is ever killed.
  - V(resumed) lifts that hold, starts the slots, waits until GitHub sees them online, and only then gives
    them their labels and their group back.
  - V(judged) asks whether the fleet can spare all hosts of this play, and fails when it cannot. Let it come
    first in a play, with C(run_once).
  - GitHub is spoken to on the controller; no credential reaches a host.
options:
  state:
    description: What the slots should be.
    type: str
    choices: [drained, resumed, judged]
    default: drained
  slots:
    description: Only these slots; none for all of the host. A host that has none of them is skipped.
    type: list
    elements: str
    default: []
  reason:
    description: Why, for C(runnerctl list) and for jobs that slip in.
    type: str
  quiet_seconds:
    description: How long after the cut a slot must stay without a job before it is stopped. By default
      C(github_runner_drain_quiet_seconds).
    type: float
  wait:
    description: Whether to wait until the running jobs have ended, or GitHub sees the runners online.
    type: bool
    default: true
  timeout_seconds:
    description: How long to wait for running jobs. By default C(github_runner_drain_timeout_seconds).
    type: float
  routing:
    description: Whether to cut and restore routing on GitHub, which needs a credential on the controller.
    type: bool
    default: true
  force:
    description: With O(state=judged), go on even when the fleet cannot spare the hosts.
    type: bool
    default: false
  output_dir:
    description: A directory on the controller. What became of the host is written there as C(<host>.json).
    type: path
  hold:
    description: Set by the action plugin. The slots to put on hold.
    type: list
    elements: str
    default: []
  release:
    description: Set by the action plugin. The slots whose hold is lifted.
    type: list
    elements: str
    default: []
  by:
    description: Set by the action plugin. Who holds.
    type: str
    default: operator
attributes:
  check_mode:
    description: Says what would be done; neither host nor GitHub is written to.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Take the host out of service
  runnerctl.gpu_runner.runner_drain:
    reason: a new power supply

- name: Bring it back
  runnerctl.gpu_runner.runner_drain:
    state: resumed
"""

RETURN = r"""
slots:
  description: One entry a slot - its state, whether it is cut from routing, and what holds it.
  returned: success
  type: list
  elements: dict
actions:
  description: Everything that was done, or in check mode would be, in order.
  returned: success
  type: list
  elements: str
"""


def main() -> None:
    """Hold, release, and say what every slot does now."""
    module = AnsibleModule(
        argument_spec={
            "hold": {"type": "list", "elements": "str", "default": []},
            "release": {"type": "list", "elements": "str", "default": []},
            "by": {"type": "str", "default": "operator"},
            "reason": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # the hook reads the hold as the job's user
    given, drains = module.params, Drains(Layout(), System())
    try:
        actions = drains.hold(given["hold"], by=given["by"], reason=given["reason"], check=module.check_mode)
        actions += drains.release(given["release"], by=given["by"], check=module.check_mode)
        slots = drains.observe()
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error))
    module.exit_json(changed=bool(actions), actions=actions, slots=slots)


if __name__ == "__main__":
    main()
