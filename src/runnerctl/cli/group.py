"""``runnerctl group``: runner groups of an organisation or enterprise, and which runners are in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, Group, new_app
from runnerctl.cli.options import ApiUrlOption, MaxWaitOption, OutputOption, UrlOption
from runnerctl.cli.select import (
    AllOption,
    DryRunOption,
    LabelFilter,
    RunnerOption,
    Selection,
    StatusFilter,
    scope_needed,
)
from runnerctl.core.labels import DRAINED
from runnerctl.errors import ConfigError, RunnerctlError, UsageError

if TYPE_CHECKING:
    from runnerctl.github.models import Runner, RunnerGroup
    from runnerctl.github.registry import Registry

__all__ = ["app"]

LIST_SCHEMA = "runnerctl.groups/1"
CREATE_SCHEMA = "runnerctl.group/1"
MOVE_SCHEMA = "runnerctl.group_move/1"
LIST_EXAMPLE = """
runnerctl group list --url https://github.com/acme
runnerctl group list --runners -o json
"""
CREATE_EXAMPLE = """
runnerctl group create gpu --for acme/model --for acme/data
runnerctl group create drained
"""
MOVE_EXAMPLE = """
runnerctl group move gpu --runner gpu-01-main --runner gpu-02-main
runnerctl group move gpu --label a100 --dry-run
"""
app = new_app(
    cls=Group,
    name="group",
    help="List and make runner groups, and move runners between them.",
    epilog="runnerctl group list\nrunnerctl group move gpu --runner gpu-01-main",
)
GroupArgument = Annotated[str, typer.Argument(metavar="GROUP", help="The group's name.")]
VisibilityOption = Annotated[
    Literal["selected", "all", "private"],
    typer.Option("--visibility", help="Which repositories' jobs may use it."),
]
ForOption = Annotated[
    list[str] | None,
    typer.Option(
        "--for",
        metavar="OWNER/REPOSITORY",
        help="A repository that may use it; of an enterprise, an organisation. May be repeated.",
    ),
]
PublicOption = Annotated[
    bool, typer.Option("--public", help="Let public repositories use it: their forks run code on your hosts.")
]
RunnersOption = Annotated[bool, typer.Option("--runners", help="Count the runners too: one more list call.")]


@app.command("list", cls=Command, epilog=LIST_EXAMPLE)
def list_command(
    context: typer.Context,
    runners: RunnersOption = False,
    url: UrlOption = None,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """List the runner groups of an organisation or enterprise."""
    command: Context = context.obj
    registry = _registry(command, url, api_url, max_wait)
    groups = sorted(registry.groups(), key=lambda group: (not group.default, group.name.lower()))
    counts = _counts(registry) if runners else None
    if command.wants_json(output):
        rows = [_group_json(group, counts) for group in groups]
        command.say_json({"schema": LIST_SCHEMA, "url": registry.scope.url, "groups": rows})
    else:
        command.say(_group_table(groups, counts, command.width))
    return 0


@app.command("create", cls=Command, epilog=CREATE_EXAMPLE)
def create(
    context: typer.Context,
    name: GroupArgument,
    visibility: VisibilityOption = "selected",
    members: ForOption = None,
    public: PublicOption = False,
    dry_run: DryRunOption = False,
    url: UrlOption = None,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Make a runner group.

    A group of that name with the same settings is left as it is; one with other settings is an error. With
    visibility selected and no --for, no repository can use the group: a place for drained runners.
    """
    command: Context = context.obj
    if members and visibility != "selected":
        raise UsageError("names who may use the group", where="--for", remedy="add --visibility selected")
    if not name.strip() or not name.isprintable():
        raise UsageError("a group's name cannot be empty or hold control characters", where="GROUP")
    registry = _registry(command, url, api_url, max_wait)
    if registry.scope.kind == "enterprise" and visibility == "private":
        raise UsageError("an enterprise has no such visibility", where="--visibility private")
    maker = _Maker(registry, name, visibility, tuple(members or ()), public=public)
    group, outcome = maker.make(dry_run=dry_run)
    if command.wants_json(output):
        made = _group_json(group, None) if group else None
        command.say_json({"schema": CREATE_SCHEMA, "outcome": outcome, "name": name, "group": made})
    else:
        from runnerctl.cli.output import escape

        command.say(f"group {escape(name)}: {outcome.replace('_', ' ')}")
    return 0


