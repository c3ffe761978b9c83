"""The table of commands, and what stands before a command: ``--version``, ``-o``, completion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Entry, Group, new_app
from runnerctl.cli.options import OutputOption

__all__ = ["LINTERS", "TABLE", "VERDICTS", "app"]

TABLE: Mapping[str, Entry] = {
    "register": Entry("runnerctl.cli.slots", "Register this host's slots at GitHub and start them."),
    "unregister": Entry("runnerctl.cli.slots", "Stop this host's slots and remove them from GitHub."),
    "restart": Entry("runnerctl.cli.slots", "Restart a slot's runner, now or when it is idle."),
    "drain": Entry("runnerctl.cli.drain", "Put a slot on hold; the job that runs is left alone."),
    "resume": Entry("runnerctl.cli.drain", "Take a slot's hold away and start it."),
    "upgrade": Entry("runnerctl.cli.upgrade", "Bring a fleet to another runner release, batch by batch."),
    "adopt": Entry("runnerctl.cli.adopt", "Take over a runner that svc.sh installed, without registering."),
    "list": Entry("runnerctl.cli.listing", "List this host's slots, or the runners that GitHub knows."),
    "health": Entry("runnerctl.cli.health", "Judge this host: GPUs, runners, disk, network."),
    "fleet": Entry("runnerctl.cli.fleet", "Judge every host of an inventory, and what GitHub says of it."),
    "doctor": Entry("runnerctl.cli.doctor", "Judge credential, groups and settings at GitHub."),
    "snapshot": Entry("runnerctl.cli.health", "Save what the host looks like, for a bug report."),
    "baseline": Entry(
        "runnerctl.cli.baseline", "Save what this host's GPUs are like; health reports what differs later."
    ),
    "labels": Entry("runnerctl.cli.labels", "Change the labels of runners at GitHub."),
    "group": Entry("runnerctl.cli.group", "List and make runner groups, and move runners between them."),
    "prune": Entry("runnerctl.cli.prune", "Remove records of runners that no longer exist."),
    "keepalive": Entry("runnerctl.cli.keepalive", "Keep the records of parked hosts from running out."),
    "bundle": Entry("runnerctl.cli.bundle", "Collect what hosts without internet need."),
    "slots": Entry("runnerctl.cli.layout", "Lay this host's slots out over its GPUs."),
    "isolation": Entry("runnerctl.cli.isolation", "Prove what a slot's jobs can and cannot reach."),
    "jobs": Entry("runnerctl.cli.jobs", "List the jobs that ran on this host, and what they used."),
    "clean": Entry("runnerctl.cli.clean", "Keep the slots' disk use in bounds."),
    "guard": Entry(
        "runnerctl.cli.guard",
        "Watch over the slots' jobs: admit them, clean up behind them, write them down.",
    ),
    "env": Entry("runnerctl.cli.env", "Get conda environments from this host's store, in no time."),
    "ci": Entry("runnerctl.cli.ci", "Set up and check a repository's workflows for your GPU runners."),
    "mint": Entry("runnerctl.cli.mint", "Mint an ephemeral slot's next registration; run by its unit."),
    "spec": Entry("runnerctl.cli.spec", "Show or check what a host should be."),
    "auth": Entry("runnerctl.cli.auth", "Find out what the credential at hand may do."),
    "logs": Entry("runnerctl.cli.logs", "Show what a slot's runner wrote."),
    "xid": Entry("runnerctl.cli.xid", "Explain an Xid error of the NVIDIA driver."),
}
# Their exit code is a verdict: whatever goes wrong in them is UNKNOWN, a wrong option included.
VERDICTS = frozenset({"health", "fleet", "doctor", "isolation verify"})
LINTERS = frozenset({"spec validate", "ci check"})

HELP = """Run GitHub Actions on your own GPU machines.

On a runner host, runnerctl shows and judges that host. Anywhere else it asks GitHub; for that it needs a
credential: GH_TOKEN, GITHUB_TOKEN or RUNNERCTL_TOKEN_FILE, or a GitHub App in RUNNERCTL_APP_ID,
RUNNERCTL_APP_INSTALLATION_ID and RUNNERCTL_APP_KEY_FILE.
"""
EXAMPLE = """
runnerctl list
runnerctl health -o json
GH_TOKEN=... runnerctl list --url https://github.com/acme --label gpu
"""


class Root(Group):
    """The command ``runnerctl`` itself."""

    table = TABLE


app = new_app(cls=Root, help=HELP, epilog=EXAMPLE, invoke_without_command=True, add_completion=True)
VersionOption = Annotated[bool, typer.Option("--version", help="Print the version and leave.")]


@app.callback()
def root(context: typer.Context, version: VersionOption = False, output: OutputOption = None) -> None:
    """Handle what stands before a command."""
    command: Context = context.obj
    if output:
        command.default_output = output
    if version:
        _version(command)
        raise typer.Exit(0)
    if context.invoked_subcommand is None:
        command.note(context.get_help())
        raise typer.Exit(64)


def _version(context: Context) -> None:
    from runnerctl import __version__

    if context.wants_json(None):
        context.say_json({"schema": "runnerctl.version/1", "version": __version__})
    else:
        context.say(f"runnerctl {__version__}")
