"""Where a runner is registered: a repository, an organisation or an enterprise."""

from __future__ import annotations

import ipaddress
import re
from typing import Literal
from urllib.parse import SplitResult, urlsplit

import msgspec

from runnerctl.errors import ConfigError

__all__ = ["Scope", "api_url_for", "check_transport", "owner_of", "parse_scope", "split_url"]

ScopeKind = Literal["repository", "organization", "enterprise"]

_OWNER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,98}[A-Za-z0-9])?")
_REPOSITORY = re.compile(r"[A-Za-z0-9._-]{1,100}")
_REMEDY = "give https://HOST/OWNER/REPOSITORY, https://HOST/ORGANISATION or https://HOST/enterprises/NAME"


class Scope(msgspec.Struct, frozen=True):
    """One registration scope. ``path`` is its base in the REST API, for example ``/repos/acme/widgets``."""

    kind: ScopeKind
    url: str
    path: str
    name: str


def parse_scope(url: str) -> Scope:
    """Read a registration URL, in the three forms that ``config.sh --url`` takes.

    Raises ConfigError when it is none of them.
    """
    parts = split_url(url)
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname:
        raise ConfigError(f"{url!r} is not an http(s) URL", remedy=_REMEDY)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigError(f"the URL of {parts.hostname} carries a user, query or fragment", remedy=_REMEDY)
    check_transport(url)
    segments = [segment for segment in parts.path.split("/") if segment]
    clean = f"{parts.scheme}://{parts.netloc}/{'/'.join(segments)}"
    if len(segments) == 2 and segments[0].lower() == "enterprises" and _OWNER.fullmatch(segments[1]):
        return Scope("enterprise", clean, f"/enterprises/{segments[1]}", segments[1])
    if len(segments) == 2 and _OWNER.fullmatch(segments[0]) and _is_repository(segments[1]):
        return Scope("repository", clean, f"/repos/{segments[0]}/{segments[1]}", "/".join(segments))
    if len(segments) == 1 and _OWNER.fullmatch(segments[0]) and segments[0].lower() != "enterprises":
        return Scope("organization", clean, f"/orgs/{segments[0]}", segments[0])
    raise ConfigError(f"{url!r} is no repository, organisation or enterprise", remedy=_REMEDY)


def owner_of(url: str) -> str | None:
    """The owner in a registration URL, in lower case: GitHub's names of owners ignore case.

    None for an enterprise, whose runners take jobs of many owners (nothing is theirs alone), and for what is
    no such URL.
    """
    try:
        scope = parse_scope(url)
    except ConfigError:
        return None
    return None if scope.kind == "enterprise" else scope.name.split("/")[0].lower()


def split_url(url: str) -> SplitResult | None:
    """The parts of a URL; None when it has a bad address or port, or characters that no URL has."""
    try:
        parts = urlsplit(url)
        sound = parts.port is None or parts.port > 0
    except ValueError:
        return None
    return parts if sound and url.isascii() and url.isprintable() and " " not in url else None


def _is_repository(name: str) -> bool:
    return bool(_REPOSITORY.fullmatch(name)) and name not in (".", "..")


def api_url_for(url: str) -> str:
    """The REST API's base for a registration URL: github.com, data residency (``*.ghe.com``) or GHES.

    Source: GitHub's documentation of the REST API and of GitHub Enterprise Server.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").lower()
    if host in ("github.com", "www.github.com"):
        return "https://api.github.com"
    if host.endswith(".ghe.com"):
        return f"https://api.{host}"
    return f"{parts.scheme}://{parts.netloc}/api/v3"


def check_transport(url: str) -> None:
    """Refuse plain HTTP to a host on the open network: a credential would travel readable.

    Loopback and private addresses pass: that is where a mirror or a test server stands.
    """
    parts = urlsplit(url)
    if parts.scheme != "http":
        return
    host = parts.hostname or ""
    try:
        address = ipaddress.ip_address(host)
        private = address.is_loopback or address.is_private
    except ValueError:
        private = host == "localhost"
    if not private:
        raise ConfigError(f"{url!r} is plain HTTP to a public host", remedy="use https")
