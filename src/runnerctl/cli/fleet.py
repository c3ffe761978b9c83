"""``runnerctl fleet``: every host's own verdict and GitHub's view, merged: which runner can take a job?"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import LimitOption, OutputOption, seconds_given
from runnerctl.errors import RunnerctlError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runnerctl.core.fleet import Fleet, GithubView
    from runnerctl.core.spec import HostSpec

__all__ = ["app", "fleet"]

DEADLINE_SECONDS = 20.0  # for a host's verdict; its first look at sleeping GPUs takes seconds
EXAMPLE = """
runnerctl fleet -i inventory
runnerctl fleet -i inventory --limit rack7 --no-github -o json
runnerctl fleet -i inventory --html /var/www/fleet.html --watch 60
"""
MAX_WAIT = "RUNNERCTL_MAX_WAIT_SECONDS"
GITHUB_WAIT_SECONDS = 10.0  # a verdict is wanted now: a rate limit that lasts longer is told instead
app = new_app()
InventoryOption = Annotated[
    str,
    typer.Option("--inventory", "-i", metavar="INVENTORY", help="The Ansible inventory of the fleet."),
]
GithubOption = Annotated[bool, typer.Option("--github/--no-github", help="Ask GitHub about the runners.")]
HtmlOption = Annotated[
    str | None,
    typer.Option(
        "--html",
        metavar="FILE",
        help="Write the answer as one web page, too, for a wall screen or a phone.",
        show_default=False,
    ),
]
# Texts: for numbers Typer loads pydantic, 80 ms.
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        help="How long each host may take over its verdict. Default: 20.",
        show_default=False,
    ),
]
WatchOption = Annotated[
    str | None,
    typer.Option(
        "--watch",
        metavar="SECONDS",
        help="Ask again and again, this long apart, until interrupted; the page reloads itself.",
        show_default=False,
    ),
]
RefreshOption = Annotated[
    str | None,
    typer.Option(
        "--refresh",
        metavar="SECONDS",
        help="Let the page reload itself so often, where a timer makes it. Default: that of --watch.",
        show_default=False,
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="Everything that is wrong with a runner, not only the first.")
]


@dataclass(frozen=True)
class _Look:
    """How to look at the fleet."""

    inventory: str
    limit: str | None
    github: bool
    deadline_seconds: float
    html: str | None
    watch_seconds: float | None
    refresh_seconds: float | None
    verbose: bool
    output: str | None


@app.command("fleet", cls=Command, epilog=EXAMPLE)
def fleet(
    context: typer.Context,
    inventory: InventoryOption,
    limit: LimitOption = None,
    github: GithubOption = True,
    html: HtmlOption = None,
    watch: WatchOption = None,
    refresh: RefreshOption = None,
    deadline: DeadlineOption = None,
    verbose: VerboseOption = False,
    output: OutputOption = None,
) -> int:
    """Judge every host of an inventory, and what GitHub says of it.

    One table: which runner is really able to take a job, and if not, why, root cause first, and what to do.
    Ansible runs each host's own `runnerctl health`; one that is slow or away is UNKNOWN and keeps no other
    waiting. Exit code of the worst: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (CRITICAL outranks UNKNOWN).
    """
    seconds = seconds_given(deadline, "--deadline", least=1.0, most=600.0) or DEADLINE_SECONDS
    every = seconds_given(watch, "--watch", least=5.0, most=86400.0)
    reload = seconds_given(refresh, "--refresh", least=1.0, most=86400.0) or every
    look = _Look(inventory, limit, github, seconds, html, every, reload, verbose, output)
    if html:
        from runnerctl.cli.fleet_page import check_place

        check_place(html)  # before anything is asked
    return _watch(context.obj, look) if every else _once(context.obj, look)


def _watch(context: Context, look: _Look) -> int:
    """Again and again. What worked once may fail and work again: it is said, and the page shows its age."""
    from runnerctl.cli.output import escape

    assert look.watch_seconds is not None
    worked = False
    while True:
        begin = time.monotonic()
        try:
            _once(context, look)
            context.say("")
            context.flush()
            worked = True
        except RunnerctlError as error:
            if not worked:
                raise
            context.note(f"runnerctl: {escape(str(error))}")
        context.sleep(max(look.watch_seconds - (time.monotonic() - begin), 1.0))


def _once(context: Context, look: _Look) -> int:
    from runnerctl.core.health import exit_code

    found = _taken(context, look)
    if look.html:
        from runnerctl.cli.fleet_page import write_page

        write_page(look.html, found, refresh_seconds=look.refresh_seconds)
    if context.wants_json(look.output):
        from runnerctl.cli.render_fleet import render_json

        context.say(render_json(found))
    else:
        from runnerctl.cli.render_fleet import render_text

        text = render_text(found, width=context.width, colour=context.colour(), verbose=look.verbose)
        context.say(text.rstrip("\n"))
    return exit_code(found.status)


def _taken(context: Context, look: _Look) -> Fleet:
    """Ask the hosts and, at the same time, GitHub; merge what they say."""
    from concurrent.futures import ThreadPoolExecutor

    from runnerctl.cli.fleet_hosts import ask_hosts, specs_of
    from runnerctl.cli.inventory import resolve
    from runnerctl.core.fleet import judge_fleet

    begin = time.monotonic()
    hosts = resolve(context, look.inventory, limit=look.limit)
    specs = specs_of(hosts)
    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(_github, context, look, specs)
        answers = ask_hosts(
            context,
            hosts,
            specs,
            inventory=look.inventory,
            limit=look.limit,
            deadline_seconds=look.deadline_seconds,
        )
        github = asking.result()
    return judge_fleet(
        answers,
        github,
        time=datetime.fromtimestamp(context.clock(), timezone.utc),
        duration_seconds=time.monotonic() - begin,
        whole=look.limit is None,
    )


def _github(context: Context, look: _Look, specs: Mapping[str, HostSpec]) -> GithubView:
    from runnerctl.cli.remote import has_credential
    from runnerctl.core.fleet import GithubView

    if not look.github:
        return GithubView(note="GitHub was not asked: this is the hosts' own view")
    if not has_credential(context):
        return GithubView(note="no GitHub credential: this is the hosts' own view; set GH_TOKEN to have both")
    from runnerctl.cli.fleet_github import ask_github

    env = {MAX_WAIT: f"{GITHUB_WAIT_SECONDS:g}", **context.env}
    return ask_github(replace(context, env=env), specs)
