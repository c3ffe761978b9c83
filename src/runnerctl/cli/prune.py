"""``runnerctl prune``: delete the records of runners that no longer exist, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import (
    ApiUrlOption,
    InventoryOption,
    LimitOption,
    MaxWaitOption,
    OutputOption,
    UrlOption,
)
from runnerctl.errors import RunnerctlError, TryAgainError, UsageError

if TYPE_CHECKING:
    from runnerctl.core.ghosts import Evidence, RunnerRecord, Verdict
    from runnerctl.core.scope import Scope
    from runnerctl.github.models import Runner
    from runnerctl.github.registry import Registry

__all__ = ["app", "prune"]

SCHEMA = "runnerctl.prune/1"
EXAMPLE = """
runnerctl prune -i inventory
runnerctl prune -i inventory --apply
runnerctl prune --host gpu-07 --url https://github.com/acme --apply
"""
QUIET_RULES = frozenset({"online", "busy", "foreign"})
app = new_app()
HostOption = Annotated[
    list[str] | None,
    typer.Option("--host", metavar="NAME", help="A host that is gone from the inventory. May be repeated."),
]
VouchOption = Annotated[
    list[str] | None,
    typer.Option(
        "--runner",
        "-r",
        metavar="NAME",
        help="This record is ours, though its name could be another host's. May be repeated.",
    ),
]
ApplyOption = Annotated[
    bool, typer.Option("--apply/--dry-run", help="Delete what is to be deleted, or only show it (default).")
]


@app.command("prune", cls=Command, epilog=EXAMPLE)
def prune(
    context: typer.Context,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    host: HostOption = None,
    runner: VouchOption = None,
    apply: ApplyOption = False,
    url: UrlOption = None,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Remove records of runners that no longer exist.

    A record at GitHub is deleted only when it is offline and idle, bears the name of a slot of a host of the
    inventory, and that host, asked by Ansible, does not hold its id; or when its host is named with --host.
    Records of hosts that cannot be asked are kept. Without --apply nothing is deleted. The scopes are those
    of the inventory, and --url. Do not run it beside a converge of the same hosts.
    """
    command: Context = context.obj
    if not inventory and not host:
        raise UsageError(
            "no host is given", remedy="give -i INVENTORY, or --host NAME of a host that is gone"
        )
    for name in host or ():
        if not name.isprintable() or not name or set(name) & set("*?[]!&:,/ "):
            what = "is no name of a host: patterns are not for what is deleted"
            raise UsageError(what, where=f"--host {name}", remedy="give each name in full")
    if limit and not inventory:
        raise UsageError("limits an inventory, and none is given", where="--limit", remedy="add -i INVENTORY")
    asked = Asked(inventory, limit, tuple(host or ()), tuple(runner or ()), url, api_url, max_wait)
    return Prune(command, asked).run(apply=apply, output=output)


@dataclass(frozen=True)
class Asked:
    """What the operator gave."""

    inventory: str | None
    limit: str | None
    removed: tuple[str, ...]
    vouched: tuple[str, ...]
    url: str | None
    api: str | None
    max_wait: str | None = None


@dataclass
class Case:
    """One record, its verdict, and what became of it."""

    registry: Registry
    record: RunnerRecord
    verdict: Verdict
    outcome: str = "kept"

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.record.name,
            "id": self.record.id,
            "url": self.record.scope,
            "status": self.record.status,
            "busy": self.record.busy,
            "ephemeral": self.record.ephemeral,
            "delete": self.verdict.delete,
            "rule": self.verdict.rule,
            "reason": self.verdict.reason,
            "outcome": self.outcome,
        }


