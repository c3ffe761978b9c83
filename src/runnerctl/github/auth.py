"""Find GitHub's credential in an environment. The secret itself is never in a repr, an error or a log.

Order: ``GH_TOKEN``, ``GITHUB_TOKEN``, ``RUNNERCTL_TOKEN_FILE``, then a GitHub App (``RUNNERCTL_APP_ID`` with
``RUNNERCTL_APP_KEY_FILE`` and, where it is known, ``RUNNERCTL_APP_INSTALLATION_ID``).
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from runnerctl.core.scope import Scope
from runnerctl.errors import ConfigError
from runnerctl.github.cache import PrivateCache, cache_from, digest
from runnerctl.redact import register_secret

if TYPE_CHECKING:
    from runnerctl.github.client import GitHubClient

__all__ = [
    "ORDER",
    "Bearer",
    "Credential",
    "CredentialInfo",
    "TokenCredential",
    "credentials",
    "read_secret_file",
]

ORDER = ("GH_TOKEN", "GITHUB_TOKEN", "RUNNERCTL_TOKEN_FILE", "RUNNERCTL_APP_ID")
_APP_ONLY = ("RUNNERCTL_APP_KEY_FILE", "RUNNERCTL_APP_INSTALLATION_ID")
_MAX_BYTES = 64 * 1024
_TOKEN = re.compile(r"[!-~]{8,}")  # printable ASCII without spaces: what fits into a header
_APP_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KINDS = (
    ("github_pat_", "fine-grained"),
    ("ghp_", "classic"),
    ("gho_", "OAuth"),
    ("ghu_", "App user"),
    ("ghs_", "App installation"),
)
_JOB_ADVICE = (
    "GITHUB_TOKEN is the running job's own token and can never manage runners: set GH_TOKEN or "
    "RUNNERCTL_TOKEN_FILE to a token that may"
)


class CredentialInfo(msgspec.Struct, frozen=True):
    """What ``auth status`` shows. ``kind`` is ``token`` or ``app``; ``source`` the variable it came from.

    ``scopes`` are a classic token's, ``permissions`` an App's (name to read or write); ``expires_at`` is RFC
    3339 UTC, and ``unread_end`` GitHub's own word for an end that cannot be read; ``ignored`` names the
    variables that were set and not used.
    """

    kind: str
    source: str
    token_type: str
    identity: str | None = None
    scopes: tuple[str, ...] = ()
    permissions: dict[str, str] = {}
    expires_at: str | None = None
    ignored: tuple[str, ...] = ()
    note: str = ""
    unread_end: str = ""


class Bearer(Protocol):
    """Anything that yields a bearer token. ``advice`` is what an error about it should recommend."""

    @property
    def source(self) -> str: ...

    @property
    def advice(self) -> str: ...

    @property
    def identity(self) -> str:
        """What stands for it in a cache's keys, never the secret itself; empty: nothing is kept on disk."""
        ...

    def token(self) -> str:
        """A token that is valid now."""
        ...

    def renew(self) -> bool:
        """Forget a token that was refused; True when ``token`` can give another."""
        ...


class Credential(Bearer, Protocol):
    """A bearer that a user gave us."""

    def describe(self, client: GitHubClient | None = None) -> CredentialInfo:
        """What this is; with ``client`` also what GitHub says of it."""
        ...


class TokenCredential:
    """A token somebody gave us: it cannot be renewed."""

    def __init__(self, token: str, *, source: str, ignored: tuple[str, ...] = (), job: bool = False) -> None:
        register_secret(token)
        self._token = token
        self._ignored = ignored
        self.source = source
        self.advice = _JOB_ADVICE if job else ""
        self.identity = digest("token", token)

    def __repr__(self) -> str:
        return f"TokenCredential(source={self.source!r})"

    def token(self) -> str:
        """The token."""
        return self._token

    def renew(self) -> bool:
        """False: only its owner can make another."""
        return False

    def describe(self, client: GitHubClient | None = None) -> CredentialInfo:
        """What this is; with ``client`` also the login, scopes and expiry. AccessError when refused."""
        token_type = "job" if self.advice else _token_type(self._token)
        info = CredentialInfo(
            kind="token", source=self.source, token_type=token_type, ignored=self._ignored, note=self.advice
        )
        return _ask_user(info, client) if client else info


def _ask_user(info: CredentialInfo, client: GitHubClient) -> CredentialInfo:
    """``GET /user``; an installation's token is refused there, which says nothing against it."""
    answer = client.get("/user", what="check the token", accept=(403, 404), fresh=True)
    expires = answer.headers.get("github-authentication-token-expiration", "")
    scopes = answer.headers.get("x-oauth-scopes", "")
    return msgspec.structs.replace(
        info,
        identity=answer.json().get("login") if answer.status == 200 else None,
        scopes=tuple(sorted(filter(None, (scope.strip() for scope in scopes.split(","))))),
        expires_at=_utc(expires),
        unread_end="" if _utc(expires) else expires.strip(),
    )


def _utc(text: str) -> str | None:
    """``2026-12-31 10:00:00 UTC``, or with ``-0800`` as some tokens have it, as RFC 3339; else None."""
    try:
        end = datetime.strptime(text.strip().replace("UTC", "+0000"), "%Y-%m-%d %H:%M:%S %z")
        return end.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError):
        return None


