"""``runnerctl env verify``: is the lock up to date, and are environments what was installed?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.env_lock import lock_beside
from runnerctl.cli.env_options import FileArgument, StoreOption, asked
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption
from runnerctl.errors import DataError, UsageError

if TYPE_CHECKING:
    from runnerctl.cli.env_shown import Asked

__all__ = ["app", "verify"]

SCHEMA = "runnerctl.env.verify/1"
EXAMPLE = """
runnerctl env verify
runnerctl env verify environment.yml --lock locks/gpu.lock
runnerctl env verify --all --full
"""
_MOST_SHOWN = 20
app = new_app()
LockFileOption = Annotated[
    str | None,
    typer.Option(
        "--lock",
        metavar="LOCKFILE",
        help="The lock to compare FILE with. Default: runnerctl-env.lock beside it.",
        show_default=False,
    ),
]
DigestOption = Annotated[
    str | None,
    typer.Option(
        "--digest",
        metavar="DIGEST",
        help="Look at this environment of the store.",
        show_default=False,
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="Look at every environment of the store.")]
FullOption = Annotated[
    bool, typer.Option("--full", help="Read every file and compare its sum; without, sizes and modes.")
]


@app.command("verify", cls=Command, epilog=EXAMPLE)
def verify(
    context: typer.Context,
    file: FileArgument = None,
    lock: LockFileOption = None,
    digest: DigestOption = None,
    everything: AllOption = False,
    full: FullOption = False,
    store: StoreOption = None,
    output: OutputOption = None,
) -> int:
    """Compare environments with what was installed.

    Of a FILE: whether its lock was written for what it says now; nothing is solved or fetched, so that a
    hook of pre-commit may ask it. With --digest or --all: whether published environments still are what was
    installed. One that is not is put aside, unless a job uses it, and built again when it is asked for. The
    exit code is 65 when something differs.
    """
    command: Context = context.obj
    published = everything or digest is not None
    if published and (file or lock or (everything and digest)):
        remedy = "give FILE, or --digest, or --all"
        raise UsageError(
            "a lock and the store are looked at one at a time", where="env verify", remedy=remedy
        )
    if published:
        return _published(command, digest, full=full, store=store, output=output)
    if full:
        raise UsageError("is for --digest and --all", where="--full", remedy="add one of them")
    return _lock(command, asked(file, lock=lock), output)


def _lock(command: Context, wanted: Asked, output: str | None) -> int:
    from runnerctl.cli.env_access import told
    from runnerctl.cli.env_shown import read_text, request_of
    from runnerctl.envs.file import parse
    from runnerctl.envs.file_pip import check_files
    from runnerctl.envs.lockfile import check, read

    path = wanted.lock or lock_beside(wanted.file)
    with told(command, wanted.file, wanted.file):
        if not os.path.exists(path):
            raise DataError("has no lock", where=wanted.file, remedy=f"write {path}: runnerctl env lock")
        request = request_of(wanted._replace(lock=None))
        file = parse(request["text"], wanted.file)
        given = request.get("files", {})
        names = check_files(file.pip, given, wanted.file)
        found = read(read_text(path), path)
        check(found, file, files={name: given[name] for name in names}, engine=found.engine)
    if command.wants_json(output):
        command.say_json({"schema": SCHEMA, "file": wanted.file, "lock_file": path, "up_to_date": True})
    else:
        command.say(f"{path}: is up to date")
    return 0


def _published(
    command: Context, digest: str | None, *, full: bool, store: str | None, output: str | None
) -> int:
    from runnerctl.cli.env_access import access, told

    source = access(command, store)
    with told(command, f"Environments of {source.place}") as progress:
        whole = None if digest is None else _whole(digest, [row["digest"] for row in source.environments()])
        found = source.verify(whole, full=full, progress=progress)
    if command.wants_json(output):
        command.say_json({"schema": SCHEMA, "store": source.place, "full": full, "environments": found})
    else:
        _tell(command, found)
    return DataError.exit_code if any(each["problems"] for each in found) else 0


def _whole(digest: str, known: list[str]) -> str:
    """The environment whose digest begins so. Raises DataError unless there is exactly one."""
    meant = [each for each in known if each.startswith(digest)]
    if len(meant) != 1:
        what = "is the beginning of several digests" if meant else "is not an environment of this store"
        raise DataError(what, where=digest, remedy="see runnerctl env list")
    return meant[0]


def _tell(command: Context, found: Any) -> None:
    from runnerctl.cli.env_shown import counted
    from runnerctl.cli.output import escape

    for each in found:
        problems = [escape(str(problem)) for problem in each["problems"]]
        said = counted(len(problems), "difference") if problems else "as installed"
        command.say(f"{each['digest']}: {said}")
        for problem in problems[:_MOST_SHOWN]:
            command.say(f"  {problem}")
        if len(problems) > _MOST_SHOWN:
            command.say(f"  and {len(problems) - _MOST_SHOWN} more")
        if problems:
            aside = "put aside; it is built again when it is asked for"
            command.say(f"  {aside if each.get('set_aside') else 'in use: it stays until its jobs are done'}")
    if not found:
        command.say("no environments")
