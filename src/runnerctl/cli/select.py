"""Which runners of a scope a command is to change. Nothing is chosen by leaving something out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from runnerctl.cli.context import Context
from runnerctl.core.scope import Scope
from runnerctl.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from runnerctl.github.models import Runner
    from runnerctl.github.registry import Registry

__all__ = [
    "AllOption",
    "DryRunOption",
    "LabelFilter",
    "RunnerOption",
    "Selection",
    "StatusFilter",
    "scope_needed",
]

FEW = 5  # so many names are looked up one by one; more are picked from the whole list

RunnerOption = Annotated[
    list[str] | None,
    typer.Option("--runner", "-r", metavar="NAME", help="This runner, by its exact name; may be repeated."),
]
LabelFilter = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="LABEL", help="Every runner with this label; may be repeated."),
]
StatusFilter = Annotated[
    Literal["online", "offline", "busy", "idle"] | None,
    typer.Option("--status", help="Every runner in this state, as GitHub sees it.", show_default=False),
]
AllOption = Annotated[bool, typer.Option("--all", help="Every runner of the scope.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", "--check", help="Show what would change; change nothing.")
]


@dataclass(frozen=True)
class Selection:
    """What the operator asked for: names, or filters that must all hold, or everything."""

    names: tuple[str, ...] = ()
    labels: frozenset[str] = field(default_factory=frozenset)
    status: str | None = None
    everything: bool = False

    @classmethod
    def given(
        cls,
        *,
        names: Sequence[str] | None,
        labels: Sequence[str] | None,
        status: str | None,
        everything: bool,
    ) -> Selection:
        """From a command's options. Raises UsageError when they choose nothing, or contradict each other."""
        lowered = frozenset(label.lower() for label in labels or ())
        made = cls(tuple(dict.fromkeys(names or ())), lowered, status, everything)
        ways = [bool(made.names), bool(lowered or status), everything]
        if not any(ways):
            raise UsageError(
                "no runner is chosen",
                remedy="give --runner NAME, --label or --status, or --all for every one",
            )
        if sum(ways) > 1:
            raise UsageError("names, filters and --all exclude each other", remedy="give one of them")
        return made

    def choose(self, registry: Registry) -> list[Runner]:
        """The chosen runners, by name. Raises UsageError for a name that GitHub does not know."""
        if self.names:
            found = self._named(registry)
        else:
            found = [runner for runner in registry.runners() if self._keeps(runner)]
        return sorted(found, key=lambda runner: runner.name.lower())

    def _named(self, registry: Registry) -> list[Runner]:
        if len(self.names) <= FEW:
            known = {name.lower(): registry.runner_by_name(name) for name in self.names}
        else:
            every: dict[str, Runner | None] = {runner.name.lower(): runner for runner in registry.runners()}
            known = {name.lower(): every.get(name.lower()) for name in self.names}
        if absent := [name for name in self.names if known[name.lower()] is None]:
            raise UsageError(
                f"there is no runner {', '.join(absent)}",
                where=registry.scope.name,
                remedy="`runnerctl list --url ...` shows those there are",
            )
        return [runner for runner in known.values() if runner is not None]

    def _keeps(self, runner: Runner) -> bool:
        states = {runner.status, "busy" if runner.busy else "idle"}
        return self.labels <= runner.all_labels() and (self.status is None or self.status in states)


def scope_needed(context: Context, url: str | None) -> Scope:
    """The scope to ask. Raises ConfigError when none is given."""
    from runnerctl.cli.remote import scope_of

    scope = scope_of(context, url)
    if scope is None:
        raise ConfigError(
            "there is no URL to ask",
            remedy="give --url https://github.com/OWNER[/REPOSITORY], or set RUNNERCTL_URL",
        )
    return scope
