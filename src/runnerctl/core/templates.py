"""Addresses with placeholders, such as ``https://mirror/{version}/runner.tar.gz``."""

from __future__ import annotations

import re

__all__ = ["check_template", "fill", "has_password", "has_user"]

_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_USER = re.compile(r"://[^/@\s]*@")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")


def check_template(text: str, *names: str) -> str | None:
    """What is wrong with an address that may hold ``{name}`` for each of ``names``, or None."""
    if not text.isprintable() or " " in text:
        return "holds a space or a control character"
    if has_user(text):
        return "holds a user or a password"
    unknown = [found for found in _PLACEHOLDER.findall(text) if found not in names]
    rest = _PLACEHOLDER.sub("", text)
    if unknown or "{" in rest or "}" in rest:
        return f"holds a placeholder other than {' and '.join(f'{{{name}}}' for name in names)}"
    return None


def has_password(text: str) -> bool:
    """Whether a text holds an address of the form ``scheme://user:password@host``."""
    return bool(_PASSWORD.search(text))


def has_user(text: str) -> bool:
    """Whether a text holds an address of the form ``scheme://user@host``: GitHub's tokens stand there too."""
    return bool(_USER.search(text))


def fill(text: str, **values: str) -> str:
    """Put the values in place of their placeholders; plain text, no attributes and no format codes."""
    return _PLACEHOLDER.sub(lambda match: values.get(match[1], match[0]), text)
