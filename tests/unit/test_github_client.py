"""The client's decision table, row by row and in both directions; nothing here sleeps."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import requests
import urllib3

from runnerctl import __version__
from runnerctl.errors import (
    AccessError,
    ConfigError,
    DataError,
    RunnerctlError,
    UnavailableError,
)
from runnerctl.github.client import Call, GitHubClient
from tests.unit.github_answers import SECRET, Answer, wire

RUNNERS = "/orgs/acme/actions/runners"
REFUSED = requests.ConnectionError(
    urllib3.exceptions.ProtocolError("Connection aborted.", OSError(104, "Reset"))
)


def message(text: str) -> dict[str, str]:
    return {"message": text, "documentation_url": "https://docs.github.com/rest"}


def test_headers_and_timeouts_of_a_request() -> None:
    """Every request says who asks, in which version, and is bounded."""
    made = wire(Answer(body={"ok": 1}))
    assert made.client.get("/meta").json() == {"ok": 1}
    assert made.script.header(0, "accept") == "application/vnd.github+json"
    assert made.script.header(0, "authorization") == f"Bearer {SECRET}"
    assert made.script.header(0, "x-github-api-version") == "2022-11-28"
    assert made.script.header(0, "user-agent") == f"runnerctl/{__version__}"
    assert made.script.timeouts == [(5.0, 30.0)]
    assert made.client.calls == [Call("GET", "/meta", 200)]


def test_a_netrc_entry_does_not_replace_the_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine api.github.com login someone password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    made = wire(Answer(), Answer())
    made.client.get("/meta")
    assert made.script.header(0, "authorization") == f"Bearer {SECRET}"
    nobody = wire(Answer(), anonymous=True)
    nobody.client.get("/meta")
    assert nobody.script.header(0, "authorization") is None


def test_an_observer_sees_each_call() -> None:
    seen: list[Call] = []
    made = wire(Answer(status=502), Answer(), observer=seen.append)
    made.client.get("/meta", params={"a": 1})
    assert seen == [Call("GET", "/meta", 502), Call("GET", "/meta", 200)] == made.client.calls


@pytest.mark.parametrize(
    "url", ["http://api.github.com", "http://93.184.216.34/api/v3", "ftp://x", "github.com"]
)
def test_an_api_url_that_would_leak_or_cannot_be(url: str) -> None:
    with pytest.raises(ConfigError):
        GitHubClient(url)


def test_plain_http_on_a_private_network_is_allowed() -> None:
    assert GitHubClient("http://127.0.0.1:8080/api/v3/").api_url == "http://127.0.0.1:8080/api/v3"


# --- the API version -------------------------------------------------------------------------------


def test_an_unknown_api_version_is_dropped_for_good() -> None:
    made = wire(Answer(400, message("Unsupported version '2022-11-28'")), Answer(), Answer())
    made.client.get("/meta")
    made.client.get("/zen")
    assert [made.script.header(index, "x-github-api-version") for index in range(3)] == [
        "2022-11-28",
        None,
        None,
    ]


def test_another_400_is_an_error_at_once() -> None:
    made = wire(Answer(400, message("Problems parsing JSON")))
    with pytest.raises(UnavailableError, match="400 Problems parsing JSON"):
        made.client.get("/meta")


# --- lost answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [Answer(500), Answer(502, b"<html>Bad Gateway</html>"), Answer(408), REFUSED]
)
@pytest.mark.parametrize("method", ["get", "put", "delete"])
def test_a_lost_answer_is_asked_for_again(method: str, loss: Answer | Exception) -> None:
    made = wire(loss, loss, Answer(body={"ok": True}))
    assert getattr(made.client, method)("/orgs/acme/actions/runners/1").json() == {"ok": True}
    assert len(made.clock.slept) == 2
    assert 1.0 <= made.clock.slept[0] <= 1.5
    assert 2.0 <= made.clock.slept[1] <= 3.0


def test_it_gives_up_after_four_retries() -> None:
    made = wire(*[Answer(502, b"<html><body>Unicorn!</body></html>") for _ in range(5)])
    with pytest.raises(UnavailableError, match="GitHub answered 502") as error:
        made.client.get(RUNNERS)
    assert "<html>" not in str(error.value)
    assert len(made.client.calls) == 5


@pytest.mark.parametrize("loss", [Answer(500), REFUSED])
def test_a_post_is_not_repeated_blindly(loss: Answer | Exception) -> None:
    """A lost answer to generate-jitconfig leaves a record behind: whoever asked must look first."""
    made = wire(loss)
    with pytest.raises(UnavailableError):
        made.client.post(f"{RUNNERS}/generate-jitconfig", {"name": "x"})
    assert len(made.script.sent) == 1


def test_a_token_post_is_repeated() -> None:
    made = wire(Answer(500), REFUSED, Answer(201, {"token": "t"}))
    assert made.client.post(f"{RUNNERS}/registration-token", repeatable=True).status == 201


@pytest.mark.parametrize("status", [404, 409, 410, 422])
def test_a_refusal_is_not_repeated(status: int) -> None:
    made = wire(Answer(status, message("no")))
    with pytest.raises(RunnerctlError):
        made.client.get(RUNNERS)
    assert made.clock.slept == []


def test_a_certificate_that_fails_is_not_repeated() -> None:
    made = wire(requests.exceptions.SSLError("certificate verify failed: self-signed certificate"))
    with pytest.raises(UnavailableError, match=r"TLS failed.*check the clock, the CA bundle"):
        made.client.get("/meta")


def test_a_name_that_does_not_resolve_is_said_so() -> None:
    pool: Any = None
    cause = urllib3.exceptions.NameResolutionError("api.github.com", pool, socket.gaierror(-2))
    error = requests.ConnectionError(urllib3.exceptions.MaxRetryError(pool, "/x", cause))
    made = wire(*[error] * 5)
    with pytest.raises(UnavailableError, match="the name does not resolve; check the connection"):
        made.client.get("/meta")
    assert made.client.calls[-1] == Call("GET", "/meta", 0)


def test_a_body_that_drips_meets_the_deadline() -> None:
    """Each piece is within the read timeout; the whole is not within the call's."""
    made = wire(Answer(body=b"x" * 1000, seconds=10.0))
    with pytest.raises(UnavailableError, match="took too long"):
        made.client.get("/meta")
    assert made.clock.seconds - 1000.0 < 120


