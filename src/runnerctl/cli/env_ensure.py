"""``runnerctl env ensure``: the environment of a file, there in no time when it was there before."""

from __future__ import annotations

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.env_options import (
    CudaOption,
    EngineOption,
    FileArgument,
    GithubOption,
    LayerOption,
    LockOption,
    RefreshOption,
    StoreOption,
    asked,
)
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption

__all__ = ["app", "ensure"]

EXAMPLE = """
runnerctl env ensure
runnerctl env ensure environment.yml --github
runnerctl env ensure --cuda 12.8 --lock runnerctl-env.lock -o json
"""
app = new_app()


@app.command("ensure", cls=Command, epilog=EXAMPLE)
def ensure(
    context: typer.Context,
    file: FileArgument = None,
    cuda: CudaOption = "auto",
    engine: EngineOption = "rattler",
    lock: LockOption = None,
    refresh: RefreshOption = None,
    layer: LayerOption = "auto",
    github: GithubOption = False,
    store: StoreOption = None,
    output: OutputOption = None,
) -> int:
    """Make sure that a file's environment is there.

    Solved, fetched, installed and published once; the same content asked for again is a hit. A comment or
    another order changes nothing, a version or a build does. The environment is read-only and shared; a job
    gets a writable layer of its own over it, so that pip install -e . works. On a host with a store its
    service builds; elsewhere it is made in the user's own store.
    """
    from runnerctl.cli.env_access import ready_for, told
    from runnerctl.cli.env_shown import answer, github_files, notes_text, text_of, to_github

    command: Context = context.obj
    wanted = asked(file, refresh=refresh, cuda=cuda, engine=engine, lock=lock, layer=layer)
    if github:
        github_files(command.env)  # before a build that takes minutes
    environment = ready_for(command, store, wanted)
    with told(command, wanted.file):
        notes = to_github(environment, command.env, wanted.file) if github else []
    for line in notes_text([*environment.notes, *notes], command.env):
        command.note(line)
    if command.wants_json(output):
        command.say_json(answer(environment, github=github, notes=notes))
    else:
        command.say(text_of(environment, github=github))
    return 0
