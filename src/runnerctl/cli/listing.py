"""``runnerctl list``: the slots of this host, or the runners that GitHub knows in a scope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import (
    ApiUrlOption,
    InventoryOption,
    LimitOption,
    MaxWaitOption,
    OutputOption,
    RootfsOption,
    UrlOption,
)
from runnerctl.errors import UsageError

if TYPE_CHECKING:
    from runnerctl.cli.listing_places import Place
    from runnerctl.cli.listing_rows import Row, Wanted
    from runnerctl.cli.listing_sight import Look, Needs, Sight
    from runnerctl.core.spec import HostSpec

__all__ = ["app", "list_command"]

SCHEMA = "runnerctl.list/1"
GITHUB_STATES = ("online", "offline", "absent", "drained", "expiring")
EXAMPLE = """
runnerctl list
runnerctl list --url https://github.com/acme --label gpu --status online
runnerctl list -i inventory 'gpu-0*' --columns host,slot,status,expiry
runnerctl list -i inventory --status expiring -o json
runnerctl list --watch --interval 30
"""
app = new_app()
NameArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="NAME", help="Only slots or runners of this name; * and ? match.", show_default=False
    ),
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="LABEL", help="Only runners with this label; may be given again."),
]
StatusOption = Annotated[
    Literal["online", "offline", "absent", "busy", "idle", "held", "drained", "expiring"] | None,
    typer.Option(
        "--status",
        help="Only runners in this state. held: on a host only. expiring: its version ends soon.",
        show_default=False,
    ),
]
HostOption = Annotated[
    str | None,
    typer.Option(
        "--host", metavar="HOST", help="Only runners of this host; * and ? match.", show_default=False
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--group", metavar="GROUP", help="Only runners in this group; * and ? match.", show_default=False
    ),
]
VersionOption = Annotated[
    str | None,
    typer.Option(
        "--version",
        metavar="VERSION",
        help="Only runners of this version; * and ? match.",
        show_default=False,
    ),
]
SortOption = Annotated[
    Literal["name", "host", "status", "busy", "group", "version", "expiry"],
    typer.Option("--sort", help="The order; what is not known comes last."),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="NAME,...",
        help="These columns, or all, however wide. Default: those that fit.",
        show_default=False,
    ),
]
WatchOption = Annotated[
    bool, typer.Option("--watch", help="Look again and again, until Ctrl-C; a terminal is redrawn.")
]
IntervalOption = Annotated[
    str | None,
    typer.Option(
        "--interval", metavar="SECONDS", help="Between two looks of --watch. Default: 15.", show_default=False
    ),
]


@app.command("list", cls=Command, epilog=EXAMPLE)
def list_command(
    context: typer.Context,
    name: NameArgument = None,
    url: UrlOption = None,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    label: LabelOption = None,
    status: StatusOption = None,
    host: HostOption = None,
    group: GroupOption = None,
    version: VersionOption = None,
    sort: SortOption = "name",
    columns: ColumnsOption = None,
    watch: WatchOption = False,
    interval: IntervalOption = None,
    max_wait: MaxWaitOption = None,
    api_url: ApiUrlOption = None,
    rootfs: RootfsOption = None,
    output: OutputOption = None,
) -> int:
    """List this host's slots, or the runners that GitHub knows.

    On a runner host it lists the slots; with a credential, GitHub's view of them stands beside. With --url or
    -i, or on a machine without slots, it lists all runners of that repository, organisation or enterprise, or
    of every one that the inventory names; with -i it knows which host and slot a runner belongs to, and shows
    slots without a record as absent. Labels that GitHub adds itself are left out of the table.
    """
    from runnerctl.cli.listing_places import Place
    from runnerctl.cli.listing_rows import Wanted
    from runnerctl.cli.listing_view import check_columns

    command: Context = context.obj
    if limit and not inventory:
        raise UsageError("limits an inventory, and none is given", where="--limit", remedy="add -i INVENTORY")
    if interval and not watch:
        raise UsageError("is the pause of --watch", where="--interval", remedy="add --watch")
    labels = frozenset(each.lower() for each in label or ())
    wanted = Wanted(labels, status, name, host, group, version)
    listing = Listing(command, wanted, sort, check_columns(columns), json=command.wants_json(output))
    return listing.show(Place(url, inventory, limit, api_url, rootfs, max_wait), interval if watch else "")


@dataclass(frozen=True)
class Listing:
    """One listing: what it keeps, and how it looks."""

    context: Context
    wanted: Wanted
    sort: str
    columns: tuple[str, ...] | None
    json: bool

    def show(self, place: Place, interval: str | None) -> int:
        """List once, or with an ``interval`` other than "" until somebody ends it."""
        sight, listing = self._sight(place), self
        if sight.on_host:
            listing = self._of_host(sight)
        elif self.wanted.status == "held":
            remedy = "ask on the host, or use `runnerctl fleet`; --status drained is what GitHub shows"
            raise UsageError("'held' is known on the host only", where="--status", remedy=remedy)
        if interval == "":
            look = sight.look()
            text, notes = listing.rendered(look, sight)
            self.context.say(text)
            for line in notes:
                self.context.note(line)
            return look.code
        from runnerctl.cli.listing_watch import Watch, interval_seconds

        seconds = interval_seconds(interval)
        return Watch(
            self.context, lambda: listing.block(sight), seconds, plain=self.json, low=lambda: sight.low
        ).run()

    def block(self, sight: Sight) -> str:
        """One picture of a watch."""
        text, notes = self.rendered(sight.look(), sight, compact=True)
        return text if self.json else "\n".join([text, *notes])

    def rendered(self, look: Look, sight: Sight, *, compact: bool = False) -> tuple[str, list[str]]:
        """The answer, and the lines about it that are none."""
        from runnerctl.cli.listing_rows import sort_rows
        from runnerctl.cli.listing_view import notes, summary, text_table
        from runnerctl.cli.output import escape

        rows = sort_rows((row for row in look.rows if self.wanted.keeps(row)), self.sort)
        problems = [f"runnerctl: {escape(line)}" for line in look.problems]
        if self.json:
            return self._json(rows, look, sight, compact=compact), problems
        text, hidden = text_table(rows, width=self.context.width, columns=self.columns)
        if sight.on_host:
            return "\n".join([text, *notes(rows)]), problems
        return text, [*problems, summary(rows, look.name, hidden)]

    def _json(self, rows: list[Row], look: Look, sight: Sight, *, compact: bool) -> str:
        import msgspec

        from runnerctl.cli.listing_view import absent_json, runner_json, slot_json
        from runnerctl.cli.output import ascii_json, rfc3339

        answer: dict[str, Any] = {
            "schema": SCHEMA,
            "checked_at": rfc3339(self.context.clock()),
            "url": look.urls[0] if len(look.urls) == 1 else None,
            "urls": look.urls,
            "slots": [slot_json(row) for row in rows if row.local],
            "runners": [] if sight.on_host else [runner_json(row, row.record) for row in rows if row.record],
            "absent": [] if sight.on_host else [absent_json(row) for row in rows if not row.record],
        }
        data = msgspec.json.encode(answer)
        return ascii_json((data if compact else msgspec.json.format(data, indent=2)).decode())

    def _of_host(self, sight: Sight) -> Listing:
        """A host's own limit of what expires soon; without a credential some questions have no answer."""
        from dataclasses import replace

        from runnerctl.cli.remote import has_credential

        asks = {"--group": self.wanted.group, "--status": self.wanted.status}
        if not has_credential(self.context):
            for option, value in asks.items():
                if value and (option == "--group" or value in GITHUB_STATES):
                    raise UsageError(f"{value!r} is GitHub's view", where=option, remedy="give a credential")
        spec: HostSpec | None = getattr(sight, "spec", None)
        if spec is None:
            return self
        days = spec.runnerctl.health_version_expiry_warning_days
        return replace(self, wanted=replace(self.wanted, expiring_days=days))

    def _needs(self) -> Needs:
        from runnerctl.cli.listing_sight import Needs

        def asked(column: str) -> bool:
            return self.json or self.columns is None or column in self.columns or self.sort == column

        return Needs(
            groups=asked("group") or self.wanted.group is not None,
            expiry=asked("expiry") or self.wanted.status == "expiring",
        )

    def _sight(self, place: Place) -> Sight:
        from runnerctl.cli.listing_places import claims_of, scopes_of, specs_of
        from runnerctl.cli.listing_sight import HostSight, ScopesSight
        from runnerctl.cli.local import slot_names
        from runnerctl.hostfile import load_host_spec

        paths = self.context.at(place.rootfs)
        if not place.url and not place.inventory:
            spec = load_host_spec(paths.host_file)
            if slot_names(paths, spec):
                return HostSight(self.context, paths, spec, place, self._needs())
        specs = specs_of(self.context, place.inventory, place.limit)
        scopes = scopes_of(self.context, specs, place.url, place.api)
        claims = claims_of(specs)
        return ScopesSight(self.context, scopes, self._needs(), place, claims)
