"""Lists: all pages, each item once, and no credential for a stranger."""

from __future__ import annotations

from typing import Any

import pytest

from runnerctl.errors import AccessError, DataError
from tests.unit.github_answers import API, Answer, wire

PATH = "/orgs/acme/actions/runners"


def page(ids: list[int], *, total: int, to: str | None = None) -> Answer:
    """One page of runners; ``to`` is the address of the next."""
    body = {"total_count": total, "runners": [{"id": number} for number in ids]}
    headers = {"Link": f'<{API}/first>; rel="first", <{to}>; rel="next"'} if to else {}
    return Answer(body=body, headers=headers)


def ids(items: list[dict[str, Any]]) -> list[int]:
    return [item["id"] for item in items]


def test_all_pages_with_100_each() -> None:
    made = wire(page([1, 2], total=3, to=f"{API}{PATH}?per_page=100&page=2"), page([3], total=3))
    assert ids(made.client.pages(PATH, params={"name": "a b"})) == [1, 2, 3]
    assert made.script.sent[0].url == f"{API}{PATH}?per_page=100&name=a+b"
    assert made.script.sent[1].url == f"{API}{PATH}?per_page=100&page=2"
    assert [call.path for call in made.client.calls] == [PATH, PATH]


def test_one_page_needs_one_call() -> None:
    assert ids(wire(page([1], total=1)).client.pages(PATH)) == [1]


def test_a_plain_list_and_a_named_field() -> None:
    assert ids(wire(Answer(body=[{"id": 1}])).client.pages("/x")) == [1]
    body = {"total_count": 1, "runners": [{"id": 1}], "other": []}
    assert ids(wire(Answer(body=body)).client.pages("/x", key="runners")) == [1]


@pytest.mark.parametrize("body", [{"message": "hm"}, "text", None, {"runners": [1, 2]}, {"a": [], "b": []}])
def test_an_answer_without_a_list_is_an_error(body: Any) -> None:
    with pytest.raises(DataError, match="no list of objects"):
        wire(Answer(body=body)).client.pages("/x")


def test_a_list_that_shifted_is_read_again_once() -> None:
    """Item 2 moved to the second page while the first was read: each id once, and a second look."""
    two = f"{API}{PATH}?page=2"
    made = wire(
        page([1, 2], total=4, to=two),
        page([2, 3], total=5),
        page([1, 2], total=5, to=two),
        page([3, 4, 5], total=5),
    )
    assert ids(made.client.pages(PATH)) == [1, 2, 3, 4, 5]
    assert made.script.left == 0


def test_a_list_that_never_settles_is_still_an_answer() -> None:
    two = f"{API}{PATH}?page=2"
    again = [page([1], total=2, to=two), page([2], total=3)]
    assert ids(wire(*again, *again).client.pages(PATH)) == [1, 2]


def test_a_steady_list_is_read_once() -> None:
    made = wire(page([1], total=2, to=f"{API}{PATH}?page=2"), page([2], total=2))
    made.client.pages(PATH)
    assert len(made.client.calls) == 2


@pytest.mark.parametrize(
    "to", ["https://evil.example/x", f"http://api.github.com{PATH}", "https://api.github.com:1/x"]
)
def test_a_next_page_elsewhere_is_refused(to: str) -> None:
    made = wire(page([1], total=2, to=to))
    with pytest.raises(AccessError, match="gets no credential"):
        made.client.pages(PATH)
    assert len(made.script.sent) == 1


def test_pages_that_lead_back_end() -> None:
    start = f"{API}{PATH}?per_page=100"
    made = wire(page([1], total=2, to=f"{API}{PATH}?page=2"), page([2], total=2, to=start))
    with pytest.raises(DataError, match="does not end"):
        made.client.pages(PATH)


def test_at_most_200_pages() -> None:
    made = wire(*[page([n], total=999, to=f"{API}{PATH}?page={n + 2}") for n in range(200)])
    with pytest.raises(DataError, match="200 pages read"):
        made.client.pages(PATH)
    assert len(made.client.calls) == 200


def test_a_page_that_fails_once_is_asked_for_again() -> None:
    made = wire(page([1], total=2, to=f"{API}{PATH}?page=2"), Answer(502), page([2], total=2))
    assert ids(made.client.pages(PATH)) == [1, 2]
