"""One HTTP exchange with GitHub: bounded in time and size, and its credential never leaves the API's host."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin, urlsplit

import msgspec
import requests
import urllib3
from requests.structures import CaseInsensitiveDict

from runnerctl.errors import DataError
from runnerctl.github.deadline import deadline
from runnerctl.github.trust import explain_certificate, proxy_of
from runnerctl.redact import guard_http_logs, redact

__all__ = ["Exchange", "LostError", "Response", "exchange", "origin"]

CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0  # GitHub ends a request after about 10 s by itself
MAX_BODY_BYTES = 32 * 1024 * 1024
MAX_REDIRECTS = 5
# A GET may be sent again as it is; 307 and 308 say that any other method may as well (RFC 9110, 15.4).
_REPEATS_GET = frozenset({301, 302, 303, 307, 308})
_REPEATS_ANY = frozenset({307, 308})

T = TypeVar("T")

guard_http_logs()


class LostError(Exception):
    """No complete answer came. ``reason`` is for people; ``again`` says whether another try can help."""

    def __init__(self, reason: str, *, again: bool = True) -> None:
        self.reason = reason
        self.again = again
        super().__init__(reason)


class Response(NamedTuple):
    """A complete answer. ``body`` is bytes as received: an error page may be HTML."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    def json(self) -> Any:
        """The body as JSON; None when it is empty. Raises DataError when it is no JSON."""
        return self.decode(Any) if self.body.strip() else None

    def decode(self, kind: type[T] | Any) -> Any:
        """The body as ``kind``, unknown fields ignored. Raises DataError when it does not fit."""
        return self.decode_with(msgspec.json.Decoder(kind))

    def decode_with(self, decoder: msgspec.json.Decoder[Any]) -> Any:
        """The body as what ``decoder`` reads. Raises DataError when it does not fit."""
        try:
            return decoder.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise DataError(
                f"the answer cannot be read: {error}",
                where=urlsplit(self.url).path,
                remedy="check that the API URL is GitHub's and no proxy answers in its place",
            ) from None

    @property
    def message(self) -> str:
        """GitHub's own words for an error, on one line, without secrets; empty when it gave none."""
        try:
            found = msgspec.json.decode(self.body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return ""
        if not isinstance(found, dict):
            return ""
        parts = [str(found.get("message") or "")]
        errors = found.get("errors")
        parts += [_error_text(item) for item in (errors if isinstance(errors, list) else [])]
        return one_line(": ".join(part for part in parts if part))


class Exchange(NamedTuple):
    """What one exchange needs. ``ends`` is a reading of ``clock``, in seconds."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None
    ends: float
    clock: Callable[[], float]


def _error_text(item: Any) -> str:
    """One entry of ``errors``: a text, or an object whose ``message`` is not always there."""
    if not isinstance(item, dict):
        return str(item)
    return str(item.get("message") or " ".join(str(item.get(key, "")) for key in ("field", "code")))


def one_line(text: str, *, limit: int = 300) -> str:
    """Text from outside, made safe to show: printable, one line, bounded, without secrets."""
    clean = "".join(character if character.isprintable() else " " for character in redact(text))
    clean = " ".join(clean.split())
    return clean if len(clean) <= limit else f"{clean[: limit - 3]}..."


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host and port: what must agree before a credential goes along. Empty for what is no URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "", "", 0
    try:
        port = parts.port
    except ValueError:
        port = 0
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), port or {"https": 443, "http": 80}.get(scheme, 0)


def exchange(session: requests.Session, request: Exchange) -> Response:
    """Send one request and read its whole answer; redirects only on the same host and scheme.

    Raises LostError when no complete answer came before ``request.ends``, or when it leads elsewhere.
    """
    home = origin(request.url)
    for _ in range(MAX_REDIRECTS + 1):
        response = _send(session, request)
        target = response.headers.get("location", "")
        if response.status not in _REPEATS_GET or not target:
            return response
        request = request._replace(url=_follow(request, response, target=target, home=home))
    raise LostError(f"more than {MAX_REDIRECTS} redirects", again=False)


def _follow(request: Exchange, response: Response, *, target: str, home: tuple[str, str, int]) -> str:
    try:
        target = urljoin(request.url, target)
        host = one_line(urlsplit(target).netloc.rpartition("@")[2])
    except ValueError:
        raise LostError("the answer leads to what is no address", again=False) from None
    if origin(target) != home:
        raise LostError(
            f"the answer leads to another address ({host}), which gets no credential", again=False
        )
    if request.method != "GET" and response.status not in _REPEATS_ANY:
        raise LostError(
            f"it was moved (answer {response.status}): the repository or organisation was renamed",
            again=False,
        )
    return target


def _send(session: requests.Session, request: Exchange) -> Response:
    left = request.ends - request.clock()
    if left <= 0:
        raise LostError("the time for this call is over", again=False)
    try:
        with deadline(left):
            answer = session.request(
                request.method,
                request.url,
                data=request.body,
                auth=_Headers(request.headers),
                timeout=(min(CONNECT_SECONDS, left), min(READ_SECONDS, left)),
                allow_redirects=False,
                stream=True,
            )
            return Response(answer.status_code, _headers(answer), _body(answer, request), request.url)
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        raise _lost(error, request.url) from None


class _Headers(requests.auth.AuthBase):
    """Sets our headers last: otherwise an entry in ``~/.netrc`` would replace the Authorization header."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


def _headers(answer: requests.Response) -> Mapping[str, str]:
    return CaseInsensitiveDict(answer.headers)


def _body(answer: requests.Response, request: Exchange) -> bytes:
    """Read piece by piece: a read timeout alone would let a body that drips go on for ever."""
    pieces, size = [], 0
    try:
        while piece := answer.raw.read1(65536, decode_content=True):
            pieces.append(piece)
            size += len(piece)
            if size > MAX_BODY_BYTES:
                raise LostError(f"the answer is larger than {MAX_BODY_BYTES} bytes", again=False)
            if request.clock() > request.ends:
                raise LostError("the answer took too long")
    except BaseException:
        answer.close()
        raise
    answer.raw.release_conn()
    return b"".join(pieces)


def _lost(error: Exception, url: str) -> LostError:
    """A library's exception in our words; certificates and malformed URLs do not heal by trying again."""
    proxy = proxy_of(url)
    if isinstance(error, requests.exceptions.SSLError):
        return LostError(_tls_reason(error, url, proxy), again=False)
    if isinstance(error, requests.exceptions.ProxyError):
        return _lost_at_proxy(error, proxy)
    through = f" through the proxy {one_line(proxy)}" if proxy else ""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return LostError(f"no connection within {CONNECT_SECONDS:g} s{through}")
    if isinstance(error, (requests.exceptions.Timeout, urllib3.exceptions.TimeoutError)):
        return LostError(f"no answer within {READ_SECONDS:g} s{through}")
    broken = (
        requests.exceptions.InvalidURL,
        requests.exceptions.MissingSchema,
        requests.exceptions.InvalidSchema,
    )
    if isinstance(error, ValueError) and not isinstance(error, requests.RequestException):
        return LostError("HTTPS_PROXY or HTTP_PROXY is no address of a proxy", again=False)
    return LostError(f"{one_line(_root(error))}{through}", again=not isinstance(error, broken))


def _tls_reason(error: Exception, url: str, proxy: str) -> str:
    """What is wrong with TLS, who issued the certificate, and what to look at."""
    reason = _root(error)
    hint = explain_certificate(url) if "certificate verify failed" in str(error).lower() else ""
    hint = one_line(hint) or "check the clock, the CA bundle (RUNNERCTL_CA_BUNDLE) and any proxy"
    through = f" through the proxy {one_line(proxy)}" if proxy else ""
    return f"TLS failed{through} ({one_line(reason)}); {hint}"


def _lost_at_proxy(error: Exception, proxy: str) -> LostError:
    """The proxy itself failed: it is down, or it wants a password (407) or forbids the host (403)."""
    named = f"the proxy {one_line(proxy)}" if proxy else "the proxy"
    refused = re.search(r"Tunnel connection failed: (\d{3}) ?([^\\'\")]*)", str(error))
    if refused is None:
        return LostError(f"{named} did not answer ({one_line(_root(error))}; see HTTPS_PROXY and NO_PROXY)")
    said = one_line(f"{refused[1]} {refused[2]}")
    return LostError(f"{named} refused the connection ({said}; see HTTPS_PROXY and NO_PROXY)", again=False)


def _innermost(error: BaseException) -> BaseException:
    """The first cause: those around it repeat the pool, the URL and each other."""
    seen = 0
    while seen < 8:
        seen += 1
        inner = getattr(error, "reason", None) or next(
            (item for item in error.args if isinstance(item, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            break
        error = inner
    return error


def _root(error: BaseException) -> str:
    """The first cause in words."""
    error = _innermost(error)
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, urllib3.exceptions.NameResolutionError):
        return "the name does not resolve"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    text = re.sub(r"^\w+\(host=.*?\): ", "", str(error))
    return text.rsplit(": ", 1)[-1] if "object at 0x" in text else text or type(error).__name__
