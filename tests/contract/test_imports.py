"""The dependency law: who may import whom."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "runnerctl"
COLLECTION = "ansible_collections.runnerctl.gpu_runner.plugins"
STDLIB = sys.stdlib_module_names

# Layer -> what it may import besides the standard library and itself. Names are prefixes of modules.
LAW = {
    "core": ("runnerctl.core", "runnerctl.errors", "msgspec"),
    "github": (
        *("runnerctl.core", "runnerctl.errors", "runnerctl.redact"),
        *("msgspec", "requests", "urllib3", "jwt", "cryptography"),
    ),
    "bundle": ("runnerctl.core", "runnerctl.errors", "runnerctl.private", "msgspec"),
    "guard": (
        *(
            "runnerctl.core",
            "runnerctl.errors",
            "runnerctl.hostfile",
            "runnerctl.probes",
            "runnerctl.replace",
        ),
        *("msgspec", f"{COLLECTION}.module_utils"),  # what acts on a slot exists once
    ),
    "envs": (
        *("runnerctl.core", "runnerctl.errors", "runnerctl.hostfile", "runnerctl.private"),
        *("runnerctl.redact", "msgspec", "yaml", "rattler", "uv"),
    ),
    "ci": ("runnerctl.core", "runnerctl.errors", "runnerctl.replace", "msgspec", "ruamel.yaml", "tomlkit"),
    "probes": (
        *("runnerctl.core", "runnerctl.errors", "runnerctl.replace"),
        "runnerctl.hostfile",  # the spec has one reader
        *("msgspec", "pynvml", "docker", "requests"),
    ),
}


def _imports(path: Path) -> set[str]:
    """Every module a file imports, absolute; ``from a import b`` counts as ``a``."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module)
    return found


def _foreign(path: Path, allowed: tuple[str, ...]) -> set[str]:
    return {
        name
        for name in _imports(path)
        if name.split(".")[0] not in STDLIB
        and not any(name == each or name.startswith(f"{each}.") for each in allowed)
    }


@pytest.mark.parametrize("layer", LAW)
def test_layers_keep_the_law(layer: str) -> None:
    """core knows nobody; github and probes know core and their own library, never each other."""
    own = (f"runnerctl.{layer}",)
    for path in (SOURCE / layer).rglob("*.py"):
        foreign = _foreign(path, (*LAW[layer], *own)) - {"runnerctl"}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_modules_on_a_target_need_nothing_but_ansible() -> None:
    """A target has Python and what Ansible brings; nothing else may be needed there."""
    allowed = ("ansible.module_utils", f"{COLLECTION}.module_utils")
    for folder in ("modules", "module_utils"):
        for path in (ROOT / "plugins" / folder).rglob("*.py"):
            foreign = _foreign(path, allowed)
            assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_what_the_host_shares_does_not_import_ansible() -> None:
    """The CLI on a host imports module_utils from its own wheel, where there is no Ansible."""
    for path in (ROOT / "plugins" / "module_utils").rglob("*.py"):
        foreign = _foreign(path, ())
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


def test_controller_plugins_use_the_package_not_the_cli() -> None:
    """Action plugins stand on github and core."""
    ours = (
        "bundle",
        "core",
        "errors",
        "github",
        "modes",
        "play",
        "private",
        "reconcile",
        "redact",
        "rollout",
        "wheel",
    )
    allowed = ("ansible", "msgspec", COLLECTION, *(f"runnerctl.{name}" for name in ours))
    for folder in ("action", "plugin_utils", "filter"):
        for path in (ROOT / "plugins" / folder).rglob("*.py"):
            foreign = _foreign(path, allowed)
            assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"
