"""The one way to GitHub's REST API: every call is bounded, counted, and fails with one clear error.

Serial by design (GitHub asks for it): use one client per thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
import requests

from runnerctl import __version__
from runnerctl.core.scope import check_transport
from runnerctl.errors import ConfigError
from runnerctl.github import pages
from runnerctl.github.answers import Answers, conditions, confirmed
from runnerctl.github.cache import PrivateCache
from runnerctl.github.failures import Subject, failure, limit_error, lost_error
from runnerctl.github.retry import (
    MAX_LIMITS,
    MAX_RETRIES,
    Limit,
    backoff_seconds,
    jitter,
    number,
    rate_limit,
    worth_retrying,
)
from runnerctl.github.transport import Exchange, LostError, Response, exchange, origin
from runnerctl.github.trust import make_session

if TYPE_CHECKING:
    from runnerctl.github.auth import Bearer

__all__ = ["API_VERSION", "Call", "GitHubClient", "check_api_url"]

API_VERSION = "2022-11-28"
_ACCEPT = "application/vnd.github+json"
_WRITES_AT_ONCE = 20  # then one second between writes, as GitHub asks of bulk work
_WRITE_SECONDS = 1.0
_LOW = 0.1  # of a rate limit: what can wait should then

T = TypeVar("T")


def check_api_url(api_url: str) -> None:
    """Raises ConfigError for what is no URL, and for plain HTTP to a public host."""
    if origin(api_url)[0] not in ("http", "https") or not origin(api_url)[1]:
        raise ConfigError(f"API URL {api_url!r} is not an http(s) URL", remedy="give https://HOST/api/v3")
    check_transport(api_url)


class Call(NamedTuple):
    """One request that was sent. ``path`` is without query; ``status`` 0 means that no answer came."""

    method: str
    path: str
    status: int


class _Ask(NamedTuple):
    """One operation. ``repeatable``: sending it twice does no harm. ``accept``: statuses that are answers.

    ``fresh``: its headers count, which 304 need not repeat; it is neither kept nor asked conditionally.
    """

    method: str
    url: str
    path: str
    body: bytes | None
    what: str
    accept: frozenset[int]
    repeatable: bool
    fresh: bool = False


class _Progress:
    """What happened to one operation so far. ``ends`` is on the client's clock."""

    def __init__(self, *, ends: float) -> None:
        self.ends = ends
        self.retries = 0
        self.limits = 0
        self.waited = 0.0
        self.repaired: set[int] = set()


