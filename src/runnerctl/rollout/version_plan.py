"""Which release a fleet goes to, and how long the ones it runs still work.

GitHub alone knows when a version stops working (``GET .../deprecations/{version}``); a release's age says
nothing. Where it does not answer that question, the documented bound stands in: a runner that does not update
itself must take every release within 30 days.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta, timezone
from typing import Literal

import msgspec

from runnerctl.errors import AccessError, RunnerctlError
from runnerctl.github.models import Deprecation
from runnerctl.github.registry import RELEASES, Registry

__all__ = ["Expiry", "expiries", "expiry", "version_key"]

GRACE_DAYS = 30  # docs.github.com, "Self-hosted runners reference": runner software updates
_VERSION = re.compile(r"v?(\d+\.\d+\.\d+)")


class Expiry(msgspec.Struct, frozen=True):
    """When a version stops running jobs.

    ``source``: ``github`` said the day, it names ``no_end``, an ``estimate``, or ``unknown``.
    """

    version: str
    source: Literal["github", "no_end", "estimate", "unknown"] = "unknown"
    at: datetime | None = None
    note: str = ""

    def days_left(self, now: datetime) -> int | None:
        """Whole days from ``now`` (UTC), negative when it is over; None without a day."""
        return None if self.at is None else (self.at - now).days

    def text(self, now: datetime) -> str:
        """For a table: days, ``no end`` or ``unknown``; an estimate is marked."""
        days = self.days_left(now)
        if days is None:
            return self.source.replace("_", " ")
        return f"about {days}" if self.source == "estimate" else str(days)


class _Published(msgspec.Struct, frozen=True):
    tag_name: str
    published_at: datetime | None = None
    prerelease: bool = False


def version_key(version: str) -> tuple[int, ...]:
    """A version as numbers: 2.9 is older than 2.10."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def expiry(
    version: str, answer: Deprecation | None, releases: Mapping[str, datetime], *, note: str = ""
) -> Expiry:
    """The day a version ends: GitHub's, else 30 days after the next release, else unknown.

    ``releases``: version -> day of publication.
    """
    if answer is not None and answer.runtime_deprecates_at is not None:
        return Expiry(version, "github", _utc(answer.runtime_deprecates_at))
    if answer is not None:
        return Expiry(version, "no_end")
    later = [day for name, day in releases.items() if version_key(name) > version_key(version)]
    if later:
        return Expiry(version, "estimate", _utc(min(later)) + timedelta(days=GRACE_DAYS), note)
    return Expiry(version, "no_end" if version in releases else "unknown", note=note)


def expiries(registry: Registry, versions: Iterable[str]) -> dict[str, Expiry]:
    """The expiry of each version, asked of GitHub: one request each, and one for the releases when needed.

    It raises nothing: what cannot be asked is an estimate or unknown, and says why.
    """
    found, answers, why = {}, {}, ""
    for version in sorted(set(versions), key=version_key):
        try:
            answers[version] = registry.deprecations(version)
        except AccessError as error:
            answers[version], why = None, f"the credential may not ask when versions expire: {error.what}"
        except RunnerctlError as error:
            answers[version], why = None, str(error)
    releases = _releases(registry) if None in answers.values() else {}
    for version, answer in answers.items():
        found[version] = expiry(version, answer, releases, note="" if answer else why)
    return found


def _releases(registry: Registry) -> dict[str, datetime]:
    try:
        answer = registry.client.get(
            RELEASES, params={"per_page": 100}, what="list the runner's releases", accept=(404,)
        )
        rows = () if answer.status == 404 else answer.decode(tuple[_Published, ...])
    except RunnerctlError:
        return {}
    named = ((_VERSION.fullmatch(row.tag_name), row.published_at) for row in rows if not row.prerelease)
    return {match[1]: day for match, day in named if match and day}


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
