"""Lists over many pages, whole and once: items move between pages while they are read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import GenericAlias
from typing import Any, Generic, TypeVar

import msgspec
from requests.utils import parse_header_links

from runnerctl.errors import AccessError, DataError
from runnerctl.github.transport import Response, one_line, origin

__all__ = ["MAX_PAGES", "PER_PAGE", "Page", "collect", "loose", "typed"]

MAX_PAGES = 200
PER_PAGE = 100

Fetch = Callable[[str], Response]
T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """One page: its items, each one's id (None: it has none), and the list's length as the server has it."""

    items: Sequence[T]
    ids: Sequence[Any]
    total: int | None


Read = Callable[[Response], Page[T]]


@dataclass(frozen=True)
class _Sweep(Generic[T]):
    """One reading of all pages. ``steady``: no item moved while it was made."""

    items: list[T]
    steady: bool


def collect(fetch: Fetch, first: str, *, read: Read[T], most: int | None = None) -> list[T] | None:
    """All items from the page ``first`` on, each id once; read again once when the list changed meanwhile.

    None when the first page says that the list has more than ``most`` items; the rest is then not read.
    Raises DataError when the list does not end or has no items field, AccessError when its next page is on
    another host.
    """
    sweep = _sweep(fetch, first, read=read, most=most)
    if sweep is not None and not sweep.steady:
        sweep = _sweep(fetch, first, read=read, most=None)
    return None if sweep is None else sweep.items


def _sweep(fetch: Fetch, first: str, *, read: Read[T], most: int | None) -> _Sweep[T] | None:
    found: dict[Any, T] = {}
    totals: set[int] = set()
    visited: set[str] = set()
    seen = 0
    url: str | None = first
    while url:
        if url in visited or len(visited) >= MAX_PAGES:
            raise DataError(
                f"the list does not end ({len(visited)} pages read)",
                where=one_line(first),
                remedy="narrow the request, or report it to the server's operator",
            )
        visited.add(url)
        response = fetch(url)
        page = read(response)
        if most is not None and len(visited) == 1 and (page.total or 0) > most:
            return None
        for item, identity in zip(page.items, page.ids, strict=True):
            found[("row", seen) if identity is None else identity] = item
            seen += 1
        if page.total is not None:
            totals.add(page.total)
        url = _next(response, home=first)
    steady = len(found) == seen and len(totals) < 2 and totals <= {seen}
    return _Sweep(list(found.values()), steady)


def typed(key: str, kind: type[T]) -> Read[T]:
    """Read pages whose field ``key`` holds structs that have an ``id``, straight from the bytes."""
    shape: Any = kind
    decoder = _decoder(key, shape)

    def read(response: Response) -> Page[T]:
        body = response.decode_with(decoder)
        items = getattr(body, key)
        if items is msgspec.UNSET:
            raise _no_list(response)
        return Page(items, [item.id for item in items], body.total_count)

    return read


@lru_cache(maxsize=16)
def _decoder(key: str, kind: Any) -> msgspec.json.Decoder[Any]:
    items = GenericAlias(list, (kind,))
    fields: list[Any] = [("total_count", int | None, None), (key, items | msgspec.UnsetType, msgspec.UNSET)]
    return msgspec.json.Decoder(msgspec.defstruct("Page", fields, gc=False))


def loose(key: str | None) -> Read[dict[str, Any]]:
    """Read pages of any objects: the body itself, its field ``key``, or its only field that is a list."""

    def read(response: Response) -> Page[dict[str, Any]]:
        body = response.json()
        lists = [body] if isinstance(body, list) else []
        total = None
        if isinstance(body, dict):
            lists = [value for name, value in body.items() if isinstance(value, list) and key in (None, name)]
            total = body.get("total_count")
        if len(lists) != 1 or not all(isinstance(item, dict) for item in lists[0]):
            raise _no_list(response)
        items: list[dict[str, Any]] = lists[0]
        return Page(items, [item.get("id") for item in items], total if isinstance(total, int) else None)

    return read


def _no_list(response: Response) -> DataError:
    return DataError(
        "the answer holds no list of objects", where=one_line(response.url), remedy="check the API URL"
    )


def _next(response: Response, *, home: str) -> str | None:
    """The address of the next page; a credential must not follow it to another host."""
    for link in parse_header_links(response.headers.get("link", "")):
        if link.get("rel") != "next":
            continue
        url = str(link["url"])
        if origin(url) != origin(home):
            host = one_line("{}://{}:{}".format(*origin(url)))
            raise AccessError(
                f"the next page is on another host ({host}), which gets no credential",
                where=one_line(home),
                remedy="check the API URL and any proxy before it",
            )
        return url
    return None
