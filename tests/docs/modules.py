"""One page a module, from the documentation that ansible-doc shows."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import yaml

from tests.docs.markup import cell, paragraphs, plain, table

__all__ = ["module_pages"]

MODULES = Path(__file__).resolve().parents[2] / "plugins" / "modules"
NAME = "runnerctl.gpu_runner"

HEAD = f"""\
# Modules of {NAME}

The roles and playbooks use them; `ansible-doc {NAME}.NAME` shows the same text.

"""


def module_pages() -> dict[str, str]:
    """``modules/<name>.md`` for each module, and an index."""
    texts = {path.stem: _texts(path) for path in sorted(MODULES.glob("*.py"))}
    found = {f"modules/{name}.md": _page(name, each) for name, each in texts.items()}
    return {**found, **_index(texts)}


def _texts(path: Path) -> dict[str, str]:
    """DOCUMENTATION, EXAMPLES and RETURN of a module, without importing it."""
    return {
        target.id: node.value.value
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
        for target in node.targets
        if isinstance(target, ast.Name) and isinstance(node.value.value, str)
    }


def _page(name: str, texts: dict[str, str]) -> str:
    doc = yaml.safe_load(texts["DOCUMENTATION"])
    parts = [f"# Module {NAME}.{name}\n\n{plain(doc['short_description'])}.\n\n"]
    parts.append(paragraphs(doc["description"]) + "\n\n")
    parts += [f"{plain(note)}\n\n" for note in doc.get("notes", ())]
    if doc.get("options"):
        parts += ["## Options\n\n", _options(doc["options"]), "\n"]
    attributes = [
        [key, f"{each['support']}", cell(each["description"])] for key, each in doc["attributes"].items()
    ]
    parts += ["## Behaviour\n\n", table(["attribute", "support", ""], attributes)]
    parts += ["\n## Examples\n\n```yaml\n", texts["EXAMPLES"].strip(), "\n```\n\n"]
    returned = yaml.safe_load(texts.get("RETURN", "")) or {}
    if returned:
        rows = [[f"`{key}`", str(each["type"]), cell(each["description"])] for key, each in returned.items()]
        parts += ["## Returns\n\n", table(["key", "type", "meaning"], rows), "\n"]
    return "".join([*parts, "[All modules](README.md)\n"])


def _options(options: dict[str, Any]) -> str:
    rows = [
        [f"`{name}`", str(option.get("type", "str")), _default(option), cell(option["description"])]
        for name, option in options.items()
    ]
    return table(["option", "type", "default", "meaning"], rows)


def _default(option: dict[str, Any]) -> str:
    if option.get("required"):
        return "required"
    return f"`{option['default']}`" if "default" in option else "none"


def _index(texts: dict[str, dict[str, str]]) -> dict[str, str]:
    rows = [
        [f"[{name}]({name}.md)", cell(yaml.safe_load(each["DOCUMENTATION"])["short_description"])]
        for name, each in texts.items()
    ]
    return {"modules/README.md": HEAD + table(["module", "what it does"], rows)}
