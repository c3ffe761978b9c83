"""Settings of Docker and of NVIDIA's runtime, merged into what is there. Pure; standard library only."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any

from .errors import HostError

__all__ = [
    "RELOADABLE",
    "RUNTIME",
    "changed_keys",
    "merged_daemon",
    "merged_toml",
    "needs_restart",
    "parse_daemon",
]

RUNTIME = {"args": [], "path": "nvidia-container-runtime"}  # as nvidia-ctk itself writes it
# What dockerd takes over on SIGHUP (dockerd's manual, "Configuration reload behavior").
RELOADABLE = frozenset(
    {
        *("debug", "labels", "live-restore", "max-concurrent-downloads", "max-concurrent-uploads"),
        *("max-download-attempts", "default-runtime", "runtimes", "authorization-plugins"),
        *("insecure-registries", "registry-mirrors", "shutdown-timeout", "features"),
    }
)
INDENT = re.compile(r"^([ \t]+)\"", re.MULTILINE)
TABLE = re.compile(r"^\s*\[\s*([\w.-]+)\s*\]\s*(#.*)?$")


def parse_daemon(text: str, *, where: str) -> dict[str, Any]:
    """The settings in a ``daemon.json``. Raises HostError for what dockerd would not read either."""
    remedy = "mend it, or move it away: it is never overwritten"
    if not text.strip():
        return {}
    try:
        data = json.loads(text, object_pairs_hook=_unique)
    except json.JSONDecodeError as error:
        what = f"is no JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        raise HostError(what, where=where, remedy=remedy) from error
    except ValueError as error:
        raise HostError(str(error), where=where, remedy=remedy) from error
    if not isinstance(data, dict):
        raise HostError("holds no JSON object", where=where, remedy=remedy)
    return data


def merged_daemon(
    text: str, *, wishes: Mapping[str, Any], runtime: bool, cdi: bool, where: str
) -> tuple[str, frozenset[str]]:
    """The file's new text, and the top-level keys that differ.

    Every key of the old one stays, in its place. A runtime named nvidia that is there already stays too;
    ``wishes`` come last and win. ``cdi`` switches on what an Engine from 25 to 28.2 leaves off.
    """
    before = parse_daemon(text, where=where)
    after = copy.deepcopy(before)
    if runtime:
        _table(after, "runtimes", where).setdefault("nvidia", copy.deepcopy(RUNTIME))
    if cdi:
        _table(after, "features", where)["cdi"] = True
    _merge(after, wishes)
    changed = changed_keys(before, after)
    if not changed:
        return text, changed
    found = INDENT.search(text)
    return json.dumps(after, indent=found[1] if found else "  ", ensure_ascii=False) + "\n", changed


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> frozenset[str]:
    """The top-level keys whose values differ."""
    return frozenset(key for key in {*before, *after} if before.get(key) != after.get(key))


def needs_restart(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a running Engine must start anew to take over what differs.

    CDI's device driver is registered when dockerd starts, although ``features`` can be reloaded.
    """
    if changed_keys(before, after) - RELOADABLE:
        return True
    old, new = (
        table if isinstance(table, dict) else {} for table in (before.get("features"), after.get("features"))
    )
    return old.get("cdi") != new.get("cdi")


def merged_toml(text: str, settings: Mapping[str, str]) -> str:
    """``settings`` (``key`` or ``table.key`` -> value as TOML writes it) put in; every other line stays."""
    lines = text.splitlines()
    for name, value in settings.items():
        table, _, key = name.rpartition(".")
        lines = _with_setting(lines, table, key, value)
    return "".join(f"{line}\n" for line in lines)


def _with_setting(lines: list[str], table: str, key: str, value: str) -> list[str]:
    wanted = f"{key} = {value}"
    active = re.compile(rf"^\s*{re.escape(key)}\s*=\s*([^#]*?)\s*(#.*)?$")
    hint = re.compile(rf"^\s*#\s*{re.escape(key)}\s*=")
    start, end = _range(lines, table)
    if start < 0:
        return [*lines, *([""] if lines else []), f"[{table}]", wanted]
    for number in range(start, end):
        found = active.match(lines[number])
        if found:
            return lines if found[1] == value else [*lines[:number], wanted, *lines[number + 1 :]]
    place = next((number + 1 for number in range(start, end) if hint.match(lines[number])), start)
    return [*lines[:place], wanted, *lines[place:]]


def _range(lines: list[str], table: str) -> tuple[int, int]:
    """First and last line (exclusive) of a table; the top level has no header. (-1, -1): no such table."""
    headers = [(number, found[1]) for number, line in enumerate(lines) if (found := TABLE.match(line))]
    if not table:
        return 0, headers[0][0] if headers else len(lines)
    for index, (number, name) in enumerate(headers):
        if name == table:
            following = headers[index + 1 :]
            return number + 1, following[0][0] if following else len(lines)
    return -1, -1


def _table(data: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    found = data.setdefault(key, {})
    if not isinstance(found, dict):
        raise HostError(f"{key!r} is no JSON object", where=where, remedy="mend it: it is never overwritten")
    return found


def _merge(into: dict[str, Any], wishes: Mapping[str, Any]) -> None:
    """Objects are merged, everything else is replaced."""
    for key, value in wishes.items():
        there = into.get(key)
        if isinstance(there, dict) and isinstance(value, Mapping):
            _merge(there, value)
        else:
            into[key] = copy.deepcopy(value)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a key given twice: it is not clear which one is meant."""
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"has key {twice[0]!r} twice")
    return dict(pairs)
