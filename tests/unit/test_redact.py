"""Secrets go, by every shape they have; sums, ids and plain words stay."""

from __future__ import annotations

import base64
import io
import json
import logging

import pytest

from runnerctl.redact import RedactFilter, redact, register_secret

REGISTRATION = "LLBF3JGZDX3P5PMEXLND6TS6FCWO6"
JWT = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiIxMjMifQ.c2lnbmF0dXJl-_x"
JIT = base64.b64encode(json.dumps({".runner": "x" * 90}).encode()).decode()
JIT_INDENTED = base64.b64encode(json.dumps({".runner": "x" * 90}, indent=2).encode()).decode()
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nq8Zk1==\n-----END RSA PRIVATE KEY-----"
CLASSIC = "ghp_" + "a1B2" * 9
FINE = "github_pat_11AAAAAAA0" + "b" * 60

SECRETS = [
    (f"using {CLASSIC}.", CLASSIC),
    *[(f"x {prefix}_{'a1B2' * 5} y", "a1B2" * 5) for prefix in ("gho", "ghu", "ghs", "ghr")],
    ("new style ghs_12345_eyJhbGciOi.abc-def", "eyJhbGciOi.abc-def"),
    (FINE, FINE),
    (f"jwt={JWT}", JWT),
    (f"signed {JWT}", JWT),
    (f"token is {REGISTRATION}", REGISTRATION),
    (f"({REGISTRATION})", REGISTRATION),
    (f"blob {JIT}", JIT),
    (f"blob {JIT_INDENTED}", JIT_INDENTED.rstrip("=")),
    ("Authorization: Bearer abc.def", "abc.def"),
    ("authorization: RemoteAuth abc", "abc"),
    ("{'Authorization': 'token abc123'}", "abc123"),
    ('-H "Authorization: Basic dXNlcjpwYXNz"', "dXNlcjpwYXNz"),
    ("sent Bearer abcdefgh12", "abcdefgh12"),
    ("ACTIONS_RUNNER_INPUT_TOKEN=qwerty", "qwerty"),
    ("GH_TOKEN='qwerty asdf'", "asdf"),
    ("https://x/y?a=1&token=qwerty&b=2", "qwerty"),
    ("password = qwerty", "qwerty"),
    ("encoded_jit_config=qwerty", "qwerty"),
    ('{"token": "qwerty"}', "qwerty"),
    ('{"temp_download_token":"qwerty", "x": 1}', "qwerty"),
    ("config.sh --token qwerty123 --name x", "qwerty123"),
    ("run --jitconfig qwerty123", "qwerty123"),
    ("https://mona:qwerty@proxy:3128/", "qwerty"),
    (f"key:\n{KEY}\nrest", "q8Zk1"),
    (KEY.replace("\n", "\\n"), "q8Zk1"),
    (KEY[:50], "MIIEow"),
]

HARMLESS = [
    "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "SHA-256 9F86D081884C7D659A2FEAA0C55AD015A3BF4F1B2B0B822CD15D6C15B0F00A08",
    "GPU-6f1a2b3c-4d5e-6f70-8192-a3b4c5d6e7f8",
    "MIG-6F1A2B3C-4D5E-6F70-8192-A3B4C5D6E7F8",
    "commit 258d6c8570a1b2c3d4e5f60718293a4b5c6d7e8f",
    "ACTIONS_RUNNER_INPUT_TOKEN is unset",
    "GITHUB_ACTIONS_RUNNER_SERVICE_TEMPLATE",
    "the token is expired or revoked",
    "cannot mint a registration token: GitHub answered 403",
    "RUNNERCTL_TOKEN_FILE=/etc/runnerctl/token",
    "it needs 'Self-hosted runners: write'",
    "https://github.com/acme/widgets",
    "http://127.0.0.1:8080/api/v3",
    "12345678901234567890123456789",
    "actions-runner-linux-x64-2.336.0.tar.gz",
    "box.example.org-gpu0 eyJhbGci",
    "option --token needs a value",
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_a_secret_is_masked(text: str, secret: str) -> None:
    assert secret in text
    clean = redact(text)
    assert secret not in clean
    assert "***" in clean


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redact(text) == text


def test_what_surrounds_a_secret_stays() -> None:
    assert redact("GET /x?token=qwerty&b=2 -> 200") == "GET /x?token=***&b=2 -> 200"
    assert redact("Authorization: Bearer abc, next: 1") == "Authorization: Bearer ***, next: 1"
    assert redact(f"a\n{KEY}\nb").startswith("a\n-----BEGIN PRIVATE KEY----- ***")
    assert redact(f"a\n{KEY}\nb").endswith("\nb")


def test_masking_twice_is_masking_once() -> None:
    for text, _ in SECRETS:
        assert redact(redact(text)) == redact(text)


def test_a_known_value_is_masked_everywhere() -> None:
    register_secret("  correct horse battery ")
    assert redact("a correct horse battery staple") == "a *** staple"


def test_a_short_value_is_not_registered() -> None:
    register_secret("a")
    register_secret("")
    assert redact("a banana") == "a banana"


def test_the_filter_cleans_message_arguments_and_exception() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.addFilter(RedactFilter())
    logger = logging.Logger("redact")
    logger.addHandler(handler)
    try:
        raise ValueError(f"bad {CLASSIC}")
    except ValueError:
        logger.exception("token %s of %d", FINE, 5, stack_info=True)
    shown = stream.getvalue()
    assert CLASSIC not in shown
    assert FINE not in shown
    assert "token *** of 5" in shown
    assert "ValueError: bad ***" in shown


@pytest.mark.exhaustive
@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "piece", ["a.", "a-", "eyJaaaaaaa-", "token", "http", "x://a:", "A1", "-----BEGIN ", "'\"="]
)
def test_text_made_to_be_slow_is_not(piece: str) -> None:
    """A log line of a job may be anything; masking stays linear."""
    redact(piece * (200_000 // len(piece)))