def test_a_slow_body_within_the_deadline_is_read() -> None:
    made = wire(Answer(body=b'"0123456789abcdef"', seconds=5.0))
    assert made.client.get("/meta").json() == "0123456789abcdef"


def test_retries_end_with_the_deadline() -> None:
    made = wire(*[Answer(500)] * 5, deadline_seconds=4.0)
    with pytest.raises(UnavailableError):
        made.client.get("/meta")
    assert sum(made.clock.slept) < 4.0
    assert made.script.timeouts[-1][1] < 4.0


def test_an_answer_without_end_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnerctl.github.transport.MAX_BODY_BYTES", 100)
    made = wire(Answer(body=b"x" * 101))
    with pytest.raises(UnavailableError, match="larger than 100 bytes"):
        made.client.get("/meta")


def test_a_success_that_is_no_json_is_one_line() -> None:
    made = wire(Answer(200, b"<html>Log in to the proxy</html>"))
    with pytest.raises(DataError, match="no proxy answers in its place"):
        made.client.get("/meta").json()


# --- absent, gone, refused -------------------------------------------------------------------------


def test_404_on_delete_is_success() -> None:
    assert wire(Answer(404, message("Not Found"))).client.delete(f"{RUNNERS}/1").status == 404


def test_404_says_absent_or_no_permission() -> None:
    made = wire(Answer(404, message("Not Found")))
    with pytest.raises(AccessError, match="absent or no permission") as error:
        made.client.get(RUNNERS)
    assert "'admin:org'" in str(error.value)


