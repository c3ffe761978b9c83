"""The fleet's half of ``runnerctl upgrade``: the playbook once or twice, and one table of what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runnerctl.cli.context import Context
from runnerctl.cli.output import escape, table, yes_no
from runnerctl.cli.playbook import Played, no_hosts, play, steps
from runnerctl.errors import TryAgainError, UnavailableError

__all__ = ["Wanted", "rollout"]

SCHEMA = "runnerctl.upgrade/1"
WEEK_SECONDS = 7 * 86400.0  # of a whole rollout; each step of it has a deadline of its own
TELLING = ("runnerctl: ", "[WARNING]: ")
NOT_BEGUN = "not begun: the run ended before it"


@dataclass(frozen=True)
class Wanted:
    """What the command line asks for; ``batch`` is a number of hosts or a share like ``20%``."""

    inventory: str
    limit: str | None = None
    version: str | None = None
    canary: str | None = None
    batch: str | int = "20%"
    quiet: float | None = None
    timeout: float | None = None
    force: bool = False
    retry: bool = False
    check: bool = False

    def variables(self) -> dict[str, Any]:
        """The playbook's variables; what is not asked for is left to inventory."""
        given = {
            "upgrade_version": self.version,
            "upgrade_quiet_seconds": self.quiet,
            "upgrade_timeout_seconds": self.timeout,
        }
        known = {name: value for name, value in given.items() if value is not None}
        return {**known, "upgrade_force": self.force, "upgrade_retry": self.retry}

    def plays(self) -> list[tuple[str | None, list[str | int]]]:
        """Limit and batches of each play: the canary alone, then the others."""
        if self.canary is None:
            return [(self.limit, [1, self.batch])]
        return [(self.canary, [1]), (f"{self.limit or 'runner_hosts'}:!{self.canary}", [self.batch])]


def rollout(context: Context, wanted: Wanted, *, output: str | None) -> int:
    """Play ``upgrade``, print what became of every slot; returns the exit code.

    Raises ConfigError for an inventory without such hosts, UnavailableError when Ansible itself fails.
    """
    answers: dict[str, dict[str, Any]] = {}
    failed = unproven = False
    for number, (limit, batches) in enumerate(wanted.plays()):
        with steps(context):
            played = _play(context, wanted, limit, batches)
        if number and played.is_empty:
            break  # there is none but the canary
        _refuse_nothing(played, wanted, limit)
        answers |= {name: dict(answer) for name, answer in played.answers.items()}
        failed = bool(played.status)
        if failed:
            if number + 1 < len(wanted.plays()):
                context.note("runnerctl: the canary went wrong: no other host was touched")
            break
        if number + 1 < len(wanted.plays()) and not (wanted.check or _is_proven(answers)):
            unproven = True
            context.note("runnerctl: no runner of the canary runs the release: no other host was touched")
            break
    for host in sorted({host for answer in answers.values() for host in answer.get("hosts", ())}):
        answers.setdefault(host, {"host": host, "slots": [], "error": NOT_BEGUN, "exit_code": 69})
    if context.wants_json(output):
        context.say_json(_json(answers, check=wanted.check))
    else:
        context.say(_text(answers, check=wanted.check, width=context.width))
    return _exit_code(answers, failed=failed) or (TryAgainError.exit_code if unproven else 0)


def _is_proven(answers: Mapping[str, dict[str, Any]]) -> bool:
    """Whether any runner takes jobs with the release; one that is busy, or on hold, says nothing of it."""
    rows = [row for answer in answers.values() for row in answer.get("slots") or ()]
    return any(row["result"] in ("upgraded", "current") and "on hold" not in row["note"] for row in rows)


def _play(context: Context, wanted: Wanted, limit: str | None, batches: list[str | int]) -> Played:
    def tell(line: str) -> None:
        if line.startswith(TELLING):
            context.note(escape(line))

    return play(
        context,
        "upgrade",
        inventory=wanted.inventory,
        limit=limit,
        variables={**wanted.variables(), "upgrade_batches": batches},
        output_variable="upgrade_output_dir",
        arguments=("--check",) if wanted.check else (),
        seconds=WEEK_SECONDS,
        tell=tell,
    )


def _refuse_nothing(played: Played, wanted: Wanted, limit: str | None) -> None:
    """A play without an answer failed before it reached a host, or had none."""
    if played.answers:
        return
    if played.is_empty:
        raise no_hosts(wanted.inventory, limit)
    remedy = "run it by hand: ansible-playbook runnerctl.gpu_runner.upgrade"
    raise UnavailableError(f"ansible-playbook failed: {played.reason}", where=wanted.inventory, remedy=remedy)


def _json(answers: Mapping[str, dict[str, Any]], *, check: bool) -> dict[str, Any]:
    names = ("host", "target", "slots", "notes", "error")
    hosts = [{name: answer.get(name) for name in names} for _, answer in sorted(answers.items())]
    for host in hosts:
        host["slots"] = [_slot(each) for each in host["slots"] or []]
        host["notes"] = host["notes"] or []
    return {"schema": SCHEMA, "check": check, "hosts": hosts}


def _slot(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "slot": row["slot"],
        "result": str(row["result"]).replace(" ", "_"),
        "from": row["was"],
        "to": row["now"],
        "took_seconds": row["seconds"],
        "busy": row["busy"],
        "days_left": row.get("days_left"),
        "expires": row.get("expires"),
        "note": row["note"] or None,
    }


def _text(answers: Mapping[str, dict[str, Any]], *, check: bool, width: int) -> str:
    head = ["HOST", "SLOT", "RUNS", "GOES TO", "DAYS LEFT", "BUSY", "NOTE"]
    if not check:
        head = ["HOST", "SLOT", "FROM", "TO", "TOOK", "RESULT"]
    rows: list[list[object]] = []
    notes: set[str] = set()
    for name, answer in sorted(answers.items()):
        notes |= set(answer.get("notes") or ())
        slots = answer.get("slots") or []
        rows += [[name, *(_planned(row) if check else _done(row))] for row in slots]
        if answer.get("error") and not slots:
            text = str(answer["error"]).removeprefix(f"{name}: ")
            text = text if text == NOT_BEGUN else f"failed: {text}"
            rows.append([name, *[None] * (len(head) - 2), text])
    lines = [table(head, rows, width=width), *(f"note: {escape(note)}" for note in sorted(notes))]
    return "\n".join(lines)


def _planned(row: Mapping[str, Any]) -> list[object]:
    target = row["now"] if row["result"] == "would upgrade" else None
    note = row["note"] if row["result"] != "refused" else f"refused: {row['note']}"
    return [row["slot"], row["was"], target, row.get("expires"), yes_no(bool(row["busy"])), note or None]


def _done(row: Mapping[str, Any]) -> list[object]:
    took = f"{row['seconds']:.0f} s" if row["seconds"] else None
    result = f"{row['result']}: {row['note']}" if row["note"] else row["result"]
    return [row["slot"], row["was"], row["now"], took, result]


def _exit_code(answers: Mapping[str, dict[str, Any]], *, failed: bool) -> int:
    codes = [int(answer.get("exit_code") or 69) for answer in answers.values() if answer.get("error")]
    if codes or failed:
        return max(codes, default=UnavailableError.exit_code)
    busy = any(answer.get("busy") for answer in answers.values())
    return TryAgainError.exit_code if busy else 0
