"""``runnerctl ci init``: write into a repository what its CI on GPU runners takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption

if TYPE_CHECKING:
    from runnerctl.ci.init_model import FileChange, InitPlan

__all__ = ["app", "init"]

EXAMPLE = """
runnerctl ci init --check
runnerctl ci init
runnerctl ci init ../widgets --threshold 90 --integration tests/slow
"""
app = new_app()
RepositoryArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="REPOSITORY", help="A checkout's top directory. Default: this one.", show_default=False
    ),
]
PackageOption = Annotated[
    list[str] | None,
    typer.Option(
        "--source-package",
        "--python-module",
        metavar="NAME",
        help="What coverage measures, as `import` names it; again for more. Default: what is found.",
        show_default=False,
    ),
]
ThresholdOption = Annotated[
    str | None,
    typer.Option(
        "--threshold",
        metavar="PERCENT",
        help="Coverage to have. Default: what the settings say, or 80.",
        show_default=False,
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--gpu-labels",
        metavar="LABELS",
        help="Labels of the GPU job. Default: self-hosted,linux,x64,gpu.",
        show_default=False,
    ),
]
IntegrationOption = Annotated[
    list[str] | None,
    typer.Option(
        "--integration",
        metavar="PATH",
        help="Integration tests, run after those of the GPU; again for more. Default: what is found.",
        show_default=False,
    ),
]
BranchOption = Annotated[
    str | None,
    typer.Option(
        "--branch",
        metavar="NAME",
        help="The branch to protect. Default: origin's, or main.",
        show_default=False,
    ),
]
CudaOption = Annotated[
    str | None,
    typer.Option(
        "--cuda",
        metavar="VERSION",
        help="CUDA to choose packages for, on hosted runners, too. Default: what environment.yml pins.",
        show_default=False,
    ),
]
SystemOption = Annotated[
    list[str] | None,
    typer.Option(
        "--system-package",
        metavar="NAME",
        help="A package of Ubuntu that the hosted job needs besides; again for more.",
        show_default=False,
    ),
]
EnvironmentOption = Annotated[
    str | None,
    typer.Option("--environment-file", metavar="PATH", help="Default: environment.yml.", show_default=False),
]
WorkflowOption = Annotated[
    str | None,
    typer.Option(
        "--workflow",
        metavar="FILE",
        help="Name of the workflow's file. Default: the one written before, or ci.yml.",
        show_default=False,
    ),
]
ForksOption = Annotated[
    str | None,
    typer.Option(
        "--forks",
        metavar="hold|allow",
        help="Whether a fork's pull request, which no GPU tests, passes the gate. Default: hold.",
        show_default=False,
    ),
]
KeepOption = Annotated[
    list[str] | None,
    typer.Option("--keep", metavar="FILE", help="Leave this file alone; again for more.", show_default=False),
]
CheckOption = Annotated[
    bool,
    typer.Option("--check", "--dry-run", help="Write nothing; exit code 1 when something would be written."),
]
DiffOption = Annotated[bool, typer.Option("--diff/--no-diff", help="Show every difference.")]
ForceOption = Annotated[
    bool, typer.Option("--force", "--yes", help="Write over files and settings that differ, too.")
]


@app.command("init", cls=Command, epilog=EXAMPLE)
def init(
    context: typer.Context,
    repository: RepositoryArgument = None,
    source_packages: PackageOption = None,
    threshold: ThresholdOption = None,
    gpu_labels: LabelsOption = None,
    integration: IntegrationOption = None,
    branch: BranchOption = None,
    cuda: CudaOption = None,
    system_packages: SystemOption = None,
    environment_file: EnvironmentOption = None,
    workflow: WorkflowOption = None,
    forks: ForksOption = None,
    keep: KeepOption = None,
    check: CheckOption = False,
    diff: DiffOption = True,
    force: ForceOption = False,
    output: OutputOption = None,
) -> int:
    """Write workflows that test on your GPU runners.

    From a repository's environment.yml and pyproject.toml come: a workflow with a quick hosted tier, a GPU
    tier, one judgement of their common coverage, and a gate to require; the action conda-env; the settings of
    coverage and pytest; pre-commit hooks from the environment itself; and what environment.yml lacks for all
    that. Settings are added, not replaced. A file that you edited, or that is not ours, is shown beside what
    would be written and kept, unless --force is given. Options that the workflow depends on are remembered in
    its head. Run again, it changes nothing.
    """
    from pathlib import Path

    from runnerctl.ci.init import plan_init, write_init
    from runnerctl.ci.init_model import Options
    from runnerctl.ci.init_repo import Repository

    command: Context = context.obj
    said = Options(
        branch=branch,
        gpu_labels=_split(gpu_labels),
        integration=_tuple(integration),
        source_packages=_tuple(source_packages),
        threshold=threshold,
        cuda=cuda,
        system_packages=_tuple(system_packages),
        environment_file=environment_file,
        forks=forks,
        keep=_tuple(keep),
        force=force,
    )
    files = Repository(Path(repository or "."))
    plan = plan_init(files, said, judge=_judge, workflow=workflow)
    if not check:
        write_init(files, plan)
    _tell(command, plan, check=check, diff=diff, output=output)
    return 1 if check and any(each.writes for each in plan.changes) else 0


def _judge(text: str, where: str) -> None:
    """What the store would refuse later is said now; without the extra `env` the jobs say it."""
    from runnerctl.errors import ConfigError

    try:
        from runnerctl.envs.file import parse

        parse(text, where)
    except (ImportError, ConfigError):
        return


def _tuple(values: list[str] | None) -> tuple[str, ...] | None:
    return tuple(values) if values else None


def _split(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(part.strip() for part in text.split(",") if part.strip())


def _tell(context: Context, plan: InitPlan, *, check: bool, diff: bool, output: str | None) -> None:
    import textwrap

    from runnerctl.ci.init_model import SCHEMA

    for note in plan.notes:
        context.note(f"runnerctl: {note}")
    if context.wants_json(output):
        files = [_json(each) for each in plan.changes]
        context.say_json(
            {"schema": SCHEMA, "check": check, "files": files, "notes": list(plan.notes), "next": _next(plan)}
        )
        return
    context.say(_table(plan, context.width, check=check))
    texts = [_diff(each) for each in plan.changes] if diff else []
    for text in filter(None, texts):
        context.say("\n" + text)
    context.say("\nNext:")
    for at, line in enumerate(_next(plan), 1):
        start = f"  {at}. "
        fill = textwrap.TextWrapper(
            context.width, initial_indent=start, subsequent_indent=" " * 5, break_on_hyphens=False
        )
        context.say(fill.fill(line))


def _json(change: FileChange) -> dict[str, Any]:
    return {
        "path": change.path,
        "action": change.action,
        "notes": list(change.notes),
        "diff": _diff(change) or None,
    }


def _table(plan: InitPlan, width: int, *, check: bool) -> str:
    from runnerctl.cli.output import table

    words = {"create": "created", "update": "updated"}
    rows = []
    for each in plan.changes:
        done = (
            f"would be {words[each.action]}" if check and each.writes else words.get(each.action, each.action)
        )
        rows.append((each.path, "kept" if done == "keep" else done, "; ".join(each.notes)))
    return table(("FILE", "WHAT", "NOTE"), rows, width=width)


def _diff(change: FileChange) -> str:
    """The difference between a file and what is, or would be, written; a new file of ours is not repeated."""
    import difflib

    from runnerctl.cli.output import escape

    before, after = change.before or "", change.after or ""
    if change.after is None or before == after:
        return ""
    if change.before is None and change.action == "create":
        return f"new file {change.path}: {after.count(chr(10))} lines"
    names = (f"a/{change.path}", f"b/{change.path}")
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), *names, lineterm="")
    return "\n".join(escape(line, keep="\t") for line in lines)


def _next(plan: InitPlan) -> list[str]:
    kept = [each.path for each in plan.changes if each.action == "keep"]
    look = "run `runnerctl ci check`: it finds what else would make this CI red, slow or unsafe"
    merge = f"merge what is shown for {', '.join(kept)}, then run this command again"
    if any(each.startswith(".github/workflows/") for each in kept):
        merge += " (or leave that workflow as it is: --workflow gpu-ci.yml writes another beside it)"
    labels = ", ".join(plan.labels)
    branch = f" --branch {plan.branch}" if plan.branch != "main" else ""
    return [
        merge if kept else look,
        f"commit it on a branch and open a pull request to {plan.branch}; a runner needs the labels {labels}",
        f"run `runnerctl ci protect{branch}`: nothing is merged then before the job `gate` is green",
    ]
