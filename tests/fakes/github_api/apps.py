"""GitHub App operations: installations and their short-lived tokens."""

from __future__ import annotations

import secrets
from typing import Any

from tests.fakes.github_api.openapi import Description
from tests.fakes.github_api.runners import Routes, cut, paged
from tests.fakes.github_api.state import App, Installation, Token
from tests.fakes.github_api.store import Store, timestamp
from tests.fakes.github_api.wire import Answer, Json, RefusalError, Request

__all__ = ["Apps"]

_LEVELS = {"read": 1, "write": 2, "admin": 3}

# GitHub's description wants an account to have a user's and an enterprise's fields at once.
_ADDRESSES = (
    "avatar_url",
    "events_url",
    "followers_url",
    "following_url",
    "gists_url",
    "html_url",
    "organizations_url",
    "received_events_url",
    "repos_url",
    "starred_url",
    "subscriptions_url",
    "url",
)


def _account(name: str) -> Json:
    """The account an installation is on."""
    known: Json = {
        "id": 1,
        "node_id": "A_1",
        "login": name,
        "name": name,
        "slug": name,
        "type": "Organization",
    }
    known |= {"gravatar_id": "", "site_admin": False, "created_at": None, "updated_at": None}
    return known | dict.fromkeys(_ADDRESSES, f"https://github.example/{name}")


class Apps:
    """The operations of the contract's section 6. The App token was checked before a handler runs."""

    def __init__(self, store: Store, description: Description) -> None:
        self.store = store
        self.description = description

    def routes(self) -> Routes:
        """Handlers by method and path template."""
        return {
            ("GET", "/app"): self.app,
            ("GET", "/app/installations"): self.index,
            ("GET", "/app/installations/{installation_id}"): self.get,
            ("POST", "/app/installations/{installation_id}/access_tokens"): self.mint,
            ("GET", "/orgs/{org}/installation"): self.of_account,
            ("GET", "/enterprises/{enterprise}/installation"): self.of_account,
            ("GET", "/repos/{owner}/{repo}/installation"): self.of_account,
            ("DELETE", "/installation/token"): self.revoke,
        }

    def _app(self, request: Request) -> App:
        if request.identity is None or request.identity.app is None:
            raise RefusalError(401, "A JSON web token could not be decoded")
        return request.identity.app

    def _show(self, request: Request, app: App, item: Installation) -> Json:
        known: dict[str, Any] = {
            "id": item.id,
            "app_id": app.app_id,
            "app_slug": app.slug,
            "target_id": self.store.owner_id(item.account),
            "target_type": item.type,
            "account": _account(item.account),
            "permissions": item.permissions,
            "repository_selection": "selected" if item.repositories else "all",
            "access_tokens_url": f"{request.api}/app/installations/{item.id}/access_tokens",
            "repositories_url": f"{request.api}/installation/repositories",
            "html_url": f"{request.origin}/settings/installations/{item.id}",
            "suspended_at": "2026-01-01T00:00:00Z" if item.suspended else None,
            "suspended_by": None,
        }
        return self.description.sample("installation", **known)

    def app(self, request: Request) -> Answer:
        """The App itself."""
        app = self._app(request)
        known = {
            "id": app.app_id,
            "slug": app.slug,
            "name": app.slug,
            "installations_count": len(app.installations),
        }
        return Answer(200, {**self.description.sample("integration"), **known, "events": []})

    def index(self, request: Request) -> Answer:
        """Installations, paged; the body is a bare list."""
        app = self._app(request)
        shown = [self._show(request, app, item) for item in cut(request, app.installations)]
        return paged(request, total=len(app.installations), key=None, items=shown)

    def _installation(self, request: Request) -> Installation:
        wanted = int(request.params["installation_id"])
        for item in self._app(request).installations:
            if item.id == wanted:
                return item
        raise RefusalError(404, "Not Found")

    def get(self, request: Request) -> Answer:
        """One installation."""
        return Answer(200, self._show(request, self._app(request), self._installation(request)))

    def of_account(self, request: Request) -> Answer:
        """The installation on an organisation, an enterprise or a repository."""
        params = request.params
        account = params.get("org") or params.get("enterprise") or params["owner"]
        full = f"{account}/{params['repo']}".lower() if "repo" in params else ""
        for item in self._app(request).installations:
            if item.account.lower() != account.lower() or (item.type == "Enterprise") != (
                "enterprise" in params
            ):
                continue
            if full and item.repositories and full not in [name.lower() for name in item.repositories]:
                continue
            return Answer(200, self._show(request, self._app(request), item))
        raise RefusalError(404, "Not Found")

    def mint(self, request: Request) -> Answer:
        """An installation token for an hour, with at most the installation's permissions."""
        item, wanted = self._installation(request), request.json or {}
        if item.suspended:
            raise RefusalError(403, "This installation has been suspended")
        permissions = wanted.get("permissions") or item.permissions
        for name, level in permissions.items():
            if _LEVELS[level] > _LEVELS.get(item.permissions.get(name, ""), 0):
                raise RefusalError(422, "The permissions requested are not granted to this installation.")
        repositories = [
            f"{item.account}/{name}" for name in wanted.get("repositories", [])
        ] or item.repositories
        value = self.store.keep_secret("installation", "ghs_" + secrets.token_hex(18))
        expires = self.store.now() + self.store.settings.token_lifetime_seconds
        targets = repositories if repositories else [item.account]
        token = Token(
            value, "installation", permissions=dict(permissions), targets=targets, expires_at=expires
        )
        self.store.state.tokens[value] = token
        selection = "selected" if repositories else "all"
        shown = {"token": value, "expires_at": timestamp(expires), "permissions": permissions}
        return Answer(201, {**shown, "repository_selection": selection})

    def revoke(self, request: Request) -> Answer:
        """The installation token that was presented stops working."""
        token = request.identity.token if request.identity is not None else None
        if token is None or token.kind != "installation":
            raise RefusalError(403, "Only an installation access token can be revoked here")
        del self.store.state.tokens[token.value]
        return Answer(204)
