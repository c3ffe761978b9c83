"""Which channels may be named: none that needs a licence, none with a secret in its address."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

__all__ = ["channel_fault", "has_credentials", "plain_url"]

# Names that conda's own configuration maps to repo.anaconda.com, and the channel that mirrors them
# (https://www.anaconda.com/legal: organisations of more than 200 people need a licence for these).
LICENSED_NAMES = {"defaults", "main", "r", "msys2", "free", "pro", "anaconda"}
LICENSED_HOSTS = ("repo.anaconda.com", "repo.continuum.io", "anaconda.com", "www.anaconda.com")
HOSTED = "conda.anaconda.org"
SCHEMES = ("https", "http", "file")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_.+-]+)*/?")
_SECRET_QUERY = re.compile(r"(?i)(token|key|secret|passw|auth|sig)")
LICENCE = "is Anaconda's own channel, whose terms ask organisations for a paid licence"
LICENCE_REMEDY = "name conda-forge instead"
SECRET = "has a credential in its address"
SECRET_REMEDY = (
    "write the address without it; the store's own credentials file has it (conda_store_credentials_file)"
)


def channel_fault(text: str) -> tuple[str, str] | None:
    """What is wrong with a channel as it is written, and what to do; None when it may be used.

    The text of a channel with a credential is not repeated.
    """
    if has_credentials(text):
        return f"a channel {SECRET}", SECRET_REMEDY
    if is_licensed(text):
        return f"the channel {text!r} {LICENCE}", LICENCE_REMEDY
    if "://" in text:
        return _url_fault(text)
    if text.startswith((".", "/", "~", "\\")):
        return (
            f"the channel {text!r} is a path",
            "give a channel's name or its URL (file:///... for a directory)",
        )
    if _NAME.fullmatch(text) is None or ".." in text.split("/"):
        return f"{text[:80]!r} is no channel's name", "write a name such as conda-forge, or a URL"
    return None


def _url_fault(text: str) -> tuple[str, str] | None:
    try:
        parts = urlsplit(text)
        bad = parts.scheme not in SCHEMES or (parts.scheme != "file" and not parts.hostname)
        _ = parts.port
    except ValueError:
        bad = True
    else:
        bad = bad or ".." in parts.path.split("/")
    if bad or re.search(r"[\s\"'<>\\^`{|}]", text):
        return f"{text[:80]!r} is no channel's URL", "write https://HOST/PATH"
    if parts.query or parts.fragment:
        return f"the channel {text[:80]!r} has a query", "write the address without it"
    return None


def has_credentials(text: str) -> bool:
    """Whether a URL has a user, a password or a token in it."""
    if re.search(r"(^|/)t/[^/]", text.split("?")[0].partition("://")[2] or text):
        return True
    if "://" not in text:
        return bool(re.search(r"^[^/\s]*:[^/\s]*@", text))
    rest = text.split("://", 1)[1]
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    query = rest.partition("?")[2]
    return "@" in authority or bool(_SECRET_QUERY.search(query)) or "${" in text


def is_licensed(text: str) -> bool:
    """Whether a name or a URL is one of the channels that Anaconda asks a licence for."""
    if "://" not in text:
        name = text.strip("/").lower()
        return name in LICENSED_NAMES or name.startswith("pkgs/")
    try:
        parts = urlsplit(text)
        host = (parts.hostname or "").lower().rstrip(".")
    except ValueError:
        return False
    if host == HOSTED:
        path = parts.path.strip("/").lower()
        return path.split("/")[0] in LICENSED_NAMES or path.startswith("pkgs/")
    return host in LICENSED_HOSTS


def plain_url(text: str) -> str:
    """A channel's name or URL in one form: no slash at its end, scheme and host in lower case."""
    text = text.rstrip("/")
    if "://" not in text:
        return text
    scheme, _, rest = text.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme.lower()}://{host.lower()}{slash}{path}"
