"""Answers for the GitHub client without a network: a transport adapter that plays a list, and a clock."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import requests
from requests.adapters import BaseAdapter, HTTPAdapter
from urllib3 import HTTPResponse

from runnerctl.github.auth import Bearer, TokenCredential
from runnerctl.github.client import GitHubClient

API = "https://api.github.com"
DATE = "Sun, 22 Nov 2026 12:00:00 GMT"
EPOCH = 1795348800.0  # DATE
SECRET = "ghp_" + "unit0test" * 4


@dataclass
class Answer:
    """One answer; ``body`` is sent as JSON unless it is bytes. ``seconds`` pass before each piece of it."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Clock:
    """Monotonic and UTC time that moves only by ``sleep`` and ``pass_by``."""

    seconds: float = 1000.0
    offset: float = EPOCH - 1000.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.seconds

    def utc(self) -> float:
        return self.seconds + self.offset

    def sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.slept.append(seconds)
        self.seconds += seconds

    def pass_by(self, seconds: float) -> None:
        self.seconds += seconds


class _Drip(io.BytesIO):
    """A body that lets time pass before every piece of up to 10 bytes."""

    def __init__(self, data: bytes, wait: Callable[[], None]) -> None:
        super().__init__(data)
        self._wait = wait

    def read1(self, size: int | None = -1, /) -> bytes:
        self._wait()
        return super().read1(10 if size is None or size < 0 else min(10, size))


class Script(BaseAdapter):
    """Plays its answers in order and keeps what was asked. An exception among them is raised."""

    def __init__(self, *answers: Answer | Exception, clock: Clock) -> None:
        super().__init__()
        self._answers = list(answers)
        self._clock = clock
        self.sent: list[requests.PreparedRequest] = []
        self.timeouts: list[Any] = []

    @property
    def left(self) -> int:
        return len(self._answers)

    def header(self, index: int, name: str) -> str | None:
        value = self.sent[index].headers.get(name)
        return value.decode() if isinstance(value, bytes) else value

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        *_rest: Any,
        **_options: Any,
    ) -> requests.Response:
        assert stream, "a body is read against the deadline, not all at once"
        self.sent.append(request)
        self.timeouts.append(timeout)
        assert self._answers, f"one request too many: {request.method} {request.url}"
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return HTTPAdapter().build_response(request, self._raw(answer))

    def _raw(self, answer: Answer) -> HTTPResponse:
        body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
        body = b"" if answer.body is None else body
        stream = (
            _Drip(body, lambda: self._clock.pass_by(answer.seconds)) if answer.seconds else io.BytesIO(body)
        )
        headers = {"Date": DATE, **answer.headers}
        return HTTPResponse(body=stream, headers=headers, status=answer.status, preload_content=False)

    def close(self) -> None:
        """Nothing is open."""


@dataclass
class Wire:
    """A client with everything it touches."""

    client: GitHubClient
    script: Script
    clock: Clock


def wire(
    *answers: Answer | Exception,
    api_url: str = API,
    credential: Bearer | None = None,
    anonymous: bool = False,
    clock: Clock | None = None,
    **options: Any,
) -> Wire:
    """A client whose only network is ``answers``."""
    clock = clock or Clock()
    script = Script(*answers, clock=clock)
    session = requests.Session()
    session.mount("https://", script)
    session.mount("http://", script)
    client = GitHubClient(
        api_url,
        None if anonymous else credential or TokenCredential(SECRET, source="GH_TOKEN"),
        session=session,
        sleep=clock.sleep,
        clock=clock.monotonic,
        now=clock.utc,
        **options,
    )
    return Wire(client, script, clock)
