"""What preflight learnt about the runner release, handed to the play's later tasks as a fact."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain

__all__ = ["recall_release", "release_fact"]

FACT = "__github_runner_release"


def release_fact(release: Mapping[str, Any]) -> dict[str, Any]:
    """The fact: the release, and this run of ansible-playbook, whose workers all have one parent.

    A cache of facts would bring it back in a later run, when GitHub expects another release.
    """
    return {FACT: {**release, "run": os.getppid()}}


def recall_release(variables: Mapping[str, Any]) -> dict[str, Any]:
    """What `release_fact` said earlier in this run; nothing when it did not.

    Read from ``ansible_facts``: with ``inject_facts_as_vars`` off a fact is no variable.
    """
    known = plain(variables.get("ansible_facts", {}).get(FACT) or {})
    return known if known.pop("run", None) == os.getppid() else {}
