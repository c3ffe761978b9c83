"""Change settings in an INI file (``.coveragerc``, ``setup.cfg``, ``pytest.ini``) by lines. Pure."""

from __future__ import annotations

import configparser
import re

from runnerctl.errors import DataError

__all__ = ["IniConfig"]

_SECTION = re.compile(r"^\[([^\]]+)\]\s*(?:[#;].*)?$")
_KEY = re.compile(r"^([^\s=:#;\[][^=:]*?)\s*[=:]")


class IniConfig:
    """A file of ``[sections]``; ``form`` makes a section's name there, such as ``coverage:{}``."""

    def __init__(self, text: str, where: str, form: str) -> None:
        self.where = where
        self._form = form
        self._lines = text.split("\n")
        self._read()

    def _read(self) -> configparser.RawConfigParser:
        parser = configparser.RawConfigParser()
        try:
            parser.read_string("\n".join(self._lines))
        except configparser.Error as error:
            reason = str(error).replace("'<string>'", "the file")
            raise DataError(
                f"cannot be read: {reason}", where=self.where, remedy="correct the file"
            ) from None
        return parser

    def text(self, section: str, key: str) -> str | None:
        """As `Config.text`."""
        value = self._read().get(self._form.format(section), key, fallback=None)
        return None if value is None else value.strip()

    def items(self, section: str, key: str) -> list[str]:
        """As `Config.items`."""
        text = self.text(section, key) or ""
        parts = text.split("\n") if key == "markers" else re.split(r"[,\n]", text)
        return [part.strip() for part in parts if part.strip()]

    def is_list(self, section: str, key: str) -> bool:
        """As `Config.is_list`: every value is text here."""
        return not isinstance(self.text(section, key), str | None)

    def put(self, section: str, key: str, value: bool | float | str | list[str]) -> None:
        """As `Config.put`."""
        new = self._setting(key, value)
        start, end = self._place(section)
        for at in range(start, end):
            found = _KEY.match(self._lines[at])
            if found and found[1].strip().lower() == key:
                stop = at + 1
                while stop < end and self._lines[stop][:1].isspace() and self._lines[stop].strip():
                    stop += 1
                self._lines[at:stop] = new
                return
        self._lines[end:end] = new

    def extend(self, section: str, key: str, more: list[str]) -> None:
        """As `Config.extend`."""
        self.put(section, key, [*self.items(section, key), *more])

    def _place(self, section: str) -> tuple[int, int]:
        """The lines of a section without the empty ones at its end; it is made where there is none."""
        name = self._form.format(section)
        heads = [(at, found[1]) for at, line in enumerate(self._lines) if (found := _SECTION.match(line))]
        starts = [at for at, head in heads if head == name]
        if not starts:
            while self._lines and not self._lines[-1].strip():
                self._lines.pop()
            self._lines += [*([""] if self._lines else []), f"[{name}]", ""]
            return len(self._lines) - 1, len(self._lines) - 1
        end = min([at for at, _ in heads if at > starts[0]], default=len(self._lines))
        while end > starts[0] + 1 and not self._lines[end - 1].strip():
            end -= 1
        return starts[0] + 1, end

    @staticmethod
    def _setting(key: str, value: bool | float | str | list[str]) -> list[str]:
        if isinstance(value, list):
            return [f"{key} =", *(f"    {item}" for item in value)]
        return [f"{key} = {str(value).lower() if isinstance(value, bool) else value}"]

    def render(self) -> str:
        """As `Config.render`."""
        self._read()
        return "\n".join(self._lines)
