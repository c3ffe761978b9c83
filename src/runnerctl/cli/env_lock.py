"""``runnerctl env lock``: write down exactly what a file resolves to."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.env_options import CudaOption, EngineOption, FileArgument, StoreOption, asked
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption
from runnerctl.errors import UnavailableError

__all__ = ["LOCK_NAME", "app", "lock", "lock_beside"]

SCHEMA = "runnerctl.env.lock/1"
LOCK_NAME = "runnerctl-env.lock"
EXPLICIT = ".explicit.txt"
EXAMPLE = """
runnerctl env lock
runnerctl env lock environment.yml --cuda 12.8 --lock locks/gpu.lock
runnerctl env ensure --lock runnerctl-env.lock
"""
app = new_app()
TargetOption = Annotated[
    str | None,
    typer.Option(
        "--lock",
        metavar="LOCKFILE",
        help=f"Where to write it. Default: {LOCK_NAME} beside FILE.",
        show_default=False,
    ),
]


@app.command("lock", cls=Command, epilog=EXAMPLE)
def lock(
    context: typer.Context,
    file: FileArgument = None,
    lock_file: TargetOption = None,
    cuda: CudaOption = "auto",
    engine: EngineOption = "rattler",
    store: StoreOption = None,
    output: OutputOption = None,
) -> int:
    """Write down exactly what a file resolves to.

    Every package with version, build, address and sum, for env ensure --lock. Beside it stands the same as a
    list of addresses (.explicit.txt), which conda and mamba read: conda create --file. The channels are asked
    now. Nothing is installed, unless there is a pip section: what pip takes is known once that was done. A
    lock that says the same already is left as it is. For a host with a GPU, written elsewhere: --cuda 12.8.
    """
    from runnerctl.cli.env_access import access, told
    from runnerctl.cli.env_shown import counted

    command: Context = context.obj
    wanted = asked(file, cuda=cuda, engine=engine)
    path = lock_file or lock_beside(wanted.file)
    source = access(command, store)
    with told(command, f"Lock of {wanted.file}", wanted.file) as progress:
        found = source.lock(wanted, progress)
        if not found.get("pinned", True):
            source.ensure(wanted, progress)
            found = source.lock(wanted, progress)
        packages = found["packages"]
        changed = replace(path, str(found["lock"]))
        replace(path + EXPLICIT, explicit(packages))
    if command.wants_json(output):
        result = {"packages": len(packages), "changed": changed}
        files = {"file": wanted.file, "lock_file": path, "explicit_file": path + EXPLICIT}
        command.say_json({"schema": SCHEMA, **files, **result})
    else:
        said = "written" if changed else "is up to date"
        command.say(f"{path}: {said}, {counted(len(packages), 'package')}")
    return 0


def lock_beside(file: str) -> str:
    """The lock's usual place."""
    return os.path.join(os.path.dirname(file), LOCK_NAME)


def explicit(packages: Any) -> str:
    """The packages as conda's own list of addresses with sums (``conda list --explicit --sha256``)."""
    lines = [each["url"] + (f"#{each['sha256']}" if each.get("sha256") else "") for each in packages]
    return "\n".join(["@EXPLICIT", *lines]) + "\n"


def replace(path: str, text: str) -> bool:
    """Write a file whole or not at all; whether it said something else. Raises UnavailableError."""
    part = f"{path}.{os.getpid()}.part"
    data = text.encode()
    try:
        if _content(path) == data:
            return False
        try:
            with open(part, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            if os.path.exists(part):
                os.unlink(part)
            raise
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UnavailableError(f"cannot be written: {reason}", where=path) from None
    return True


def _content(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None
