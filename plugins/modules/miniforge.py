"""Ansible module: Miniforge and conda's settings for a whole host."""

from __future__ import annotations

import os
import platform

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.errors import HostError, one_line
from ..module_utils.miniforge import Layout, Miniforge, Outcome, Wanted
from ..module_utils.network import ARGUMENT, use
from ..module_utils.receipt import Receipt

DOCUMENTATION = r"""
module: miniforge
short_description: Install Miniforge for a whole host
version_added: 0.1.0
description:
  - Installs Miniforge under C(/opt/miniforge3-<version>), root-owned and writable by nobody else, and makes
    C(/opt/miniforge3) a link to it.
  - Writes C(/etc/conda/condarc.d/10-runnerctl.yml) with the channels pinned, strict priority, no automatic
    activation, and package caches and environments per user.
  - Freezes the base environment (CEP 22).
notes:
  - An installer writes its prefix into what it installs, so an installation cannot be moved into place. It is
    made under a name of its own and marked when it is whole; the link is switched in one step. A job never
    sees half a conda, which an update in place (the installer's C(-u)) would show it. A killed run is cleared
    up by the next one.
  - The version before is removed as soon as no process uses it.
  - The version is read from C(conda-meta); conda is not run, and a host that is right is not touched and
    needs no network.
options:
  version:
    description: Release of Miniforge.
    type: str
    required: true
  url:
    description:
      - Address or path of the installer; C({version}) and C({machine}) are filled in.
    type: str
    required: true
  sha256:
    description: SHA-256 of the installer. Without it, the checksum published as C(<url>.sha256) is used.
    type: str
  channels:
    description: Channels of the whole host.
    type: list
    elements: str
    default: [conda-forge]
  installer:
    description: Set by the action plugin. Path of the installer on the host, once it has been brought there.
    type: path
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
    description: Predicts the version and the settings, writes nothing and needs no network.
    support: full
  diff_mode:
    description: Shows versions and settings.
    support: full
author: The runnerctl authors (@runnerctl)
"""

EXAMPLES = r"""
- name: Install Miniforge from a mirror
  runnerctl.gpu_runner.miniforge:
    version: 26.3.2-3
    url: https://mirror.example.org/miniforge/Miniforge3-{version}-Linux-{machine}.sh
    channels: [https://mirror.example.org/conda-forge]
"""

RETURN = r"""
version:
  description: The release that is installed, or in check mode would be.
  returned: always
  type: str
actions:
  description: What was done.
  returned: always
  type: list
  elements: str
installs:
  description: Whether the installer was run, or in check mode would be.
  returned: always
  type: bool
machine:
  description: The host's architecture as C(uname -m) has it.
  returned: always
  type: str
kept:
  description: Directories of older versions that a process still uses, or that hold environments.
  returned: always
  type: list
  elements: str
"""

ARGUMENTS = {
    "version": {"type": "str", "required": True},
    "url": {"type": "str", "required": True},
    "sha256": {"type": "str"},
    "channels": {"type": "list", "elements": "str", "default": ["conda-forge"]},
    "installer": {"type": "path"},
    "network": ARGUMENT,
}


def main() -> None:
    """Read, compare, act."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True)
    os.umask(0o022)  # jobs' users read what is installed
    try:
        use(module.params["network"], directory=None if module.check_mode else lambda: module.tmpdir)
        outcome = _apply(module)
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error))
    module.exit_json(
        changed=bool(outcome.actions),
        version=outcome.version,
        actions=outcome.actions,
        installs=outcome.installs,
        machine=platform.machine(),
        kept=outcome.kept,
        diff=[change.diff() for change in outcome.changes],
    )


def _apply(module: AnsibleModule) -> Outcome:
    given = module.params
    wanted = Wanted(
        version=given["version"],
        url=given["url"],
        sha256=given["sha256"] or None,
        channels=tuple(given["channels"]),
        installer=given["installer"],
    )
    return Miniforge(Layout(), Receipt(), check=module.check_mode).converge(wanted)


if __name__ == "__main__":
    main()
