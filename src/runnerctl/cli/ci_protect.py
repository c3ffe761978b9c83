"""``runnerctl ci protect``: require the jobs before anything is merged, or say how."""

from __future__ import annotations

import configparser
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import ApiUrlOption, MaxWaitOption, OutputOption
from runnerctl.errors import DataError, UsageError

if TYPE_CHECKING:
    from runnerctl.ci.protect import Required
    from runnerctl.core.scope import Scope
    from runnerctl.github.rulesets import Plan

__all__ = ["app"]

SCHEMA = "runnerctl.ci_protect/1"
EXAMPLE = """
runnerctl ci protect --url https://github.com/acme/widgets --check
GH_TOKEN=... runnerctl ci protect --url https://github.com/acme/widgets
runnerctl ci protect --require cpu_tests --require gpu_tests
"""
app = new_app()
RepositoryArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="REPOSITORY",
        help="The root of the repository's files. Default: this folder.",
        show_default=False,
    ),
]
RepositoryUrlOption = Annotated[
    str | None,
    typer.Option(
        "--url",
        metavar="URL",
        help="The repository on GitHub. Default: RUNNERCTL_URL, or the remote origin.",
        show_default=False,
    ),
]
BranchOption = Annotated[
    str | None,
    typer.Option(
        "--branch",
        metavar="NAME",
        help="The branch that is merged into. Default: origin's, or main.",
        show_default=False,
    ),
]
RequireOption = Annotated[
    list[str] | None,
    typer.Option("--require", metavar="JOB", help="A job to require. Default: the gate.", show_default=False),
]
CheckOption = Annotated[
    bool, typer.Option("--check", help="Change nothing; exit code 1 when a check is missing.")
]


