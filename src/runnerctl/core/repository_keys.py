"""What variables ``*_repository_key`` may hold: an address, a file on the controller, or the key's text."""

from __future__ import annotations

from typing import Literal

from runnerctl.core.sections import Problem
from runnerctl.core.templates import check_template, has_user

__all__ = ["KeyKind", "key_address", "key_kind", "key_problem"]

KeyKind = Literal["address", "text", "file"]
TEXT = "-----BEGIN PGP"


def key_kind(key: str) -> KeyKind:
    """What a key is given as."""
    if key.startswith(("https://", "http://")):
        return "address"
    return "text" if key.lstrip().startswith(TEXT) else "file"


def key_address(key: str | None) -> str | None:
    """The address, when it is one: text and file mean nothing to a host."""
    return key if key and key_kind(key) == "address" else None


def key_problem(variable: str, key: str | None) -> Problem | None:
    """What is wrong with it as far as it stands there; whether a file is a key is seen when it is read."""
    if key is None or key_kind(key) == "text":
        return None
    if has_user(key):
        remedy = "host.json is readable by all: use a file on the controller"
        return Problem(variable, "holds a user or a password", remedy)
    wrong = check_template(key) if key_kind(key) == "address" else None
    if not key.strip() or "\n" in key:
        wrong = "is neither an address, nor a file, nor a key"
    remedy = f"give an address, a file on the controller, or the key's text ({TEXT} ...)"
    return Problem(variable, wrong, remedy) if wrong else None
