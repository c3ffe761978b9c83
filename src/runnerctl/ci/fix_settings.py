"""Set a value of coverage or pytest in the file that holds them; comments and layout stay."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

__all__ = ["with_settings"]

_Wanted = Iterable[tuple[str, str, str]]


def with_settings(file: str, text: str, wanted: _Wanted) -> str:
    """``text`` of ``file`` with each (section, key, value). Sections are ``run`` (coverage) and ``pytest``.

    A list gets the value as one more item. Of an ini file only coverage's part is edited.
    """
    if not file.endswith(".toml"):
        return _ini(file, text, wanted)
    plain = text.replace("\r\n", "\n")
    after = _toml(plain, wanted)  # tomlkit ends what it adds with a line feed alone
    return after.replace("\n", "\r\n") if plain != text else after


def _toml(text: str, wanted: _Wanted) -> str:
    import tomlkit

    document = tomlkit.parse(text)
    for section, key, value in wanted:
        path = ("tool", "coverage", "run") if section == "run" else ("tool", "pytest", "ini_options")
        table: Any = document
        for depth, name in enumerate(path):
            if name not in table:
                # the tables above have no line of their own
                table[name] = tomlkit.table(is_super_table=depth < len(path) - 1)
            table = table[name]
        _set(table, key, value)
    return tomlkit.dumps(document)


def _set(table: Any, key: str, value: str) -> None:
    old = table.get(key)
    if isinstance(old, list):
        old.append(value)
    elif key == "addopts" and isinstance(old, str):
        table[key] = f"{old} {value}".strip()
    elif key in ("concurrency", "markers"):
        others = re.split(r"[,\s]+", old) if isinstance(old, str) and key == "concurrency" else []
        table[key] = [*filter(None, others), value]
    else:
        table[key] = True if value == "true" else value


def _ini(file: str, text: str, wanted: _Wanted) -> str:
    header = "[run]" if file == ".coveragerc" else "[coverage:run]"
    newline = "\r\n" if "\r\n" in text else "\n"
    lines = text.split(newline)
    for section, key, value in wanted:
        if section == "run":
            lines = _ini_set(lines, header, key, value)
    return newline.join(lines)


def _ini_set(lines: list[str], header: str, key: str, value: str) -> list[str]:
    start = next((at for at, line in enumerate(lines) if line.strip() == header), None)
    if start is None:
        kept = lines[:-1] if lines and lines[-1] == "" else lines
        return [*kept, *([""] if kept else []), header, f"{key} = {value}", ""]
    end = next((at for at in range(start + 1, len(lines)) if lines[at].startswith("[")), len(lines))
    for at in range(start + 1, end):
        match = re.match(rf"{re.escape(key)}\s*[=:]\s*(.*)$", lines[at])
        if match and key == "concurrency" and match[1]:
            return [*lines[:at], f"{lines[at].rstrip()},{value}", *lines[at + 1 :]]
        if match and match[1]:
            return [*lines[:at], f"{key} = {value}", *lines[at + 1 :]]
        if match:  # a list on lines of its own
            return [*lines[: at + 1], f"    {value}", *lines[at + 1 :]]
    return [*lines[: start + 1], f"{key} = {value}", *lines[start + 1 :]]