class GitHubClient:
    """Calls one REST API with one credential.

    ``api_url`` is GitHub's (``https://api.github.com``, ``https://HOST/api/v3``); ``credential`` None means
    anonymous. A call may take ``deadline_seconds`` with its retries, and wait ``max_wait_seconds`` more for
    rate limits. ``clock`` is monotonic and ``now`` UTC, both in seconds. ``calls`` lists what was sent;
    ``observer`` is told of each. ``cache`` keeps answers for conditional requests of later runs. ``low`` says
    that less than a tenth of the rate limit is left. Raises ConfigError for plain HTTP to a public host, and
    for a CA bundle that cannot be read.

    Errors of a call: AccessError (401, 403, 404), TryAgainError (a rate limit that lasts too long),
    UnavailableError (no answer, 5xx), DataError (409, 422, or an answer that cannot be read).
    """

    def __init__(
        self,
        api_url: str,
        credential: Bearer | None = None,
        *,
        session: requests.Session | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
        max_wait_seconds: float = 300.0,
        deadline_seconds: float = 90.0,
        api_version: str | None = API_VERSION,
        observer: Callable[[Call], None] | None = None,
        cache: PrivateCache | None = None,
    ) -> None:
        check_api_url(api_url)
        self.api_url = api_url.rstrip("/")
        self.credential = credential
        self.calls: list[Call] = []
        self.last_date: str | None = None
        self.low = False
        self._session = session or make_session(self.api_url)
        self._sleep, self._clock, self._now = sleep, clock, now
        self.max_wait_seconds, self._deadline = max_wait_seconds, deadline_seconds
        self._api_version = api_version
        self._observer = observer
        self._limit: Limit | None = None
        self._limit_ends = 0.0
        owner = credential.identity if credential else "anonymous"
        self._answers = Answers(cache, owner=f"{owner} at {self.api_url}" if owner else "")
        self._writes = 0

    def get(
        self,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        what: str = "",
        accept: Collection[int] = (),
        fresh: bool = False,
    ) -> Response:
        """GET ``path``, conditionally when it was read before; ``accept`` names statuses that are answers.

        ``fresh``: unconditionally, for the answer's headers.
        """
        return self._request("GET", path, params=params, what=what, accept=accept, fresh=fresh)

    def post(
        self,
        path: str,
        json: Any = None,
        *,
        what: str = "",
        accept: Collection[int] = (),
        repeatable: bool = False,
    ) -> Response:
        """POST ``json``; only with ``repeatable`` again after a lost answer, for it may have passed."""
        return self._request("POST", path, json=json, what=what, accept=accept, repeatable=repeatable)

    def put(self, path: str, json: Any = None, *, what: str = "", accept: Collection[int] = ()) -> Response:
        """PUT ``json``."""
        return self._request("PUT", path, json=json, what=what, accept=accept)

    def delete(self, path: str, *, what: str = "", accept: Collection[int] = ()) -> Response:
        """DELETE ``path``; 404 is success, for it is gone."""
        return self._request("DELETE", path, what=what, accept={404, *accept})

    def pages(
        self, path: str, *, params: Mapping[str, Any] | None = None, key: str | None = None, what: str = ""
    ) -> list[dict[str, Any]]:
        """Every item of a list, through all its pages, each id once.

        ``key`` names the field that holds the items; without it the only list of the answer. Raises DataError
        for a list without end and AccessError for a next page on another host.
        """
        first, fetch = self._list(path, params, what)
        return pages.collect(fetch, first, read=pages.loose(key)) or []

    def listing(
        self,
        path: str,
        kind: type[T],
        *,
        key: str,
        params: Mapping[str, Any] | None = None,
        what: str = "",
        most: int | None = None,
    ) -> tuple[T, ...] | None:
        """Every item of the field ``key`` as ``kind``, a struct with an ``id``; else as `pages`.

        None when the list is longer than ``most``: one request tells. Items are decoded page by page.
        """
        first, fetch = self._list(path, params, what)
        found = pages.collect(fetch, first, read=pages.typed(key, kind), most=most)
        return None if found is None else tuple(found)

    def _list(
        self, path: str, params: Mapping[str, Any] | None, what: str
    ) -> tuple[str, Callable[[str], Response]]:
        def fetch(url: str) -> Response:
            return self._call(self._ask("GET", url, path=path, what=what or f"read {path}"))

        return self._url(path, {"per_page": pages.PER_PAGE, **(params or {})}), fetch

    def _url(self, path: str, params: Mapping[str, Any] | None) -> str:
        if not path.startswith("/"):
            raise ValueError(f"a path begins with a slash: {path!r}")
        return f"{self.api_url}{path}" + (f"?{urlencode(params)}" if params else "")

    def _request(
        self,
        method: str,
        path: str,
        *,
        what: str,
        accept: Collection[int],
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        repeatable: bool = True,
        fresh: bool = False,
    ) -> Response:
        ask = self._ask(method, self._url(path, params), path=path, what=what or f"{method} {path}")
        body = None if json is None else msgspec.json.encode(json)
        return self._call(
            ask._replace(body=body, accept=frozenset(accept), repeatable=repeatable, fresh=fresh)
        )

    def _ask(self, method: str, url: str, *, path: str, what: str) -> _Ask:
        return _Ask(method, url, path, None, what, frozenset(), True)

    def _call(self, ask: _Ask) -> Response:
        """Try until there is an answer, an error that stays, or no time left."""
        progress = _Progress(ends=self._clock() + self._deadline)
        while True:
            self._await_limit(ask, progress)
            outcome = self._attempt(ask, progress)
            if isinstance(outcome, Response):
                if outcome.status < 400:
                    return outcome
                if self._note_limit(outcome, progress):  # first: an accepted 403 may be a rate limit, too
                    continue
                if outcome.status in ask.accept:
                    return outcome
                if self._repair(outcome, progress):
                    continue
            if not self._back_off(ask, outcome, progress):
                raise self._error(ask, outcome)

    def _attempt(self, ask: _Ask, progress: _Progress) -> Response | LostError:
        self._space_writes(ask)
        known = self._answers.find(ask.url) if ask.method == "GET" and not ask.fresh else None
        headers = self._headers(ask) | (conditions(known) if known else {})
        request = Exchange(ask.method, ask.url, headers, ask.body, progress.ends, self._clock)
        try:
            response = exchange(self._session, request)
        except LostError as lost:
            self._record(ask, 0)
            return lost
        self._record(ask, response.status)
        self._notice(response)
        if response.status == 304 and known is not None:
            return confirmed(known, response)
        if ask.method == "GET" and response.status == 200 and not ask.fresh:
            self._answers.keep(ask.url, response)
        return response

    def _notice(self, response: Response) -> None:
        self.last_date = response.headers.get("date", self.last_date)
        limit, left = (number(response.headers.get(f"x-ratelimit-{it}", "")) for it in ("limit", "remaining"))
        if limit is not None and left is not None:
            self.low = left < _LOW * limit

    def _record(self, ask: _Ask, status: int) -> None:
        call = Call(ask.method, ask.path, status)
        self.calls.append(call)
        if self._observer:
            self._observer(call)

    def _headers(self, ask: _Ask) -> dict[str, str]:
        headers = {"Accept": _ACCEPT, "User-Agent": f"runnerctl/{__version__}"}
        if self._api_version:
            headers["X-GitHub-Api-Version"] = self._api_version
        if self.credential:
            headers["Authorization"] = f"Bearer {self.credential.token()}"
        if ask.body is not None:
            headers["Content-Type"] = "application/json"
        return headers

    def _space_writes(self, ask: _Ask) -> None:
        if ask.method == "GET":
            return
        self._writes += 1
        if self._writes > _WRITES_AT_ONCE:
            self._sleep(_WRITE_SECONDS)

    def _repair(self, response: Response, progress: _Progress) -> bool:
        """What one more try with other headers heals: an App's token that ran out, an unknown API version."""
        if response.status in progress.repaired:
            return False
        progress.repaired.add(response.status)
        if response.status == 401 and self.credential:
            return self.credential.renew()
        if response.status == 400 and self._api_version and "version" in response.message.lower():
            self._api_version = None
            return True
        return False

    def _note_limit(self, response: Response, progress: _Progress) -> bool:
        """Whether a rate limit was met; the pause it asks for holds for the whole client."""
        limit = rate_limit(response, seen=progress.limits, now=self._now())
        if limit is None:
            return False
        progress.limits += 1
        pause = limit.seconds + jitter()
        self._limit, self._limit_ends = limit, self._clock() + pause
        return True

    def _await_limit(self, ask: _Ask, progress: _Progress) -> None:
        """Keep the silence GitHub asked for, or fail with its end when it lasts too long."""
        if self._limit is None:
            return
        left = max(0.0, self._limit_ends - self._clock())
        if progress.limits > MAX_LIMITS or progress.waited + left > self.max_wait_seconds:
            raise limit_error(self._subject(ask), self._limit)
        progress.waited += left
        progress.ends += left
        self._sleep(left)
        self._limit = None

    def _back_off(self, ask: _Ask, outcome: Response | LostError, progress: _Progress) -> bool:
        """Sleep before another try; False when there is to be none."""
        if not (ask.repeatable and worth_retrying(outcome)) or progress.retries >= MAX_RETRIES:
            return False
        pause = backoff_seconds(progress.retries)
        if self._clock() + pause >= progress.ends:
            return False
        progress.retries += 1
        self._sleep(pause)
        return True

    def _error(self, ask: _Ask, outcome: Response | LostError) -> Exception:
        if isinstance(outcome, LostError):
            return lost_error(self._subject(ask), outcome)
        return failure(self._subject(ask), outcome, now=self._now())

    def _subject(self, ask: _Ask) -> Subject:
        source = self.credential.source if self.credential else ""
        advice = self.credential.advice if self.credential else ""
        return Subject(ask.what, ask.method, ask.path, self.api_url, source, advice)
