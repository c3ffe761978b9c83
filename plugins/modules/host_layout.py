#!/usr/bin/python
"""Documentation of the action plugin host_layout; what it reads, module preflight reads for it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_layout
short_description: Read what the slots of a host are laid out over
version_added: 0.1.0
description:
  - Reads the GPUs, CPUs and memory of a host, and the layout it has, and plans the slots anew.
  - Nothing is changed, and GitHub is not asked.
options:
  output_dir:
    description:
      - A directory on the controller. The answer is written there as C(<host>.json), and slots that cannot be
        laid out do not fail the task.
    type: path
attributes:
  check_mode:
    description: The same; nothing on a host is changed in any mode.
    support: full
author:
  - The runnerctl authors
"""

EXAMPLES = r"""
- name: Plan the slots of the host
  runnerctl.gpu_runner.host_layout:
"""

RETURN = r"""
spec:
  description: The spec, as inventory gives it.
  returned: success
  type: dict
before:
  description: The spec that the host has, or null when it has none.
  returned: success
  type: dict
hardware:
  description: GPUs, NUMA nodes and memory of the host.
  returned: success
  type: dict
problems:
  description: Why the slots cannot be laid out - the variable, what is wrong with it, what to do.
  returned: success
  type: list
  elements: dict
"""
