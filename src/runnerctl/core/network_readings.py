"""How a host reaches GitHub and how right its clock is: part of a snapshot."""

from __future__ import annotations

from datetime import datetime

import msgspec

from runnerctl.core.reading import Taken

__all__ = ["Api", "Clock", "Stage", "TimeSync"]


class Stage(msgspec.Struct, frozen=True):
    """One timed step of a connection: proxy, dns, tcp, tls, http."""

    name: str
    seconds: float


class Api(msgspec.Struct, frozen=True):
    """One unauthenticated request to a GitHub API. ``failed_stage`` names the step that failed.

    ``via``: the proxy that the runner's environment names, without user and password. ``issuer``: who signed
    the server's certificate; ``tls_failure``: why it is not trusted (unknown_issuer, expired, wrong_name).
    """

    url: str
    stages: tuple[Stage, ...] = ()
    failed_stage: str | None = None
    message: str = ""
    status: int | None = None
    date: datetime | None = None
    local_time: datetime | None = None
    proxy: bool = False
    via: str | None = None
    issuer: str | None = None
    tls_failure: str | None = None


class Clock(Taken, frozen=True):
    """The local clock against the ``Date`` of an API's answer; above 0: the local one is ahead."""

    skew_seconds: float
    source: str


class TimeSync(Taken, frozen=True):
    """Whether something keeps the clock right: the kernel's own flag, and the services that are running."""

    synchronized: bool
    services: tuple[str, ...] = ()
