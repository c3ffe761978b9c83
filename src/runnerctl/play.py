"""One run of ansible-playbook, whose forks share what one of them read at GitHub.

Ansible forks a worker for each host and task: without sharing, 500 runners that need nothing would cost 500
requests. What is shared lies in the controller's private cache and is never older than five minutes, or in
large fleets an hour for what hardly changes; a change is planned again from reads of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path

from runnerctl.github.cache import PrivateCache, cache_from, digest

__all__ = ["Play", "current_play"]

_KIND = "play"
FRESH_SECONDS = 300.0
LASTING_SECONDS = 3600.0
LARGE = 100  # runners: from here on a listing of them takes more than one request
_LOCK_SECONDS = 120.0


class Play:
    """What the workers of one run share. ``hosts`` is how many hosts the play is for.

    ``key`` tells this run from all others.
    """

    def __init__(self, key: str, cache: PrivateCache, *, hosts: int) -> None:
        self._key = key
        self._cache = cache
        self.hosts = hosts

    def shared(self, what: tuple[str, ...], read: Callable[[], bytes | None], *, lasting: bool) -> bytes:
        """What ``read`` gave to the first worker that asked; empty for its None, which is not kept.

        One worker reads, the others wait for it, two minutes at most. ``lasting``: another run of the last
        hour may have read it too. Raises what ``read`` raises.
        """
        key = digest("" if lasting else self._key, *what)
        seconds = LASTING_SECONDS if lasting else FRESH_SECONDS
        found = self._cache.read(_KIND, key, max_age_seconds=seconds)
        if found is None:
            with self._cache.lock(key, seconds=_LOCK_SECONDS):
                found = self._cache.read(_KIND, key, max_age_seconds=seconds)
                if found is None:
                    found = read()
                    if found is None:
                        return b""
                    self._cache.write(_KIND, key, found)
        return found


def current_play(
    env: Mapping[str, str],
    *,
    hosts: int,
    note: Callable[[str], None] | None = None,
) -> Play | None:
    """The run this worker was forked for: its parent process, told from others by when that began.

    None where there is no cache or no such process. Raises ConfigError for a bad ``RUNNERCTL_CACHE_DIR``.
    """
    cache = cache_from(env, note=note) if note else cache_from(env)
    parent = os.getppid()
    try:
        # Field 22, counted after the name in parentheses, which may hold anything (proc(5)).
        began = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except (OSError, IndexError):
        return None
    return Play(digest(boot, str(parent), began), cache, hosts=hosts) if cache else None
