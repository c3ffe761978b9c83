"""Ansible module: distribution packages."""

from __future__ import annotations

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.errors import HostError, one_line
from ..module_utils.network import ARGUMENT, use
from ..module_utils.packages import Outcome, Packages, package_system
from ..module_utils.receipt import Receipt

DOCUMENTATION = r"""
module: host_packages
short_description: Install distribution packages and note them in the receipt
version_added: 0.1.0
description:
  - Asks C(dpkg) or C(rpm) directly, so that check mode works on a bare host without python3-apt.
  - Installs what is missing with C(apt-get) or C(dnf), without recommended packages, in one call.
    Package lists are fetched only when something is missing and they are absent, older than a day, or do not
    know it.
  - What it installs is noted in C(/var/lib/runnerctl/receipt.json) before it is installed. What was there
    before is not.
  - Finishes an installation that was interrupted, and waits for another package manager to end.
options:
  names:
    description:
      - Package names. C(a|b|c) means the first one that is available; any installed one satisfies it.
    type: list
    elements: str
    required: true
  state:
    description:
      - V(present) installs what is missing.
      - V(absent) removes the packages named, except those that another installed package needs.
    type: str
    choices: [present, absent]
    default: present
  role:
    description: The role that asks; it is noted in the receipt.
    type: str
    required: true
  variable:
    description: The variable that O(names) came from, for error messages.
    type: str
  deadline_seconds:
    description: How long the whole module may take.
    type: int
    default: 1800
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
    description: Predicts what would be installed and writes nothing. Where there are no package lists yet,
      the first of several alternatives is predicted.
    support: full
  diff_mode:
    description: Lists the packages that come and go.
    support: full
author: The runnerctl authors (@runnerctl)
"""

EXAMPLES = r"""
- name: Install what jobs need
  runnerctl.gpu_runner.host_packages:
    names: [git, build-essential, "libgl1|libgl1-mesa-glx"]
    role: github_runner
    variable: github_runner_packages
"""

RETURN = r"""
installed:
  description: Packages installed now; in check mode, those that would be.
  returned: always
  type: list
  elements: str
removed:
  description: Packages removed now.
  returned: always
  type: list
  elements: str
kept:
  description: Packages that were to go and stay, because another installed package needs them.
  returned: always
  type: list
  elements: str
"""

ARGUMENTS = {
    "names": {"type": "list", "elements": "str", "required": True},
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "role": {"type": "str", "required": True},
    "variable": {"type": "str"},
    "deadline_seconds": {"type": "int", "default": 1800},
    "network": ARGUMENT,
}


def main() -> None:
    """Read, compare, act."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)  # what packages' own scripts write is for everybody
    try:
        use(module.params["network"], directory=None if module.check_mode else lambda: module.tmpdir)
        outcome = _apply(module)
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error))
    module.exit_json(
        changed=outcome.changed,
        installed=list(outcome.installed),
        removed=list(outcome.removed),
        kept=list(outcome.kept),
        diff={
            "before": "".join(f"{name}\n" for name in outcome.removed),
            "after": "".join(f"{name}\n" for name in outcome.installed),
        },
    )


def _apply(module: AnsibleModule) -> Outcome:
    given = module.params
    packages = Packages(
        package_system(),
        Receipt(),
        role=given["role"],
        variable=given["variable"],
        seconds=given["deadline_seconds"],
    )
    work = packages.present if given["state"] == "present" else packages.absent
    return work(given["names"], check=module.check_mode)


if __name__ == "__main__":
    main()
