"""An App's installation token on the controller's disk, so that each of many runs need not mint one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import msgspec

from runnerctl.github.cache import PrivateCache
from runnerctl.redact import register_secret

__all__ = ["AppToken", "KeptToken"]

_KIND = "token"
_LOCK_SECONDS = 30.0


class AppToken(msgspec.Struct):
    """GitHub's answer to a minting, and the installation it is for."""

    token: str
    expires_at: datetime
    permissions: dict[str, str] = {}
    installation_id: int | None = None

    def __repr__(self) -> str:
        return f"AppToken(token='***', expires_at={self.expires_at!r})"


class KeptToken:
    """The place of one credential's token.

    ``key`` is a digest of API, App, private key and scope: who lacks the private key does not find the token.
    """

    def __init__(self, cache: PrivateCache | None, key: str) -> None:
        self._cache = cache
        self.key = key

    def read(self) -> AppToken | None:
        """What was kept, expired or not; None when there is nothing."""
        data = self._cache.read(_KIND, self.key) if self._cache else None
        if data is None:
            return None
        try:
            found = msgspec.json.decode(data, type=AppToken)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        register_secret(found.token)
        return found

    def write(self, token: AppToken) -> None:
        """Keep a token."""
        if self._cache:
            self._cache.write(_KIND, self.key, msgspec.json.encode(token))

    def forget(self) -> None:
        """Drop what was kept."""
        if self._cache:
            self._cache.forget(_KIND, self.key)

    @contextmanager
    def alone(self, *, seconds: float) -> Iterator[None]:
        """One process mints, the others wait for its token, ``seconds`` or half a minute at most."""
        if self._cache is None:
            yield
            return
        with self._cache.lock(self.key, seconds=min(_LOCK_SECONDS, seconds)):
            yield
