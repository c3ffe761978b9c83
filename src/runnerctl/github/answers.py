"""Answers that a conditional request may bring back: 304 is free against GitHub's rate limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

import msgspec
from requests.structures import CaseInsensitiveDict
from requests.utils import parse_header_links

from runnerctl.github.cache import PrivateCache, digest
from runnerctl.github.transport import Response, origin

__all__ = ["Answers", "conditions", "confirmed"]

_KIND = "answer"
_KEPT_BYTES = 8 * 1024 * 1024  # in memory, where there is no disk
_HEADERS = ("etag", "last-modified", "link", "date")
# Whatever the path: an answer with one of these fields holds a secret, and never reaches the disk.
_SECRET_FIELDS = (b'"token"', b'"temp_download_token"', b'"encoded_jit_config"', b'"secret"')


class _Head(msgspec.Struct):
    """What is kept of an answer beside its body; ``url`` tells two answers with one name apart."""

    url: str
    headers: dict[str, str]


class Answers:
    """Complete answers of one API to one credential, by URL.

    ``owner`` stands for the API and the credential (never the token itself); they are in memory only when it
    is empty, when there is no disk, or when they hold a secret.
    """

    def __init__(self, disk: PrivateCache | None, *, owner: str) -> None:
        self._disk = disk if owner else None
        self._owner = owner
        self._memory: OrderedDict[str, Response] = OrderedDict()
        self._bytes = 0

    def find(self, url: str) -> Response | None:
        """What was answered the last time, or None."""
        if url in self._memory or self._disk is None:
            return self._memory.get(url)
        return _unpack(self._disk.read(_KIND, self._key(url)), url)

    def keep(self, url: str, response: Response) -> None:
        """Keep an answer that says how to ask for it conditionally.

        One whose links lead to another host is not: as long as it is confirmed, it would lead there again.
        """
        if not conditions(response) or _leads_away(response):
            return
        if self._disk is not None and not any(field in response.body for field in _SECRET_FIELDS):
            self._disk.write(_KIND, self._key(url), _pack(response, url))
            return
        self._bytes += len(response.body) - len(self._memory.pop(url, response._replace(body=b"")).body)
        self._memory[url] = response
        while self._bytes > _KEPT_BYTES:
            self._bytes -= len(self._memory.popitem(last=False)[1].body)

    def _key(self, url: str) -> str:
        return digest(self._owner, url)


def conditions(response: Response) -> dict[str, str]:
    """The request headers that ask whether this answer still holds (RFC 9110, section 13)."""
    if etag := response.headers.get("etag", ""):
        return {"If-None-Match": etag}
    moment = response.headers.get("last-modified", "")
    return {"If-Modified-Since": moment} if moment else {}


def confirmed(known: Response, answer: Response) -> Response:
    """What was kept, after 304; the headers that came with that are newer (RFC 9111, section 4.3.4)."""
    newer = {name: answer.headers[name] for name in ("link", "date") if name in answer.headers}
    return known._replace(headers=CaseInsensitiveDict({**known.headers, **newer})) if newer else known


def _leads_away(response: Response) -> bool:
    links = parse_header_links(response.headers.get("link", ""))
    return any(origin(str(link["url"])) != origin(response.url) for link in links)


def _pack(response: Response, url: str) -> bytes:
    headers = {name: response.headers[name] for name in _HEADERS if name in response.headers}
    return msgspec.json.encode(_Head(url, headers)) + b"\n" + response.body


def _unpack(data: bytes | None, url: str) -> Response | None:
    if data is None:
        return None
    head, _, body = data.partition(b"\n")
    try:
        found = msgspec.json.decode(head, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    headers: Mapping[str, str] = CaseInsensitiveDict(found.headers)
    return Response(200, headers, body, url) if found.url == url else None
