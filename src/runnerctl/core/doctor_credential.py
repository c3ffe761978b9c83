"""Is this credential enough, and is it too much? Reading proves nothing about writing. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runnerctl.core.doctor_readings import CredentialReading, LimitReading, ScopeReading, Site
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.reading import Unavailable
from runnerctl.core.scope import Scope

__all__ = [
    "CHECKS",
    "LEVELS",
    "NEEDED_SCOPES",
    "SIGNATURE",
    "excess_permissions",
    "missing_permissions",
]

EXPIRY_DAYS = 14
LOW_SHARE = 0.1
SIGNATURE = "signature"  # the call that fails where an App's clock is ahead
# GitHub's REST reference, "Self-hosted runners" and "Self-hosted runner groups".
NEEDED_SCOPES = {
    "repository": "repo",
    "organization": "admin:org",
    "enterprise": "manage_runners:enterprise",
}
# GitHub's scopes nest: the wider one holds the other.
WIDER_SCOPES = {"manage_runners:enterprise": "admin:enterprise"}
NEEDED_PERMISSIONS = {
    "repository": "administration",
    "organization": "organization_self_hosted_runners",
    "enterprise": "enterprise_self_hosted_runners",
}
# What doctor reads with, and what no App goes without.
USEFUL_PERMISSIONS = {"organization_administration": "read", "metadata": "read", "actions": "read"}
HARMLESS_SCOPES = ("read:", "user:email")
LEVELS = {"read": 1, "write": 2, "admin": 3}


def _reading(reading: ScopeReading) -> CredentialReading | None:
    return reading.credential if isinstance(reading.credential, CredentialReading) else None


def _judge_credential(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    del site
    if isinstance(reading.credential, Unavailable):
        if reading.credential.call == SIGNATURE:
            return  # github.clock says so
        make = critical if reading.credential.kind == "denied" else unknown
        yield make(reading.credential.reason, reading.credential.remedy)
        return
    found = reading.credential
    data = {"kind": found.kind, "source": found.source, "identity": found.identity}
    if found.kind == "job":
        remedy = "set GH_TOKEN or RUNNERCTL_TOKEN_FILE to a token that may, or use a GitHub App"
        yield critical("GITHUB_TOKEN is the running job's own token: it can never manage runners", remedy)
    elif found.sso.startswith("required"):
        yield critical("the token is not authorised for the organisation's single sign-on", _SSO, **data)
    elif found.sso.startswith("partial"):
        yield warning("single sign-on hides organisations from this token", _SSO, **data)
    else:
        who = f" of {found.identity}" if found.identity else ""
        text = f"{_KINDS.get(found.kind, found.kind)}{who}, from {found.source}"
        text += f"; not used: {', '.join(found.ignored)}" if found.ignored else ""
        if found.kind == "classic":
            text += "; as every classic token it reaches all that its owner may"
        yield ok(text, **data)


_SSO = "authorise it on GitHub under Settings, Developer settings, Tokens, Configure SSO"
_KINDS = {"classic": "classic token", "fine-grained": "fine-grained token", "app": "GitHub App"}


def _judge_expiry(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    """An App's token is minted anew each hour: its end means nothing."""
    found = _reading(reading)
    if found is None or found.refused or found.kind not in ("classic", "fine-grained"):
        return
    if found.unread_end:
        yield unknown(f"the token ends, and GitHub's word for when cannot be read: {found.unread_end!r}")
        return
    if found.expires_at is None:
        yield ok("the token has no end: nothing takes it away once it leaks")
        return
    days = int((found.expires_at - site.time).total_seconds() // 86400)
    data = {"expires_at": f"{found.expires_at:%Y-%m-%dT%H:%M:%SZ}", "days_left": days}
    text = f"the token ends on {found.expires_at:%Y-%m-%d}, in {days} days"
    yield (warning if days < EXPIRY_DAYS else ok)(text, **data)


def _judge_permissions(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    del site
    found = _reading(reading)
    if found is None or found.kind == "job" or found.sso.startswith("required"):
        return
    missing = missing_permissions(found, reading.scope)
    if missing:
        yield critical(f"it lacks {missing}: runners cannot be registered", _grant(missing), missing=missing)
    elif found.refused:
        yield critical(found.refused, found.remedy)
    elif found.proved is False:
        yield critical(f"it may read and not write: {found.refusal}", found.remedy)
    elif found.proved:
        yield ok("it may list and register runners: a registration token was minted", proved=True)
    elif _told(found):
        yield ok("it may list runners, and GitHub says it may register, label and move them", proved=False)
    else:
        remedy = "run it with --prove: that mints a registration token, which ends within the hour"
        yield unknown("it may list runners; whether it may register them is not proven", remedy)


def _told(found: CredentialReading) -> bool:
    """Whether GitHub named what the credential holds: a classic token's scopes, an App token's rights."""
    return found.kind == "app" or bool(found.scopes)


def _grant(missing: str) -> str:
    return f"give it {missing}; `runnerctl auth status` shows what it has"


def missing_permissions(found: CredentialReading, scope: Scope) -> str:
    """What the credential lacks to register, label and move runners, as far as GitHub told; else empty."""
    if found.kind == "app" and found.minted is not None:
        key = NEEDED_PERMISSIONS[scope.kind]
        return "" if LEVELS.get(found.minted.get(key, ""), 0) >= LEVELS["write"] else f"{key}: write"
    if found.scopes is not None:
        need = NEEDED_SCOPES[scope.kind]
        has = {need, WIDER_SCOPES.get(need)} & set(found.scopes)
        return "" if has else f"the scope {need}"
    return ""


def _judge_excess(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    del site
    found = _reading(reading)
    if found is None or found.refused or (found.scopes is None and found.granted is None):
        return
    excess = excess_permissions(found, reading.scope)
    if excess:
        yield warning(f"it may do more than runners need: {', '.join(excess)}", excess=list(excess))
    else:
        yield ok("it may no more than runners need")


def excess_permissions(found: CredentialReading, scope: Scope) -> tuple[str, ...]:
    """Rights that neither runners nor this command need; reading what anybody may read is none."""
    if found.granted is not None:
        allowed: Mapping[str, str] = {**USEFUL_PERMISSIONS, NEEDED_PERMISSIONS[scope.kind]: "write"}
        return tuple(
            f"{name}: {level}"
            for name, level in sorted(found.granted.items())
            if LEVELS.get(level, 9) > LEVELS.get(allowed.get(name, ""), 0)
        )
    needs = found.needs | {NEEDED_SCOPES[scope.kind]}
    return tuple(
        sorted(
            name
            for name in found.scopes or ()
            if name not in needs and not name.startswith(HARMLESS_SCOPES) and not _within(name, needs)
        )
    )


def _within(name: str, needs: Iterable[str]) -> bool:
    """Whether a needed scope holds this one anyway (``repo:status`` is a part of ``repo``)."""
    parts = {"repo": ("repo:", "public_repo", "security_events"), "admin:org": ("write:org",)}
    return any(name.startswith(parts.get(need, ("\0",))) for need in needs)


def _judge_clock(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    if reading.skew_seconds is None:
        return
    skew = reading.skew_seconds
    data = {"skew_seconds": round(skew, 1)}
    text = f"this clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} GitHub's"
    signs = isinstance(reading.credential, Unavailable) and reading.credential.call == SIGNATURE
    if signs or abs(skew) > site.limits.health_clock_skew_critical_seconds:
        yield critical(f"{text}: an App's signature is refused" if signs else text, **data)
    elif abs(skew) > site.limits.health_clock_skew_warning_seconds:
        yield warning(text, **data)
    else:
        yield ok("this clock agrees with GitHub's", **data)


def _judge_limits(reading: ScopeReading, site: Site) -> Iterable[Verdict]:
    del site
    if reading.limits is None:
        return
    if isinstance(reading.limits, Unavailable):
        yield unknown(f"the rate limit is not known: {reading.limits.reason}")
        return
    buckets = {name: reading.limits[name] for name in _BUCKETS if name in reading.limits}
    low = [_low(name, bucket) for name, bucket in buckets.items() if _is_low(bucket)]
    data = {name: bucket.remaining for name, bucket in buckets.items()}
    if low:
        yield warning("; ".join(low), **data)
    elif buckets:
        core = next(iter(buckets.values()))
        yield ok(f"{core.remaining} of {core.limit} requests are left this hour", **data)
    else:
        yield ok("this server has no rate limit")


_BUCKETS = ("core", "actions_runner_registration")


def _is_low(bucket: LimitReading) -> bool:
    return bucket.remaining < LOW_SHARE * bucket.limit


def _low(name: str, bucket: LimitReading) -> str:
    what = "requests" if name == "core" else "registrations"
    return f"{bucket.remaining} of {bucket.limit} {what} are left until {bucket.resets_at:%H:%MZ}"


CHECKS: tuple[Check, ...] = (
    Check(
        id="github.credential",
        title="The credential works",
        docs=(
            "Says what kind of credential is used, whose it is and which variable it came from. A job's own "
            "GITHUB_TOKEN can never manage runners. A token that single sign-on does not accept is refused, "
            "and one that it accepts for some organisations sees those only."
        ),
        remedy="give a valid token or App; `runnerctl auth status` shows the one in use",
        judge=_judge_credential,
        over="scopes",
    ),
    Check(
        id="github.credential_expiry",
        title="The token does not end soon",
        docs=(
            "GitHub tells when a classic or fine-grained token ends. Less than 14 days are a warning. An "
            "App's tokens are minted anew by themselves."
        ),
        remedy="make a new token in time, or use a GitHub App",
        judge=_judge_expiry,
        over="scopes",
    ),
    Check(
        id="github.permissions",
        title="The credential may register, label and move runners",
        docs=(
            "Reading proves nothing about writing. A classic token's scopes and an App token's permissions "
            "are named by GitHub and taken for proof: repo for a repository, admin:org for an organisation, "
            "manage_runners:enterprise for an enterprise; for an App administration: write or "
            "organization_self_hosted_runners: write. GitHub does not say what a fine-grained token may: "
            "there it is UNKNOWN until --prove mints a registration token, which registers nothing by itself "
            "and ends within an hour."
        ),
        remedy="give it the permission that is missing",
        judge=_judge_permissions,
        over="scopes",
    ),
    Check(
        id="github.excess",
        title="The credential may no more than it must",
        docs=(
            "Whoever reads a token that may more can do more. Names a classic token's scopes and an App's "
            "granted permissions that neither runners nor this command need. GitHub does not say what a "
            "fine-grained token may."
        ),
        remedy="take them away, or use a GitHub App or a fine-grained token with one permission",
        judge=_judge_excess,
        over="scopes",
    ),
    Check(
        id="github.clock",
        title="This clock agrees with GitHub's",
        docs=(
            "Compares this machine's clock with the Date of GitHub's answers. An App signs with the time: "
            "more than a minute ahead and it is refused. Limits: "
            "runnerctl_health_clock_skew_warning_seconds, runnerctl_health_clock_skew_critical_seconds."
        ),
        remedy="set the clock and turn time synchronisation on",
        judge=_judge_clock,
        over="scopes",
    ),
    Check(
        id="github.rate_limit",
        title="Requests are left",
        docs="Less than a tenth of the hour's requests or registrations is a warning. Asking is free.",
        remedy="wait for the next hour; see what else uses the credential, and give it one of its own",
        judge=_judge_limits,
        over="scopes",
    ),
)
