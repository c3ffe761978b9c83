"""``runnerctl ci check``: find what makes workflows red, slow or unsafe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import ApiUrlOption, InventoryOption, LimitOption, MaxWaitOption
from runnerctl.errors import UsageError

if TYPE_CHECKING:
    from runnerctl.ci.check import Checker, Report
    from runnerctl.ci.fix import Mended

__all__ = ["app"]

EXAMPLE = """
runnerctl ci check
runnerctl ci check . --fix
runnerctl ci check -i inventory --severity warning
runnerctl ci check --url https://github.com/acme -o sarif > runnerctl.sarif
"""
app = new_app()
RepositoryArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="REPOSITORY", help="The root of a repository. Default: this folder.", show_default=False
    ),
]
FleetUrlOption = Annotated[
    str | None,
    typer.Option(
        "--url", metavar="URL", help="Judge labels by the runners registered there.", show_default=False
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels-from",
        metavar="FILE",
        help="Judge labels by this file: a line for each runner, or the JSON of runnerctl list.",
        show_default=False,
    ),
]
SeverityOption = Annotated[
    Literal["error", "warning", "note"],
    typer.Option("--severity", help="Report what is as grave as this, or graver."),
]
FixOption = Annotated[
    bool, typer.Option("--fix", help="Mend what can be mended safely, and show the change.")
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="With --fix: show the change and write nothing.")
]
FormatOption = Annotated[
    Literal["text", "json", "sarif", "github"] | None,
    typer.Option(
        "--output",
        "-o",
        help="How to print the answer. Default: text, and annotations (github) in a workflow.",
        show_default=False,
    ),
]


@app.command("check", cls=Command, epilog=EXAMPLE)
def command(
    context: typer.Context,
    repository: RepositoryArgument = None,
    fix: FixOption = False,
    dry_run: DryRunOption = False,
    severity: SeverityOption = "note",
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    url: FleetUrlOption = None,
    labels_from: LabelsOption = None,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: FormatOption = None,
) -> int:
    """Find what makes workflows red, slow or unsafe.

    It reads the workflows and actions below .github, environment.yml, the settings of pytest, coverage and
    pre-commit, and the tests. Labels are judged where a fleet is named. A line is left alone when it (or the
    line before, alone) says: # runnerctl: ignore[ID] REASON. Exit code 0: nothing was found; 1: it was.
    """
    from runnerctl.ci.check import Checker, at_least
    from runnerctl.cli.ci_labels import fleet_labels
    from runnerctl.cli.ci_render_check import render

    asked: Context = context.obj
    if dry_run and not fix:
        raise UsageError("goes with --fix", where="--dry-run")
    fleet = fleet_labels(
        asked,
        inventory=inventory,
        limit=limit,
        url=url,
        file=labels_from,
        api=api_url,
        max_wait=max_wait,
    )
    root = Path(repository or ".")
    checker = Checker(root, fleet=fleet)
    form = output or _form(asked)
    report, mended = checker.report(), None
    if not report.files and not any(each.file.startswith(".github/") for each in report.findings):
        remedy = "give the root of a repository"
        raise UsageError("there is no workflow below .github/workflows", where=str(root), remedy=remedy)
    if fix:
        mended = _fixed(asked, checker, severity, form, dry_run=dry_run)
        report = report if dry_run else checker.report()
    shown = at_least(report, severity)
    render(asked, shown, form, mended=mended, dry_run=dry_run)
    return 1 if shown.findings else 0


def _form(context: Context) -> str:
    if context.default_output == "json":
        return "json"
    return "github" if context.env.get("GITHUB_ACTIONS") == "true" else "text"


def _fixed(context: Context, checker: Checker, severity: str, form: str, *, dry_run: bool) -> Mended:
    from runnerctl.ci.check import at_least
    from runnerctl.ci.fix import diff, mend, write
    from runnerctl.cli.output import escape

    mended = mend(checker.root, lambda changed: at_least(_judged(checker, changed), severity).hits)
    text = "\n".join(escape(line, keep="\t") for line in diff(mended).splitlines())
    if text:
        (context.say if form == "text" else context.note)(text)
    if not dry_run:
        write(checker.root, mended)
    return mended


def _judged(checker: Checker, changed: object) -> Report:
    return checker.report(dict(changed) if isinstance(changed, dict) else None)