@app.command("move", cls=Command, epilog=MOVE_EXAMPLE)
def move(
    context: typer.Context,
    name: GroupArgument,
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
    """Move runners into a group; those that are in it already stay.

    The runners are chosen by name, by filters that must all hold, or with --all. The next
    converge puts a runner into the group that inventory says. Runners that are drained are left out.
    """
    command: Context = context.obj
    chosen = Selection.given(names=runner, labels=label, status=status, everything=everything)
    registry = _registry(command, url, api_url, max_wait)
    group_id = registry.group_id(name)
    rows: list[dict[str, Any]] = []
    failure: RunnerctlError | None = None
    for each in chosen.choose(registry):
        outcome = _move_outcome(each, group_id, dry_run=dry_run)
        if outcome == "moved":
            try:
                registry.move_to_group(each.id, group_id)
            except RunnerctlError as error:
                failure = error
                break
        before = each.runner_group_id
        rows.append({"name": each.name, "id": each.id, "outcome": outcome, "from_group_id": before})
    _tell_moves(command, name, rows, output)
    if failure:
        raise failure
    return 75 if any(row["outcome"] == "drained" for row in rows) else 0


def _move_outcome(runner: Runner, group_id: int, *, dry_run: bool) -> str:
    """A drained runner stays where it is: `resume` puts it into the group it should be in."""
    if runner.runner_group_id == group_id:
        return "unchanged"
    if DRAINED in runner.custom_labels():
        return "drained"
    return "would_move" if dry_run else "moved"


def _tell_moves(context: Context, group: str, rows: Sequence[dict[str, Any]], output: str | None) -> None:
    from collections import Counter

    from runnerctl.cli.output import escape, table

    if context.wants_json(output):
        context.say_json({"schema": MOVE_SCHEMA, "group": group, "runners": list(rows)})
    elif shown := [row for row in rows if row["outcome"] != "unchanged"]:
        lines = [[row["name"], row["outcome"].replace("_", " "), group] for row in shown]
        context.say(table(["RUNNER", "RESULT", "GROUP"], lines, width=context.width))
    counts = Counter(row["outcome"].replace("_", " ") for row in rows)
    text = ", ".join(f"{count} {outcome}" for outcome, count in counts.items()) or "no runner matches"
    context.note(f"group {escape(group)}: {text}")


def _registry(context: Context, url: str | None, api: str | None, max_wait: str | None) -> Registry:
    from runnerctl.cli.remote import registry

    scope = scope_needed(context, url)
    if scope.kind == "repository":
        raise ConfigError(
            "a repository has no runner groups",
            where=scope.name,
            remedy=f"ask for its organisation: --url {scope.url.rpartition('/')[0]}",
        )
    return registry(context, scope, api=api, max_wait=max_wait)


def _counts(registry: Registry) -> dict[int, int]:
    """How many runners each group has, from one list of the scope's runners."""
    from collections import Counter

    return Counter(runner.runner_group_id or 0 for runner in registry.runners())


class _Maker:
    """One group to be made, or to be found as it should be."""

    def __init__(
        self, registry: Registry, name: str, visibility: str, members: tuple[str, ...], *, public: bool
    ) -> None:
        self.registry = registry
        self.name = name
        self.visibility = visibility
        self.members = members
        self.public = public

    def make(self, *, dry_run: bool) -> tuple[RunnerGroup | None, str]:
        """The group, and ``created``, ``would_create`` or ``unchanged``. Raises ConfigError."""
        named = [group for group in self.registry.groups() if group.name.lower() == self.name.lower()]
        if named:
            self._refuse_other(named[0])
            return named[0], "unchanged"
        ids = [self._id(member) for member in self.members]
        if dry_run:
            return None, "would_create"
        made = self.registry.create_group(
            self.name,
            visibility=self.visibility,
            selected_repository_ids=ids,
            allows_public_repositories=self.public,
        )
        return made, "created"

    def _refuse_other(self, group: RunnerGroup) -> None:
        differs = []
        if group.visibility != self.visibility:
            differs.append(f"visibility {group.visibility}")
        if group.allows_public_repositories not in (self.public, None):
            differs.append(
                f"public repositories {'allowed' if group.allows_public_repositories else 'refused'}"
            )
        if not differs and self.visibility == "selected":
            has = {member.name.lower(): member.name for member in self.registry.group_repositories(group.id)}
            if set(has) != {member.lower() for member in self.members}:
                differs.append(f"for {', '.join(sorted(has.values())) or 'nobody'}")
        if differs:
            raise ConfigError(
                f"runner group {group.name} exists with other settings: {'; '.join(differs)}",
                where=self.registry.scope.name,
                remedy="choose another name, or change that group at GitHub",
            )

    def _id(self, member: str) -> int:
        """GitHub's id of a repository, or of an enterprise's organisation. Raises ConfigError."""
        from runnerctl.core.scope import parse_scope
        from runnerctl.github.models import GroupMember

        scope = self.registry.scope
        host = "/".join(scope.url.split("/")[:3])
        asked = parse_scope(f"{host}/{member}")
        wanted = "repository" if scope.kind == "organization" else "organization"
        owner = member.partition("/")[0].lower()
        if asked.kind != wanted or (wanted == "repository" and owner != scope.name.lower()):
            kind = "a repository of this organisation" if wanted == "repository" else "an organisation"
            raise UsageError(f"{member} is not {kind}", where="--for")
        answer = self.registry.client.get(asked.path, what=f"look up {member}", accept=(404,))
        if answer.status == 404:
            raise ConfigError(
                f"GitHub shows no {member}", where=scope.name, remedy="check its name, and the credential"
            )
        found: GroupMember = answer.decode(GroupMember)
        return found.id


def _group_table(groups: Sequence[RunnerGroup], counts: dict[int, int] | None, width: int) -> str:
    from runnerctl.cli.output import table

    head = ["GROUP", "ID", "VISIBILITY", "DEFAULT", "PUBLIC"] + (["RUNNERS"] if counts is not None else [])
    rows: list[list[object]] = []
    for group in groups:
        row: list[object] = [group.name, group.id, group.visibility, group.default]
        row += [group.allows_public_repositories] + ([counts.get(group.id, 0)] if counts is not None else [])
        rows.append([*row, list(group.selected_workflows) if group.restricted_to_workflows else "all"])
    return table([*head, "WORKFLOWS"], rows, width=width)


def _group_json(group: RunnerGroup, counts: dict[int, int] | None) -> dict[str, Any]:
    return {
        "id": group.id,
        "name": group.name,
        "visibility": group.visibility,
        "default": group.default,
        "inherited": group.inherited,
        "allows_public_repositories": group.allows_public_repositories,
        "restricted_to_workflows": group.restricted_to_workflows,
        "selected_workflows": list(group.selected_workflows),
        "runners": None if counts is None else counts.get(group.id, 0),
    }