def test_an_accepted_status_is_an_answer() -> None:
    assert wire(Answer(404)).client.get(RUNNERS, accept=(404,)).status == 404


def test_422_shows_what_github_says_of_each_error() -> None:
    body = {"message": "Validation Failed", "errors": [{"field": "name", "code": "invalid"}, "too long"]}
    made = wire(Answer(422, body))
    with pytest.raises(DataError, match="422 Validation Failed: name invalid: too long"):
        made.client.put(RUNNERS, {})


def test_github_s_words_cannot_write_to_the_terminal_or_show_a_secret() -> None:
    made = wire(Answer(422, message(f"\x1b[31mbad\x07\n{SECRET} " + "x" * 1000)))
    with pytest.raises(DataError) as error:
        made.client.put(RUNNERS, {})
    text = str(error.value)
    assert text.isprintable()
    assert SECRET not in text
    assert len(text) < 600


# --- redirects -------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_get_follows_on_the_same_host(status: int) -> None:
    made = wire(Answer(status, None, {"Location": "/repositories/7/actions/runners"}), Answer(body=[]))
    made.client.get("/repos/acme/old/actions/runners")
    assert made.script.sent[1].url == "https://api.github.com/repositories/7/actions/runners"
    assert made.script.header(1, "authorization") == f"Bearer {SECRET}"


@pytest.mark.parametrize(
    "target",
    [
        "https://evil.example/x",
        "http://api.github.com/x",
        "https://api.github.com:8443/x",
        "//evil.example/x",
        "https://api.github.com@evil.example/",
    ],
)
@pytest.mark.parametrize("method", ["get", "post"])
def test_no_redirect_to_another_address(method: str, target: str) -> None:
    made = wire(Answer(307, None, {"Location": target}))
    with pytest.raises(UnavailableError, match="another address"):
        getattr(made.client, method)("/meta")
    assert len(made.script.sent) == 1


@pytest.mark.parametrize("status", [307, 308])
def test_a_post_keeps_its_method_and_body(status: int) -> None:
    made = wire(Answer(status, None, {"Location": "https://api.github.com/repositories/7/x"}), Answer(201))
    made.client.post("/repos/acme/old/x", {"a": 1})
    assert (made.script.sent[1].method, made.script.sent[1].body) == ("POST", b'{"a":1}')


@pytest.mark.parametrize("status", [301, 302, 303])
def test_a_post_does_not_become_something_else(status: int) -> None:
    made = wire(Answer(status, None, {"Location": "https://api.github.com/repositories/7/x"}))
    with pytest.raises(UnavailableError, match="was renamed"):
        made.client.post("/repos/acme/old/x", repeatable=True)
    assert len(made.script.sent) == 1


def test_redirects_end() -> None:
    made = wire(*[Answer(302, None, {"Location": f"/{step}"}) for step in range(6)])
    with pytest.raises(UnavailableError, match="more than 5 redirects"):
        made.client.get("/meta")


# --- conditional requests and bulk writes ----------------------------------------------------------


def test_a_second_get_is_conditional() -> None:
    made = wire(
        Answer(body=[1], headers={"ETag": '"a"'}), Answer(304), Answer(body=[2], headers={"ETag": '"b"'})
    )
    assert [made.client.get("/meta").json() for _ in range(3)] == [[1], [1], [2]]
    assert made.script.header(0, "if-none-match") is None
    assert made.script.header(1, "if-none-match") == '"a"'
    assert [call.status for call in made.client.calls] == [200, 304, 200]


def test_many_writes_are_spaced_and_few_are_not() -> None:
    made = wire(*[Answer(204) for _ in range(22)])
    for number in range(22):
        made.client.delete(f"{RUNNERS}/{number}")
    assert made.clock.slept == [1.0, 1.0]
