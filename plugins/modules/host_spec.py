#!/usr/bin/python
"""Documentation of the action plugin host_spec; nothing runs on the target."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_spec
short_description: Read and validate the spec of a host from its variables
version_added: 0.1.0
description:
  - Turns the variables of the collection's roles into the spec of the host and validates it, on the
    controller.
  - Neither the host nor GitHub is contacted.
options:
  output_dir:
    description:
      - A directory on the controller. The answer is written there as C(<host>.json), and problems do not
        fail the task.
    type: path
attributes:
  check_mode:
    description: The same; nothing on a host is changed in any mode.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Validate the variables of the host
  runnerctl.gpu_runner.host_spec:
"""

RETURN = r"""
spec:
  description: The spec, as it would stand in C(/etc/runnerctl/host.json); null when there are problems.
  returned: success
  type: dict
problems:
  description: Everything that is wrong - the variable, what is wrong with it, what to do.
  returned: success
  type: list
  elements: dict
"""
