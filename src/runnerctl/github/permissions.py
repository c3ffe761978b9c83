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


# Beginning of the path after the scope, scope of a classic token, permission of a fine-grained one, its key.
# The first that fits counts.
_ORGANISATION = (
    ("/actions/runners", "admin:org", "Self-hosted runners", "organization_self_hosted_runners"),
    ("/actions/runner-groups", "admin:org", "Self-hosted runners", "organization_self_hosted_runners"),
    ("/actions/", "admin:org", "Administration", "organization_administration"),
)
_REPOSITORY = (
    ("/actions/runs", "repo", "Actions", "actions"),
    ("/actions/jobs", "repo", "Actions", "actions"),
    ("/actions/", "repo", "Administration", "administration"),
    ("/contents/", "repo", "Contents", "contents"),
    ("/branches/", "repo", "Administration", "administration"),
    ("/rulesets", "repo", "Administration", "administration"),
)


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
    if not found or found["rest"] == "/installation":
        return None
    kind = found["base"].split("/", 1)[0]
    access = "read" if method == "GET" else "write"
    rest = found["rest"] or ""
    if kind == "enterprises":
        fine = f"Enterprise self-hosted runners: {access}"
        return Permission("manage_runners:enterprise", fine, "enterprise_self_hosted_runners")
    rules = _ORGANISATION if kind == "orgs" else _REPOSITORY
    for prefix, classic, fine, key in rules:
        if rest.startswith(prefix):
            return Permission(classic, f"{fine}: {access}", key)
    if kind == "orgs":
        return Permission("read:org", "Members: read", "members") if not rest else None
    return Permission("repo", "Metadata: read", "metadata") if not rest else None


def scope_name(path: str) -> str:
    """``acme/widgets``, ``acme`` or ``enterprises/acme``; empty for a path outside any scope."""
    found = _PATH.fullmatch(path)
    if not found:
        return ""
    base = found["base"]
    return base if base.startswith("enterprises/") else base.split("/", 1)[1]
