"""Room, clock and network: what every runner needs of its host."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

from runnerctl.core.checks.expect import limits
from runnerctl.core.findings import Check, Verdict, critical, ok, unknown, warning
from runnerctl.core.snapshot import Api, Clock, Filesystem, Host, Snapshot, SpecFile, TimeSync, Unavailable
from runnerctl.core.spec import HostSpec

__all__ = [
    "HOST_API",
    "HOST_CLOCK",
    "HOST_DISK",
    "HOST_INODES",
    "HOST_READ_ONLY",
    "HOST_SPEC",
    "HOST_TIME_SYNC",
]

_GIBIBYTE = 2**30


def _judge_spec(file: SpecFile, *, spec: HostSpec | None) -> Iterable[Verdict]:
    if spec is None:
        yield ok(f"never provisioned (no {file.path}): facts only, no expectations", provisioned=False)
        return
    slots = len(spec.github_runner.slots)
    summary = f"provisioned as {spec.host} with {slots} slot{'' if slots == 1 else 's'}"
    yield ok(summary, provisioned=True, slots=slots)


def _judge_disk(filesystem: Filesystem, *, spec: HostSpec | None) -> Iterable[Verdict]:
    free, total = filesystem.free_bytes, filesystem.total_bytes
    if not total:
        return
    text = f"{free / _GIBIBYTE:.1f} of {total / _GIBIBYTE:.1f} GiB free"
    data = {"paths": list(filesystem.paths), "free_bytes": free, "total_bytes": total}
    yield _by_percent(text, 100 * free / total, data, spec)


def _judge_inodes(filesystem: Filesystem, *, spec: HostSpec | None) -> Iterable[Verdict]:
    free, total = filesystem.free_inodes, filesystem.total_inodes
    if not total:  # btrfs and others have no fixed number
        return
    data = {"paths": list(filesystem.paths), "free_inodes": free, "total_inodes": total}
    yield _by_percent(f"{free} of {total} inodes free", 100 * free / total, data, spec)


def _by_percent(text: str, percent: float, data: dict[str, object], spec: HostSpec | None) -> Verdict:
    limit = limits(spec)
    summary = f"{text} ({percent:.1f} %)"
    data |= {"free_percent": round(percent, 1)}
    if percent < limit.health_disk_free_critical_percent:
        return critical(f"{summary}, under {limit.health_disk_free_critical_percent} %", **data)
    if percent < limit.health_disk_free_warning_percent:
        return warning(f"{summary}, under {limit.health_disk_free_warning_percent} %", **data)
    return ok(summary, **data)


def _judge_read_only(filesystem: Filesystem, *, spec: HostSpec | None) -> Iterable[Verdict]:
    data = {"paths": list(filesystem.paths), "device": filesystem.device}
    if not filesystem.read_only:
        yield ok("writable", **data)
    elif spec is None:
        yield warning("mounted read-only: a runner could not work here", **data)
    else:
        yield critical("mounted read-only", **data)


def _judge_api(api: Api, *, spec: HostSpec | None) -> Iterable[Verdict]:
    timings = {f"{stage.name}_seconds": round(stage.seconds, 3) for stage in api.stages}
    data = {"status": api.status, "failed_stage": api.failed_stage, "proxy": api.proxy, **timings}
    data |= {"via": api.via, "issuer": api.issuer}
    if api.failed_stage:
        # Nobody said that this host has to reach GitHub as long as it was never provisioned.
        said = critical if spec else warning
        summary, remedy = _why_unreachable(api, api.failed_stage)
        yield said(f"{summary}: {api.message}", remedy, **data)
    elif api.status == _PROXY_WANTS_USER:
        said = critical if spec else warning
        yield said(f"the proxy {api.via or ''} wants a user and a password (407)", _PROXY_REMEDY, **data)
    elif api.status is not None and api.status >= 500:
        remedy = "look at https://www.githubstatus.com or at the site's own GitHub Enterprise Server"
        by = f" through the proxy {api.via}" if api.via else ""
        yield warning(f"answers {api.status}{by}", remedy, **data)
    else:
        took = ", ".join(f"{stage.name} {stage.seconds * 1000:.0f} ms" for stage in api.stages)
        yield ok(f"answers {api.status} ({took})", **data)


_PROXY_WANTS_USER = 407
_PROXY_REMEDY = "check runnerctl_http_proxy, runnerctl_https_proxy and no_proxy, and the proxy itself"
_DNS_REMEDY = "check the name servers in /etc/resolv.conf (`getent hosts github.com`), and outbound port 53"
_STAGES = {
    "dns": ("the name cannot be resolved: DNS fails", _DNS_REMEDY),
    "tcp": ("no TCP connection", "check routes and the firewall: outbound 443 to GitHub must be open"),
    "proxy": ("the proxy refuses", _PROXY_REMEDY),
    "tls": ("TLS fails", "check what stands between this host and GitHub: a proxy, a firewall, old OpenSSL"),
    "http": ("no HTTP answer", ""),
}
_DISTRUST = {
    "expired": ("its certificate has expired, or this host's clock is wrong", "see host.clock"),
    "not_yet_valid": ("its certificate is not valid yet: this host's clock is wrong", "see host.clock"),
    "wrong_name": (
        "its certificate is for another name: something else answers in its place",
        "check DNS, proxy and firewall for what redirects this host",
    ),
}


def _why_unreachable(api: Api, stage: str) -> tuple[str, str]:
    """The cause in words, and what to do."""
    if api.via and stage == "dns":
        return f"the name of the proxy {api.via} cannot be resolved: DNS fails, or it is wrong", _PROXY_REMEDY
    if api.via and stage == "tcp":
        return f"the proxy {api.via} is down, or does not answer", _PROXY_REMEDY
    if stage == "tls" and api.tls_failure == "unknown_issuer":
        return _intercepted(api)
    if stage == "tls" and api.tls_failure in _DISTRUST:
        return _DISTRUST[api.tls_failure]
    return _STAGES.get(stage, (stage, ""))


def _intercepted(api: Api) -> tuple[str, str]:
    """A certificate of an issuer that this host does not trust: GitHub's own ones come from public CAs."""
    issuer = f"issuer {api.issuer}" if api.issuer else "an unknown issuer"
    host = (urlsplit(api.url).hostname or "").lower()
    if host.endswith(_PUBLIC_GITHUB):
        summary = f"TLS is intercepted on the way to GitHub: the certificate is not GitHub's, but of {issuer}"
    else:
        summary = f"TLS is intercepted, or the server's CA is private and not trusted here: {issuer}"
    remedy = (
        "give that CA's certificate in runnerctl_ca_bundle and provision, or exempt GitHub from inspection"
    )
    return summary, remedy