def _token_type(token: str) -> str:
    return next((kind for prefix, kind in _KINDS if token.startswith(prefix)), "unknown")


def credentials(
    env: Mapping[str, str],
    *,
    api_url: str,
    scope: Scope | None,
    connect: Callable[[Bearer], GitHubClient] | None = None,
    cache: PrivateCache | None = None,
) -> Credential | None:
    """The first credential of the order that is set, or None; an empty variable counts as unset.

    ``connect`` makes the client with which an App mints its tokens, which ``cache`` (default: that of the
    environment) keeps until they end. Raises ConfigError when the one that is chosen cannot be used; GitHub
    is not asked.
    """
    given = [name for name in ORDER if env.get(name, "").strip()]
    if not given:
        _refuse_half_an_app(env)
        return None
    chosen, ignored = given[0], tuple(given[1:])
    value = env[chosen].strip()
    if chosen == "RUNNERCTL_APP_ID":
        connect = connect or _connector(env, api_url)
        return _app(env, api_url=api_url, scope=scope, connect=connect, cache=cache or cache_from(env))
    job = chosen == "GITHUB_TOKEN" and bool(env.get("GITHUB_ACTIONS"))
    if chosen == "RUNNERCTL_TOKEN_FILE":
        token = read_secret_file(value, variable=chosen).strip()
        return TokenCredential(_checked(token, f"{chosen} ({value})"), source=chosen, ignored=ignored)
    return TokenCredential(_checked(value, chosen), source=chosen, ignored=ignored, job=job)


def _refuse_half_an_app(env: Mapping[str, str]) -> None:
    half = [name for name in _APP_ONLY if env.get(name, "").strip()]
    if half:
        raise ConfigError(
            f"{half[0]} is set without RUNNERCTL_APP_ID", remedy="set RUNNERCTL_APP_ID to the App's client ID"
        )


def _checked(token: str, source: str) -> str:
    if _TOKEN.fullmatch(token):
        return token
    what = (
        "is empty"
        if not token
        else "is no token: it has spaces, line breaks or other characters, or is short"
    )
    raise ConfigError(f"the value {what}", where=source, remedy="give the token itself, on one line")


def _app(
    env: Mapping[str, str],
    *,
    api_url: str,
    scope: Scope | None,
    connect: Callable[[Bearer], GitHubClient],
    cache: PrivateCache | None,
) -> Credential:
    from runnerctl.github.app import AppCredential, load_key
    from runnerctl.github.apptoken import KeptToken

    app_id = env["RUNNERCTL_APP_ID"].strip()
    if not _APP_ID.fullmatch(app_id):
        raise ConfigError(
            f"RUNNERCTL_APP_ID {app_id!r} is no App id", remedy="give the App's client ID or number"
        )
    key_file = env.get("RUNNERCTL_APP_KEY_FILE", "").strip()
    if not key_file:
        raise ConfigError(
            "RUNNERCTL_APP_ID is set without RUNNERCTL_APP_KEY_FILE",
            remedy="set it to the path of the App's private key (PEM)",
        )
    text = read_secret_file(key_file, variable="RUNNERCTL_APP_KEY_FILE")
    key = load_key(text, path=key_file)
    given = _installation_id(env)
    # The installation is part of the name: the token of one that was given by mistake serves no other.
    name = digest(api_url, app_id, text, scope.path if scope else "", str(given or ""))
    return AppCredential(
        app_id,
        key,
        scope=scope,
        installation_id=given,
        connect=connect,
        kept=KeptToken(cache, name),
    )


def _installation_id(env: Mapping[str, str]) -> int | None:
    value = env.get("RUNNERCTL_APP_INSTALLATION_ID", "").strip()
    if value and not re.fullmatch(r"[1-9][0-9]{0,18}", value):
        raise ConfigError(
            f"RUNNERCTL_APP_INSTALLATION_ID {value!r} is no number",
            remedy="leave it out: it is found by itself",
        )
    return int(value) if value else None


def _connector(env: Mapping[str, str], api_url: str) -> Callable[[Bearer], GitHubClient]:
    from runnerctl.github.connect import Connector

    return Connector(env, api_url)


def read_secret_file(name: str, *, variable: str) -> str:
    """The text of a file that only its owner (and group) may read.

    Raises ConfigError naming ``variable`` when it is absent, no regular file, too large, or open to others.
    """
    where = f"{variable} ({name})"
    try:
        # Not to wait for a writer when the path is a pipe.
        descriptor = os.open(Path(name).expanduser(), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"cannot read the file: {reason}", where=where, remedy="check the path") from None
    try:
        _check_secret_file(os.fstat(descriptor), name=name, where=where)
        data = os.read(descriptor, _MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > _MAX_BYTES or not data.isascii():
        raise ConfigError("it holds something else than a secret", where=where, remedy="check the path")
    return data.decode("ascii")


def _check_secret_file(status: os.stat_result, *, name: str, where: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("it is no regular file", where=where, remedy="give the path of a file")
    if status.st_mode & 0o007:
        mode = stat.S_IMODE(status.st_mode)
        remedy = f"chmod 600 {shlex.quote(name)}"
        raise ConfigError(f"the file is open to every user (mode {mode:04o})", where=where, remedy=remedy)
