"""``runnerctl logs``: what a slot's runner wrote, with secrets masked and control characters shown."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption, RootfsOption
from runnerctl.errors import AccessError, ConfigError, UnavailableError, UsageError

__all__ = ["app", "logs"]

SCHEMA = "runnerctl.logs/1"
JOURNAL_SECONDS = 30.0
POLL_SECONDS = 0.5
TAIL_BYTES = 4 * 1024 * 1024  # a worker's log of a long job has hundreds of megabytes; its end tells
EXAMPLE = """
runnerctl logs main
runnerctl logs main --worker --lines 50
runnerctl logs main -f
"""
app = new_app()
LinesOption = Annotated[
    int, typer.Option("--lines", "-n", metavar="N", min=1, max=100_000, help="How many lines, from the end.")
]
FollowOption = Annotated[bool, typer.Option("--follow", "-f", help="Go on as new lines come.")]
WorkerOption = Annotated[
    bool, typer.Option("--worker", help="The log of the newest job, not that of the listener's unit.")
]


@app.command("logs", cls=Command, epilog=EXAMPLE)
def logs(
    context: typer.Context,
    slot: Annotated[str, typer.Argument(metavar="SLOT", help="The slot's name, as in `runnerctl list`.")],
    follow: FollowOption = False,
    worker: WorkerOption = False,
    lines: LinesOption = 200,
    rootfs: RootfsOption = None,
    output: OutputOption = None,
) -> int:
    """Show what a slot's runner wrote.

    The journal of the slot's unit, or with --worker the runner's own log of its newest job. Secrets are
    masked. Reading the journal needs root or membership in systemd-journal.
    """
    from runnerctl.cli.local import require_slot
    from runnerctl.hostfile import load_host_spec

    command: Context = context.obj
    paths = command.at(rootfs)
    if follow and command.wants_json(output):
        raise UsageError("JSON is one answer, and --follow never ends", where="-o", remedy="leave one out")
    require_slot(paths, load_host_spec(paths.host_file), slot)
    source = _worker_lines if worker else _journal_lines
    found = source(command, paths, slot, lines, follow)
    if follow:
        _say_as_they_come(command, found)
    else:
        _say_all(command, _clean("\n".join(found)), slot, worker, output)
    return 0


def _say_as_they_come(context: Context, lines: Iterable[str]) -> None:
    for raw in lines:
        context.say("\n".join(_clean(raw)))
        context.flush()


def _say_all(context: Context, lines: list[str], slot: str, worker: bool, output: str | None) -> None:
    if context.wants_json(output):
        context.say_json({"schema": SCHEMA, "slot": slot, "worker": worker, "lines": lines})
    elif lines:
        context.say("\n".join(lines))


def _clean(raw: str) -> list[str]:
    """Lines without secrets (a key may span several) and with control characters made visible."""
    from runnerctl.cli.output import escape
    from runnerctl.redact import redact

    return [escape(line, keep="\t") for line in redact(raw.rstrip("\r\n")).split("\n")] if raw else []


def _journal_lines(context: Context, paths: Paths, slot: str, lines: int, follow: bool) -> Iterable[str]:
    """The journal of the slot's unit."""
    from runnerctl.cli.local import unit_name

    command = ["journalctl", "--no-pager", "--quiet", "--output=short-iso", f"--lines={lines}"]
    command += [
        f"--unit={unit_name(paths, slot)}",
        *([] if paths.is_this_host() else [f"--root={paths.root}"]),
    ]
    if follow:
        return _follow_command([*command, "--follow"])
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=JOURNAL_SECONDS, check=False
        )
    except FileNotFoundError:
        raise _no_journal() from None
    except subprocess.TimeoutExpired:
        raise UnavailableError(
            f"did not answer within {JOURNAL_SECONDS:g} s", where="journalctl", remedy="ask for fewer --lines"
        ) from None
    return _answer(context, answer, slot)


def _answer(context: Context, answer: subprocess.CompletedProcess[str], slot: str) -> list[str]:
    found = answer.stdout.splitlines()
    if answer.returncode and not found:
        reason = " ".join(answer.stderr.split())[:300] or f"exit code {answer.returncode}"
        raise UnavailableError(f"cannot read the journal: {reason}", where=slot, remedy="run it as root")
    if not found:
        hint = "" if context.user_id() == 0 else "; without root much of the journal is hidden"
        context.note(f"runnerctl: the journal has no line of slot {slot}{hint}")
    return found


def _no_journal() -> UnavailableError:
    return UnavailableError(
        "there is no journalctl here", remedy="run it on the runner host, or use --worker"
    )


def _follow_command(command: list[str]) -> Iterator[str]:
    """Lines as they come; the command ends with us."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace")
    except FileNotFoundError:
        raise _no_journal() from None
    try:
        yield from process.stdout or ()
    finally:
        for end in (process.terminate, process.kill):
            end()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
                break


def _worker_lines(context: Context, paths: Paths, slot: str, lines: int, follow: bool) -> Iterable[str]:
    """The end of the newest ``Worker_*.log`` (actions/runner writes one for each job).

    It stands in ``_diag`` while the job runs; when it has ended the guard puts it where only root reads it.
    """
    path = _newest_worker_log((paths.slots / slot / "_diag", paths.state / "logs" / slot), slot)
    context.note(f"runnerctl: {path.name}")
    stream = _open(path)
    size = stream.seek(0, os.SEEK_END)
    stream.seek(max(0, size - TAIL_BYTES))
    tail = stream.read().decode(errors="replace").splitlines()[-lines:]
    if not follow:
        stream.close()
        return tail
    return _follow_file(tail, stream, context.sleep)


def _newest_worker_log(folders: Sequence[Path], slot: str) -> Path:
    found: list[Path] = []
    for folder in folders:
        try:
            names = [path for path in folder.iterdir() if path.name.startswith("Worker_")]
        except PermissionError:
            raise AccessError("may not be read", where=str(folder), remedy="run it as root") from None
        except OSError:
            continue
        found += [path for path in names if path.suffix == ".log"]
    if not found:
        remedy = f"it would be in {folders[0]}"
        raise ConfigError("no job has left a log yet", where=f"slot {slot}", remedy=remedy)
    return max(
        found, key=lambda path: path.name
    )  # the name holds the UTC time: Worker_20260131-101112-utc.log


def _open(path: Path) -> IO[bytes]:
    """Open a file of the slot's user: a link or a pipe that a job left there must not lead elsewhere."""
    try:
        return os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    except OSError as error:
        reason = error.strerror or str(error)
        raise AccessError(f"cannot be read: {reason}", where=str(path), remedy="run it as root") from None


def _follow_file(tail: Iterable[str], stream: IO[bytes], sleep: Callable[[float], Any]) -> Iterator[str]:
    with stream:
        yield from tail
        kept = b""
        while True:
            piece = stream.read()
            if not piece:
                sleep(POLL_SECONDS)
                continue
            *whole, kept = (kept + piece).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
