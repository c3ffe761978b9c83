"""The decision table of limits and errors, row by row: how often it asks, how long it waits, how it ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from runnerctl.errors import AccessError, DataError, RunnerctlError, TryAgainError, UnavailableError
from tests.unit.github_answers import EPOCH, Answer, wire

PATH = "/orgs/acme/actions/runners"


def said(text: str) -> dict[str, str]:
    return {"message": text}


def remaining(left: int, *, seconds: int) -> dict[str, str]:
    return {"X-RateLimit-Remaining": str(left), "X-RateLimit-Reset": str(int(EPOCH) + seconds)}


SECONDARY = said("You have exceeded a secondary rate limit")
ABUSE = said("You have triggered an abuse detection mechanism")
HTML = Answer(502, b"<html>Bad Gateway</html>")
DONE = Answer(200, {"runners": []})


@dataclass(frozen=True)
class Row:
    """One row. ``waits``: least seconds of each pause (a jitter of at most half as much again, or 1 s, comes
    on top); ``error``: None for a success."""

    name: str
    answers: tuple[Answer, ...]
    waits: tuple[float, ...] = ()
    error: type[RunnerctlError] | None = None
    method: str = "get"
    options: dict[str, Any] | None = None


ROWS = [
    Row("403 with retry-after", (Answer(403, SECONDARY, {"Retry-After": "9"}), DONE), (9,)),
    Row("429 with retry-after", (Answer(429, None, {"Retry-After": "9"}), DONE), (9,)),
    Row("403 with remaining 0", (Answer(403, said("x"), remaining(0, seconds=40)), DONE), (40,)),
    Row("429 with remaining 0", (Answer(429, said("x"), remaining(0, seconds=40)), DONE), (40,)),
    Row("remaining 0 for too long", (Answer(403, said("x"), remaining(0, seconds=400)),), (), TryAgainError),
    Row(
        "a longer wait allowed",
        (Answer(403, said("x"), remaining(0, seconds=400)), DONE),
        (400,),
        options={"max_wait_seconds": 500},
    ),
    Row("no wait allowed", (Answer(429),), (), TryAgainError, options={"max_wait_seconds": 0}),
    Row("429 without header", (Answer(429), Answer(429), DONE), (60, 120)),
    Row("secondary without header", (Answer(403, SECONDARY), DONE), (60,)),
    Row("abuse without header", (Answer(403, ABUSE), DONE), (60,)),
    Row("any other 403", (Answer(403, said("Resource not accessible")),), (), AccessError),
    Row("401 of a given token", (Answer(401, said("Bad credentials")),), (), AccessError),
    Row("404", (Answer(404, said("Not Found")),), (), AccessError),
    Row("404 on DELETE", (Answer(404, said("Not Found")),), method="delete"),
    Row("408", (Answer(408), DONE), (1,)),
    Row("500 twice", (Answer(500), Answer(500), DONE), (1, 2)),
    Row("HTML 502", (HTML, DONE), (1,)),
    Row("503 on PUT", (Answer(503), DONE), (1,), method="put"),
    Row("503 on DELETE", (Answer(503), Answer(204)), (1,), method="delete"),
    Row("500 on a POST that must not be repeated", (Answer(500),), (), UnavailableError, method="post"),
    Row("500 for ever", (Answer(500),) * 5, (1, 2, 4, 8), UnavailableError),
    Row("409", (Answer(409, said("Already exists")),), (), DataError, method="post"),
    Row("422", (Answer(422, said("Validation Failed")),), (), DataError, method="put"),
    Row("an unknown API version", (Answer(400, said("unsupported version")), DONE)),
    Row(
        "a limit behind a status that is accepted", (Answer(403, SECONDARY), DONE), (60,), method="accepting"
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_each_row(row: Row) -> None:
    made = wire(*row.answers, **(row.options or {}))
    calls = {
        "get": lambda: made.client.get(PATH),
        "put": lambda: made.client.put(f"{PATH}/1/labels", {"labels": []}),
        "post": lambda: made.client.post(f"{PATH}/generate-jitconfig", {"name": "x"}),
        "delete": lambda: made.client.delete(f"{PATH}/1"),
        "accepting": lambda: made.client.get(PATH, accept=(403,)),
    }
    if row.error is None:
        calls[row.method]()
    else:
        with pytest.raises(row.error):
            calls[row.method]()
    assert made.script.left == 0
    assert len(made.clock.slept) == len(row.waits)
    for slept, least in zip(made.clock.slept, row.waits, strict=True):
        assert least <= slept <= least + max(1.0, least / 2)


def test_little_is_left() -> None:
    """What can wait should, under a tenth of the limit."""
    made = wire(
        Answer(body=[], headers={"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "499"}),
        Answer(body=[], headers={"X-RateLimit-Limit": "5000", "X-RateLimit-Remaining": "500"}),
    )
    assert made.client.low is False
    made.client.get("/meta")
    assert made.client.low is True
    made.client.get("/zen")
    assert made.client.low is False
