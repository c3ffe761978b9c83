"""``runnerctl labels``: change the custom labels of runners at GitHub, by hand or to what inventory says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, Group, new_app
from runnerctl.cli.options import (
    ApiUrlOption,
    InventoryOption,
    LimitOption,
    MaxWaitOption,
    OutputOption,
    UrlOption,
)
from runnerctl.cli.select import (
    AllOption,
    DryRunOption,
    LabelFilter,
    RunnerOption,
    Selection,
    StatusFilter,
    scope_needed,
)
from runnerctl.core.labels import DRAINED, check_label
from runnerctl.errors import RunnerctlError, UsageError

if TYPE_CHECKING:
    from runnerctl.cli.label_edit import Edit, Result
    from runnerctl.github.models import Runner
    from runnerctl.github.registry import Registry

__all__ = ["app"]

SCHEMA = "runnerctl.labels/1"
ADD_EXAMPLE = """
runnerctl labels add big-memory --runner gpu-01-main --dry-run
runnerctl labels add big-memory --label a100 --url https://github.com/acme
"""
REMOVE_EXAMPLE = """
runnerctl labels remove big-memory --all
runnerctl labels remove old older --runner gpu-01-main --runner gpu-02-main
"""
SET_EXAMPLE = """
runnerctl labels set gpu a100 --runner gpu-01-main
runnerctl labels set --none --runner gpu-01-main
"""
SYNC_EXAMPLE = """
runnerctl labels sync -i inventory --dry-run
runnerctl labels sync -i inventory --limit rack-7 -o json
"""
app = new_app(
    cls=Group,
    name="labels",
    help="Change the labels of runners at GitHub.",
    epilog="runnerctl labels add big-memory --runner gpu-01-main\nrunnerctl labels sync -i inventory",
)
LabelsArgument = Annotated[list[str], typer.Argument(metavar="LABEL", help="A label, compared without case.")]
NoneOption = Annotated[bool, typer.Option("--none", help="Leave the runners no custom label at all.")]


@app.command("add", cls=Command, epilog=ADD_EXAMPLE)
def add(
    context: typer.Context,
    names: LabelsArgument,
    runner: RunnerOption = None,
    label: LabelFilter = None,
    status: StatusFilter = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Give runners labels; those they have stay.

    The runners are chosen by name, by filters that must all hold, or with --all. What inventory does not say
    is taken back by the next converge. Runners that are drained are left out.
    """
    chosen = Selection.given(names=runner, labels=label, status=status, everything=everything)
    desk = _Desk(context.obj, url, api_url, max_wait=max_wait, dry_run=dry_run)
    return desk.edit("add", names, chosen, output)


