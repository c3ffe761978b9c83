"""The site's way to the network: proxies and authorities for what runs here, and for the host's jobs.

Standard library only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from .atomic import Change, atomic_write
from .receipt import Receipt

__all__ = [
    "ARGUMENT",
    "CA_FILE",
    "SITE_CA_FILE",
    "combined",
    "converge_ca",
    "has_system_bundle",
    "use",
]

CA_FILE = "/etc/runnerctl/ca.pem"
SITE_CA_FILE = "/etc/runnerctl/site-ca.pem"
ROLE = "runnerctl"
# Where distributions keep the system's authorities as one file: Debian and Ubuntu, then RHEL and its kin.
SYSTEM_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
PROXIES = ("http_proxy", "https_proxy", "no_proxy")
# Each replaces the list of whatever reads it: Python and OpenSSL, requests, pip, curl.
REPLACED = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")
ARGUMENT: dict[str, Any] = {
    "type": "dict",
    "options": {
        "http_proxy": {"type": "str"},
        "https_proxy": {"type": "str"},
        "no_proxy": {"type": "str"},
        "ca": {"type": "str"},
    },
}


def use(given: Mapping[str, Any] | None, *, directory: Callable[[], str] | None) -> None:
    """Give this process, and every command that it starts, the site's proxies and authorities.

    ``directory`` makes a private one for a file that is needed until the process ends, and is called only
    when there is such a file; None in check mode, which writes nothing and asks nobody. Raises OSError.
    """
    given = given or {}
    for name in PROXIES:
        if given.get(name):
            os.environ[name] = given[name]
    if given.get("ca") and directory is not None:
        path = os.path.join(directory(), "ca.pem")
        atomic_write(path, combined(given["ca"]), mode=0o600)
        os.environ.update(dict.fromkeys(REPLACED, path))


def combined(site: str, *, root: str = "/") -> bytes:
    """The system's authorities, as far as the host has them in one file, and the site's. Raises OSError."""
    bundle = _system_bundle(root)
    if bundle is None:
        return site.encode()
    with open(bundle, "rb") as file:
        return file.read().rstrip(b"\n") + b"\n" + site.encode()


def has_system_bundle(root: str = "/") -> bool:
    """Whether the host has the system's authorities as one file: package ca-certificates brings it."""
    return _system_bundle(root) is not None


def _system_bundle(root: str) -> str | None:
    paths = [os.path.join(root, path.lstrip("/")) for path in SYSTEM_BUNDLES]
    return next((path for path in paths if os.path.isfile(path)), None)


def converge_ca(site: str | None, receipt: Receipt, *, check: bool, root: str = "/") -> list[Change]:
    """The host's two files of authorities, for the runner and its jobs; both go when there is no ``site``.

    The system's own store is left alone, see docs/adr/0012. Raises HostError or OSError.
    """
    paths = [os.path.join(root, name.lstrip("/")) for name in (SITE_CA_FILE, CA_FILE)]
    if not site:
        return [_gone(path, receipt, check=check) for path in paths if os.path.lexists(path)]
    if not check:
        receipt.record("path", paths, role=ROLE)
    texts = (site.encode(), combined(site, root=root))
    changes = []
    for path, text in zip(paths, texts, strict=True):
        change = atomic_write(path, text, mode=0o644, check=check)
        if change.changed:
            # Some hundred certificates in a diff tell nobody anything.
            changes.append(Change(path, True, after=f"{text.count(b'BEGIN CERTIFICATE')} certificates\n"))
    return changes


def _gone(path: str, receipt: Receipt, *, check: bool) -> Change:
    if not check:
        os.unlink(path)
        receipt.forget("path", path)
    return Change(path, True, before="certificates\n")
