"""Drain and resume for the hosts of an inventory: a playbook does it, this tells what became of each host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runnerctl.cli.context import Context
from runnerctl.cli.output import escape, table
from runnerctl.cli.playbook import Played, no_hosts, play, steps
from runnerctl.errors import ConfigError, UnavailableError

__all__ = ["drain_variables", "fleet_variables", "rollout"]

SCHEMA = "runnerctl.drain/1"
DAY_SECONDS = 86400.0  # of a whole rollout; each step of it has a deadline of its own
JUDGED = "+judged"  # the circuit breaker's answer
PROGRESS = "runnerctl: "
NOT_BEGUN = "not begun: the run ended before it"


def drain_variables(
    *, reason: str | None, quiet: float | None, wait: bool, timeout: float | None, force: bool
) -> dict[str, Any]:
    """The options of `runnerctl drain` as the playbook's variables; the rest is left to inventory."""
    given = {"drain_reason": reason, "drain_quiet_seconds": quiet, "drain_timeout_seconds": timeout}
    known = {name: value for name, value in given.items() if value is not None}
    return {**known, "drain_wait": wait, "drain_force": force}


def fleet_variables(
    playbook: str, *, routing: bool, slots: Sequence[str] | None, batch: str | None
) -> dict[str, Any]:
    """The variables that both playbooks have, each with its own name in front."""
    known: dict[str, Any] = {"routing": routing, "slots": list(slots or ())}
    known |= {"batches": batch} if batch else {}
    return {f"{playbook}_{name}": value for name, value in known.items()}


def rollout(
    context: Context,
    playbook: str,
    *,
    variables: Mapping[str, Any],
    inventory: str,
    limit: str | None,
    check: bool,
    output: str | None,
) -> int:
    """Play ``drain`` or ``resume``, print what became of every host; returns the exit code.

    Raises ConfigError for an inventory without such hosts or slots, UnavailableError when Ansible fails.
    """

    def tell(line: str) -> None:
        if line.startswith(PROGRESS):
            context.note(escape(line))

    with steps(context):
        played = play(
            context,
            playbook,
            inventory=inventory,
            limit=limit,
            variables=variables,
            output_variable=f"{playbook}_output_dir",
            arguments=("--check",) if check else (),
            seconds=DAY_SECONDS + float(variables.get("drain_timeout_seconds") or 0),
            tell=tell,
        )
    if played.is_empty:
        raise no_hosts(inventory, limit)
    answers = _answers(played, inventory, playbook)
    judged = answers.pop(JUDGED, {})
    if answers and all(played.answers.get(host, {}).get("skipped") for host in answers):
        names = ", ".join(variables[f"{playbook}_slots"])
        remedy = f"`runnerctl list -i {inventory}` shows those there are"
        raise ConfigError(f"no host has a slot {names}", where=inventory, remedy=remedy)
    refused = judged.get("error")
    if context.wants_json(output):
        fields = {"command": playbook, "check": check, "refused": refused}
        context.say_json({"schema": SCHEMA, **fields, "hosts": list(answers.values())})
    else:
        context.say(_text(answers, check=check, width=context.width))
    if refused:
        context.note(f"runnerctl: {escape(refused)}")
    return _exit_code(played, judged, answers)


def _answers(played: Played, inventory: str, playbook: str) -> dict[str, dict[str, Any]]:
    """One answer for every host of the run, also for those it never came to."""
    answers = {name: dict(answer) for name, answer in played.answers.items()}
    if not answers and played.status:
        remedy = f"run it by hand: ansible-playbook runnerctl.gpu_runner.{playbook}"
        raise UnavailableError(f"ansible-playbook failed: {played.reason}", where=inventory, remedy=remedy)
    for host in sorted({host for answer in answers.values() for host in answer.get("hosts", ())}):
        answers.setdefault(host, {"host": host, "error": NOT_BEGUN})
    return {name: _shown(answer) for name, answer in answers.items()}


def _shown(answer: dict[str, Any]) -> dict[str, Any]:
    shown = {
        "host": answer.get("host"),
        "slots": answer.get("slots", []),
        "actions": answer.get("actions", []),
    }
    return {**shown, "error": answer.get("error"), "exit_code": answer.get("exit_code", 0)}


def _text(answers: Mapping[str, dict[str, Any]], *, check: bool, width: int) -> str:
    rows: list[list[object]] = []
    for name, answer in sorted(answers.items()):
        rows += [[name, *row] for row in _rows(answer, check=check)]
    return table(["HOST", "SLOT", "STATE", "WHY"], rows, width=width)


def _rows(answer: Mapping[str, Any], *, check: bool) -> list[list[object]]:
    """A line a slot; what went wrong with the host stands once."""
    error = str(answer["error"] or "").removeprefix(f"{answer['host']}: ")
    if check and not error:
        return [[None, "would change" if answer["actions"] else "as it is", answer["actions"]]]
    rows: list[list[object]] = [[each["slot"], each["state"], each["reason"]] for each in answer["slots"]]
    if error:
        rows.append([None, "failed", error])
    return rows or [[None, "skipped", "it has no such slot"]]


def _exit_code(played: Played, judged: Mapping[str, Any], answers: Mapping[str, dict[str, Any]]) -> int:
    if judged.get("error"):
        return int(judged["exit_code"])
    worst = max((int(answer["exit_code"]) for answer in answers.values() if answer["error"]), default=0)
    return worst or (UnavailableError.exit_code if played.status else 0)