@app.command("remove", cls=Command, epilog=REMOVE_EXAMPLE)
def remove(
    context: typer.Context,
    names: LabelsArgument,
    runner: RunnerOption = None,
    label: LabelFilter = None,
    status: StatusFilter = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Take labels away from runners; other labels stay.

    Labels that GitHub gives (self-hosted, linux, x64) are refused: it keeps them. Runners that are drained
    are left out.
    """
    chosen = Selection.given(names=runner, labels=label, status=status, everything=everything)
    desk = _Desk(context.obj, url, api_url, max_wait=max_wait, dry_run=dry_run)
    return desk.edit("remove", names, chosen, output)


@app.command("set", cls=Command, epilog=SET_EXAMPLE)
def set_command(
    context: typer.Context,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="LABEL", help="A label, compared without case.")
    ] = None,
    none: NoneOption = False,
    runner: RunnerOption = None,
    label: LabelFilter = None,
    status: StatusFilter = None,
    everything: AllOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Give runners exactly these custom labels.

    The labels that GitHub gives stay beside them. Runners that are drained are left out.
    """
    if bool(names) == none:
        raise UsageError("give labels, or --none to take every custom label away")
    chosen = Selection.given(names=runner, labels=label, status=status, everything=everything)
    desk = _Desk(context.obj, url, api_url, max_wait=max_wait, dry_run=dry_run)
    return desk.edit("set", names or (), chosen, output)


@app.command("sync", cls=Command, epilog=SYNC_EXAMPLE)
def sync(
    context: typer.Context,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    dry_run: DryRunOption = False,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Give the runners of an inventory the labels it says.

    No host is touched. Runners that are drained stay as they are. Exit code 69 when GitHub has no record of
    a runner.
    """
    from runnerctl.cli.label_sync import sync_labels

    if not inventory:
        raise UsageError("labels sync needs an inventory", remedy="give one with -i")
    results, failure = sync_labels(
        context.obj, inventory, limit=limit, api=api_url, max_wait=max_wait, dry_run=dry_run
    )
    return tell(context.obj, results, output, dry_run=dry_run, failure=failure)


class _Desk:
    """One change by hand, of the runners of one scope."""

    def __init__(
        self, context: Context, url: str | None, api: str | None, *, max_wait: str | None, dry_run: bool
    ) -> None:
        self.context = context
        self.url = url
        self.api = api
        self.max_wait = max_wait
        self.dry_run = dry_run

    def edit(self, verb: str, names: Sequence[str], selection: Selection, output: str | None) -> int:
        """Choose, refuse what cannot be, change, and tell."""
        from runnerctl.cli.label_edit import Edit
        from runnerctl.cli.remote import registry

        _check(names)
        edit = Edit(verb, frozenset(name.lower() for name in names), tuple(names))
        scope = scope_needed(self.context, self.url)
        at = registry(self.context, scope, api=self.api, max_wait=self.max_wait)
        runners = selection.choose(at)
        _refuse_read_only(runners, edit)
        results, failure = self._change(at, runners, edit)
        return tell(self.context, results, output, dry_run=self.dry_run, failure=failure)

    def _change(
        self, at: Registry, runners: Iterable[Runner], edit: Edit
    ) -> tuple[list[Result], RunnerctlError | None]:
        from runnerctl.cli.label_edit import change

        return change(at, [(runner, edit) for runner in runners], dry_run=self.dry_run)


def _check(names: Iterable[str]) -> None:
    for name in names:
        if problem := check_label(name):
            raise UsageError(f"label {name!r} {problem}", remedy="give another label")
        if name.lower() == DRAINED:
            remedy = "`runnerctl drain` gives it and `runnerctl resume` takes it away"
            raise UsageError(f"label {DRAINED} is the mark of a drained runner", remedy=remedy)


def _refuse_read_only(runners: Iterable[Runner], edit: Edit) -> None:
    """Before the first change: GitHub's own labels cannot be changed on any runner."""
    for runner in runners:
        own = frozenset(label.name.lower() for label in runner.labels if label.type != "custom")
        if refused := sorted(edit.labels & own):
            raise UsageError(
                f"{', '.join(refused)}: GitHub gives and keeps this label",
                where=runner.name,
                remedy="leave it out; github_runner_no_default_labels registers a runner without such labels",
            )


def tell(
    context: Context,
    results: Sequence[Result],
    output: str | None,
    *,
    dry_run: bool,
    failure: RunnerctlError | None,
) -> int:
    """Print what became of each runner; the failure that ended it, if any, is raised afterwards."""
    from collections import Counter

    from runnerctl.cli.output import table

    if context.wants_json(output):
        rows = [result.as_json() for result in results]
        context.say_json({"schema": SCHEMA, "dry_run": dry_run, "runners": rows})
    elif shown := [result for result in results if result.outcome != "unchanged"]:
        rows_text = [[result.name, result.outcome.replace("_", " "), result.text] for result in shown]
        context.say(table(["RUNNER", "RESULT", "LABELS"], rows_text, width=context.width))
    counts = Counter(result.outcome.replace("_", " ") for result in results)
    context.note(", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no runner matches")
    if failure is not None:
        raise failure
    return max((result.exit_code for result in results), default=0)