@dataclass
class Prune:
    """One run: records first, then the hosts' word on them, then verdicts, then deletions."""

    context: Context
    asked: Asked
    cases: list[Case] = field(default_factory=list)

    def run(self, *, apply: bool, output: str | None) -> int:
        """Judge every record, delete when asked to, and tell."""
        from runnerctl.cli.prune_evidence import gather
        from runnerctl.core.ghosts import Judge

        gathering = gather(self.context, self.asked)
        listed = self._list(gathering.scopes)
        self._note_strangers({record.name.casefold() for _, record in listed})
        evidence = gathering.ask_hosts()  # after the records: what was registered since then is in neither
        bench = Judge(evidence)
        self.cases = [Case(at, record, bench.judge(record)) for at, record in listed]
        failure = self._delete_all(evidence, apply=apply)
        self._tell(output, apply=apply)
        if failure:
            raise failure
        return 0

    def _note_strangers(self, known: set[str]) -> None:
        """A name that no record has is gone, or mistyped: the first is what was wanted, so it is no error."""
        from runnerctl.cli.output import escape

        for name in self.asked.vouched:
            if name.casefold() not in known:
                self.context.note(f"runnerctl: GitHub has no record called {escape(name)}")

    def _list(self, scopes: Sequence[tuple[Scope, str | None]]) -> list[tuple[Registry, RunnerRecord]]:
        from runnerctl.cli.remote import registry

        found = []
        for scope, api in scopes:
            at = registry(self.context, scope, api=self.asked.api or api, max_wait=self.asked.max_wait)
            runners = sorted(at.runners(), key=lambda runner: runner.name.lower())
            found += [(at, _record(at, runner)) for runner in runners]
        return found

    def _delete_all(self, evidence: Evidence, *, apply: bool) -> RunnerctlError | None:
        """One after the other; the first failure ends it, and what was done is told."""
        for case in self.cases:
            if not case.verdict.delete:
                continue
            case.outcome = "would_delete"
            try:
                if apply:
                    self._delete(case, evidence)
            except RunnerctlError as error:
                return error
        return None

    def _delete(self, case: Case, evidence: Evidence) -> None:
        """Read the record again, judge it again, and delete it: it may have come to life."""
        from runnerctl.core.ghosts import Verdict, judge

        now = case.registry.runner(case.record.id)
        case.outcome = "kept" if now else "already_gone"
        if now is None:
            return
        record = _record(case.registry, now)
        case.record, case.verdict = record, judge(record, evidence)
        if not case.verdict.delete:
            return
        try:
            case.outcome = "deleted" if case.registry.delete(record.id) else "already_gone"
        except TryAgainError:
            case.verdict = Verdict(False, "busy", "runs a job: GitHub refuses to delete it")

    def _tell(self, output: str | None, *, apply: bool) -> None:
        if self.context.wants_json(output):
            rows = [case.as_json() for case in self.cases]
            self.context.say_json({"schema": SCHEMA, "dry_run": not apply, "records": rows})
        else:
            self._table()
        gone = sum(case.outcome in ("deleted", "already_gone") for case in self.cases)
        due = sum(case.outcome == "would_delete" for case in self.cases)
        text = f"{len(self.cases)} records, {gone} deleted" if apply else f"{len(self.cases)} records"
        text += "" if apply else f", {due} to delete" + ("; --apply deletes them" if due else "")
        self.context.note(text)

    def _table(self) -> None:
        """Everything that is deleted, or that was close to it; what is alive or foreign is only counted."""
        from runnerctl.cli.output import table

        shown = [case for case in self.cases if case.verdict.delete or case.verdict.rule not in QUIET_RULES]
        several = len({case.record.scope for case in self.cases}) > 1
        rows = []
        for case in shown:
            where = f"{case.record.scope.partition('://')[2].partition('/')[2]}: " if several else ""
            verdict = "delete" if case.outcome == "would_delete" else case.outcome.replace("_", " ")
            rows.append([case.record.name, case.record.id, verdict, where + case.verdict.reason])
        if rows:
            self.context.say(table(["RUNNER", "ID", "VERDICT", "WHY"], rows, width=self.context.width))


def _record(registry: Registry, runner: Runner) -> RunnerRecord:
    from runnerctl.core.ghosts import RunnerRecord

    return RunnerRecord(
        registry.scope.url, runner.id, runner.name, runner.status, runner.busy, runner.ephemeral
    )
