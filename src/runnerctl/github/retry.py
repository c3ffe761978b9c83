"""When to try again, after how long, and when to give up: pure decisions over one answer.

Source: GitHub's documentation of rate limits and of best practices for its REST API. A primary limit says
when it resets, a secondary one may say nothing; both come as 403 or 429.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from runnerctl.github.transport import LostError, Response

__all__ = [
    "MAX_LIMITS",
    "MAX_RETRIES",
    "Limit",
    "backoff_seconds",
    "number",
    "rate_limit",
    "server_time",
    "worth_retrying",
]

MAX_RETRIES = 4  # after 5xx, 408 and lost connections
MAX_LIMITS = 5  # rate limits in a row within one call
_LONGEST_SECONDS = 10 * 365 * 86400.0
_FIRST_SECONDS = 60.0  # a secondary limit that gives no time
_LIMITED = re.compile(r"rate limit|abuse", re.IGNORECASE)
_RANDOM = random.SystemRandom()


class Limit(NamedTuple):
    """GitHub asks for silence: ``seconds`` from the answer's own time, ``until`` as UTC epoch seconds."""

    seconds: float
    until: float
    kind: str


def jitter() -> float:
    """A number in [0, 1) that keeps many clients from coming back at one moment."""
    return _RANDOM.random()


def server_time(response: Response) -> float | None:
    """The answer's ``Date`` as epoch seconds: a host's own clock may be wrong. None when there is none."""
    return _http_date(response.headers.get("date", ""))


def _http_date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (TypeError, ValueError, OverflowError):
        return None


def number(text: str) -> float | None:
    """A header's number, None for what is none: Python takes other digits, and no more than 4300."""
    return float(text[:300]) if text.isascii() and text.isdigit() else None


def rate_limit(response: Response, *, seen: int, now: float) -> Limit | None:
    """The pause an answer asks for, or None when it is no rate limit.

    ``seen`` counts the limits met before in this call, ``now`` is the local UTC time for an answer without
    ``Date``.
    """
    if response.status not in (403, 429):
        return None
    here = server_time(response) or now
    if (pause := _retry_after(response, here)) is not None:
        return Limit(pause, here + pause, "secondary rate limit")
    reset = number(response.headers.get("x-ratelimit-reset", ""))
    if response.headers.get("x-ratelimit-remaining") == "0" and reset is not None:
        pause = min(max(1.0, reset - here), _LONGEST_SECONDS)
        return Limit(
            pause, here + pause, f"rate limit ({response.headers.get('x-ratelimit-resource', 'core')})"
        )
    if response.status == 429 or _LIMITED.search(response.message):
        pause = _FIRST_SECONDS * 2.0**seen
        return Limit(pause, here + pause, "secondary rate limit")
    return None


def _retry_after(response: Response, here: float) -> float | None:
    """``Retry-After`` in seconds; it may be a number or a date (RFC 9110, 10.2.3)."""
    text = response.headers.get("retry-after", "").strip()
    if (seconds := number(text)) is not None:
        return min(seconds, _LONGEST_SECONDS)
    moment = _http_date(text) if text else None
    return None if moment is None else max(0.0, moment - here)


def worth_retrying(outcome: Response | LostError) -> bool:
    """Whether the same request may well pass a moment later: 408, 5xx, or a lost connection."""
    if isinstance(outcome, LostError):
        return outcome.again
    return outcome.status == 408 or outcome.status >= 500


def backoff_seconds(tries: int, *, spread: Callable[[], float] = jitter) -> float:
    """1, 2, 4, 8 s and up to half as much again."""
    return 2.0**tries * (1.0 + spread() / 2.0)
