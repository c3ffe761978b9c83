"""Clients as an environment wants them: its cache, its CA bundle, its patience with rate limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from runnerctl.errors import ConfigError
from runnerctl.github.auth import Bearer
from runnerctl.github.cache import PrivateCache, cache_from
from runnerctl.github.client import Call, GitHubClient, check_api_url
from runnerctl.github.trust import make_session
from runnerctl.redact import show_http_logs

__all__ = ["MAX_WAIT_SECONDS", "Connector", "max_wait_seconds"]

MAX_WAIT = "RUNNERCTL_MAX_WAIT_SECONDS"
MAX_WAIT_SECONDS = 300.0
_LONGEST_SECONDS = 24 * 3600.0


def max_wait_seconds(env: Mapping[str, str], *, given: str | None = None) -> float:
    """How long one call may wait for GitHub's rate limits, in seconds; ``given`` is ``--max-wait``.

    Else ``RUNNERCTL_MAX_WAIT_SECONDS``, else five minutes. Raises ConfigError for what is no number from 0 to
    86400.
    """
    where = "--max-wait" if given is not None else MAX_WAIT
    text = env.get(MAX_WAIT, "").strip() if given is None else given.strip()
    if not text and given is None:
        return MAX_WAIT_SECONDS
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise ConfigError(
            f"{text!r} is no number of seconds from 0 to {_LONGEST_SECONDS:.0f}",
            where=where,
            remedy="give how long a call may wait for GitHub's rate limit, for example 300",
        )
    return seconds


class Connector:
    """Makes clients of one API: for a credential, and for an App that mints its token.

    ``observer`` is told of every request of all of them. ``max_wait`` is what ``--max-wait`` gave. Raises
    ConfigError for a setting of the environment that cannot be used.
    """

    def __init__(
        self,
        env: Mapping[str, str],
        api_url: str,
        *,
        observer: Callable[[Call], None] | None = None,
        max_wait: str | None = None,
        cache: PrivateCache | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        check_api_url(api_url)
        self.api_url = api_url
        self.cache = cache or cache_from(env)
        self.max_wait_seconds = max_wait_seconds(env, given=max_wait)
        self._env, self._observer, self._sleep = env, observer, sleep
        if env.get("RUNNERCTL_DEBUG", "0") not in ("", "0"):
            show_http_logs()

    def __call__(self, credential: Bearer | None) -> GitHubClient:
        """A client that bears ``credential``."""
        return GitHubClient(
            self.api_url,
            credential,
            session=make_session(self.api_url, self._env),
            sleep=self._sleep,
            max_wait_seconds=self.max_wait_seconds,
            observer=self._observer,
            cache=self.cache,
        )
