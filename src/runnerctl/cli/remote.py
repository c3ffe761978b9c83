"""GitHub for commands: which scope, which API, which credential."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runnerctl.cli.context import Context
from runnerctl.core.scope import Scope, api_url_for, parse_scope
from runnerctl.errors import AccessError, ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from runnerctl.github.auth import Bearer, Credential
    from runnerctl.github.client import GitHubClient
    from runnerctl.github.registry import Registry

__all__ = ["HOW_TO_AUTHENTICATE", "api_url", "credential", "registry", "scope_of"]

PUBLIC_API = "https://api.github.com"
HOW_TO_AUTHENTICATE = (
    "set GH_TOKEN or RUNNERCTL_TOKEN_FILE, or RUNNERCTL_APP_ID, RUNNERCTL_APP_INSTALLATION_ID and "
    "RUNNERCTL_APP_KEY_FILE of a GitHub App"
)


def scope_of(context: Context, url: str | None) -> Scope | None:
    """The scope asked for by ``--url`` or ``RUNNERCTL_URL``, or None. Raises UsageError or ConfigError."""
    if url:
        try:
            return parse_scope(url)
        except ConfigError as error:
            raise UsageError(error.what, where="--url", remedy=error.remedy) from None
    configured = context.env.get("RUNNERCTL_URL", "").strip()
    if not configured:
        return None
    try:
        return parse_scope(configured)
    except ConfigError as error:
        raise ConfigError(error.what, where="RUNNERCTL_URL", remedy=error.remedy) from None


def api_url(context: Context, scope: Scope | None, given: str | None = None) -> str:
    """The REST API's base: what is given, ``RUNNERCTL_API_URL``, or what follows from the scope's URL."""
    configured = given or context.env.get("RUNNERCTL_API_URL", "").strip()
    return (configured or (api_url_for(scope.url) if scope else PUBLIC_API)).rstrip("/")


def credential(
    context: Context,
    scope: Scope | None,
    *,
    api: str,
    connect: Callable[[Bearer], GitHubClient] | None = None,
) -> Credential | None:
    """The credential of the environment, or None when it holds none.

    ``connect`` makes the client with which an App mints its token: one with the caller's own deadline.
    """
    from runnerctl.github.auth import credentials

    return credentials(context.env, api_url=api, scope=scope, connect=connect)


def registry(
    context: Context, scope: Scope, *, api: str | None = None, max_wait: str | None = None
) -> Registry:
    """GitHub's runners of a scope; ``max_wait`` is the option `MaxWaitOption`.

    Raises AccessError without a credential, ConfigError for a setting that cannot be used.
    """
    from runnerctl.github.connect import Connector
    from runnerctl.github.registry import Registry

    base = api_url(context, scope, api)
    connect = Connector(context.env, base, max_wait=max_wait)
    found = credential(context, scope, api=base, connect=connect)
    if found is None:
        raise AccessError("there is no GitHub credential", where=scope.name, remedy=HOW_TO_AUTHENTICATE)
    return Registry(connect(found), scope)


def has_credential(context: Context) -> bool:
    """Whether the environment names a credential at all, without reading or checking it."""
    names = ("GH_TOKEN", "GITHUB_TOKEN", "RUNNERCTL_TOKEN_FILE", "RUNNERCTL_APP_ID")
    return any(context.env.get(name, "").strip() for name in names)
