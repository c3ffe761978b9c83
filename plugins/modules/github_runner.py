#!/usr/bin/python
"""Target half of the module; the controller's half is plugins/action/github_runner.py."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot import Changes, Converger
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_app import App
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout, SlotSpec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_register import Enrolment
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

DOCUMENTATION = r"""
module: github_runner
short_description: Bring a host's GitHub Actions runners to what inventory says
version_added: 0.1.0
description:
  - Reads the spec of the host from its variables (roles C(github_runner) and others), asks GitHub for the
    records of
    its runners, reads the host, and makes both agree.
  - Registration tokens are minted on the controller, only when a slot must be registered, and reach the
    host by
    standard input; they are in no file, argument or log.
  - A slot that runs a job is never restarted. What needs a restart is noted and applied as soon as it is
    idle.
  - Slots that inventory no longer has are unregistered and removed, when they are idle.
options:
  state:
    description:
      - V(present) brings every slot of the spec to what it should be.
      - V(absent) drains, unregisters and removes every slot of the host.
    type: str
    choices: [present, absent]
    default: present
  host_is_dead:
    description:
      - With O(state=absent), do not contact the host; delete the offline records of its slots on GitHub by
        name.
    type: bool
    default: false
  slots:
    description: Set by the action plugin. The slots as they should be.
    type: list
    elements: dict
    default: []
  enrolments:
    description: Set by the action plugin. The slots to register.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The slot.
        type: str
        required: true
      token:
        description: The registration token.
        type: str
        required: true
      replace:
        description: Whether to take the place of a record of that name.
        type: bool
        default: false
      seen:
        description: The runner's id on the host when this was decided, V(0) for none.
        type: int
  remove:
    description: Set by the action plugin. The slots to remove from the host.
    type: list
    elements: str
    default: []
  switch:
    description: Set by the action plugin. The slots that may change their mode, since GitHub has no record
      of them.
    type: list
    elements: str
    default: []
  retire:
    description: Set by the action plugin. Ephemeral slots that are to get no further registration.
    type: list
    elements: str
    default: []
  app:
    description: Set by the action plugin. The GitHub App that mints the registrations of ephemeral slots.
    type: dict
    suboptions:
      id:
        description: The App's id.
        type: str
        required: true
      sha256:
        description: The SHA-256 of its private key's file.
        type: str
        required: true
      installation_id:
        description: The App's installation.
        type: str
      api_url:
        description: The REST API's address, where it is not the one that the slots' URLs imply.
        type: str
      source:
        description: Where the key was put on the host; it is taken away from there.
        type: str
attributes:
  check_mode:
    description: Predicts what would change, on the host and on GitHub; mints no token and writes nothing.
    support: full
  diff_mode:
    description: Shows units, environment files and what changes on GitHub.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Bring all slots of the host to what inventory says
  runnerctl.gpu_runner.github_runner:

- name: Drain, unregister and remove all slots of the host
  runnerctl.gpu_runner.github_runner:
    state: absent
"""

RETURN = r"""
slots:
  description: One entry a slot - what the host says, and what differed.
  returned: success
  type: list
  elements: dict
  contains:
    name:
      description: The slot.
      type: str
    agent_id:
      description: The runner's id on GitHub, or null when it is not registered.
      type: int
    busy:
      description: Whether a job ran.
      type: bool
    pending_restart:
      description: Whether a restart waits for the slot to be idle.
      type: bool
    changes:
      description: What was changed, or in check mode would be.
      type: list
      elements: str
absent:
  description: Slots on the host that inventory does not have.
  returned: success
  type: list
  elements: dict
needs_key:
  description: Whether the App's private key was not on the host yet.
  returned: success
  type: bool
actions:
  description: Everything that was done, or in check mode would be, in order.
  returned: success
  type: list
  elements: str
api_calls:
  description: How many requests were sent to GitHub, and how many of them write.
  returned: success
  type: dict
"""


# Only the token is a secret: Ansible blots out whatever contains one of the values it must not log.
ENROLMENT = {
    "name": {"type": "str", "required": True},
    "token": {"type": "str", "required": True, "no_log": True},
    "replace": {"type": "bool", "default": False},
    "seen": {"type": "int"},
}


APP = {
    "id": {"type": "str", "required": True},
    "sha256": {"type": "str", "required": True},
    "installation_id": {"type": "str"},
    "api_url": {"type": "str"},
    "source": {"type": "str"},
}


def main() -> None:
    """Read, compare, act."""
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "host_is_dead": {"type": "bool", "default": False},
            "slots": {"type": "list", "elements": "dict", "default": []},
            "enrolments": {"type": "list", "elements": "dict", "default": [], "options": ENROLMENT},
            "remove": {"type": "list", "elements": "str", "default": []},
            "switch": {"type": "list", "elements": "str", "default": []},
            "retire": {"type": "list", "elements": "str", "default": []},
            "app": {"type": "dict", "options": APP},
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # everybody may read what `runnerctl list` shows
    slots = [SlotSpec.from_dict(slot) for slot in module.params["slots"]]
    enrolments = {
        entry["name"]: Enrolment(entry["token"], replace=entry["replace"], seen=entry["seen"])
        for entry in module.params["enrolments"]
    }
    converger = Converger(Layout(), System(), check=module.check_mode)
    try:
        outcome = converger.run(
            slots, enrolments=enrolments, remove=module.params["remove"], changes=_changes(module.params)
        )
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error), actions=converger.outcome.actions)
    module.exit_json(**outcome.as_dict())


def _changes(params: dict[str, Any]) -> Changes:
    return Changes(
        switch=tuple(params["switch"]), retire=tuple(params["retire"]), app=App.from_dict(params["app"])
    )


if __name__ == "__main__":
    main()
