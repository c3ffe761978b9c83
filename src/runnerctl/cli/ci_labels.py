"""Which labels the runners of a fleet have, for judging ``runs-on``: from inventory, GitHub, or a file."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from runnerctl.cli.context import Context
from runnerctl.errors import DataError, UsageError

__all__ = ["fleet_labels"]

Fleet = tuple[frozenset[str], ...]


def fleet_labels(
    context: Context,
    *,
    inventory: str | None,
    limit: str | None,
    url: str | None,
    file: str | None,
    api: str | None,
    max_wait: str | None,
) -> Fleet | None:
    """The labels of each runner, lower-cased; None when no source is given.

    Raises UsageError for more than one source, DataError for a file that says none, and what a source does.
    """
    if sum(map(bool, (inventory, url, file))) > 1:
        raise UsageError("give one of --inventory, --url and --labels-from")
    if limit and not inventory:
        raise UsageError("limits an inventory, and none is given", where="--limit", remedy="add -i INVENTORY")
    if inventory:
        return _of_inventory(context, inventory, limit)
    if url:
        return _at_github(context, url, api, max_wait)
    return _in_file(Path(file)) if file else None


def _of_inventory(context: Context, inventory: str, limit: str | None) -> Fleet:
    from runnerctl.cli.listing_places import specs_of
    from runnerctl.core.labels import READ_ONLY

    found = []
    for spec in specs_of(context, inventory, limit):
        for slot in spec.github_runner.slots:
            wanted = {label.lower() for label in spec.slot_labels(slot)}
            found.append(frozenset(wanted | READ_ONLY))  # the architecture is the host's to tell: any will do
    return tuple(found)


def _at_github(context: Context, url: str, api: str | None, max_wait: str | None) -> Fleet:
    from runnerctl.cli.remote import registry, scope_of

    scope = scope_of(context, url)
    if scope is None:
        raise UsageError("names no scope", where="--url")
    at = registry(context, scope, api=api, max_wait=max_wait)
    return tuple(runner.all_labels() for runner in at.runners())


def _in_file(path: Path) -> Fleet:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            "cannot be read", where=str(path), remedy=str(getattr(error, "strerror", ""))
        ) from None
    if text.lstrip()[:1] in ("[", "{"):
        found = tuple(_of_json(path, text))
    else:
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        found = tuple(frozenset(re.split(r"[,\s]+", line.strip("[]").lower())) for line in lines if line)
    if not found:
        raise DataError(
            "names no runner", where=str(path), remedy="write the labels of each runner on a line"
        )
    return found


def _of_json(path: Path, text: str) -> list[frozenset[str]]:
    """A list of runners, or an object with one; a runner is a list, or an object with ``labels``."""
    try:
        data = json.loads(text)
        runners = data.get("runners", ()) if isinstance(data, dict) else data
        return [frozenset(_name(label) for label in _labels(runner)) for runner in runners]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        remedy = "give the output of runnerctl list -o json, or a list of lists of labels"
        raise DataError("is no list of runners", where=str(path), remedy=remedy) from None


def _labels(runner: Any) -> list[Any]:
    found = runner["labels"] if isinstance(runner, dict) else runner
    if not isinstance(found, list):
        raise TypeError("labels are no list")
    return found


def _name(label: Any) -> str:
    name = label["name"] if isinstance(label, dict) else label
    if not isinstance(name, str):
        raise TypeError("a label is no text")
    return name.lower()
