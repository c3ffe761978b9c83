"""Ansible module: the NVIDIA driver of a host, as a plan of the controller says."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.driver_files import is_loaded
from ..module_utils.driver_install import Installer, Result, prepare_reboot
from ..module_utils.driver_plan import DriverPlan
from ..module_utils.driver_prove import prove
from ..module_utils.driver_work import Work
from ..module_utils.errors import HostError, one_line
from ..module_utils.network import ARGUMENT, use

DOCUMENTATION = r"""
module: nvidia_driver
short_description: Install the NVIDIA driver, load it, and prove that it answers
version_added: 0.1.0
description:
  - The controller reads the host's GPUs and decides on branch, flavour and source of the driver, or
    refuses. This module carries the plan out on the host. In a play the options come from the role's
    variables.
  - Adds missing components of the distribution's own apt sources in a file of its own, and repositories
    whose key has the fingerprint that was given.
  - Switches nouveau off, in every initramfs too.
  - Installs kernel headers for every installed kernel, and the driver, in one transaction. An
    installation that was interrupted is finished first, a module that DKMS did not finish is built again.
  - Holds the driver's packages, and blocks unattended upgrades of them.
  - Enables the persistence daemon, fabric manager and the MIG layout where the plan has them.
  - Loads the installed version without a reboot when no process uses a GPU; otherwise it says that a
    reboot is required, and never reboots.
options:
  plan:
    description: What the controller decided; see C(runnerctl.core.driver_structs.DriverPlan).
    type: dict
  phase:
    description:
      - V(install) makes the host so.
      - V(prepare_reboot) waits until no slot runs a job and stops the listeners that are idle.
      - V(prove) asks the driver for its version and its GPUs, in a child process with a deadline.
    type: str
    choices: [install, prepare_reboot, prove]
    default: install
  drain_seconds:
    description: How long V(prepare_reboot) waits for jobs to end.
    type: int
    default: 0
  network:
    description: Set by the action plugin. Proxies and the site's own certificates, from the variables
      C(runnerctl_http_proxy), C(runnerctl_https_proxy), C(runnerctl_no_proxy) and C(runnerctl_ca_bundle).
    type: dict
    suboptions:
      http_proxy: {description: Proxy of http addresses., type: str}
      https_proxy: {description: Proxy of https addresses., type: str}
      no_proxy: {description: What is reached without one., type: str}
      ca: {description: Certificates in PEM form., type: str}
notes:
  - Files and packages are noted in C(/var/lib/runnerctl/receipt.json).
attributes:
  check_mode:
    description:
      - Predicts files, packages, holds and modules, and writes nothing. What a repository that is not there
        yet will offer cannot be known; the first of several alternatives is predicted then.
    support: full
  diff_mode:
    description: Shows the files.
    support: full
author: The runnerctl authors (@runnerctl)
"""

EXAMPLES = r"""
- name: Install the driver the spec asks for
  runnerctl.gpu_runner.nvidia_driver:
"""

RETURN = r"""
actions:
  description: What was done, or in check mode would be.
  returned: phases install and prepare_reboot
  type: list
  elements: str
notes:
  description: What a person should know and nothing can be done about here.
  returned: phase install
  type: list
  elements: str
reboot_required:
  description: Whether only a reboot brings the installed driver up.
  returned: phase install
  type: bool
reboot_reasons:
  description: Why.
  returned: phase install
  type: list
  elements: str
installed:
  description: Packages installed now, without what they brought along.
  returned: phase install
  type: list
  elements: str
modules:
  description: Kernel release and version of the driver's module on disk.
  returned: phase install
  type: dict
ready:
  description: Whether no slot runs a job, and the listeners are stopped.
  returned: phase prepare_reboot
  type: bool
busy:
  description: Slots that still run a job.
  returned: phase prepare_reboot
  type: list
  elements: str
loaded:
  description: Whether the driver answers.
  returned: phase prove
  type: bool
driver_version:
  description: The version of the driver that answers.
  returned: phase prove
  type: str
gpu_count:
  description: How many GPUs could be opened.
  returned: phase prove
  type: int
problem:
  description: What is not as the plan expects, in one line; empty when all is.
  returned: phase prove
  type: str
remedy:
  description: What to do about it.
  returned: phase prove
  type: str
"""

ARGUMENTS = {
    "plan": {"type": "dict"},
    "phase": {"type": "str", "choices": ["install", "prepare_reboot", "prove"], "default": "install"},
    "drain_seconds": {"type": "int", "default": 0},
    "network": ARGUMENT,
}


def main() -> None:
    """Read, compare, act."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)  # what packages' own scripts write is for everybody
    work = Work(check=module.check_mode)
    try:
        use(module.params["network"], directory=None if module.check_mode else lambda: module.tmpdir)
        result = _phase(module.params, work)
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error), actions=work.actions, notes=work.notes)
    module.exit_json(**result)


def _phase(given: dict[str, Any], work: Work) -> dict[str, Any]:
    if given["phase"] == "prepare_reboot":
        result = prepare_reboot(work, seconds=given["drain_seconds"])
    else:
        plan = DriverPlan.from_dict(given["plan"] or {})
        if given["phase"] == "prove":
            may_load = not work.check or is_loaded(work)
            return {"changed": False, **prove(plan.gpu_count, may_load=may_load).as_dict()}
        with work.alone():
            result = dict(vars(Installer(work, plan).run() if plan.action == "install" else Result()))
    return {
        "changed": bool(work.actions),
        "actions": work.actions,
        "notes": work.notes,
        "diff": [change.diff() for change in work.changes],
        **result,
    }


if __name__ == "__main__":
    main()
