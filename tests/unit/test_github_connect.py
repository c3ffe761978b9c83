"""Settings of a client that come from an environment: patience, CA bundle, debugging."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pytest
import requests

from runnerctl.errors import ConfigError
from runnerctl.github.connect import Connector, max_wait_seconds
from runnerctl.github.trust import BUNDLES, proxy_of, tls_context
from runnerctl.redact import RedactFilter, guard_http_logs, show_http_logs
from tests.unit.github_answers import SECRET, wire


def test_the_wait_is_the_options_the_environments_or_five_minutes() -> None:
    assert max_wait_seconds({}) == 300.0
    assert max_wait_seconds({"RUNNERCTL_MAX_WAIT_SECONDS": " 20 "}) == 20.0
    assert max_wait_seconds({"RUNNERCTL_MAX_WAIT_SECONDS": "20"}, given="0") == 0.0


@pytest.mark.parametrize("text", ["-1", "soon", "nan", "inf", "86401", "1e9"])
def test_a_wait_that_is_none_is_one_clear_error(text: str) -> None:
    with pytest.raises(ConfigError, match=f"RUNNERCTL_MAX_WAIT_SECONDS: '{text}' is no number of seconds"):
        Connector({"RUNNERCTL_MAX_WAIT_SECONDS": text}, "http://127.0.0.1")
    with pytest.raises(ConfigError, match="--max-wait"):
        max_wait_seconds({}, given=text)


@pytest.mark.parametrize("name", BUNDLES)
def test_a_bundle_that_cannot_be_read_names_its_variable(tmp_path: Path, name: str) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("no certificate")
    for given, reason in ((tmp_path / "absent.pem", "No such file"), (empty, "no certificate in PEM form")):
        with pytest.raises(ConfigError, match=reason) as error:
            tls_context({name: str(given)})
        assert name in str(error.value)


def test_the_bundles_have_an_order(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="RUNNERCTL_CA_BUNDLE"):
        tls_context(dict.fromkeys(reversed(BUNDLES), str(tmp_path / "absent")))


def test_without_a_bundle_it_is_the_systems_store() -> None:
    assert tls_context({}).verify_mode.name == "CERT_REQUIRED"


def test_a_proxy_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", "ghes.example")
    assert proxy_of("https://api.github.com/x") == "proxy.example:3128"
    assert proxy_of("https://ghes.example/api/v3") == ""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (requests.exceptions.ProxyError("refused"), "the proxy proxy.example:3128 did not answer"),
        (
            requests.exceptions.ProxyError("Tunnel connection failed: 407 Proxy Authentication Required"),
            "the proxy proxy.example:3128 refused the connection (407 Proxy Authentication Required",
        ),
        (requests.exceptions.ReadTimeout(), "no answer within 30 s through the proxy proxy.example:3128"),
    ],
)
def test_an_error_behind_a_proxy_names_it(
    monkeypatch: pytest.MonkeyPatch, error: Exception, expected: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:secret@proxy.example:3128")
    made = wire(*[error] * 5)
    with pytest.raises(Exception, match="cannot GET /meta") as raised:
        made.client.get("/meta")
    assert expected in str(raised.value)
    assert "secret" not in str(raised.value)


def test_the_http_libraries_log_no_secret_whoever_listens() -> None:
    """A handler of somebody else's, without our filter."""
    stream = io.StringIO()
    foreign = logging.StreamHandler(stream)
    guard_http_logs()
    guard_http_logs()
    logger = logging.getLogger("urllib3.connectionpool")
    assert sum(isinstance(item, RedactFilter) for item in logger.filters) == 1
    logger.addHandler(foreign)
    before = logger.level
    logger.setLevel(logging.DEBUG)
    try:
        logger.debug('"GET /x?token=%s HTTP/1.1" 200 %s', "qwerty", SECRET)
    finally:
        logger.removeHandler(foreign)
        logger.setLevel(before)
    assert stream.getvalue() == '"GET /x?token=*** HTTP/1.1" 200 ***\n'


def test_debugging_shows_requests_once_and_redacted() -> None:
    stream, parent = io.StringIO(), logging.getLogger("urllib3")
    kept = (list(parent.handlers), parent.level, parent.propagate)
    try:
        show_http_logs(stream)
        show_http_logs(stream)
        logging.getLogger("urllib3.connectionpool").debug("Authorization: Bearer %s", SECRET)
    finally:
        parent.handlers, parent.propagate = kept[0], kept[2]
        parent.setLevel(kept[1])
    assert stream.getvalue() == "runnerctl: debug: Authorization: Bearer ***\n"
