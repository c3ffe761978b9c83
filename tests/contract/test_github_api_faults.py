"""The stand-in's faults: each bad day of GitHub, its proxies and the network, on request and over again."""

from __future__ import annotations

import time
from typing import Any

import pytest
import requests

from tests.fakes.github_api import Control
from tests.fakes.github_api.clients import Caller

ORG, REPO = "/orgs/acme", "/repos/acme/widgets"


@pytest.mark.parametrize(
    ("name", "fields", "status", "header"),
    [
        ("retry_after", {"retry_after": 7}, 403, ("Retry-After", "7")),
        ("rate_limited", {}, 403, ("X-RateLimit-Remaining", "0")),
        ("secondary", {}, 403, None),
        ("too_many", {"retry_after": 3}, 429, ("Retry-After", "3")),
        ("server_error", {"count": 2}, 500, None),
        ("bad_gateway_html", {}, 502, ("Content-Type", "text/html")),
        ("expired_token", {}, 401, None),
        ("hidden", {"count": 1}, 404, None),
        ("not_modified", {}, 304, None),
        ("sso", {}, 403, ("X-GitHub-SSO", "required; url=https://sso.example")),
        ("unsupported_version", {}, 400, None),
        ("status", {"status": 418}, 418, None),
    ],
)
def test_faults_that_answer_and_then_pass(
    api: Caller,
    control: Control,
    name: str,
    fields: dict[str, Any],
    status: int,
    header: tuple[str, str] | None,
) -> None:
    control.fault(name, method="GET", path="/actions/runners$", **fields)
    assert api("POST", f"{ORG}/actions/runners/remove-token").status_code == 201
    for _ in range(fields.get("count", 1)):
        answer = api("GET", f"{ORG}/actions/runners")
        assert answer.status_code == status
        assert header is None or answer.headers[header[0]] == header[1]
    assert api("GET", f"{ORG}/actions/runners").status_code == 200
    assert control.requests(kind="api")[1]["fault"] == name


def test_faults_of_shape_and_names(api: Caller, control: Control) -> None:
    control.add_runner(ORG, "one", version="2.336.0")
    control.fault("null_version")
    assert api("GET", f"{ORG}/actions/runners").json()["runners"][0]["version"] is None
    control.fault("missing_ephemeral")
    assert "ephemeral" not in api("GET", f"{ORG}/actions/runners").json()["runners"][0]
    control.fault("rename", from_="/repos/acme/old", to=REPO)
    moved = api("GET", "/repos/acme/old/actions/runners")
    assert (moved.status_code, moved.headers["Location"]) == (301, f"{api.url}{REPO}/actions/runners")
    control.fault("name_conflict")
    wanted = {"name": "jit", "runner_group_id": 1, "labels": ["gpu"]}
    assert api("POST", f"{ORG}/actions/runners/generate-jitconfig", wanted).status_code == 409
    with pytest.raises(Exception, match="unknown fault"):
        control.fault("no_such_fault")


def test_faults_of_the_network(api: Caller, control: Control) -> None:
    path = f"{ORG}/actions/runners"
    control.fault("drop")
    with pytest.raises(requests.ConnectionError):
        api("GET", path)
    control.fault("slow_body", seconds=0.3)
    started = time.monotonic()
    assert api("GET", path).json()["total_count"] == 0
    assert time.monotonic() - started >= 0.25
    control.fault("lost_answer", method="POST")
    wanted = {"name": "jit", "runner_group_id": 1, "labels": ["gpu"]}
    with pytest.raises(requests.ConnectionError):
        api("POST", f"{path}/generate-jitconfig", wanted)
    assert api("GET", f"{path}?name=jit").json()["total_count"] == 1


@pytest.mark.exhaustive
def test_down_for_a_time_until_cleared_and_refused(api: Caller, control: Control) -> None:
    path = f"{ORG}/actions/runners"
    control.fault("down", seconds=0.2)
    assert api("GET", path).status_code == 503
    time.sleep(0.25)
    assert api("GET", path).status_code == 200
    control.fault("down")
    assert [api("GET", path).status_code for _ in range(3)] == [503, 503, 503]
    control.clear_faults()
    assert api("GET", path).status_code == 200
    control.fault("refused", seconds=0.4)
    time.sleep(0.25)
    with pytest.raises(requests.ConnectionError):
        requests.get(api.url + "/meta", timeout=2)
    control.wait_ready()
    assert api("GET", path).status_code == 200
