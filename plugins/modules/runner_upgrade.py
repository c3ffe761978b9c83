#!/usr/bin/python
"""Target half of the module; the controller's half is plugins/action/runner_upgrade.py."""

from __future__ import annotations

import os
import platform

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.release_notes import ReleaseNotes
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.releases import versions

DOCUMENTATION = r"""
module: runner_upgrade
short_description: Bring a host's runners to another release, and back when it does not work
version_added: 0.1.0
description:
  - Installs the release first, verified, before any runner is taken out of service.
  - Each slot is then cut from routing, left a quiet period, put on hold (cause C(upgrade)), switched when its
    job has ended, started, and given its labels back when GitHub shows it online with the new release. The
    first slot of a host goes alone, the others follow together.
  - A slot that does not come online with the new release goes back to the one it ran by itself, and the
    release is remembered on the host. No converge and no later upgrade takes it again, unless it is pinned
    or O(retry) says so.
  - At no time are more runners of the inventory out of service than C(runnerctl_fleet_max_held_percent) says.
  - No job is ever killed. A run that was killed is carried on by the next one.
options:
  state:
    description:
      - V(upgraded) upgrades the host.
      - V(counted) only reads the inventory, for the circuit breaker of the hosts that follow. Let it come
        first in a play, with C(run_once), and give its answer to O(fleet); else each host counts anew.
    type: str
    choices: [upgraded, counted]
    default: upgraded
  fleet:
    description: What V(counted) answered as C(fleet).
    type: dict
  version:
    description: The release to go to. By default the inventory's pin, or the one that GitHub expects.
    type: str
  quiet_seconds:
    description: Seconds between the cut from routing and the stop. By default
      C(github_runner_drain_quiet_seconds).
    type: float
  timeout_seconds:
    description: How long to wait for running jobs and for the circuit breaker. By default
      C(github_runner_drain_timeout_seconds). A slot whose job lasts longer is given back unchanged.
    type: float
  force:
    description: Do without the circuit breaker.
    type: bool
    default: false
  retry:
    description: Take a release that was rolled back on this host before.
    type: bool
    default: false
  output_dir:
    description: A directory on the controller for the host's answer, one JSON file.
    type: path
  begin:
    description: Set by the action plugin. Slots and the releases they go back to.
    type: dict
  finish:
    description: Set by the action plugin. Slots that are proven.
    type: list
    elements: str
  refuse:
    description: Set by the action plugin. A release that does not work here.
    type: str
  reason:
    description: Set by the action plugin. Why.
    type: str
  allow:
    description: Set by the action plugin. A release that may be tried again.
    type: str
attributes:
  check_mode:
    description: Says what would go where; writes nothing, neither on the host nor at GitHub.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Bring the runners to the release that GitHub expects
  runnerctl.gpu_runner.runner_upgrade:

- name: Bring the runners to a certain release
  runnerctl.gpu_runner.runner_upgrade:
    version: 2.337.0
"""

RETURN = r"""
fleet:
  description: The inventory's runner names by scope, and the share of them that may be out of service.
  returned: with O(state=counted)
  type: dict
target:
  description: The release that the slots go to.
  returned: success
  type: str
slots:
  description: One entry a slot - C(slot), C(was), C(now), C(result), C(seconds), C(note).
  returned: success
  type: list
  elements: dict
busy:
  description: The slots that keep their release for now, since their job lasts or the breaker is open.
  returned: success
  type: list
  elements: str
"""


def main() -> None:
    """Note what was asked to be noted, and report."""
    module = AnsibleModule(
        argument_spec={
            "begin": {"type": "dict"},
            "finish": {"type": "list", "elements": "str"},
            "refuse": {"type": "str"},
            "reason": {"type": "str", "default": ""},
            "allow": {"type": "str"},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)
    notes, asked, changed = ReleaseNotes(), module.params, False
    try:
        if not module.check_mode:
            changed |= bool(asked["begin"]) and notes.begin(asked["begin"])
            changed |= bool(asked["finish"]) and notes.finish(asked["finish"])
            changed |= bool(asked["refuse"]) and notes.refuse(asked["refuse"], asked["reason"])
            changed |= bool(asked["allow"]) and notes.allow(asked["allow"])
        report = notes.read()
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error))
    module.exit_json(changed=changed, installed=versions(), machine=platform.machine(), **report)


if __name__ == "__main__":
    main()
