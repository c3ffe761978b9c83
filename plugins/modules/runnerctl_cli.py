"""Ansible module: the command line and the spec on a runner host."""

from __future__ import annotations

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.cli_install import CliInstall, Layout, Outcome, Wanted
from ..module_utils.cli_venv import Source
from ..module_utils.errors import HostError, one_line
from ..module_utils.network import ARGUMENT, use
from ..module_utils.receipt import Receipt

DOCUMENTATION = r"""
module: runnerctl_cli
short_description: Install runnerctl on a runner host and write its spec
version_added: 0.1.0
description:
  - Installs the controller's own runnerctl into a virtual environment under C(/opt/runnerctl), with
    C(/usr/local/bin/runnerctl) and bash completion, and installs it again when the controller's differs.
  - Its dependencies come from the host's own package index or from C(runnerctl_wheelhouse).
  - Writes C(/etc/runnerctl/host.json) from the host's variables, in place of an older or damaged one; one of
    a newer schema is refused.
  - With C(conda_store), makes the store of conda environments and the service that builds them
    (C(runnerctl-env.socket), C(runnerctl-env.service), C(runnerctl-env-gc.timer)); takes them away without.
  - Brings a Python of 3.10 or newer where the distribution has one to install.
  - A host that is right costs one module execution and no transfer.
notes:
  - The task has no options; all of the following are set by the action plugin.
options:
  version:
    description: Set by the action plugin. Version of the wheel.
    type: str
  wheel_sha256:
    description: Set by the action plugin. SHA-256 of the wheel that should be installed.
    type: str
  spec:
    description: Set by the action plugin. Content of C(/etc/runnerctl/host.json).
    type: str
  wheel:
    description: Set by the action plugin. Path of the wheel on the host, once it is there.
    type: path
  wheelhouse:
    description: Set by the action plugin. Address of a wheelhouse, or path of a tar file of wheels.
    type: str
  wheelhouse_sha256:
    description: Set by the action plugin. SHA-256 of that tar file.
    type: str
  env_owners:
    description: Set by the action plugin. Users and organisations at GitHub whose jobs run on the host.
    type: list
    elements: str
    default: []
  env_credentials:
    description: Set by the action plugin. Content of C(conda_store_credentials_file).
    type: str
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
    description: Predicts every change; nothing is built, transferred or written.
    support: full
  diff_mode:
    description: Shows versions, links and the spec.
    support: full
author: The runnerctl authors (@runnerctl)
"""

EXAMPLES = r"""
- name: Install runnerctl and write the spec of the host
  runnerctl.gpu_runner.runnerctl_cli:
"""

RETURN = r"""
version:
  description: Version that is installed, or in check mode would be.
  returned: always
  type: str
actions:
  description: What was done.
  returned: always
  type: list
  elements: str
"""

ARGUMENTS = {
    "version": {"type": "str"},
    "wheel_sha256": {"type": "str"},
    "spec": {"type": "str"},
    "wheel": {"type": "path"},
    "wheelhouse": {"type": "str"},
    "wheelhouse_sha256": {"type": "str"},
    "env_owners": {"type": "list", "elements": "str", "default": []},
    "env_credentials": {"type": "str", "no_log": True},
    "network": ARGUMENT,
}


def main() -> None:
    """Read, compare, act."""
    module = AnsibleModule(
        argument_spec=ARGUMENTS,
        required_together=[["version", "wheel_sha256", "spec"]],
        supports_check_mode=True,
    )
    os.umask(0o022)  # jobs' users run what is installed
    try:
        use(module.params["network"], directory=None if module.check_mode else lambda: module.tmpdir)
        outcome = _apply(module)
    except (HostError, OSError) as error:
        module.fail_json(msg=one_line(error))
    for text in outcome.warnings:
        module.warn(text)
    module.exit_json(
        changed=bool(outcome.actions),
        version=module.params["version"],
        actions=outcome.actions,
        needs_wheel=outcome.needs_wheel,
        python=outcome.python,
        diff=[change.diff() for change in outcome.changes],
    )


def _apply(module: AnsibleModule) -> Outcome:
    given = module.params
    if not given["wheel_sha256"]:
        raise HostError("this module is run by its action plugin", remedy="run it as a task of a play")
    source = None
    if given["wheel"]:
        source = Source(
            given["wheel"], given["wheel_sha256"], given["wheelhouse"], given["wheelhouse_sha256"]
        )
    ca = (given["network"] or {}).get("ca")
    wanted = Wanted(
        given["version"],
        given["wheel_sha256"],
        given["spec"],
        source,
        ca,
        owners=tuple(given["env_owners"]),
        credentials=given["env_credentials"],
    )
    return CliInstall(Layout(), Receipt(), check=module.check_mode).converge(wanted)


if __name__ == "__main__":
    main()
