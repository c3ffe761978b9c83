"""Lists over many pages, whole and once: items move between pages while they are read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from requests.utils import parse_header_links

from runnerctl.errors import AccessError, DataError
from runnerctl.github.transport import Response, one_line, origin

__all__ = ["MAX_PAGES", "collect"]

MAX_PAGES = 200

Fetch = Callable[[str], Response]


class _Sweep(NamedTuple):
    """One reading of all pages. ``steady``: no item moved while it was made."""

    items: list[dict[str, Any]]
    steady: bool


def collect(fetch: Fetch, first: str, *, key: str | None = None) -> list[dict[str, Any]]:
    """All items from the page ``first`` on, each id once; read again once when the list changed meanwhile.

    Raises DataError when the list does not end or has no items field, AccessError when its next page is on
    another host.
    """
    sweep = _sweep(fetch, first, key=key)
    if not sweep.steady:
        sweep = _sweep(fetch, first, key=key)
    return sweep.items


def _sweep(fetch: Fetch, first: str, *, key: str | None) -> _Sweep:
    found: dict[Any, dict[str, Any]] = {}
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
        body = response.json()
        for item in _items(body, key=key, url=url):
            found[item.get("id", ("row", seen))] = item
            seen += 1
        if isinstance(body, dict) and isinstance(body.get("total_count"), int):
            totals.add(body["total_count"])
        url = _next(response, home=first)
    steady = len(found) == seen and len(totals) < 2 and totals <= {seen}
    return _Sweep(list(found.values()), steady)


def _items(body: Any, *, key: str | None, url: str) -> list[dict[str, Any]]:
    """The items of one page: the body itself, the field ``key``, or the only field that is a list."""
    lists = [body] if isinstance(body, list) else []
    if isinstance(body, dict):
        lists = [value for name, value in body.items() if isinstance(value, list) and key in (None, name)]
    if len(lists) != 1 or not all(isinstance(item, dict) for item in lists[0]):
        raise DataError(
            "the answer holds no list of objects", where=one_line(url), remedy="check the API URL"
        )
    items: list[dict[str, Any]] = lists[0]
    return items


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
