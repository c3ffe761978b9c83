"""Resolve an Ansible inventory into specs. Ansible does it, so that its answer is what a host gets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from runnerctl.cli.context import Context
from runnerctl.cli.playbook import no_hosts, play
from runnerctl.errors import DataError, UnavailableError

__all__ = ["Resolved", "resolve"]

PLAYBOOK = "runnerctl.gpu_runner.spec"
SECONDS = 600.0  # inventory plugins may ask a cloud; an answer that takes longer is none


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
    played = play(
        context,
        "spec",
        inventory=inventory,
        limit=limit,
        output_variable="spec_output_dir",
        seconds=SECONDS,
    )
    if played.is_empty:
        raise no_hosts(inventory, limit)
    if played.status:
        raise UnavailableError(
            f"ansible-playbook {PLAYBOOK} failed: {played.reason}",
            remedy="run it by hand to see all of its output",
        )
    return [_read(answer) for answer in played.answers.values()]


def _read(data: dict[str, Any]) -> Resolved:
    try:
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