_PUBLIC_GITHUB = ("github.com", ".ghe.com")


def _clock_matters(snapshot: Snapshot) -> bool:
    """Whether an API answered with a date, or should have.

    Without an answer there is no date; on a host never provisioned `host.api` has said enough.
    """
    if snapshot.clock is None:
        return False
    return snapshot.host_spec is not None or not isinstance(snapshot.clock, Unavailable)


def _judge_clock(clock: Clock, *, spec: HostSpec | None) -> Iterable[Verdict]:
    limit, off = limits(spec), abs(clock.skew_seconds)
    direction = "ahead of" if clock.skew_seconds > 0 else "behind"
    summary = f"{off:.0f} s {direction} {clock.source}"
    if off > limit.health_clock_skew_critical_seconds:
        yield critical(f"{summary}: GitHub refuses sessions", skew_seconds=clock.skew_seconds)
    elif off > limit.health_clock_skew_warning_seconds:
        yield warning(summary, skew_seconds=clock.skew_seconds)
    else:
        yield ok(f"within {max(off, 1):.0f} s of {clock.source}", skew_seconds=clock.skew_seconds)


def _judge_time_sync(
    sync: TimeSync, host: Host, skew: float | None, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    data = {"synchronized": sync.synchronized, "services": list(sync.services), "container": host.container}
    services = f" ({', '.join(sync.services)})" if sync.services else ""
    if sync.synchronized:
        yield ok(f"the clock is kept in time{services}", **data)
    elif not host.container:
        yield warning(f"nothing keeps the clock in time{services}", **data)
    elif skew is not None and abs(skew) <= limits(spec).health_clock_skew_warning_seconds:
        yield ok("a container: its clock is the outer machine's, and right at the moment", **data)
    elif spec is None:
        yield ok("a container: its clock is the outer machine's", **data)
    else:
        summary = "a container: its clock is the outer machine's, whose time service cannot be seen from here"
        yield unknown(summary, "run the check on the outer machine", **data)


HOST_SPEC = Check(
    id="host.spec",
    title="The host knows what it should be",
    docs=(
        "Reads /etc/runnerctl/host.json, which the playbook writes. Without it there are no "
        "expectations, and the other checks report facts only. A truncated file, or one of a newer "
        "schema, leaves the verdict open."
    ),
    remedy="provision the host again; a newer schema wants the runnerctl that wrote it",
    judge=_judge_spec,
    needs=("spec",),
)
HOST_DISK = Check(
    id="host.disk",
    title="Disk space",
    docs=(
        "Free space, as an unprivileged user may use it, on /, the runners' directory, /opt and /tmp, "
        "and what a slot has for itself, each filesystem once. Limits: "
        "runnerctl_health_disk_free_warning_percent and ..._critical_percent."
    ),
    remedy="free space: old _work directories, package caches, `docker system prune`",
    judge=_judge_disk,
    over="filesystems",
)
HOST_INODES = Check(
    id="host.inodes",
    title="Inodes",
    docs=(
        "Free inodes, with the limits of host.disk. Environments and package caches are many small "
        "files: a disk can be full of them with space left. Filesystems without a fixed number are left "
        "out."
    ),
    remedy="remove trees of small files: unused conda environments, package caches, old _work directories",
    judge=_judge_inodes,
    over="filesystems",
)
HOST_READ_ONLY = Check(
    id="host.read_only",
    title="Filesystems are writable",
    docs="A filesystem that the kernel mounted read-only after an error stops every job on it.",
    remedy="look for disk errors with `dmesg`, check the filesystem, and mount it again",
    judge=_judge_read_only,
    over="filesystems",
)
HOST_API = Check(
    id="host.api",
    title="GitHub's API can be reached",
    docs=(
        "One request without a credential to the API of each slot, with the proxy and the CA file of the "
        "runner's own .env. Name, connection, proxy, TLS and HTTP are timed apart, and the one that failed "
        "is named. A certificate that is not trusted is named by its issuer: so a proxy that intercepts TLS "
        "shows."
    ),
    remedy="check DNS, proxy, firewall (outbound 443) and the host's CA certificates",
    judge=_judge_api,
    over="api",
)
HOST_CLOCK = Check(
    id="host.clock",
    title="The clock is right",
    docs=(
        "Compares the local clock with the Date of the API's answer. GitHub refuses a runner's session "
        "when it is more than five minutes off. Limits: runnerctl_health_clock_skew_warning_seconds and "
        "..._critical_seconds."
    ),
    remedy="set the clock and switch time synchronisation on: `timedatectl set-ntp true`, or chrony",
    judge=_judge_clock,
    needs=("clock",),
    when=_clock_matters,
)
HOST_TIME_SYNC = Check(
    id="host.time_sync",
    title="Something keeps the clock right",
    docs=(
        "The kernel's own flag (adjtimex), which every time service sets, and systemd-timesyncd's mark. "
        "A container has the clock of the outer machine: there the measured offset decides."
    ),
    remedy="switch time synchronisation on: `timedatectl set-ntp true`, or install chrony",
    judge=_judge_time_sync,
    needs=("time_sync", "host", "measured_skew_seconds"),
)
