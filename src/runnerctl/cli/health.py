"""``runnerctl health`` and ``runnerctl snapshot``: probe the host, judge it, or save what was seen."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption, RootfsOption, seconds_given
from runnerctl.errors import DataError, UsageError

if TYPE_CHECKING:
    from runnerctl.core.health import Health
    from runnerctl.core.snapshot import Snapshot

__all__ = ["app", "health", "snapshot"]

GITHUB_SECONDS = 10.0  # without a deadline of the caller's
SHORTEST_DEADLINE, LONGEST_DEADLINE = 0.1, 600.0
SHORTEST_SECONDS = 0.2  # for an answer that is on its way
LONGEST_START_SECONDS = 2.0  # a library user's process may be old
LARGEST_BYTES = 64 * 1024 * 1024
HEALTH_EXAMPLE = """
runnerctl health
runnerctl health --deep
runnerctl health -o summary >> "$GITHUB_STEP_SUMMARY"
runnerctl health --from snapshot.json
"""
SNAPSHOT_EXAMPLE = """
runnerctl snapshot -o json > snapshot.json
runnerctl health --from snapshot.json
"""
app = new_app()
FromOption = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="FILE", help="Judge this saved snapshot; - reads it from stdin.", show_default=False
    ),
]
# A text: for numbers Typer loads pydantic, 80 ms, and this option is for those who are in a hurry.
DeadlineOption = Annotated[
    str | None,
    typer.Option(
        "--deadline",
        metavar="SECONDS",
        help="When the verdict must be there. Default: 5, and 4 for each GPU that must first be initialised.",
        show_default=False,
    ),
]
NetworkOption = Annotated[
    bool,
    typer.Option("--network/--no-network", help="Measure the network, and ask GitHub."),
]
DeepOption = Annotated[
    bool,
    typer.Option(
        "--deep", help="Compute on each idle GPU, test its memory and its bandwidth: seconds to minutes."
    ),
]
VerboseOption = Annotated[
    bool, typer.Option("--verbose", "-v", help="A line for every finding, those that are OK included.")
]
PrometheusOption = Annotated[
    str | None,
    typer.Option(
        "--prometheus",
        metavar="FILE",
        help="Write metrics for a textfile collector, too; FILE ends in .prom.",
        show_default=False,
    ),
]
HealthOutputOption = Annotated[
    Literal["text", "json", "plugin", "summary"] | None,
    typer.Option(
        "--output",
        "-o",
        help="plugin: for Nagios and its kin. summary: Markdown for a job. Default: text.",
        show_default=False,
    ),
]
ActOption = Annotated[
    bool,
    typer.Option("--act", help="Hold slots with sick GPUs, mend what can be mended, release them; as root."),
]


@app.command("health", cls=Command, epilog=HEALTH_EXAMPLE)
def health(
    context: typer.Context,
    file: FromOption = None,
    rootfs: RootfsOption = None,
    deadline: DeadlineOption = None,
    network: NetworkOption = True,
    deep: DeepOption = False,
    act: ActOption = False,
    prometheus: PrometheusOption = None,
    verbose: VerboseOption = False,
    output: HealthOutputOption = None,
) -> int:
    """Judge this host: GPUs, runners, disk, network.

    Exit codes are those of monitoring plugins: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN. With a GitHub
    credential it also asks GitHub about this host's runners. A host that was never provisioned has no
    expectations to miss: it is judged by its facts.
    """
    from runnerctl.core.health import exit_code, judge

    command: Context = context.obj
    _refuse_contradictions(file=file, rootfs=rootfs, act=act, deep=deep)
    if prometheus:
        from runnerctl.cli.render_metrics import check_name

        check_name(prometheus)  # before anything is done
    found = (
        _saved(file)
        if file
        else _taken(command, _Look(rootfs, _deadline(deadline), network=network, deep=deep))
    )
    verdict = judge(found)
    if act:
        from runnerctl.cli.act import act_here

        act_here(command, found, verdict)
    if prometheus:
        from runnerctl.cli.render_metrics import write_metrics
        from runnerctl.core.metrics import prometheus_text

        write_metrics(prometheus, prometheus_text(verdict, found))
    command.say(_rendered(command, verdict, found, output, verbose=verbose).rstrip("\n"))
    return exit_code(verdict.status)


def _refuse_contradictions(*, file: str | None, rootfs: str | None, act: bool, deep: bool) -> None:
    if file and rootfs:
        raise UsageError("give --from or --rootfs, not both", where="--from")
    for option, given in (("--act", act), ("--deep", deep)):
        if given and (file or rootfs):
            remedy = "leave --from and --rootfs out"
            raise UsageError("concerns the running host only", where=option, remedy=remedy)


def _rendered(
    context: Context, verdict: Health, found: Snapshot, output: str | None, *, verbose: bool
) -> str:
    """The verdict in the form asked for; modules of the others are not even loaded."""
    if output == "plugin":
        from runnerctl.cli.render_plugin import render_plugin

        return render_plugin(verdict, found)
    if output == "summary":
        from runnerctl.cli.render_summary import render_summary

        return render_summary(verdict)
    from runnerctl.cli.render_health import render_json, render_text

    if context.wants_json(output):
        return render_json(verdict)
    return render_text(verdict, width=context.width, colour=context.colour(), verbose=verbose)


@app.command("snapshot", cls=Command, epilog=SNAPSHOT_EXAMPLE)
def snapshot(
    context: typer.Context,
    redact: Annotated[
        bool,
        typer.Option("--redact/--no-redact", help="Hide serials, UUIDs, names and URLs."),
    ] = True,
    rootfs: RootfsOption = None,
    deadline: DeadlineOption = None,
    network: NetworkOption = True,
    output: OutputOption = None,
) -> int:
    """Save what the host looks like, for a bug report.

    As JSON it is everything that `runnerctl health` judges; `runnerctl health --from FILE` judges it again on
    any machine. Serials, UUIDs, names and URLs are replaced unless --no-redact is given.
    """
    from runnerctl.core.redaction import redacted
    from runnerctl.core.snapshot import encode

    command: Context = context.obj
    found = _taken(command, _Look(rootfs, _deadline(deadline), network=network))
    found = redacted(found) if redact else found
    if command.wants_json(output):
        from runnerctl.cli.output import ascii_json

        command.say(ascii_json(encode(found).decode()).rstrip("\n"))
    else:
        command.say(_text(found))
        command.note("runnerctl: `runnerctl snapshot -o json` saves all of it")
    return 0


def _deadline(text: str | None) -> float | None:
    return seconds_given(text, "--deadline", least=SHORTEST_DEADLINE, most=LONGEST_DEADLINE)


@dataclass(frozen=True)
class _Look:
    """How to look at the host."""

    rootfs: str | None
    deadline: float | None
    network: bool
    deep: bool = False


def _taken(context: Context, look: _Look) -> Snapshot:
    """What the host looks like now; what GitHub says of it comes within the same deadline."""
    from runnerctl.cli.remote import has_credential
    from runnerctl.probes.collect import collect

    root = context.at(look.rootfs).root
    if not root.is_dir():
        raise UsageError("no such directory", where=str(root), remedy="give the root of a host's file system")
    begin = time.monotonic()
    found = collect(
        root,
        deadline_seconds=look.deadline and max(look.deadline - _age_seconds(), SHORTEST_SECONDS),
        api_urls=None if look.network else (),
        deep=look.deep,
        environ=context.env,
        clock=context.clock,
    )
    if not look.network or not has_credential(context):
        return found
    from runnerctl.cli.github_view import with_github

    left = GITHUB_SECONDS if look.deadline is None else look.deadline - (time.monotonic() - begin)
    return with_github(context, found, deadline_seconds=max(left, SHORTEST_SECONDS))


def _age_seconds() -> float:
    """How long this process runs by now: a deadline is meant to begin with it (proc(5), field 22 of stat)."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 0.0
    return min(max(up - ticks / os.sysconf("SC_CLK_TCK"), 0.0), LONGEST_START_SECONDS)


