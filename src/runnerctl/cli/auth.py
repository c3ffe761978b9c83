"""``runnerctl auth status``: what credential there is, and whether it is enough; never the secret itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, Group, new_app
from runnerctl.cli.options import ApiUrlOption, OutputOption, UrlOption
from runnerctl.errors import AccessError

if TYPE_CHECKING:
    from runnerctl.core.scope import Scope
    from runnerctl.github.auth import CredentialInfo
    from runnerctl.github.client import GitHubClient

__all__ = ["app", "status"]

SCHEMA = "runnerctl.auth/1"
EXAMPLE = """
GH_TOKEN=... runnerctl auth status --url https://github.com/acme
RUNNERCTL_TOKEN_FILE=~/token runnerctl auth status -o json
"""
app = new_app(
    cls=Group,
    name="auth",
    help="Find out what the credential at hand may do.",
    epilog="runnerctl auth status",
)


@app.callback()
def auth() -> None:
    """Make `status` a command of its own."""


@app.command("status", cls=Command, epilog=EXAMPLE)
def status(
    context: typer.Context, url: UrlOption = None, api_url: ApiUrlOption = None, output: OutputOption = None
) -> int:
    """Show the credential in use and whether it is enough for the URL.

    It asks GitHub who the credential belongs to, what it may do and when it ends, and tries to read the
    runners of the URL. The first of these that is set is used: GH_TOKEN, GITHUB_TOKEN, RUNNERCTL_TOKEN_FILE,
    RUNNERCTL_APP_ID (with RUNNERCTL_APP_KEY_FILE). Exit code 77: there is none, or it is not enough.
    """
    from runnerctl.cli.remote import HOW_TO_AUTHENTICATE, credential, scope_of
    from runnerctl.cli.remote import api_url as api_of
    from runnerctl.github.connect import Connector

    command: Context = context.obj
    scope = scope_of(command, url)
    base = api_of(command, scope, api_url)
    connect = Connector(command.env, base)
    found = credential(command, scope, api=base, connect=connect)
    if found is None:
        if command.wants_json(output):
            command.say_json(_json(None, scope, base, None))
        raise AccessError("there is no GitHub credential", remedy=HOW_TO_AUTHENTICATE)
    client = connect(found)
    info = found.describe(client)
    problem = _try(client, scope) if scope else None
    if command.wants_json(output):
        command.say_json(_json(info, scope, base, problem))
    else:
        command.say(_text(info, scope, base, problem))
    if problem is not None:
        raise problem
    return 0


def _try(client: GitHubClient, scope: Scope) -> AccessError | None:
    """Read one runner of the scope: the error when the credential may not."""
    try:
        client.get(f"{scope.path}/actions/runners", params={"per_page": 1}, what="list the runners")
    except AccessError as error:
        return error
    return None


def may_write(info: CredentialInfo, scope: Scope) -> bool | None:
    """Whether the credential may register runners, as far as GitHub told; None when it did not say."""
    from runnerctl.github.permissions import needed

    permission = needed("POST", f"{scope.path}/actions/runners/registration-token")
    if permission is None:
        return None
    if info.permissions:
        return info.permissions.get(permission.key) == "write"
    if not info.scopes:
        return None
    # GitHub's scopes nest: admin:enterprise includes manage_runners:enterprise.
    wider = {"manage_runners:enterprise": "admin:enterprise"}.get(permission.classic)
    return permission.classic in info.scopes or wider in info.scopes


def _text(info: CredentialInfo, scope: Scope | None, api: str, problem: AccessError | None) -> str:
    from runnerctl.cli.output import NONE, fields

    rights = [f"{name}: {access}" for name, access in sorted(info.permissions.items())]
    shown: dict[str, object] = {
        "credential": f"{info.token_type} {info.kind} from {info.source}",
        "identity": info.identity,
        "may do": ", ".join([*info.scopes, *rights]) or None,
        "expires": info.expires_at or info.unread_end or None,
        "API": api,
    }
    if info.ignored:
        shown["not used"] = ", ".join(info.ignored)
    if info.note:
        shown["note"] = info.note
    if scope:
        writes = {None: NONE, True: "yes", False: "no"}[may_write(info, scope)]
        shown[scope.kind if scope.kind != "organization" else "organisation"] = scope.name
        shown["lists runners"] = problem is None
        shown["registers runners"] = "no" if problem else writes if writes != NONE else "GitHub does not tell"
    return fields(shown)


def _json(
    info: CredentialInfo | None, scope: Scope | None, api: str, problem: AccessError | None
) -> dict[str, Any]:
    import msgspec

    shown = None if info is None else msgspec.to_builtins(info)
    return {
        "schema": SCHEMA,
        "api_url": api,
        "url": scope.url if scope else None,
        "credential": shown,
        "may_list_runners": problem is None if scope and info else None,
        "may_register_runners": may_write(info, scope) if scope and info and problem is None else None,
        "problem": str(problem) if problem else None,
    }
