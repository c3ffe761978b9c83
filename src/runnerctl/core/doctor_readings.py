"""What `runnerctl doctor` reads of GitHub, one reading a scope, and what is known beside it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

import msgspec

from runnerctl.core.labels import DRAINED
from runnerctl.core.reading import Unavailable
from runnerctl.core.scope import Scope
from runnerctl.core.sections import HostSpec, Runnerctl, Slot

__all__ = [
    "CredentialReading",
    "GroupReading",
    "LimitReading",
    "PolicyReading",
    "ReachReading",
    "RunnerReading",
    "ScopeReading",
    "Site",
    "VersionReading",
]


class CredentialReading(msgspec.Struct, frozen=True, kw_only=True):
    """What GitHub says of the credential.

    ``kind``: ``classic``, ``fine-grained``, ``app``, ``job``, or ``other`` (an OAuth or user token, or one of
    a form nobody knows). ``scopes`` are a classic token's, None where GitHub named none; ``granted`` what an
    App's installation was granted, None for others; ``minted`` what its token got. ``needs`` are the classic
    scopes that any examined scope needs. ``unread_end`` is what GitHub says of the token's end, where that is
    no time. ``refused`` says why the runners could not be listed and ``remedy``
    what to do; ``proved``: a registration token was minted, None when that was not tried, else ``refusal``.
    """

    kind: str
    source: str
    identity: str | None = None
    scopes: tuple[str, ...] | None = None
    granted: dict[str, str] | None = None
    minted: dict[str, str] | None = None
    needs: frozenset[str] = frozenset()
    expires_at: datetime | None = None
    unread_end: str = ""
    sso: str = ""
    ignored: tuple[str, ...] = ()
    refused: str = ""
    remedy: str = ""
    proved: bool | None = None
    refusal: str = ""


class RunnerReading(msgspec.Struct, frozen=True, kw_only=True):
    """GitHub's record of a runner. ``labels`` are the custom ones, lower-cased."""

    name: str
    online: bool
    busy: bool = False
    labels: frozenset[str] = frozenset()
    group_id: int | None = None
    version: str | None = None
    ephemeral: bool | None = None

    @property
    def drained(self) -> bool:
        """Whether it was cut from routing."""
        return DRAINED in self.labels


class GroupReading(msgspec.Struct, frozen=True, kw_only=True):
    """A runner group. ``workflows``: the only ones that may use it; None: every workflow may.

    ``visibility`` empty and ``public`` None: this server does not say.
    """

    id: int
    name: str
    visibility: str
    default: bool = False
    public: bool | None = False
    inherited: bool = False
    workflows: tuple[str, ...] | None = None


class PolicyReading(msgspec.Struct, frozen=True, kw_only=True):
    """Which repositories may have runners of their own: ``all``, ``selected`` or ``none``."""

    owner: str
    enabled: str


class ReachReading(msgspec.Struct, frozen=True, kw_only=True):
    """Who reaches the runners beside groups. ``public``: the repository is; None: the scope is none.

    ``approval`` is GitHub's policy for pull requests from forks.
    """

    public: bool | Unavailable | None = None
    approval: str | Unavailable | None = None


class VersionReading(msgspec.Struct, frozen=True, kw_only=True):
    """How long a runner version lives.

    ``asked``: GitHub told; ``ends`` is None for the newest. Where it did not, ``bound`` is thirty days after
    the release that followed, and ``newest`` says that none did, or that it is what the server offers;
    both empty: nothing is known.
    """

    version: str
    asked: bool
    ends: datetime | None = None
    registration_ends: datetime | None = None
    bound: datetime | None = None
    newest: bool = False
    reason: str = ""


class LimitReading(msgspec.Struct, frozen=True, kw_only=True):
    """One bucket of requests an hour."""

    limit: int
    remaining: int
    resets_at: datetime


@dataclass(frozen=True)
class ScopeReading:
    """Everything read of one scope. ``skew_seconds``: this clock minus GitHub's.

    What was not asked, because the credential is refused altogether, is None.
    """

    scope: Scope
    credential: CredentialReading | Unavailable
    skew_seconds: float | None = None
    limits: Mapping[str, LimitReading] | Unavailable | None = None
    runners: tuple[RunnerReading, ...] | Unavailable | None = None
    groups: tuple[GroupReading, ...] | Unavailable | None = None
    policy: PolicyReading | Unavailable | None = None
    reach: ReachReading | None = None
    versions: tuple[VersionReading, ...] | None = None

    @property
    def known_runners(self) -> tuple[RunnerReading, ...]:
        """The runners, none where they could not be listed."""
        return self.runners if isinstance(self.runners, tuple) else ()


@dataclass(frozen=True)
class Site:
    """What is the same for all scopes.

    ``specs`` are the inventory's, empty without one; ``whole``: they are all of it. ``left_out`` are hosts
    that have no spec, because of problems in their variables.
    """

    time: datetime
    specs: tuple[HostSpec, ...] = ()
    limits: Runnerctl = field(default_factory=Runnerctl)
    whole: bool = True
    left_out: tuple[str, ...] = ()

    def claims(self, scope: Scope) -> dict[str, tuple[HostSpec, Slot]]:
        """Runner name in lower case -> the slot of the inventory that should have it in this scope."""
        return {
            spec.runner_name(slot).casefold(): (spec, slot)
            for spec in self.specs
            for slot in spec.github_runner.slots
            if spec.slot_scope(slot).url.lower() == scope.url.lower()
        }

    def ours(self, reading: ScopeReading) -> tuple[RunnerReading, ...]:
        """The runners of the inventory; without one all of the scope."""
        if not self.specs:
            return reading.known_runners
        claims = self.claims(reading.scope)
        return tuple(runner for runner in reading.known_runners if runner.name.casefold() in claims)
