"""``runnerctl doctor``: judge credential, settings and records at GitHub, before they bite."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import (
    ApiUrlOption,
    InventoryOption,
    LimitOption,
    MaxWaitOption,
    OutputOption,
)
from runnerctl.errors import UsageError

if TYPE_CHECKING:
    from runnerctl.core.doctor import Doctor
    from runnerctl.core.findings import Finding
    from runnerctl.core.scope import Scope
    from runnerctl.core.sections import HostSpec, Runnerctl

__all__ = ["app", "doctor"]

EXAMPLE = """
GH_TOKEN=... runnerctl doctor --url https://github.com/acme
runnerctl doctor -i inventory --prove
runnerctl doctor -i inventory -o json
"""
app = new_app()
UrlsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="Repository, organisation or enterprise; may be given again. Default: the inventory's, or "
        "RUNNERCTL_URL.",
    ),
]
ProveOption = Annotated[
    bool,
    typer.Option("--prove", help="Mint a registration token to prove that runners can be registered."),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="A line for every finding, those that are OK included.")
]


@app.command("doctor", cls=Command, epilog=EXAMPLE)
def doctor(
    context: typer.Context,
    url: UrlsOption = None,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    prove: ProveOption = False,
    verbose: VerboseOption = False,
    max_wait: MaxWaitOption = None,
    api_url: ApiUrlOption = None,
    output: OutputOption = None,
) -> int:
    """Judge credential, groups and settings at GitHub.

    Is the credential enough, and not too much? Can a stranger's pull request reach the runners? Is a version
    about to end? With -i also: names claimed twice, drift, left-over records, and how much of the fleet is
    out of service. It only reads; what cannot be proven by reading is UNKNOWN. Exit codes are those of
    monitoring plugins: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
    """
    from runnerctl.cli.doctor_sight import Examiner
    from runnerctl.cli.listing_places import specs_of
    from runnerctl.core.doctor import examine
    from runnerctl.core.doctor_readings import Site
    from runnerctl.core.health import exit_code

    command: Context = context.obj
    if limit and not inventory:
        raise UsageError("limits an inventory, and none is given", where="--limit", remedy="add -i INVENTORY")
    begin = time.monotonic()
    left_out: list[str] = []
    specs = specs_of(command, inventory, limit, left_out=left_out)
    scopes = _scopes(command, specs, url or (), api_url)
    examiner = Examiner(command, scopes, prove=prove, max_wait=max_wait)
    readings = [examiner.read(scope, api) for scope, api in scopes]
    now = datetime.fromtimestamp(int(command.clock()), timezone.utc)
    site = Site(now, tuple(specs), _limits(specs), whole=limit is None, left_out=tuple(left_out))
    verdict = examine(readings, site, duration_seconds=round(time.monotonic() - begin, 3))
    command.say(_rendered(command, verdict, output, verbose=verbose))
    return exit_code(verdict.status)


def _scopes(
    context: Context, specs: Sequence[HostSpec], urls: Sequence[str], api: str | None
) -> list[tuple[Scope, str | None]]:
    from runnerctl.cli.listing_places import scopes_of

    if not urls:
        return scopes_of(context, specs, None, api)
    found = [scopes_of(context, specs, url, api)[0] for url in urls]
    return list({scope.url.lower(): (scope, each) for scope, each in found}.values())


def _limits(specs: Sequence[HostSpec]) -> Runnerctl:
    """The strictest limits of the inventory's hosts; without one the defaults."""
    from runnerctl.core.sections import Runnerctl

    own = [spec.runnerctl for spec in specs] or [Runnerctl()]
    return Runnerctl(
        health_version_expiry_warning_days=max(each.health_version_expiry_warning_days for each in own),
        health_clock_skew_warning_seconds=min(each.health_clock_skew_warning_seconds for each in own),
        health_clock_skew_critical_seconds=min(each.health_clock_skew_critical_seconds for each in own),
    )


def _rendered(context: Context, verdict: Doctor, output: str | None, *, verbose: bool) -> str:
    import msgspec

    if context.wants_json(output):
        from runnerctl.cli.output import ascii_json

        return ascii_json(msgspec.json.format(msgspec.json.encode(verdict), indent=2).decode())
    from runnerctl.cli.render_health import render_text
    from runnerctl.core.health import Health

    shown = verdict.findings if verbose else _folded(verdict.findings)
    names = [url.split("://", 1)[-1] for url in verdict.scopes]
    if len(names) == 1:  # the head says it once for all
        shown = [msgspec.structs.replace(finding, subject="host") for finding in shown]
    health = Health(
        status=verdict.status,
        host=names[0] if len(names) == 1 else f"{len(names)} scopes",
        checked_at=verdict.checked_at,
        duration_seconds=verdict.duration_seconds,
        findings=tuple(shown),
    )
    return render_text(health, width=context.width, colour=context.colour(), verbose=True).rstrip("\n")


def _folded(findings: Sequence[Finding]) -> list[Finding]:
    """One line for all that are OK of one check: which scopes they speak of, where they say the same."""
    from runnerctl.core.findings import Finding

    groups: dict[tuple[str, str], list[Finding]] = {}
    for number, finding in enumerate(findings):
        groups.setdefault((finding.id, "" if finding.status == "OK" else str(number)), []).append(finding)
    folded = []
    for (name, _), group in groups.items():
        subjects = {finding.subject for finding in group}
        subject = group[0].subject if len(subjects) == 1 else f"{len(subjects)} scopes"
        texts = dict.fromkeys(finding.summary for finding in group)
        text = next(iter(texts)) if len(texts) == 1 else f"all well ({len(group)} findings, see --verbose)"
        folded.append(group[0] if len(group) == 1 else Finding(name, "OK", subject, text))
    return folded
