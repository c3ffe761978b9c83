"""Rate limits: how long the client is silent, and when it gives up with the time."""

from __future__ import annotations

import pytest

from runnerctl.errors import AccessError, TryAgainError
from tests.unit.github_answers import EPOCH, Answer, Clock, wire

RUNNERS = "/orgs/acme/actions/runners"


def message(text: str) -> dict[str, str]:
    return {"message": text, "documentation_url": "https://docs.github.com/rest"}


@pytest.mark.parametrize("status", [403, 429])
def test_retry_after_is_slept(status: int) -> None:
    made = wire(Answer(status, message("slow down"), {"Retry-After": "7"}), Answer(body=[1]))
    assert made.client.get("/meta").json() == [1]
    assert len(made.clock.slept) == 1
    assert 7.0 <= made.clock.slept[0] < 8.0


def test_retry_after_may_be_a_date() -> None:
    made = wire(Answer(429, None, {"Retry-After": "Sun, 22 Nov 2026 12:00:20 GMT"}), Answer())
    made.client.get("/meta")
    assert 20.0 <= made.clock.slept[0] < 21.0


def test_retry_after_longer_than_allowed_fails_with_the_time() -> None:
    made = wire(Answer(403, message("x"), {"Retry-After": "3600"}))
    with pytest.raises(TryAgainError, match=r"until 2026-11-22T13:00:00Z"):
        made.client.get("/meta")
    assert made.clock.slept == []


def test_the_pause_holds_for_the_whole_client() -> None:
    """After a limit that was too long, the next call does not even ask."""
    made = wire(Answer(429, None, {"Retry-After": "3600"}), Answer())
    with pytest.raises(TryAgainError):
        made.client.get("/meta")
    with pytest.raises(TryAgainError, match="cannot GET /zen"):
        made.client.get("/zen")
    assert len(made.client.calls) == 1
    made.clock.pass_by(3602)
    assert made.client.get("/zen").status == 200


def test_a_primary_limit_counts_from_the_answers_own_date() -> None:
    """The local clock is an hour behind and does not matter."""
    headers = {
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(int(EPOCH) + 90),
        "X-RateLimit-Resource": "core",
    }
    made = wire(
        Answer(403, message("API rate limit exceeded"), headers), Answer(), clock=Clock(offset=EPOCH - 4600)
    )
    made.client.get("/meta")
    assert 90.0 <= made.clock.slept[0] < 91.0


def test_a_primary_limit_beyond_the_wait_names_its_end() -> None:
    headers = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(EPOCH) + 1800)}
    made = wire(Answer(429, message("x"), headers), max_wait_seconds=60)
    with pytest.raises(TryAgainError) as error:
        made.client.get(RUNNERS, what="list the runners")
    assert error.value.exit_code == 75
    assert "cannot list the runners" in str(error.value)
    assert "2026-11-22T12:30:00Z" in str(error.value)
    assert error.value.where == "acme at api.github.com"


def test_a_secondary_limit_without_a_time_doubles() -> None:
    limited = Answer(403, message("You have exceeded a secondary rate limit"))
    made = wire(limited, limited, Answer(429), Answer(), max_wait_seconds=1000)
    made.client.get("/meta")
    assert [int(seconds) // 60 for seconds in made.clock.slept] == [1, 2, 4]


def test_a_secondary_limit_is_met_five_times_at_most() -> None:
    made = wire(*[Answer(429, None, {"Retry-After": "1"}) for _ in range(6)])
    with pytest.raises(TryAgainError):
        made.client.get("/meta")
    assert len(made.client.calls) == 6
    assert len(made.clock.slept) == 5


def test_a_post_is_repeated_after_a_limit() -> None:
    """GitHub did nothing when it limits: also what may not be sent twice is sent again."""
    made = wire(Answer(429, None, {"Retry-After": "1"}), Answer(201))
    made.client.post(f"{RUNNERS}/generate-jitconfig", {"name": "x"})
    assert [request.body for request in made.script.sent] == [b'{"name":"x"}'] * 2


def test_remaining_above_zero_is_a_permission_error() -> None:
    headers = {"X-RateLimit-Remaining": "4999", "X-RateLimit-Reset": str(int(EPOCH) + 90)}
    made = wire(Answer(403, message("Resource not accessible by personal access token"), headers))
    with pytest.raises(AccessError):
        made.client.get("/meta")
    assert made.clock.slept == []