def _saved(file: str) -> Snapshot:
    from runnerctl.core.snapshot import decode

    where = "standard input" if file == "-" else file
    try:
        with sys.stdin.buffer if file == "-" else Path(file).open("rb") as stream:
            content = stream.read(LARGEST_BYTES + 1)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"cannot be read: {reason}", where=where, remedy="give a saved snapshot") from None
    if len(content) > LARGEST_BYTES:
        raise DataError("is too large to be a snapshot", where=where, remedy="give a saved snapshot")
    try:
        content.decode()
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text", where=where, remedy="give a saved snapshot") from None
    return decode(content, where=where)


def _text(found: Snapshot) -> str:
    """The gist of a snapshot."""
    from runnerctl.cli.output import NONE, fields
    from runnerctl.core.snapshot import Unavailable

    gpus = found.gpus
    slots = found.slots
    return fields(
        {
            "host": found.host.name,
            "time": f"{found.time:%Y-%m-%dT%H:%M:%SZ}",
            "system": f"{found.host.os_name}, Linux {found.host.kernel}, {found.host.machine}",
            "driver": NONE if isinstance(found.nvml, Unavailable) else found.nvml.driver_version,
            "GPUs": f"not known: {gpus.reason}" if isinstance(gpus, Unavailable) else len(gpus),
            "slots": (
                f"not known: {slots.reason}"
                if isinstance(slots, Unavailable)
                else ", ".join(slot.name for slot in slots) or "none"
            ),
            "redacted": found.redacted,
        }
    )
