"""Settings of tools, wherever a project keeps them: what TOML and INI files can be asked and told."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Config", "is_true"]


class Config(Protocol):
    """One file's settings; ``where`` names the file. Nothing is written to disk."""

    where: str

    def text(self, section: str, key: str) -> str | None:
        """A value as text (a truth value as ``true`` or ``false``); None when it is not set."""

    def items(self, section: str, key: str) -> list[str]:
        """A value as a list; nothing when it is not set."""

    def is_list(self, section: str, key: str) -> bool:
        """Whether a value is written as a list, in a format that knows lists."""

    def put(self, section: str, key: str, value: bool | float | str | list[str]) -> None:
        """Set a value, whatever it was."""

    def extend(self, section: str, key: str, more: list[str]) -> None:
        """Add items to a list, which keeps what it has."""

    def render(self) -> str:
        """The file's new text. Raises DataError when it would not hold what was set."""


def is_true(text: str | None) -> bool:
    """Whether a setting is on, as both formats' readers see it."""
    return text is not None and text.strip().lower() in ("true", "1", "yes", "on")
