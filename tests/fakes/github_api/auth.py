"""Who asks, and whether they may: personal tokens, installation tokens, App tokens (RS256)."""

from __future__ import annotations

from dataclasses import dataclass, field

import jwt

from tests.fakes.github_api.openapi import Operation
from tests.fakes.github_api.state import App, Token
from tests.fakes.github_api.store import Store
from tests.fakes.github_api.wire import RefusalError, Request

__all__ = ["Identity", "identify", "permit"]

MAX_LIFE_SECONDS = 600
_PUBLIC = ("/meta", "/rate_limit", "/repos/{owner}/{repo}/releases")
_APP_ONLY = (
    "/app",
    "/orgs/{org}/installation",
    "/repos/{owner}/{repo}/installation",
    "/enterprises/{enterprise}/installation",
)
_ANY_TOKEN = ("/user", "/installation/token", "/orgs/{org}", "/orgs/{org}/repos", "/repos/{owner}/{repo}")


@dataclass(frozen=True)
class Identity:
    """Who asks. ``kind``: none, classic, fine-grained, installation or app."""

    kind: str
    token: Token | None = None
    app: App | None = None

    @property
    def key(self) -> str:
        """What the rate limit counts by."""
        if self.token is not None:
            return self.token.value
        return f"app {self.app.app_id}" if self.app is not None else ""


@dataclass(frozen=True)
class Need:
    """What one operation asks for: any of these classic scopes, or any of these permissions at ``level``."""

    classic: tuple[str, ...]
    permissions: tuple[str, ...]
    level: str = field(default="write")


def identify(store: Store, request: Request) -> Identity:
    """The identity behind the Authorization header. A bad or expired credential is 401."""
    scheme, _, value = request.header("authorization").partition(" ")
    value = value.strip()
    if not scheme:
        return Identity("none")
    if scheme.lower() not in ("bearer", "token") or not value:
        raise RefusalError(401, "Bad credentials")
    if value.count(".") == 2 and value.startswith("eyJ"):
        return Identity("app", app=_app(store, value))
    token = store.live_token(value)
    if token is None or token.kind in ("registration", "remove", "setup"):
        raise RefusalError(401, "Bad credentials")
    return Identity(token.kind, token=token)


def _app(store: Store, value: str) -> App:
    known = {secret.value for secret in store.state.secrets if secret.kind == "app-token"}
    if value not in known:
        store.keep_secret("app-token", value)
    try:
        issuer = str(jwt.decode(value, options={"verify_signature": False}).get("iss", ""))
    except jwt.InvalidTokenError:
        raise RefusalError(401, "A JSON web token could not be decoded") from None
    app = next(
        (app for app in store.state.apps if issuer in (str(app.app_id), app.client_id) and issuer), None
    )
    if app is None:
        raise RefusalError(401, "Integration not found")
    try:
        claims = jwt.decode(
            value,
            app.public_key,
            algorithms=["RS256"],
            options={
                "verify_exp": False,
                "verify_iat": False,
                "verify_aud": False,
                "require": ["iat", "exp", "iss"],
            },
        )
    except (jwt.InvalidTokenError, ValueError):
        raise RefusalError(401, "A JSON web token could not be decoded") from None
    _check_times(claims["iat"], claims["exp"], now=store.now())
    return app


def _check_times(issued: object, expires: object, *, now: float) -> None:
    if not isinstance(issued, int) or issued > now:
        raise RefusalError(
            401,
            "'Issued at' claim ('iat') must be an Integer representing the time that the assertion "
            "was issued, and not in the future",
        )
    if not isinstance(expires, int) or expires <= now:
        raise RefusalError(
            401, "'Expiration time' claim ('exp') must be a numeric value representing a time in the future"
        )
    if expires > now + MAX_LIFE_SECONDS:
        raise RefusalError(401, "'Expiration time' claim ('exp') is too far in the future")


def _need(operation: Operation) -> Need | None:
    """What an operation asks for; None when it asks for nothing but (at most) any credential."""
    level = "read" if operation.method == "GET" else "write"
    tail = operation.template
    if "/actions/runs" in tail or "/actions/jobs" in tail:
        return Need(("repo",), ("actions",), level)
    if "/contents/" in tail:
        return Need(("repo",), ("contents",), level)
    if operation.scope == "repository":
        return Need(("repo",), ("administration",), level)
    if operation.scope == "enterprise":
        permissions = ("enterprise_self_hosted_runners", "enterprise_administration")
        return Need(("manage_runners:enterprise", "admin:enterprise"), permissions, level)
    if "/actions/permissions/" in tail:
        return Need(("admin:org",), ("organization_administration",), level)
    return Need(("admin:org",), ("organization_self_hosted_runners",), level)


def permit(identity: Identity, operation: Operation, request: Request) -> None:
    """Refuse who may not: 401 without a credential, 403 for too little, 404 for what a token cannot see."""
    template = operation.template
    if template.startswith(_PUBLIC):
        return
    if template in _APP_ONLY or template.startswith("/app/"):
        if identity.app is None:
            raise RefusalError(401, "A JSON web token could not be decoded")
        return
    token = identity.token
    if token is None:
        raise RefusalError(401, "Requires authentication")
    if template in _ANY_TOKEN:
        return
    need = _need(operation)
    if need is not None:
        _visible(token, request)
        _suffices(token, need)


def _visible(token: Token, request: Request) -> None:
    if not token.targets:
        return
    owner = request.params.get("owner") or request.params.get("org") or request.params.get("enterprise") or ""
    names = {owner.lower()}
    if "repo" in request.params:
        names.add(f"{owner}/{request.params['repo']}".lower())
    if not names & {target.lower() for target in token.targets}:
        raise RefusalError(404, "Not Found")


def _suffices(token: Token, need: Need) -> None:
    if token.kind == "classic":
        if not set(need.classic) & set(token.scopes):
            message = (
                "Must have admin rights to Repository."
                if "repo" in need.classic
                else "Must be an organization admin."
            )
            raise RefusalError(403, message, headers={"X-Accepted-OAuth-Scopes": need.classic[0]})
        return
    enough = ("write",) if need.level == "write" else ("read", "write")
    if not any(token.permissions.get(name) in enough for name in need.permissions):
        who = "integration" if token.kind == "installation" else "personal access token"
        headers = {"X-Accepted-GitHub-Permissions": f"{need.permissions[0]}={need.level}"}
        raise RefusalError(403, f"Resource not accessible by {who}", headers=headers)
