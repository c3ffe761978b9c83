"""JSON over HTTP to the service, on one connection that is kept open."""

from __future__ import annotations

import http.client
import json
import os
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class WireError(Exception):
    """The service could not be reached or broke off."""


class Reply(NamedTuple):
    """Status and decoded body; the body is empty when it was not a JSON object."""

    status: int
    body: dict[str, Any]

    @property
    def message(self) -> str:
        """The service's own explanation, or its status."""
        unexplained = f"Response status code does not indicate success: {self.status}."
        return str(self.body.get("message") or unexplained)


class Service:
    """One service address with one credential. Not for use from two threads at once."""

    def __init__(self, base_url: str, *, authorization: str, timeout: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        self._authorization = authorization
        self._timeout = timeout
        self._connection: http.client.HTTPConnection | None = None

    def call(self, method: str, path: str, body: object = None, *, text: str | None = None) -> Reply:
        """Send one request and read its answer.

        Raises WireError for everything below HTTP. A kept connection that the other side has closed meanwhile
        is replaced once.
        """
        headers = {"Authorization": self._authorization, "User-Agent": "GitHubActionsRunner-linux (stand-in)"}
        data = b""
        if text is not None:
            data, headers["Content-Type"] = text.encode("utf-8", "replace"), "text/plain; charset=utf-8"
        elif body is not None:
            data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
        reused = self._connection is not None
        try:
            return self._exchange(method, path, data, headers)
        except (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError) as error:
            if not reused:
                raise WireError(f"{error} ({self.base_url})") from error
        except (OSError, http.client.HTTPException) as error:
            raise WireError(f"{error} ({self.base_url})") from error
        try:
            return self._exchange(method, path, data, headers)
        except (OSError, http.client.HTTPException) as error:
            raise WireError(f"{error} ({self.base_url})") from error

    def _exchange(self, method: str, path: str, data: bytes, headers: dict[str, str]) -> Reply:
        if self._connection is None:
            self._connection = _connect(self.base_url, self._timeout)
        try:
            target = urlsplit(self.base_url).path + path
            if isinstance(self._connection, _ProxiedConnection):
                target = self.base_url + path
            self._connection.request(method, target, body=data or None, headers=headers)
            response = self._connection.getresponse()
            return Reply(response.status, _decode(response.read()))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Drop the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class _ProxiedConnection(http.client.HTTPConnection):
    """A plain connection to a proxy; requests on it carry the whole address."""


def _connect(base_url: str, timeout: float) -> http.client.HTTPConnection:
    parts = urlsplit(base_url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    proxy = urlsplit(_proxy_for(parts.scheme, host))
    if not secure:
        if proxy.hostname:
            return _ProxiedConnection(proxy.hostname, proxy.port or 80, timeout=timeout)
        return http.client.HTTPConnection(host, parts.port or 80, timeout=timeout)
    import ssl  # late: plain HTTP is the usual case and start-up time counts

    context = ssl.create_default_context()
    if proxy.hostname:
        port = proxy.port or 80
        tunnel = http.client.HTTPSConnection(proxy.hostname, port, timeout=timeout, context=context)
        tunnel.set_tunnel(host, parts.port or 443)
        return tunnel
    return http.client.HTTPSConnection(host, parts.port or 443, timeout=timeout, context=context)


def _proxy_for(scheme: str, host: str) -> str:
    """The proxy's address or nothing; lower-case variables come first."""
    excluded = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if any(name.strip().lstrip(".") in {host, "*"} for name in excluded.split(",") if name.strip()):
        return ""
    name = f"{scheme}_proxy"
    return os.environ.get(name) or os.environ.get(name.upper()) or ""


def _decode(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw) if raw else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
