"""Which permission an operation needs (GitHub's REST reference, "Self-hosted runners")."""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["APP_PERMISSIONS", "Permission", "needed", "scope_name"]

_PATH = re.compile(r"/(?P<base>repos/[^/]+/[^/]+|orgs/[^/]+|enterprises/[^/]+)(?P<rest>/.*)?")

# What an App asks for in its installation token, and nothing else; an enterprise has no such key in the
# public schema, so its token keeps what the installation was granted.
APP_PERMISSIONS = {
    "repository": {"administration": "write"},
    "organization": {"organization_self_hosted_runners": "write"},
    "enterprise": {},
}


class Permission(NamedTuple):
    """What a classic token, and what a fine-grained token or App, must hold; ``key`` is its API name."""

    classic: str
    fine: str
    key: str

    def __str__(self) -> str:
        fine = f", or {self.fine!r} of a fine-grained token or GitHub App" if self.fine else ""
        return f"the scope {self.classic!r} of a classic token{fine}"


def needed(method: str, path: str) -> Permission | None:
    """The permission for a request, or None where none is known (public data, an App's own calls)."""
    found = _PATH.fullmatch(path)
    if not found:
        return None
    kind = found["base"].split("/", 1)[0]
    access = "read" if method == "GET" else "write"
    rest = found["rest"] or ""
    if kind == "enterprises":
        return Permission("manage_runners:enterprise", "", "")
    if kind == "orgs" and rest.startswith(("/actions/runners", "/actions/runner-groups")):
        return Permission("admin:org", f"Self-hosted runners: {access}", "organization_self_hosted_runners")
    if kind == "orgs":
        return Permission("admin:org", f"Administration: {access}", "organization_administration")
    if rest.startswith(("/actions/runs", "/actions/jobs")):
        return Permission("repo", f"Actions: {access}", "actions")
    if rest.startswith("/actions/"):
        return Permission("repo", f"Administration: {access}", "administration")
    return None


def scope_name(path: str) -> str:
    """``acme/widgets``, ``acme`` or ``enterprises/acme``; empty for a path outside any scope."""
    found = _PATH.fullmatch(path)
    if not found:
        return ""
    base = found["base"]
    return base if base.startswith("enterprises/") else base.split("/", 1)[1]
