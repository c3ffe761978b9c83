#!/usr/bin/python
"""Target half of the module; the controller's half is plugins/action/runner_release.py."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.download import fetch
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.network import ARGUMENT, use
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.release_notes import ReleaseNotes
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.releases import RELEASES, prune
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.unpack import verified_unpack

DOCUMENTATION = r"""
module: runner_release
short_description: Put one verified copy of a runner release on a host
version_added: 0.1.0
description:
  - Downloads the runner's archive once for a host, verifies its SHA-256 before anything is unpacked, and
    unpacks it to
    C(/opt/actions-runner/<version>), owned by root. The directory exists only when it is complete.
  - Older releases are removed, except the newest of them, what a runner still uses, and what a slot that is
    on hold or in the middle of an upgrade starts with or goes back to.
  - Which release that is, is decided on the controller - the one GitHub expects, with a checksum that two
    sources agree
    on, or the pinned one.
options:
  version:
    description: Set by the action plugin. The release.
    type: str
  url:
    description: Set by the action plugin. Where the archive is.
    type: str
  sha256:
    description: Set by the action plugin. The archive's SHA-256.
    type: str
  token:
    description: Set by the action plugin. The short-lived token that GitHub Enterprise Server gives for its
      downloads.
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
    description: Predicts whether the release would be installed; downloads nothing.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Install the release that GitHub expects
  runnerctl.gpu_runner.runner_release:
"""

RETURN = r"""
path:
  description: Where the release is.
  returned: success
  type: str
version:
  description: Its version.
  returned: success
  type: str
"""


def install(version: str, *, url: str, sha256: str, token: str | None) -> Path:
    """Fetch, verify, unpack. Raises HostError; then the release does not exist. The archive is not kept."""
    target = RELEASES / version
    Receipt().record("path", str(RELEASES), role="github_runner")
    RELEASES.mkdir(mode=0o755, parents=True, exist_ok=True)
    archive = RELEASES / f"actions-runner-{version}.tar.gz"
    headers = {"Authorization": f"Bearer {token}"} if token else None
    try:
        fetch(url, str(archive), sha256, headers=headers)
        verified_unpack(str(archive), str(target), sha256=sha256)
    finally:
        archive.unlink(missing_ok=True)
    prune(wanted=version, kept=ReleaseNotes().read()["previous"].values())
    return target


def main() -> None:
    """Install the release unless the host has it."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str"},
            "url": {"type": "str"},
            "sha256": {"type": "str"},
            "token": {"type": "str", "no_log": True},
            "network": ARGUMENT,
        },
        supports_check_mode=True,
    )
    os.umask(0o022)  # jobs' users run what is unpacked
    version, target = module.params["version"], RELEASES / module.params["version"]
    changed = not target.is_dir()
    if changed and not module.check_mode:
        try:
            use(module.params["network"], directory=lambda: module.tmpdir)
            install(
                version,
                url=module.params["url"],
                sha256=module.params["sha256"],
                token=module.params["token"],
            )
        except (HostError, OSError) as error:
            module.fail_json(msg=one_line(error))
    diff = {"before": "", "after": f"{target}\n"} if changed else {"before": "", "after": ""}
    module.exit_json(changed=changed, path=str(target), version=version, diff=diff)


if __name__ == "__main__":
    main()
