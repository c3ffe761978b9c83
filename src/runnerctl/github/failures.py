"""An answer that is no success, as one clear error: operation, scope, reason, missing permission, remedy."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import NamedTuple
from urllib.parse import urlsplit

from runnerctl.errors import AccessError, DataError, RunnerctlError, TryAgainError, UnavailableError
from runnerctl.github.permissions import needed, scope_name
from runnerctl.github.retry import Limit, server_time
from runnerctl.github.transport import LostError, Response, one_line

__all__ = ["Subject", "failure", "limit_error", "lost_error"]

_NO_CREDENTIAL = "set GH_TOKEN, RUNNERCTL_TOKEN_FILE, or RUNNERCTL_APP_ID with RUNNERCTL_APP_KEY_FILE"
_CLOCK_WORDS = ("issued at", "expiration time")


class Subject(NamedTuple):
    """What an error is about. ``source`` names where the credential came from, ``advice`` its own remedy."""

    what: str
    method: str
    path: str
    api_url: str
    source: str
    advice: str

    @property
    def where(self) -> str:
        """``acme/widgets at api.github.com``."""
        host = urlsplit(self.api_url).netloc.rpartition("@")[2]
        scope = scope_name(self.path)
        return f"{scope} at {host}" if scope else host

    @property
    def permission(self) -> str:
        """The needed permission in words; empty when none is known."""
        found = needed(self.method, self.path)
        return str(found) if found else ""


def failure(subject: Subject, response: Response, *, now: float) -> RunnerctlError:
    """The error for an answer of 4xx or 5xx. ``now`` is the local UTC time in epoch seconds."""
    if response.status == 401:
        return _unauthorised(subject, response, now=now)
    if response.status == 403:
        return _forbidden(subject, response)
    if response.status in (404, 410):
        return _not_found(subject, response)
    reason = f"cannot {subject.what}: GitHub answered {_said(response)}"
    if response.status in (409, 422):
        return DataError(reason, where=subject.where, remedy="change what was asked for")
    remedy = (
        "try again later; see https://www.githubstatus.com" if response.status >= 500 else "check the API URL"
    )
    return UnavailableError(reason, where=subject.where, remedy=remedy)


def lost_error(subject: Subject, lost: LostError) -> RunnerctlError:
    """The error for an answer that never came."""
    host = urlsplit(subject.api_url).netloc.rpartition("@")[2]
    return UnavailableError(
        f"cannot {subject.what}: {lost.reason}",
        where=subject.where,
        remedy=f"check the connection to {host} and run it again",
    )


def limit_error(subject: Subject, limit: Limit) -> RunnerctlError:
    """The error for a rate limit that lasts longer than the caller wants to wait."""
    try:
        until = datetime.fromtimestamp(limit.until, tz=timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, ValueError, OSError):  # a server may say anything
        until = "a time beyond the calendar"
    return TryAgainError(
        f"cannot {subject.what}: GitHub's {limit.kind} is used up until {until}",
        where=subject.where,
        remedy="run it again after that time",
    )


def _said(response: Response) -> str:
    return f"{response.status} {response.message}".strip()


def _remedy(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _unauthorised(subject: Subject, response: Response, *, now: float) -> RunnerctlError:
    if not subject.source:
        what = f"cannot {subject.what} without a credential"
        return AccessError(what, where=subject.where, remedy=_remedy(_NO_CREDENTIAL, _grant(subject)))
    if any(word in response.message.lower() for word in _CLOCK_WORDS):
        skew = now - (server_time(response) or now)
        return AccessError(
            f"cannot {subject.what}: GitHub refuses the time in the App's signature; this clock is "
            f"{abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}",
            where=subject.where,
            remedy="set the clock and turn time synchronisation on",
        )
    return AccessError(
        f"cannot {subject.what}: the token is expired or revoked ({subject.source}; {_said(response)})",
        where=subject.where,
        remedy=subject.advice or "give a valid one",
    )


def _forbidden(subject: Subject, response: Response) -> RunnerctlError:
    sso = response.headers.get("x-github-sso", "")
    if "required" in sso:
        return AccessError(
            f"cannot {subject.what}: the token is not authorised for the organisation's single sign-on",
            where=subject.where,
            remedy="authorise it on GitHub under Settings, Developer settings, Tokens, Configure SSO",
        )
    holder = f"the token of {subject.source} may not" if subject.source else "no credential was given"
    return AccessError(
        f"cannot {subject.what}: {holder} ({_said(response)})",
        where=subject.where,
        remedy=_remedy(subject.advice, _grant(subject, response), "" if subject.source else _NO_CREDENTIAL),
    )


def _grant(subject: Subject, response: Response | None = None) -> str:
    """What to grant: our own table first, then what GitHub's headers say of this very request."""
    parts = [f"it needs {subject.permission}"] if subject.permission else []
    headers = response.headers if response else {}
    if accepted := one_line(headers.get("x-accepted-github-permissions", "")):
        parts.append(f"GitHub asks for {accepted}")
    if (scopes := headers.get("x-oauth-scopes")) is not None:
        parts.append(f"this token has {one_line(scopes) or 'no scope'}")
    return "; ".join(parts)


def _not_found(subject: Subject, response: Response) -> RunnerctlError:
    """GitHub answers 404 to those without permission as well, so that names do not leak."""
    what = f"cannot {subject.what}: absent or no permission ({_said(response)})"
    need = f"check the name; {_grant(subject, response)}" if subject.permission else "check the name"
    return AccessError(what, where=subject.where, remedy=_remedy(subject.advice, need))
