#!/usr/bin/python
"""Target half of the module; the controller's half is plugins/action/container_toolkit.py."""

from __future__ import annotations

import os
import platform
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.network import ARGUMENT, use
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.packages import release_fields
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.toolkit_work import (
    ToolkitPlan,
    ToolkitWork,
)

DOCUMENTATION = r"""
module: container_toolkit
short_description: Docker Engine and the NVIDIA container toolkit of a runner host
description:
  - Brings Docker, NVIDIA's container toolkit, the runtime, the CDI specification and links in C(/dev/char)
    to what the spec says (variables of role P(runnerctl.gpu_runner.container_toolkit#role)).
  - The controller's half plans. Where others look after Docker and the toolkit the host is not even asked.
  - An existing C(/etc/docker/daemon.json) is merged, never overwritten.
  - A running Engine is reloaded. Where it must start anew it is restarted only while no slot runs a job and
    no container would stop; else the restart is noted, said in RV(pending), and done by a later run.
options:
  plan:
    description:
      - What the host should have; set by the controller's half. Without it the module only reports the host.
    type: dict
  network:
    description: Set by the action plugin. Proxies and the site's own certificates, from the variables
      C(runnerctl_http_proxy), C(runnerctl_https_proxy), C(runnerctl_no_proxy) and C(runnerctl_ca_bundle).
    type: dict
    suboptions:
      http_proxy: {description: Proxy of http addresses., type: str}
      https_proxy: {description: Proxy of https addresses., type: str}
      no_proxy: {description: What is reached without one., type: str}
      ca: {description: Certificates in PEM form., type: str}
attributes:
  check_mode:
    description: Predicts packages, files, units and restarts; reads nothing from the network.
    support: full
  diff_mode:
    description: Shows every file that differs.
    support: full
  idempotent:
    description: A host that is as it should be is left alone.
    support: full
author: The runnerctl authors (@runnerctl)
"""

EXAMPLES = r"""
- name: Bring Docker and the container toolkit to what inventory says
  runnerctl.gpu_runner.container_toolkit:
"""

RETURN = r"""
actions:
  description: What was done; in check mode, what would be.
  returned: always
  type: list
  elements: str
pending:
  description: What has to wait, and for what.
  returned: always
  type: list
  elements: str
"""

ARGUMENTS = {"plan": {"type": "dict"}, "network": ARGUMENT}


def main() -> None:
    """Report the host, or bring it to the plan."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)  # what packages' own scripts write is for everybody
    try:
        use(module.params["network"], directory=None if module.check_mode else lambda: module.tmpdir)
        plan = module.params["plan"]
        result = _facts() if plan is None else _apply(plan, check=module.check_mode)
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error))
    module.exit_json(**result)


def _facts() -> dict[str, Any]:
    release = release_fields()
    return {
        "changed": False,
        "host": {
            "os_id": release.get("ID", ""),
            "os_version": release.get("VERSION_ID", ""),
            "machine": platform.machine(),
        },
    }


def _apply(plan: dict[str, Any], *, check: bool) -> dict[str, Any]:
    return ToolkitWork(ToolkitPlan.from_dict(plan), check=check).run()


if __name__ == "__main__":
    main()
