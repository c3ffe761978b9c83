#!/usr/bin/python
"""The target half of host_health: run the host's own ``runnerctl health`` and hand its verdict over."""

from __future__ import annotations

import json

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import run

DOCUMENTATION = r"""
module: host_health
short_description: Ask a host for its health verdict
version_added: 0.1.0
description:
  - Runs C(runnerctl health -o json) of the host's own installation, without credentials, and returns what
    it says.
  - A host that cannot be reached, was never provisioned, or does not answer in time is an answer, too, with
    the reason; the task does not fail.
options:
  deadline_seconds:
    description: When the host's verdict must be there, in seconds.
    type: float
    default: 20
  output_dir:
    description: A directory on the controller. The answer is written there as C(<host>.json).
    type: path
attributes:
  check_mode:
    description: The same; nothing on a host is changed in any mode.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Ask the host for its verdict
  runnerctl.gpu_runner.host_health:
    deadline_seconds: 30
"""

RETURN = r"""
health:
  description: The verdict, schema C(runnerctl.health/1); null when there is none.
  returned: success
  type: dict
reason:
  description: Why there is no verdict; empty when there is one.
  returned: success
  type: str
remedy:
  description: What to do about it.
  returned: success
  type: str
"""

COMMAND = "/opt/runnerctl/bin/runnerctl"
PROVISION = "run the provision playbook for this host"
START_SECONDS = 5.0  # for the command's own start and end, on a host that is slow
VERDICTS = (0, 1, 2, 3)


def main() -> None:
    """Run the command, and judge only whether it answered."""
    module = AnsibleModule(
        argument_spec={
            "deadline_seconds": {"type": "float", "default": 20.0},
            "output_dir": {"type": "path"},
        },
        supports_check_mode=True,
    )
    health, reason, remedy = _ask(module.params["deadline_seconds"])
    module.exit_json(changed=False, health=health, reason=reason, remedy=remedy)


def _ask(seconds: float) -> tuple[dict[str, object] | None, str, str]:
    """The verdict, or why there is none and what to do."""
    command = [COMMAND, "health", "-o", "json", "--deadline", f"{seconds:g}"]
    try:
        done = run(command, timeout=seconds + START_SECONDS)
    except (HostError, OSError) as error:
        return None, *_no_answer(one_line(error))
    try:
        answer = json.loads(done.out)
    except ValueError:
        answer = None
    if isinstance(answer, dict) and done.rc in VERDICTS:
        return answer, "", ""
    lines = (done.err.strip() or done.out.strip()).splitlines()
    said = f": {' '.join(lines[-1].split())[:200]}" if lines else ""
    if "No such command" in done.err or "No such option" in done.err:
        return None, f"its runnerctl is too old{said}", f"{PROVISION} again"
    return None, f"its runnerctl ended with {done.rc} and no verdict{said}", f"{PROVISION} again"


def _no_answer(why: str) -> tuple[str, str]:
    if "No such file" in why:
        return "is not provisioned: it has no runnerctl", PROVISION
    if "did not end" in why:
        return f"gave no verdict in time: {why}", "see what keeps it busy, or give more time with --deadline"
    return f"its runnerctl cannot be run: {why}", f"{PROVISION} again"


if __name__ == "__main__":
    main()
