"""One unauthenticated request to GitHub's API, stage by stage: the one that fails is the diagnosis."""

from __future__ import annotations

import os
import re
import socket
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import partial
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import msgspec

from runnerctl import __version__
from runnerctl.core.snapshot import Api, Clock, Unavailable
from runnerctl.probes.bounded import Outcome, Report

__all__ = ["clock_of", "parse_api", "proxy_for", "read_api"]

_PORTS = {"https": 443, "http": 80}
# X509_V_ERR_* of OpenSSL's x509_vfy.h, as `SSLCertVerificationError.verify_code` gives them.
_DISTRUST = {
    9: "not_yet_valid",
    10: "expired",
    18: "unknown_issuer",
    19: "unknown_issuer",
    20: "unknown_issuer",
    21: "unknown_issuer",
    62: "wrong_name",
    64: "wrong_name",
}


def proxy_for(url: str, environ: Mapping[str, str]) -> str | None:
    """The proxy that the environment names for a URL: lower case before upper, as the runner reads them."""
    parts = urlsplit(url)

    def named(name: str) -> str:
        return environ.get(name) or environ.get(name.upper()) or ""

    proxy = named(f"{parts.scheme}_proxy")
    if not proxy or _bypasses(parts.hostname or "", named("no_proxy")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _bypasses(host: str, no_proxy: str) -> bool:
    """Whether ``no_proxy`` names a host, itself or a domain that it is in."""
    entries = [entry.strip().lower().lstrip("*").lstrip(".") for entry in no_proxy.split(",")]
    if "*" in (entry.strip() for entry in no_proxy.split(",")):
        return True
    names = [entry.partition(":")[0] for entry in entries if entry]
    return any(host.lower() == name or host.lower().endswith(f".{name}") for name in names)


def read_api(
    report: Report, *, url: str, environ: Mapping[str, str], timeout_seconds: float
) -> dict[str, Any]:
    """Resolve, connect, encrypt, ask. Each finished stage is a part; a failure names the stage it was in."""
    proxy = proxy_for(url, environ)
    target, via = urlsplit(url), urlsplit(proxy or url)
    started = time.monotonic()
    if proxy:
        report.part({"via": _without_user(via)})

    def done(stage: str) -> None:
        nonlocal started
        now = time.monotonic()
        report.part({"name": stage, "seconds": now - started})
        started = now

    report.stage("dns")
    host, port = via.hostname or "", via.port or _PORTS[via.scheme]
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    done("dns")
    report.stage("tcp")
    connection = _connect(found, timeout_seconds)
    done("tcp")
    place = f"{target.hostname}:{target.port or 443}"
    tunnel = via if proxy and target.scheme == "https" else None
    if tunnel:
        report.stage("proxy")
        _tunnel(connection, place, _authorization(tunnel))
        done("proxy")
    if target.scheme == "https":
        report.stage("tls")
        again = partial(_reach, found, timeout_seconds, place=place, tunnel=tunnel)
        connection = _trusted(report, connection, target.hostname or "", environ=environ, again=again)
        done("tls")
    report.stage("http")
    status, date = _ask(connection, url, whole=bool(proxy and target.scheme == "http"))
    done("http")
    return {"status": status, "date": date, "local_time": time.time(), "proxy": bool(proxy)}


def _connect(found: list[Any], timeout_seconds: float) -> socket.socket:
    """Connect to the first address that answers."""
    last: OSError | None = None
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        connection.settimeout(timeout_seconds)
        try:
            connection.connect(address)
        except OSError as error:
            last = error
            connection.close()
        else:
            return connection
    raise last or OSError("no address")


def _authorization(proxy: SplitResult) -> str:
    """The header for a proxy whose URL carries a user, or nothing."""
    if not proxy.username:
        return ""
    pair = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return f"Proxy-Authorization: Basic {b64encode(pair.encode()).decode()}\r\n"


def _tunnel(connection: socket.socket, place: str, authorization: str) -> None:
    connection.sendall(f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\n{authorization}\r\n".encode())
    status, _ = _answer(connection)
    if status != 200:
        raise ConnectionError(f"the proxy answers {status} to CONNECT {place}")


def _reach(
    found: list[Any], timeout_seconds: float, *, place: str, tunnel: SplitResult | None
) -> socket.socket:
    """One more connection to where the first one led."""
    connection = _connect(found, timeout_seconds)
    if tunnel:
        _tunnel(connection, place, _authorization(tunnel))
    return connection


def _trusted(
    report: Report,
    connection: socket.socket,
    host: str,
    *,
    environ: Mapping[str, str],
    again: Callable[[], socket.socket],
) -> socket.socket:
    """Encrypt; a certificate that is not trusted is looked at on one more connection, then dropped."""
    import ssl

    try:
        return _encrypt(connection, host, environ)
    except ssl.SSLCertVerificationError as error:
        report.part(
            {"tls_failure": _DISTRUST.get(error.verify_code, "other"), "issuer": _issuer(again, host)}
        )
        raise


def _issuer(again: Callable[[], socket.socket], host: str) -> str | None:
    """Who issued a server's certificate; None when the server does not answer a second time."""
    import ssl

    from runnerctl.probes.certificate import issuer_of

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(again(), server_hostname=host) as connection:
            return issuer_of(connection.getpeercert(binary_form=True) or b"")
    except OSError:
        return None


def _without_user(proxy: SplitResult) -> str:
    """A proxy's URL as it may be shown."""
    return proxy._replace(netloc=proxy.netloc.rpartition("@")[2], path="", query="", fragment="").geturl()


def _encrypt(connection: socket.socket, host: str, environ: Mapping[str, str]) -> socket.socket:
    import ssl

    bundle = environ.get("SSL_CERT_FILE") or environ.get("REQUESTS_CA_BUNDLE")
    context = ssl.create_default_context(cafile=bundle if bundle and os.path.isfile(bundle) else None)
    return context.wrap_socket(connection, server_hostname=host)


def _ask(connection: socket.socket, url: str, *, whole: bool) -> tuple[int, str | None]:
    parts = urlsplit(url)
    path = f"{parts.path.rstrip('/')}/meta"  # answered without a credential, by every kind of GitHub
    target = f"{parts.scheme}://{parts.netloc}{path}" if whole else path
    lines = (
        f"GET {target} HTTP/1.1",
        f"Host: {parts.netloc}",
        f"User-Agent: runnerctl/{__version__}",
        "Accept: application/vnd.github+json",
        "Connection: close",
    )
    connection.sendall("".join(f"{line}\r\n" for line in (*lines, "")).encode())
    return _answer(connection)


def _answer(connection: socket.socket) -> tuple[int, str | None]:
    """Status and ``Date`` of an answer; its body does not matter."""
    from http.client import HTTPResponse

    response = HTTPResponse(connection)
    response.begin()
    return response.status, response.getheader("Date")


def parse_api(url: str, outcome: Outcome) -> Api:
    """The reading of one API; the stage in which it stopped is a fact, no missing reading."""
    parts = [dict(part) for part in msgspec.convert(outcome.parts, tuple[Any, ...])]
    facts = {name: value for part in parts if "name" not in part for name, value in part.items()}
    timed = {"url": url, "stages": [part for part in parts if "name" in part], **facts}
    if outcome.failure:
        timed["proxy"] = "via" in facts
        message = outcome.failure.reason.partition(": ")[2] or outcome.failure.reason
        message = re.sub(r"^\[Errno -?\d+\] ", "", message)
        if outcome.failure.kind in ("timeout", "slow"):
            message = f"no answer within {outcome.seconds:.1f} s"
        stage = outcome.failure.call or "dns"
        return msgspec.convert({**timed, "failed_stage": stage, "message": message}, Api)
    value = outcome.value
    local = datetime.fromtimestamp(value["local_time"], timezone.utc)
    date = _date(value["date"])
    return msgspec.convert({**timed, **value, "local_time": local, "date": date}, Api)


def _date(text: str | None) -> datetime | None:
    """An HTTP date (RFC 9110, 5.6.7)."""
    from email.utils import parsedate_to_datetime

    try:
        return parsedate_to_datetime(text).astimezone(timezone.utc) if text else None
    except ValueError:
        return None


def clock_of(apis: tuple[Api, ...]) -> Clock | Unavailable:
    """The local clock against the first API that told the time."""
    for api in apis:
        if api.date and api.local_time:
            # `Date` has whole seconds, cut off: half a second is its expected error.
            skew = (api.local_time - api.date).total_seconds() - 0.5
            return Clock(round(skew, 1), urlsplit(api.url).hostname or api.url)
    return Unavailable("no API answered with a date", remedy="see host.api")
