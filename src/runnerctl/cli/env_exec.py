"""``runnerctl env exec``: a command inside an environment."""

from __future__ import annotations

from typing import Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.env_options import (
    CudaOption,
    EngineOption,
    FileArgument,
    LayerOption,
    LockOption,
    StoreOption,
    asked,
)
from runnerctl.cli.lazy import Command, new_app
from runnerctl.errors import UsageError

__all__ = ["app", "execute"]

EXAMPLE = """
runnerctl env exec -- pytest -m gpu
runnerctl env exec environment.yml --cuda none -- python -c 'import torch'
"""
REST = "runnerctl.command"
app = new_app()


class _Exec(Command):
    """What stands after ``--`` is the command, whatever it looks like."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[REST] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "-- COMMAND..."]


@app.command("exec", cls=_Exec, epilog=EXAMPLE)
def execute(
    context: typer.Context,
    file: FileArgument = None,
    cuda: CudaOption = "auto",
    engine: EngineOption = "rattler",
    lock: LockOption = None,
    layer: LayerOption = "auto",
    store: StoreOption = None,
) -> int:
    """Run a command in a file's environment.

    The environment is made when it is not there. Then the command takes this process's place: its exit code,
    its output and the signals it gets are its own, and no shell is involved. What activation sets beyond PATH
    is set, too.
    """
    from runnerctl.cli.env_access import ready_for
    from runnerctl.cli.env_shown import for_process, notes_text, replace_process

    command: Context = context.obj
    argv = context.meta[REST]
    if not argv:
        remedy = "put it behind two dashes: runnerctl env exec FILE -- COMMAND"
        raise UsageError("there is no command to run", where="env exec", remedy=remedy)
    wanted = asked(file, cuda=cuda, engine=engine, lock=lock, layer=layer)
    environment = ready_for(command, store, wanted)
    for line in notes_text(environment.notes, command.env):
        command.note(line)
    command.flush()
    replace_process(argv, for_process(environment, command.env))
