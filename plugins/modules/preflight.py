#!/usr/bin/python
"""Target half of the module; the controller's half is plugins/action/preflight.py."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_facts import read_driver_facts
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hardware import read_hardware
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.release_notes import ReleaseNotes
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.releases import versions

DOCUMENTATION = r"""
module: preflight
short_description: Check spec, host and credential before anything is changed
version_added: 0.1.0
description:
  - Validates the variables of the host, reads what the host is, and asks GitHub whether the credential is
    enough.
  - Everything that is wrong is reported at once, one line each, before the first change.
  - Resolves which runner release GitHub expects, for the roles that follow.
  - Reads which GPUs the host has, and refuses a driver that cannot drive them.
  - Lays the slots out over the GPUs, CPUs and memory of the host, and refuses what does not fit, with the
    GPUs that were found. Where the driver comes with this play, the tasks behind it do so.
options:
  driver:
    description:
      - Whether to ask what driver is installed; V(gpus) asks when there is a GPU. The action takes it from
        the spec.
    type: str
    choices: [never, gpus, always]
    default: never
  hardware:
    description:
      - What of the hardware to read; V(host) is CPUs and memory, V(gpus) asks the driver too, in a process of
        its own with a deadline. The action takes it from the spec.
    type: str
    choices: [never, host, gpus]
    default: never
attributes:
  check_mode:
    description: The same in check mode, except that no token is minted to prove the right to do so.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Check spec, host and credential
  runnerctl.gpu_runner.preflight:
"""

RETURN = r"""
machine:
  description: The architecture, as C(uname -m) prints it.
  returned: success
  type: str
os_id:
  description: The distribution, as C(/etc/os-release) names it.
  returned: success
  type: str
os_version:
  description: Its version.
  returned: success
  type: str
releases:
  description: The runner releases the host holds, verified and complete.
  returned: success
  type: list
  elements: str
refused:
  description: Releases that an upgrade rolled back on this host - C(version), C(reason), C(refused_at).
  returned: success
  type: list
  elements: dict
gpus:
  description: GPUs on the PCI bus, and the driver that is installed for them.
  returned: success
  type: dict
hardware:
  description:
    - GPUs, NUMA nodes and memory that slots are laid out over; C(unavailable) says why the GPUs could not be
      read.
  returned: when it was asked for
  type: dict
registered:
  description: The slots that hold a registration.
  returned: success
  type: list
  elements: str
"""


def read_os_release() -> dict[str, str]:
    """``/etc/os-release`` as a dictionary."""
    try:
        lines = Path("/etc/os-release").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    return {key: value.strip("\"'") for key, value in pairs}


def main() -> None:
    """Report; nothing is changed."""
    options = {
        "driver": {"type": "str", "choices": ["never", "gpus", "always"], "default": "never"},
        "hardware": {"type": "str", "choices": ["never", "host", "gpus"], "default": "never"},
    }
    module = AnsibleModule(argument_spec=options, supports_check_mode=True)
    release = read_os_release()
    try:
        gpus = read_driver_facts(driver=module.params["driver"])
    except HostError as error:
        module.fail_json(msg=one_line(error))
    asked = module.params["hardware"]
    host_json = Path("/etc/runnerctl/host.json")
    module.exit_json(
        changed=False,
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        machine=platform.machine(),
        uid=os.geteuid(),
        systemd=Path("/run/systemd/system").is_dir(),
        gpus=gpus,
        hardware=None if asked == "never" else read_hardware(gpus=asked == "gpus"),
        root_free_bytes=shutil.disk_usage("/").free,
        free_bytes=shutil.disk_usage("/opt" if Path("/opt").is_dir() else "/").free,
        host_json=host_json.read_text(encoding="utf-8", errors="replace") if host_json.is_file() else None,
        conda=Path("/opt/miniforge3/conda-meta").is_dir(),
        cli=Path("/opt/runnerctl/bin/runnerctl").exists(),
        releases=versions(),
        refused=ReleaseNotes().read()["refused"],
        registered=sorted(path.parent.name for path in Path("/var/lib/gha-runner").glob("*/.runner")),
    )


if __name__ == "__main__":
    main()
