"""Whom to believe over TLS, and through which proxy: companies put CAs and proxies in between."""

from __future__ import annotations

import http.client
import os
import re
import ssl
from base64 import b64encode
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from runnerctl.errors import ConfigError
from runnerctl.github.deadline import BoundedAdapter, BoundedAnswer, deadline

__all__ = ["BUNDLES", "explain_certificate", "make_session", "proxy_of", "tls_context"]

# The first that is set counts; each replaces the system's store, as it does for curl and requests.
BUNDLES = ("RUNNERCTL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")
# Where systems keep their store, for a Python that was built elsewhere and looks in the wrong place.
_STORES = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
_PROBE_SECONDS = 5.0
_GITHUB = re.compile(r"(?:^|\.)(?:github\.com|githubusercontent\.com|ghe\.com)$")
_PUBLIC_CAS = re.compile(r"DigiCert|Sectigo|USERTRUST|COMODO|Let's Encrypt|GlobalSign|Amazon|Google Trust")


def tls_context(env: Mapping[str, str]) -> ssl.SSLContext:
    """What certificates are checked against: a bundle of the environment, else the system's store.

    Raises ConfigError naming the variable whose file cannot be used.
    """
    name = next((name for name in BUNDLES if env.get(name, "").strip()), "")
    return _context(name, env.get(name, "").strip())


@lru_cache(maxsize=8)
def _context(name: str, given: str) -> ssl.SSLContext:
    """Reading a store takes 20 ms: once a process."""
    if name:
        return _bundle(name, given)
    paths = ssl.get_default_verify_paths()
    if paths.cafile or (paths.capath and any(Path(paths.capath).glob("*.0"))):
        return ssl.create_default_context()
    store = next((path for path in _STORES if Path(path).is_file()), None)
    return ssl.create_default_context(cafile=store or DEFAULT_CA_BUNDLE_PATH)


def _bundle(name: str, given: str) -> ssl.SSLContext:
    path = Path(os.path.expanduser(given) if given.startswith("~/") else given)
    try:
        if path.is_dir():
            return ssl.create_default_context(capath=str(path))
        return ssl.create_default_context(cafile=str(path))
    except OSError as error:  # ssl.SSLError is one
        reason = "it holds no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(
            f"the CA bundle cannot be used: {reason}",
            where=f"{name} ({given})",
            remedy="give a file with the CA certificates in PEM form",
        ) from None


class _Session(requests.Session):
    """A session that leaves redirects alone: of those it is not to follow requests reads the whole body."""

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """None."""
        del resp
        return None


class _Trusting(BoundedAdapter):
    """An adapter that checks certificates against one context, whatever requests would take."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__()

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:
        """The pool's key, with our context in place of a bundle's path."""
        host, _ = super().build_connection_pool_key_attributes(request, True, cert)
        _ = verify
        return host, {"ssl_context": self._context, "cert_reqs": "CERT_REQUIRED"}

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave the connection's own context alone: requests would add its bundle to it."""

    def proxy_manager_for(self, proxy: str, **options: Any) -> Any:
        """A proxy that is spoken to over TLS is checked alike."""
        if proxy.lower().startswith("https:"):
            options.setdefault("proxy_ssl_context", self._context)
        return super().proxy_manager_for(proxy, **options)


def make_session(api_url: str, env: Mapping[str, str] | None = None) -> requests.Session:
    """A session for one API. Proxies are those of the process's environment (``HTTPS_PROXY``, ``NO_PROXY``).

    Raises ConfigError for a CA bundle that cannot be read.
    """
    session = _Session()
    session.mount("http://", BoundedAdapter())
    if urlsplit(api_url).scheme.lower() == "https":
        session.mount("https://", _Trusting(tls_context(os.environ if env is None else env)))
    return session


def proxy_of(url: str) -> str:
    """The proxy that a request to ``url`` takes, without its password; empty when it takes none."""
    given = _proxy_url(url)
    try:
        parts = urlsplit(given if "//" in given else f"//{given}")
    except ValueError:
        return "that is no address"
    return parts.netloc.rpartition("@")[2]


def _proxy_url(url: str) -> str:
    try:
        proxies = requests.utils.get_environ_proxies(url)
        return requests.utils.select_proxy(url, proxies) or ""
    except (OSError, ValueError):
        return ""


def explain_certificate(url: str) -> str:
    """Who issued the certificate that is shown for ``url``, and what to do; empty when that stays unknown.

    It is asked for without being believed, and nothing is sent to who shows it. Takes a few seconds at most.
    """
    host = urlsplit(url).hostname or ""
    try:
        issuer = _issuer(_certificate(url))
    except (OSError, ValueError, ImportError, http.client.HTTPException):
        return ""
    said = f"the certificate that is shown for {host} was issued by {issuer!r}"
    if _GITHUB.search(host) and not _PUBLIC_CAS.search(issuer):
        said += ", which is no CA of GitHub's: something between here and there opens TLS"
    return f"{said}; set RUNNERCTL_CA_BUNDLE to that CA's certificate (PEM) if it is to be trusted"


def _certificate(url: str) -> bytes:
    """The certificate in DER form, through the proxy if there is one."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 443
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    proxy = _proxy_url(url)
    if proxy:
        at = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        connection = http.client.HTTPSConnection(
            at.hostname or "", at.port or 3128, timeout=_PROBE_SECONDS, context=context
        )
        connection.set_tunnel(host, port, headers=_proxy_headers(at.username, at.password))
    else:
        connection = http.client.HTTPSConnection(host, port, timeout=_PROBE_SECONDS, context=context)
    connection.response_class = BoundedAnswer  # a proxy's to CONNECT
    try:
        with deadline(2 * _PROBE_SECONDS):
            connection.connect()
        return connection.sock.getpeercert(binary_form=True) or b""
    finally:
        connection.close()


def _proxy_headers(user: str | None, password: str | None) -> dict[str, str]:
    if not user:
        return {}
    pair = b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()
    return {"Proxy-Authorization": f"Basic {pair}"}


def _issuer(certificate: bytes) -> str:
    from cryptography import x509

    names = x509.load_der_x509_certificate(certificate).issuer
    for kind in (x509.NameOID.ORGANIZATION_NAME, x509.NameOID.COMMON_NAME):
        if found := names.get_attributes_for_oid(kind):
            return str(found[0].value)
    return names.rfc4514_string()
