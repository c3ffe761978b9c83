"""One truth: the spec, each role's argument_specs and each role's defaults say the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

import runnerctl
from runnerctl.core.spec import SECTIONS, Slot

ROOT = Path(__file__).parents[2]


def _load(role: str, part: str) -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / "roles" / role / part).read_text())
    return data


def _options(role: str) -> dict[str, Any]:
    options: dict[str, Any] = _load(role, "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    return options


@pytest.mark.parametrize("role", SECTIONS)
def test_every_field_is_a_variable_of_the_role(role: str) -> None:
    """Field ``x`` of section ``role`` is the variable ``role_x``, documented and with a default."""
    fields = {f"{role}_{field.name}" for field in msgspec.structs.fields(SECTIONS[role])}
    assert set(_options(role)) == fields
    assert set(_load(role, "defaults/main.yml")) == fields


@pytest.mark.parametrize("role", SECTIONS)
def test_defaults_are_the_same_in_all_three_places(role: str) -> None:
    """A default is written three times for three readers; here they are held together."""
    spec = msgspec.json.decode(msgspec.json.encode(SECTIONS[role]()))
    defaults, options = _load(role, "defaults/main.yml"), _options(role)
    for field, value in spec.items():
        name = f"{role}_{field}"
        if name == "github_runner_slots":
            assert msgspec.convert(defaults[name], tuple[Slot, ...]) == SECTIONS[role]().slots  # type: ignore[attr-defined]
            continue
        assert defaults[name] == value, name
        assert options[name].get("default") == value, name


def test_slot_keys_are_the_fields_of_the_struct() -> None:
    """A slot's keys in argument_specs are those of the spec."""
    keys = _options("github_runner")["github_runner_slots"]["options"]
    assert set(keys) == {field.name for field in msgspec.structs.fields(Slot)}


@pytest.mark.parametrize("role", SECTIONS)
def test_every_variable_is_described(role: str) -> None:
    """A variable without a description is a riddle."""
    for name, option in _options(role).items():
        assert option.get("description"), name
        assert option.get("type"), name


def test_versions_agree() -> None:
    """Package, collection and changelog tell one version."""
    project = re.search(r'^version = "(.*)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    galaxy = yaml.safe_load((ROOT / "galaxy.yml").read_text())
    assert project
    assert project[1] == galaxy["version"] == runnerctl.__version__
    assert f"## {project[1]}" in (ROOT / "CHANGELOG.md").read_text()


def test_no_stand_in_is_known_to_the_product() -> None:
    """Nothing in the product speaks of its tests' stand-ins: they enter by doors that users have."""
    words = re.compile(r"\b(mock|fake|stub|stand-in)\b", re.IGNORECASE)
    for folder in ("src", "plugins", "roles", "playbooks"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".yml", ".md", ".j2"):
                assert not words.search(path.read_text()), path


def test_no_role_uses_a_shell() -> None:
    """A shell task has no check mode, no diff and quotes badly."""
    for path in [*(ROOT / "roles").rglob("*.yml"), *(ROOT / "playbooks").rglob("*.yml")]:
        text = path.read_text()
        assert not re.search(r"ansible\.builtin\.(shell|raw)|^\s+shell:", text, re.MULTILINE), path


def test_task_files_are_short() -> None:
    """``tasks/main.yml`` is a contents page; every file fits on a screen or two."""
    for path in (ROOT / "roles").glob("*/tasks/*.yml"):
        assert len(path.read_text().splitlines()) < 80, path
