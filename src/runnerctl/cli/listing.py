"""``runnerctl list``: the slots of this host, or the runners that GitHub knows in a scope."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import ApiUrlOption, OutputOption, RootfsOption, UrlOption
from runnerctl.errors import ConfigError, RunnerctlError, UsageError

if TYPE_CHECKING:
    from runnerctl.cli.local import LocalSlot
    from runnerctl.github.models import Runner

__all__ = ["app", "list_command"]

SCHEMA = "runnerctl.list/1"
EXAMPLE = """
runnerctl list
runnerctl list --url https://github.com/acme --label gpu --status online
runnerctl list -o json
"""
app = new_app()
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="LABEL", help="Only runners with this label; may be given again."),
]
StatusOption = Annotated[
    Literal["online", "offline", "busy", "idle"] | None,
    typer.Option("--status", help="Only runners in this state, as GitHub sees it.", show_default=False),
]


@app.command("list", cls=Command, epilog=EXAMPLE)
def list_command(
    context: typer.Context,
    url: UrlOption = None,
    label: LabelOption = None,
    status: StatusOption = None,
    api_url: ApiUrlOption = None,
    rootfs: RootfsOption = None,
    output: OutputOption = None,
) -> int:
    """List this host's slots, or the runners that GitHub knows.

    On a runner host it lists the slots; with a credential, GitHub's view of them stands beside. With --url,
    or on a machine without slots, it lists all runners of that repository, organisation or enterprise.
    """
    command: Context = context.obj
    paths = command.at(rootfs)
    listing = Listing(command, label or [], status)
    if not url and (slots := _slots_here(command, paths)):
        return listing.host(paths, slots, api_url, output)
    return listing.scope(url, api_url, output)


def _slots_here(context: Context, paths: Paths) -> list[LocalSlot]:
    from runnerctl.cli.local import local_slots
    from runnerctl.hostfile import load_host_spec

    return local_slots(context, paths, load_host_spec(paths.host_file))


class Listing:
    """One listing: where it goes and which runners it keeps."""

    def __init__(self, context: Context, labels: Sequence[str], status: str | None) -> None:
        self.context = context
        self.labels = frozenset(label.lower() for label in labels)
        self.status = status

    def host(self, paths: Paths, slots: Sequence[LocalSlot], api: str | None, output: str | None) -> int:
        """List a host's slots; GitHub's view beside them where a credential is."""
        from runnerctl.cli.remote import has_credential

        records: dict[str, Runner | None] = {}
        code = 0
        if has_credential(self.context):
            try:
                records = _records(self.context, paths, slots, api)
            except RunnerctlError as error:
                code = error.exit_code
                self.context.note(f"runnerctl: GitHub's view is missing: {error}")
        elif self.status in ("online", "offline"):
            raise UsageError(
                f"{self.status!r} is GitHub's view", where="--status", remedy="give a credential"
            )
        kept = [slot for slot in slots if self._keeps_slot(slot, records.get(slot.name))]
        if self.context.wants_json(output):
            self._json(slots=[_slot_json(slot, records) for slot in kept])
        else:
            self.context.say(_slot_table(kept, records, self.context.width))
        return code

    def scope(self, url: str | None, api: str | None, output: str | None) -> int:
        """List the runners of a scope, every page of them."""
        from runnerctl.cli.remote import registry, scope_of

        scope = scope_of(self.context, url)
        if scope is None:
            raise ConfigError(
                "there is no slot on this host and no URL to ask",
                remedy="give --url https://github.com/OWNER[/REPOSITORY], or set RUNNERCTL_URL",
            )
        runners = [
            runner for runner in registry(self.context, scope, api=api).runners() if self._keeps(runner)
        ]
        runners.sort(key=lambda runner: runner.name.lower())
        if self.context.wants_json(output):
            self._json(url=scope.url, runners=[_runner_json(runner) for runner in runners])
        else:
            self.context.say(_runner_table(runners, self.context.width))
            self.context.note(_summary(runners, scope.name))
        return 0

    def _keeps(self, runner: Runner) -> bool:
        if not self.labels <= runner.all_labels():
            return False
        states = {runner.status, "busy" if runner.busy else "idle"}
        return self.status is None or self.status in states

    def _keeps_slot(self, slot: LocalSlot, record: Runner | None) -> bool:
        if record is not None:
            return self._keeps(record)
        if not self.labels <= frozenset(slot.labels):
            return False
        states = {None: set[str](), True: {"busy"}, False: {"idle"}}[slot.busy]
        return self.status is None or self.status in states

    def _json(self, **answer: Any) -> None:
        from runnerctl.cli.output import rfc3339

        head = {"schema": SCHEMA, "checked_at": rfc3339(self.context.clock()), "url": None}
        self.context.say_json({**head, "slots": [], "runners": [], **answer})


def _records(
    context: Context, paths: Paths, slots: Sequence[LocalSlot], api: str | None
) -> dict[str, Runner | None]:
    """GitHub's record of each slot, by the runner's name; None where GitHub has none."""
    from runnerctl.cli.remote import registry
    from runnerctl.core.scope import parse_scope
    from runnerctl.hostfile import load_host_spec

    spec = load_host_spec(paths.host_file)
    api = api or (spec.github_runner.api_url if spec else None)
    registries = {
        url: registry(context, parse_scope(url), api=api) for url in {slot.url for slot in slots} if url
    }
    return {
        slot.name: registries[slot.url].runner_by_name(slot.runner_name)
        for slot in slots
        if slot.url and slot.runner_name
    }


def _slot_table(slots: Sequence[LocalSlot], records: dict[str, Runner | None], width: int) -> str:
    from runnerctl.cli.output import escape, table

    head = ["SLOT", "RUNNER", "UNIT", "BUSY", "VERSION", "GPUS"]
    rows: list[list[object]] = [
        [slot.name, slot.runner_name, _unit_text(slot), slot.busy, slot.version, len(slot.gpus)]
        for slot in slots
    ]
    if records:
        head.append("GITHUB")
        rows = [[*row, _github_text(records, slot)] for row, slot in zip(rows, slots, strict=True)]
    head.append("LABELS")
    rows = [[*row, _labels(slot, records.get(slot.name))] for row, slot in zip(rows, slots, strict=True)]
    notes = [f"{slot.name}: held: {slot.hold_reason}" for slot in slots if slot.hold_reason]
    notes += [f"{slot.name}: restarts when idle" for slot in slots if slot.restart_pending]
    notes += [f"{slot.name}: not in host.json" for slot in slots if not slot.in_spec]
    return "\n".join([table(head, rows, width=width), *(escape(note) for note in notes)])


def _unit_text(slot: LocalSlot) -> str | None:
    return "held" if slot.hold_reason and slot.unit_state != "active" else slot.unit_state


def _github_text(records: dict[str, Runner | None], slot: LocalSlot) -> str:
    record = records.get(slot.name)
    return "absent" if record is None else record.status


def _labels(slot: LocalSlot, record: Runner | None) -> tuple[str, ...]:
    return tuple(label.name for label in record.labels) if record else slot.labels


def _runner_table(runners: Sequence[Runner], width: int) -> str:
    from runnerctl.cli.output import table

    rows = [
        [runner.name, runner.status, runner.busy, runner.version, [label.name for label in runner.labels]]
        for runner in runners
    ]
    return table(["RUNNER", "STATUS", "BUSY", "VERSION", "LABELS"], rows, width=width)


def _summary(runners: Sequence[Runner], scope: str) -> str:
    online = sum(runner.online for runner in runners)
    busy = sum(runner.busy for runner in runners)
    noun = "runner" if len(runners) == 1 else "runners"
    return f"{len(runners)} {noun} of {scope}: {online} online, {busy} busy"


def _slot_json(slot: LocalSlot, records: dict[str, Runner | None]) -> dict[str, Any]:
    record = records.get(slot.name)
    return {
        "slot": slot.name,
        "runner_name": slot.runner_name,
        "url": slot.url,
        "unit": slot.unit,
        "unit_state": slot.unit_state,
        "busy": slot.busy,
        "version": slot.version,
        "gpus": list(slot.gpus),
        "labels": list(slot.labels),
        "hold_reason": slot.hold_reason,
        "restart_pending": slot.restart_pending,
        "in_spec": slot.in_spec,
        "on_github": slot.name in records and record is not None if records else None,
        "github": _runner_json(record) if record else None,
    }


def _runner_json(runner: Runner) -> dict[str, Any]:
    return {
        "id": runner.id,
        "name": runner.name,
        "os": runner.os,
        "status": runner.status,
        "busy": runner.busy,
        "labels": [label.name for label in runner.labels],
        "runner_group_id": runner.runner_group_id,
        "version": runner.version,
        "ephemeral": runner.ephemeral,
    }
