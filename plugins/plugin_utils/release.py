"""What the tasks of one play share: the runner release as a fact, reads of GitHub through the cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible.utils.display import Display
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import plain

from runnerctl.play import Play, current_play

__all__ = ["recall_release", "release_fact", "shared_play"]

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


def shared_play(variables: Mapping[str, Any]) -> Play | None:
    """This run of ansible-playbook and how many hosts the play is for, of all its batches.

    Raises ConfigError for a bad ``RUNNERCTL_CACHE_DIR``.
    """
    hosts = variables.get("ansible_play_hosts_all") or [None]
    return current_play(os.environ, hosts=len(hosts), note=Display().warning)
