"""What the listener's own lines mean: the newest telling one says what it does, or why it ended. Pure.

The texts are those of actions/runner (Runner.cs, MessageListener.cs, BrokerMessageListener.cs and
JobDispatcher.cs of Runner.Listener), and of .NET where an exception's message reaches the terminal.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta

from runnerctl.core.snapshot import LogLine

__all__ = ["AGAIN", "PROVISION", "RAISE", "RENEW", "REPLACE", "Sign", "newest", "stamp", "was_asked_to_stop"]

PROVISION = "run the provision playbook for this host again"
RAISE = "run the provision playbook again, with github_runner_version raised where it is pinned"
AGAIN = f"{PROVISION}: it registers the runner again"
# The record is there still, so a converge alone would find the name taken, or nothing to do.
REPLACE = f"{PROVISION}; while GitHub still has its record, with github_runner_replace: offline"
RENEW = "with a credential: `runnerctl unregister SLOT`, then `runnerctl register`: it gets a new key"


@dataclass(frozen=True)
class Sign:
    """What a line means. ``wrong`` is None for a line of a listener at work.

    ``lasts``: it does not pass by itself. ``takes_job``: from here on a worker must run.
    ``decides``: what is complained of after it follows from it. A listener whose record is gone also fails to
    clean up what is root's.
    """

    pattern: re.Pattern[str]
    wrong: str | None = None
    remedy: str = ""
    lasts: bool = True
    takes_job: bool = False
    decides: bool = False


def _sign(pattern: str, wrong: str, remedy: str, *, lasts: bool = True, decides: bool = False) -> Sign:
    return Sign(re.compile(pattern, re.IGNORECASE), wrong, remedy, lasts=lasts, decides=decides)


_CONNECT = r"(?:Runner connect error|An error occurred).*"
# The first that fits counts: the causes of a connect error stand before the error itself.
_SIGNS = (
    # Before all others: who names a job chooses what stands in these lines.
    Sign(re.compile(r"^[\d :Z-]*Running job:"), takes_job=True),
    Sign(re.compile(r"^[\d :Z-]*Job .* completed with result:")),
    _sign(
        r"is deprecated and cannot receive messages|runner version.*is (?:too old|no longer supported)",
        "GitHub refuses this runner version: it has expired",
        RAISE,
        decides=True,
    ),
    _sign(
        r"registration has been deleted|no longer exists on the server",
        "its record was deleted on GitHub, by hand or after 14 days offline",
        AGAIN,
        decides=True,
    ),
    _sign(
        r"session for this runner already exists",
        "another host holds a session of this runner: two hosts have one name, or one copied directory",
        "find the other host by the runner's name on GitHub, stop its copy and give it a name of its own; "
        "then start this unit",
        lasts=False,
    ),
    _sign(
        r"clock (?:may be|is)? ?(?:out of sync|skew)",
        "GitHub refuses its session because this host's clock is wrong",
        "set the clock and keep it in time: `timedatectl set-ntp true`, or chrony; see host.clock",
    ),
    _sign(r"Not configured\. Run config", "it has no configuration: its .runner is missing", REPLACE),
    _sign(r"No space left on device", "there is no space left where it writes", "free space: see host.disk"),
    _sign(
        r"Read-only file system",
        "its file system is read-only",
        "see host.read_only: check the disk, and mount it again",
    ),
    _sign(
        r"Could not find file .*\.credentials|No key in .*\.credentials",
        "a credential file is missing or empty",
        RENEW,
    ),
    _sign(r"Unexpected content in .*\.(?:runner|credentials)", "one of its own files is damaged", RENEW),
    _sign(
        r"Could not load file or assembly|does not exist: .*Runner\.Listener",
        "its programs are not complete: half an update",
        f"see slot.release; remove the release's directory and {PROVISION}",
    ),
    _sign(
        r"Access to the path .* is denied|Permission to read the directory contents is required",
        "it may not use its own files: their owner or mode was changed",
        f"see slot.user; {PROVISION}",
    ),
    _sign(
        _CONNECT + r"(?:Name or service not known|name resolution|nodename nor servname|No such host)",
        "cannot reach GitHub: names are not resolved (DNS)",
        "see host.api; check /etc/resolv.conf and the name servers in it",
        lasts=False,
    ),
    _sign(
        _CONNECT + r"(?:SSL|TLS|certificate)",
        "cannot reach GitHub: TLS fails, its certificate is not trusted",
        "see host.api; a proxy that intercepts TLS needs its CA in runnerctl_ca_bundle",
        lasts=False,
    ),
    _sign(
        _CONNECT + r"(?:proxy|\b407\b)",
        "cannot reach GitHub: its proxy refuses or does not answer",
        "see host.api; check runnerctl_http_proxy, runnerctl_https_proxy and the proxy itself",
        lasts=False,
    ),
    _sign(r"Runner connect error", "cannot reach GitHub and keeps trying", "see host.api", lasts=False),
    _sign(
        r"AAD Correlation ID",
        "stopped in the middle of a login, and may hang (a known fault of the runner)",
        "restart its unit while no job runs",
        lasts=False,
    ),
    Sign(re.compile(r"Runner reconnected|Listening for Jobs")),
)
_NEAR, _SOON = 5, timedelta(minutes=6)  # a job that still runs is given five minutes to end
_ASKED = re.compile(r"^Exiting\.\.\.")


def newest(log: Iterable[LogLine]) -> tuple[LogLine | None, Sign | None]:
    """The newest line that means something, and its meaning; the log is oldest first.

    A complaint gives way to one that decides, when that stands within the lines just before it.
    """
    lines = tuple(log)
    telling = [(line, sign) for line in lines if (sign := _meaning(line))]
    if not telling:
        return (lines[-1], None) if lines else (None, None)
    last = telling[-1]
    if last[1].wrong:
        near = (pair for pair in telling[-_NEAR:] if last[0].time - pair[0].time < _SOON)
        return next((pair for pair in near if pair[1].decides), last)
    return last


def _meaning(line: LogLine) -> Sign | None:
    return next((sign for sign in _SIGNS if sign.pattern.search(line.message)), None)


def was_asked_to_stop(log: Iterable[LogLine]) -> bool:
    """Whether the listener ended because a signal told it to (Runner.cs prints this on Ctrl-C)."""
    return any(_ASKED.search(line.message) for line in tuple(log)[-3:])


def stamp(line: LogLine) -> str:
    """When a line was written."""
    return f"{line.time:%Y-%m-%d %H:%M:%SZ}"
