"""The rules of a host's way to the network: proxies, the site's own CA, the bundle."""

from __future__ import annotations

import re

from runnerctl.core.scope import split_url
from runnerctl.core.sections import HostSpec, Problem, Runnerctl
from runnerctl.core.templates import has_user

__all__ = ["network_problems"]

# A name, a domain with its dot, an address, a network; perhaps with a port.
_EXCEPTION = re.compile(r"(?!.*//)(?:\*|\*?\.?[0-9A-Za-z_:\[\]][0-9A-Za-z_.:/\[\]-]*)")
_REMEDY = "give it as http://proxy.example.org:3128"


def network_problems(spec: HostSpec) -> list[Problem]:
    """Every rule of this kind that ``spec`` breaks; whether a file exists is seen by the controller."""
    network = spec.runnerctl
    problems = [*_proxy("http_proxy", network.http_proxy), *_proxy("https_proxy", network.https_proxy)]
    problems += [
        Problem("runnerctl_no_proxy", f"{entry[:60]!r} is no name, domain or address", "give one each")
        for entry in network.no_proxy
        if not _EXCEPTION.fullmatch(entry)
    ]
    for field in ("ca_bundle", "bundle"):
        problems += _path(f"runnerctl_{field}", getattr(network, field))
    return problems + _contradictions(network)


def _proxy(field: str, url: str | None) -> list[Problem]:
    variable = f"runnerctl_{field}"
    if url is None:
        return []
    if has_user(url):
        remedy = "every job can read it: let the proxy know the hosts by their addresses"
        return [Problem(variable, "holds a user or a password", remedy)]
    parts = split_url(url)
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname or not url.isprintable():
        return [Problem(variable, f"is {url[:60]!r}", _REMEDY)]
    if parts.path not in ("", "/") or parts.query or parts.fragment or " " in url:
        return [Problem(variable, f"{url[:60]!r} has more than a host and a port", _REMEDY)]
    return []


def _path(variable: str, path: str | None) -> list[Problem]:
    if path is None or (path.isprintable() and "://" not in path):
        return []
    shown = "an address" if "://" in path else repr(path[:60])
    return [Problem(variable, f"is {shown}", "give a path on the controller")]


def _contradictions(network: Runnerctl) -> list[Problem]:
    if network.bundle and network.wheelhouse:
        message = "is given beside runnerctl_wheelhouse, and both hold the wheels"
        return [Problem("runnerctl_bundle", message, "leave one of them out")]
    return []
