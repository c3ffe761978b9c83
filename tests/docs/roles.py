"""One page a role, from its argument_specs, and an index of every variable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import yaml

from runnerctl.core.spec import SECTIONS
from tests.docs.markup import cell, paragraphs, table

__all__ = ["role_pages"]

ROLES = Path(__file__).resolve().parents[2] / "roles"

HEAD = """\
# Roles and variables

In the order in which `provision` runs them.

"""
VARIABLES = """
## Every variable

A variable that begins with the name of a role and is none of these is refused, with the name you probably
meant.

"""
END = """
Run this role alone with `--tags {role}`. In `host.json` a variable is the field of the same name in section
`{role}`, without the prefix. [All roles](README.md)
"""


def role_pages() -> dict[str, str]:
    """``roles/<name>.md`` for each role, in the order of the play, and an index."""
    mains = {role: _main(role) for role in SECTIONS}
    found = {f"roles/{role}.md": _page(role, main) for role, main in mains.items()}
    return {**found, "roles/README.md": _index(mains)}


def _main(role: str) -> dict[str, Any]:
    text = (ROLES / role / "meta" / "argument_specs.yml").read_text()
    main: dict[str, Any] = yaml.safe_load(text)["argument_specs"]["main"]
    return main


def _page(role: str, main: dict[str, Any]) -> str:
    parts = [f"# Role {role}\n\n{main['short_description']}.\n\n{paragraphs(main['description'])}\n\n"]
    parts += ["## Variables\n\n", _options(main["options"])]
    for name, option in main["options"].items():
        if "options" in option:
            parts += [f"\n## An entry of {name}\n\n", _options(option["options"])]
    return "".join([*parts, END.format(role=role)])


def _options(options: dict[str, Any]) -> str:
    rows = [
        [f"`{name}`", _type(option), _default(option), cell(option["description"]) + _choices(option)]
        for name, option in options.items()
    ]
    return table(["variable", "type", "default", "meaning"], rows)


def _type(option: dict[str, Any]) -> str:
    kind = str(option.get("type", "str"))
    return f"{kind} of {option['elements']}" if "elements" in option else kind


def _default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    value = option.get("default")
    return "none" if value is None else f"`{msgspec.json.encode(value).decode()}`".replace("|", "\\|")


def _choices(option: dict[str, Any]) -> str:
    choices = ", ".join(f"`{choice}`" for choice in option.get("choices", ()))
    return f" One of {choices}." if choices else ""


def _index(mains: dict[str, dict[str, Any]]) -> str:
    rows = [[f"[{role}]({role}.md)", main["short_description"]] for role, main in mains.items()]
    variables = [
        [f"[`{name}`]({role}.md)", cell(option["description"])]
        for role, main in mains.items()
        for name, option in sorted(main["options"].items())
    ]
    parts = [HEAD, table(["role", "what it is about"], rows)]
    return "".join([*parts, VARIABLES, table(["variable", "meaning"], variables)])
