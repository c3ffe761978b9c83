"""Resolve an Ansible inventory into specs. Ansible does it, so that its answer is what a host gets."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runnerctl.cli.context import Context
from runnerctl.errors import ConfigError, DataError, UnavailableError

__all__ = ["Resolved", "resolve"]

PLAYBOOK = "runnerctl.gpu_runner.spec"
SECONDS = 600.0  # inventory plugins may ask a cloud; an answer that takes longer is none
LAST_LINES = 3


@dataclass(frozen=True)
class Resolved:
    """One host of an inventory: its spec as plain data, or the problems that keep it from having one."""

    host: str
    spec: dict[str, Any] | None
    problems: tuple[dict[str, str], ...]


def resolve(context: Context, inventory: str, *, limit: str | None = None) -> list[Resolved]:
    """The spec of every runner host of ``inventory``, by name; no host is touched.

    Raises ConfigError without ansible-core or such an inventory, UnavailableError when Ansible fails.
    """
    command = [_ansible_playbook(), PLAYBOOK, "--inventory", _inventory(inventory)]
    command += ["--limit", limit] if limit else []
    with tempfile.TemporaryDirectory(prefix="runnerctl-spec-") as folder:
        _run(context, [*command, "--extra-vars", json.dumps({"spec_output_dir": folder})])
        found = [_read(path) for path in sorted(Path(folder).glob("*.json"))]
    if not found:
        pattern = f" that match {limit!r}" if limit else ""
        raise ConfigError(
            f"has no runner hosts{pattern}", where=inventory, remedy="put hosts into the group runner_hosts"
        )
    return found


def _ansible_playbook() -> str:
    """``ansible-playbook`` of our own environment, or of the search path."""
    beside = Path(sys.executable).with_name("ansible-playbook")
    command = str(beside) if os.access(beside, os.X_OK) else shutil.which("ansible-playbook")
    if command is None:
        raise ConfigError(
            "an inventory needs ansible-core, which is not installed",
            remedy="pip install 'runnerctl[controller]'",
        )
    return command


def _inventory(given: str) -> str:
    """A path that exists, or a list of hosts with a comma, as Ansible has it."""
    if "," not in given and not Path(given).exists():
        raise ConfigError("no such inventory", where=given, remedy="give a file or a directory")
    return given


def _run(context: Context, command: list[str]) -> None:
    environment = {**context.env, "ANSIBLE_NOCOLOR": "1", "ANSIBLE_INVENTORY_UNPARSED_FAILED": "1"}
    environment.pop("ANSIBLE_FORCE_COLOR", None)
    try:
        answer = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            env=environment,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"ansible-playbook did not end within {SECONDS:g} s", remedy="try ansible-inventory --list"
        ) from None
    if answer.returncode:
        raise UnavailableError(
            f"ansible-playbook {PLAYBOOK} failed: {_reason(answer.stdout, answer.stderr)}",
            remedy="run it by hand to see all of its output",
        )


def _reason(stdout: str, stderr: str) -> str:
    """The lines that tell: Ansible's errors, else the last ones."""
    from runnerctl.redact import redact

    lines = [line.strip() for line in (stderr + "\n" + stdout).splitlines() if line.strip()]
    telling = [line for line in lines if line.startswith(("ERROR", "[ERROR]", "fatal:"))] or lines
    return redact(" ".join(telling[:LAST_LINES]))[:600] or "no output"


def _read(path: Path) -> Resolved:
    try:
        data = json.loads(path.read_text())
        problems = tuple(
            {key: str(problem[key]) for key in ("variable", "message", "remedy")}
            for problem in data.get("problems") or ()
        )
        return Resolved(str(data["host"]), data.get("spec"), problems)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        remedy = "use the collection that came with this runnerctl"
        raise DataError(
            "the playbook wrote an answer of another form", where=PLAYBOOK, remedy=remedy
        ) from None
