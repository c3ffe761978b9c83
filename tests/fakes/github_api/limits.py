"""The primary rate limit: requests per hour and identity, as GitHub reports it in headers."""

from __future__ import annotations

from dataclasses import dataclass

from tests.fakes.github_api.auth import Identity
from tests.fakes.github_api.store import Store
from tests.fakes.github_api.wire import RefusalError

__all__ = ["Limits"]

_WINDOW_SECONDS = 3600


@dataclass
class Window:
    """One identity's hour."""

    reset: float
    used: int = 0


class Limits:
    """Counts by identity; anonymous clients share one count."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.windows: dict[str, Window] = {}

    def _window(self, key: str) -> Window:
        window = self.windows.get(key)
        if window is None or window.reset <= self.store.now():
            window = self.windows[key] = Window(self.store.now() + _WINDOW_SECONDS)
        return window

    def _limit(self, identity: Identity | None) -> int:
        known = identity is not None and identity.kind != "none"
        return self.store.settings.rate_limit if known else self.store.settings.anonymous_rate_limit

    def show(self, identity: Identity | None) -> dict[str, int]:
        """Limit, remaining, used and reset (epoch seconds of GitHub's clock)."""
        window = self._window(identity.key if identity is not None else "")
        limit = self._limit(identity)
        return {
            "limit": limit,
            "remaining": max(limit - window.used, 0),
            "used": window.used,
            "reset": int(window.reset),
        }

    def headers(self, identity: Identity | None) -> dict[str, str]:
        """The ``x-ratelimit-*`` headers."""
        shown = self.show(identity)
        return {f"X-RateLimit-{name.title()}": str(value) for name, value in shown.items()} | {
            "X-RateLimit-Resource": "core"
        }

    def spend(self, identity: Identity) -> None:
        """Count one request; 403 when none is left."""
        window = self._window(identity.key)
        if window.used >= self._limit(identity):
            raise RefusalError(403, "API rate limit exceeded", headers=self.headers(identity))
        window.used += 1

    def refund(self, identity: Identity | None) -> None:
        """A 304 to an authorised client is free."""
        if identity is not None and identity.kind != "none":
            window = self._window(identity.key)
            window.used = max(window.used - 1, 0)
