"""Which scopes at GitHub a command looks at: one that is named, or all of an inventory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from runnerctl.cli.context import Context
from runnerctl.core.scope import Scope
from runnerctl.core.spec import HostSpec
from runnerctl.errors import ConfigError

__all__ = ["Place", "claims_of", "scopes_of", "specs_of"]


@dataclass(frozen=True)
class Place:
    """Where to look, as the command line says."""

    url: str | None
    inventory: str | None
    limit: str | None
    api: str | None = None
    rootfs: str | None = None
    max_wait: str | None = None


def specs_of(
    context: Context, inventory: str | None, limit: str | None, *, left_out: list[str] | None = None
) -> list[HostSpec]:
    """The spec of every host of the inventory; one that can have none is told of on stderr and ``left_out``.

    Raises what `runnerctl.cli.inventory.resolve` raises, and ConfigError when no host has a spec.
    """
    if not inventory:
        return []
    import msgspec

    from runnerctl.cli.inventory import resolve
    from runnerctl.cli.output import escape
    from runnerctl.core.slot_layout_foreseen import foreseen

    resolved = resolve(context, inventory, limit=limit)
    for host in (host for host in resolved if host.spec is None):
        context.note(escape(f"runnerctl: {host.host} is left out: its spec has problems"))
        if left_out is not None:
            left_out.append(host.host)
    specs = [foreseen(msgspec.convert(host.spec, HostSpec)) for host in resolved if host.spec is not None]
    if not specs:
        remedy = f"see runnerctl spec validate -i {inventory}"
        raise ConfigError("no host has a spec without problems", where=inventory, remedy=remedy)
    return specs


def scopes_of(
    context: Context, specs: Sequence[HostSpec], url: str | None, api: str | None
) -> list[tuple[Scope, str | None]]:
    """The scope of ``url``, or all of the specs, or that of RUNNERCTL_URL; each with its API, if given.

    Raises ConfigError where nothing names one.
    """
    from runnerctl.cli.remote import scope_of

    named: dict[str, tuple[Scope, str | None]] = {}
    for spec in specs:
        for slot in spec.github_runner.slots:
            scope = spec.slot_scope(slot)
            named.setdefault(scope.url.lower(), (scope, api or spec.github_runner.api_url))
    asked = scope_of(context, url) if url or not named else None
    if asked is not None:
        return [named.get(asked.url.lower(), (asked, api))]
    if not named:
        raise ConfigError(
            "there is no slot on this host and no URL to ask",
            remedy="give --url https://github.com/OWNER[/REPOSITORY] or -i INVENTORY, or set RUNNERCTL_URL",
        )
    return list(named.values())


def claims_of(specs: Sequence[HostSpec]) -> dict[tuple[str, str], tuple[str, str]]:
    """(URL of the scope, runner's name), both without case, -> (host, slot) that should have it."""
    return {
        (spec.slot_scope(slot).url.lower(), spec.runner_name(slot).casefold()): (spec.host, slot.name)
        for spec in specs
        for slot in spec.github_runner.slots
    }
