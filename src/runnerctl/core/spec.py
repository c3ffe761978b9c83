"""What a host should be: the *spec*, read from inventory and kept as ``/etc/runnerctl/host.json``.

Field ``version`` of section ``conda`` **is** the variable ``conda_version``: that one law maps inventory to
the spec, lets a test compare spec, argument_specs and defaults, and rejects misspelt variables.
Secrets are never part of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from runnerctl.core.rules import broken_rules, duplicate_runner_names
from runnerctl.core.sections import (
    SCHEMA,
    SECTIONS,
    SLOT_NAME,
    Conda,
    ContainerToolkit,
    GithubRunner,
    HostSpec,
    NvidiaDriver,
    Problem,
    Runnerctl,
    Slot,
)

__all__ = [
    "SCHEMA",
    "SECTIONS",
    "SLOT_NAME",
    "Conda",
    "ContainerToolkit",
    "GithubRunner",
    "HostSpec",
    "NvidiaDriver",
    "Problem",
    "Runnerctl",
    "Slot",
    "duplicate_runner_names",
    "host_spec",
    "variables",
]


def variables() -> dict[str, tuple[str, str]]:
    """Every public variable -> (section, field)."""
    return {
        f"{section}_{field.name}": (section, field.name)
        for section, struct in SECTIONS.items()
        for field in msgspec.structs.fields(struct)
    }


def host_spec(host: str, values: Mapping[str, Any]) -> tuple[HostSpec | None, list[Problem]]:
    """Build the spec of ``host`` from variables; other variables than ours are ignored.

    Shapes: ``values`` holds plain data (str, int, bool, list, dict). Returns the spec, or None with all
    problems found: a user mends them in one go.
    """
    problems: list[Problem] = []
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    known = variables()
    for variable, value in sorted(values.items()):
        if variable in known:
            section, field = known[variable]
            sections[section][field] = value
        elif owner := _section_of(variable):
            problems.append(_unknown(variable, owner, known))
    built: dict[str, Any] = {}
    for name, fields in sections.items():
        built[name], found = _section(name, fields)
        problems += found
    if problems:
        return None, problems
    spec = HostSpec(host=host, **built)
    problems = list(broken_rules(spec))
    return (None, problems) if problems else (spec, [])


def _section_of(variable: str) -> str | None:
    return next((name for name in SECTIONS if variable.startswith(f"{name}_")), None)


def _unknown(variable: str, section: str, known: Mapping[str, Any]) -> Problem:
    close = difflib.get_close_matches(variable, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"see the reference of role {section}"
    return Problem(variable, "is no variable of this collection", remedy)


def _section(name: str, fields: dict[str, Any]) -> tuple[msgspec.Struct | None, list[Problem]]:
    """Convert a section field by field, so that each wrong one is named."""
    struct = SECTIONS[name]
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    for field in msgspec.structs.fields(struct):
        if field.name not in fields:
            continue
        value = fields[field.name]
        try:
            converted[field.name] = msgspec.convert(_tidy(value), field.type, strict=False)
        except msgspec.ValidationError as error:
            problems.append(_mistyped(f"{name}_{field.name}", value, str(error)))
    return (None, problems) if problems else (struct(**converted), [])


def _tidy(value: Any) -> Any:
    """Ansible gives the text 'None' or '' where a template had nothing to say."""
    return None if isinstance(value, str) and value in ("", "None") else value


def _mistyped(variable: str, value: Any, reason: str) -> Problem:
    where = re.search(r" - at `\$(.*)`", reason)
    text = reason.split(" - at ")[0]
    unknown = re.search(r"unknown field `(.*)`", text)
    if unknown:
        close = difflib.get_close_matches(unknown[1], [f.name for f in msgspec.structs.fields(Slot)], n=1)
        remedy = f"did you mean {close[0]}?" if close else "leave it out"
        return Problem(variable + (where[1] if where else ""), f"has an unknown key {unknown[1]!r}", remedy)
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return Problem(
        variable + (where[1] if where else ""), f"is {shown}: {text}", "give a value of the type expected"
    )
