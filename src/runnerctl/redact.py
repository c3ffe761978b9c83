"""Take secrets out of text before it is logged or shown.

Two nets: values known at run time (``register_secret``), and the shapes that GitHub documents for its
tokens and that its runner uses. What only looks random stays: check sums, UUIDs and commit ids are needed.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    _StreamHandler = logging.StreamHandler[TextIO]
else:
    _StreamHandler = logging.StreamHandler

__all__ = ["MASK", "RedactFilter", "guard_http_logs", "redact", "register_secret", "show_http_logs"]

MASK = "***"
_MIN_LENGTH = 8  # a shorter value would mask ordinary words
_FORMATTER = logging.Formatter()
_known: set[str] = set()
# Whoever turns debugging on in a process of ours gets these; a filter does not reach a logger's children.
_HTTP_LOGGERS = (
    "requests",
    "urllib3",
    "urllib3.connection",
    "urllib3.connectionpool",
    "urllib3.poolmanager",
    "urllib3.util.retry",
)

# Every repetition that may fail is bounded: a job writes what we read, and must not make it slow.
_NAME = (
    r"[\w.-]{0,64}"
    r"(?:token|secret|passw(?:or)?d|jit_?config|api[_-]?key|private[_-]?key|authorization_request)"
)
_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    # A private key, also cut off or with its line ends written as \n.
    (
        re.compile(
            r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        f"-----BEGIN PRIVATE KEY----- {MASK} -----END PRIVATE KEY-----",
    ),
    # The header, in a dump of headers, a curl line or a dict's repr; its scheme may stay.
    (
        re.compile(
            r"(?i)((?:proxy-)?authorization[\"']?\s*[:=]\s*[\"']?(?:(?:bearer|token|basic|remoteauth)\s+)?)"
            r"[^\s\"',]+"
        ),
        rf"\1{MASK}",
    ),
    (re.compile(r"(?i)\b(bearer|remoteauth)(\s+)[A-Za-z0-9._~+/=-]{8,}"), rf"\1\2{MASK}"),
    # name=value in a query, an environment or an inventory; "name": "value" in JSON; --name VALUE in argv.
    (re.compile(rf"(?i)\b({_NAME}\s?=\s?)(\"[^\"]*\"|'[^']*'|[^\s&\"',;]+)"), rf"\1{MASK}"),
    (re.compile(rf"(?i)([\"']{_NAME}[\"']\s*:\s*)(\"[^\"]*\"|'[^']*')"), rf'\1"{MASK}"'),
    (
        re.compile(r"(?i)(--(?:token|pat|jitconfig|password|windowslogonpassword)\s+)[^\s-]\S{7,}"),
        rf"\1{MASK}",
    ),
    # user:password@ of a URL.
    (re.compile(r"(?i)(\b[a-z][a-z0-9+.-]{0,20}://[^\s/@:]*:)[^\s/@]+@"), rf"\1{MASK}@"),
    # GitHub's tokens by prefix.
    (re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9_.-]{10,}|github_pat_[A-Za-z0-9_]{10,})"), MASK),
    # A JWT, or a JIT configuration: base64 of a JSON object ("eyI" when its first key begins with a dot).
    (re.compile(r"\bey[IJ][A-Za-z0-9_-]{6,2000}\.[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]*)?"), MASK),
    (re.compile(r"\b(?:ey[IJ]|ewo|ew0K)[A-Za-z0-9+/_-]{40,}={0,2}"), MASK),
    # A registration or remove token: 29 upper-case letters and digits (GitHub's schema example).
    (re.compile(r"(?<![\w-])(?=[0-9]*[A-Z])[A-Z0-9]{29}(?![\w-])"), MASK),
)


def register_secret(value: str) -> None:
    """Mask ``value`` from now on in this process. Anything under 8 characters is ignored."""
    if len(value.strip()) >= _MIN_LENGTH:
        _known.add(value.strip())


def redact(text: str) -> str:
    """``text`` with every known secret and every secret shape replaced by ``***``."""
    for value in sorted(_known, key=len, reverse=True):
        text = text.replace(value, MASK)
    for shape, mask in _SHAPES:
        text = shape.sub(mask, text)
    return text


class RedactFilter(logging.Filter):
    """Put it on a handler: message, exception and stack of every record pass through ``redact``."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrite the record in place and let it pass."""
        record.msg = redact(record.getMessage())
        record.args = ()
        if record.exc_info and not record.exc_text:
            record.exc_text = _FORMATTER.formatException(record.exc_info)
        if record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


def guard_http_logs() -> None:
    """Let no record of the HTTP libraries pass unredacted, whoever shows it. Good to call more than once."""
    for name in _HTTP_LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(item, RedactFilter) for item in logger.filters):
            logger.addFilter(RedactFilter())


def show_http_logs(stream: TextIO | None = None) -> None:
    """Show what the HTTP libraries log, redacted, on ``stream`` (the process's stderr): once a process."""
    guard_http_logs()
    logger = logging.getLogger("urllib3")
    if any(isinstance(item, _HttpHandler) for item in logger.handlers):
        return
    handler = _HttpHandler(stream)
    handler.addFilter(RedactFilter())
    handler.setFormatter(logging.Formatter("runnerctl: debug: %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False


class _HttpHandler(_StreamHandler):
    """Ours, to be told from others."""