@app.command("protect", cls=Command, epilog=EXAMPLE)
def command(
    context: typer.Context,
    repository: RepositoryArgument = None,
    url: RepositoryUrlOption = None,
    branch: BranchOption = None,
    require: RequireOption = None,
    check: CheckOption = False,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Require the gate, or the jobs named, before anything is merged.

    GitHub takes a skipped job for a passed one: a job that may be skipped is refused. It writes one ruleset
    of its own in the repository, and touches nothing of anybody else's. Without a credential it prints how
    to do it by hand.
    """
    from runnerctl.ci.init_repo import Repository
    from runnerctl.ci.protect import required_checks
    from runnerctl.ci.workflow_read import read_repository
    from runnerctl.ci.workflow_tests import TestFacts

    asked: Context = context.obj
    root = Path(repository or ".")
    found, hits = read_repository(root, tests=TestFacts())
    broken = next((hit for hit in hits if hit.file.startswith(".github/workflows/")), None)
    if broken:
        raise DataError(broken.message, where=f"{broken.file}:{broken.line}", remedy="see runnerctl ci check")
    into = branch or Repository(root).default_branch() or "main"
    checks = required_checks(found, tuple(require or ()), branch=into)
    desk = _Desk(asked, root, url, api_url, max_wait=max_wait, branch=into)
    return desk.run(checks, check=check, output=output)


class _Desk:
    """One repository at GitHub, or none when no credential is there."""

    def __init__(
        self,
        context: Context,
        root: Path,
        url: str | None,
        api: str | None,
        *,
        max_wait: str | None,
        branch: str,
    ) -> None:
        from runnerctl.cli.remote import api_url

        self.context = context
        self.branch = branch
        self.scope = _scope(context, root, url)
        self.api = api_url(context, self.scope, api)
        self.max_wait = max_wait

    def run(self, checks: Sequence[Required], *, check: bool, output: str | None) -> int:
        """Compare, write unless only checking, tell. Exit code 1 with ``check`` when something is missing."""
        from runnerctl.cli.remote import has_credential

        names = tuple(name for each in checks for name in each.names)
        if self.scope is None or not has_credential(self.context):
            self._tell_how(names, output)
            return 1 if check else 0
        plan = self._plan(names, write=not check)
        self._tell(plan, output, written=bool(plan.missing) and not check)
        return 1 if check and plan.missing else 0

    def _plan(self, names: tuple[str, ...], *, write: bool) -> Plan:
        from runnerctl.cli.remote import registry
        from runnerctl.github.rulesets import Rulesets

        assert self.scope is not None
        client = registry(self.context, self.scope, api=self.api, max_wait=self.max_wait).client
        at = Rulesets(client, self.scope)
        plan = at.plan(names, branch=self.branch, app_id=self._app_id())
        if write:
            at.apply(plan)
        return plan

    def _app_id(self) -> int | None:
        from runnerctl.cli.remote import PUBLIC_API
        from runnerctl.github.rulesets import ACTIONS_APP

        return ACTIONS_APP if self.api == PUBLIC_API else None

    def _tell(self, plan: Plan, output: str | None, *, written: bool) -> None:
        from runnerctl.cli.output import escape

        if self.context.wants_json(output):
            required = [*plan.present, *(plan.missing if written else ())]
            missing = [] if written else list(plan.missing)
            self.context.say_json(self._json(required, missing, written=written))
            return
        for name in plan.present:
            self.context.say(escape(f"required already: {name}"))
        for name in plan.missing:
            self.context.say(escape(f"{'now required' if written else 'missing'}: {name}"))

    def _json(self, required: list[str], missing: list[str], *, written: bool) -> dict[str, Any]:
        repository = self.scope.name if self.scope else None
        found = {"schema": SCHEMA, "repository": repository, "branch": self.branch}
        return {**found, "required": required, "missing": missing, "written": written}

    def _tell_how(self, names: tuple[str, ...], output: str | None) -> None:
        """The command of GitHub's own tool, and the page, for somebody who may."""
        from runnerctl.cli.output import escape
        from runnerctl.github.rulesets import ruleset_body

        body = ruleset_body(names, branch=self.branch, app_id=self._app_id())
        name = self.scope.name if self.scope else "OWNER/REPOSITORY"
        site = self.scope.url if self.scope else f"https://github.com/{name}"
        if self.context.wants_json(output):
            shown = self._json([], list(names), written=False)
            self.context.say_json({**shown, "path": f"/repos/{name}/rulesets", "body": body})
            return
        lines = ["There is no credential (or no --url), so nothing was asked or changed. To require", ""]
        lines += [f"    {each}" for each in names]
        lines += ["", f"for {self.branch}, somebody with admin rights runs", ""]
        lines += [
            f"gh api{_at(site)} --method POST repos/{name}/rulesets --input - <<'EOF'",
            json.dumps(body, indent=2),
            "EOF",
        ]
        lines += [
            "",
            f"or adds it on {site}/settings/rules",
            "(New branch ruleset, Require status checks to pass)",
        ]
        self.context.say("\n".join(escape(line, keep="\n") for line in lines))


def _at(site: str) -> str:
    """The option of `gh` for a GitHub of one's own."""
    host = site.partition("://")[2].partition("/")[0]
    return "" if host == "github.com" else f" --hostname {shlex.quote(host)}"


def _scope(context: Context, root: Path, url: str | None) -> Scope | None:
    """The repository that is named, or the remote origin of the files. Raises UsageError for other scopes."""
    from runnerctl.cli.remote import scope_of
    from runnerctl.core.scope import parse_scope
    from runnerctl.errors import ConfigError

    scope = scope_of(context, url)
    if scope is None:
        origin = _origin(root)
        try:
            scope = parse_scope(origin) if origin else None
        except ConfigError:
            return None
    if scope is not None and scope.kind != "repository":
        remedy = "give the URL of a repository"
        raise UsageError(f"{scope.name} is no repository", where="--url", remedy=remedy)
    return scope


def _origin(root: Path) -> str:
    """The address of git's remote origin as an https URL, or empty."""
    reader = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    try:
        reader.read(root / ".git" / "config", encoding="utf-8")
        address = reader.get('remote "origin"', "url", fallback="")
    except (configparser.Error, OSError, UnicodeDecodeError):
        return ""
    if address.startswith("git@"):
        address = "https://" + address.removeprefix("git@").replace(":", "/", 1)
    elif address.startswith(("ssh://", "https://")):  # who logs in there is not part of the place
        host, _, path = address.partition("://")[2].partition("/")
        host = host.rpartition("@")[2]
        address = f"https://{host.partition(':')[0] if address.startswith('ssh') else host}/{path}"
    return address.removesuffix(".git") if address.startswith("https://") else ""
