"""``runnerctl env export-activation``: what activation means, for later steps or for a shell."""

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
    StoreOption,
    asked,
)
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption

__all__ = ["app", "export_activation"]

EXAMPLE = """
eval "$(runnerctl env export-activation)"
runnerctl env export-activation environment.yml --github
"""
app = new_app()


@app.command("export-activation", cls=Command, epilog=EXAMPLE)
def export_activation(
    context: typer.Context,
    file: FileArgument = None,
    cuda: CudaOption = "auto",
    engine: EngineOption = "rattler",
    lock: LockOption = None,
    layer: LayerOption = "auto",
    github: GithubOption = False,
    store: StoreOption = None,
    output: OutputOption = None,
) -> int:
    """Activate an environment for later steps.

    Without --github it prints lines that sh and its like evaluate. With it, the lines go to the files that
    GITHUB_ENV and GITHUB_PATH name, and every later step of the job sees the environment: no login shell,
    no conda init. What would change other programs too (LD_LIBRARY_PATH, PYTHONPATH) is left out there.
    """
    from runnerctl.cli.env_access import ready_for, told
    from runnerctl.cli.env_shown import answer, github_files, notes_text, shell_lines, to_github

    command: Context = context.obj
    wanted = asked(file, cuda=cuda, engine=engine, lock=lock, layer=layer)
    if github:
        github_files(command.env)  # before a build that takes minutes
    environment = ready_for(command, store, wanted)
    with told(command, wanted.file):
        notes = to_github(environment, command.env, wanted.file) if github else []
    for line in notes_text([*environment.notes, *notes], command.env):
        command.note(line)
    if command.wants_json(output):
        command.say_json(answer(environment, github=github, notes=notes))
    elif not github:
        command.say(shell_lines(environment))
    return 0
