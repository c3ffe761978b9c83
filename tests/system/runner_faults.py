"""The twenty faults of runner reality: each made on a real host, judged, and undone.

Used by the system test and by ``python -m benchmarks.runner_faults``.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from runnerctl.core.findings import SEVERITY
from runnerctl.core.health import Health, decode, judge
from runnerctl.core.snapshot import decode as decode_snapshot
from runnerctl.core.snapshot import encode as encode_snapshot
from tests.fakes.github_api.state import Settings
from tests.system import runner_acts as acts
from tests.system.runner_acts import GROUP, ISSUER, ROOTS, record, revive, unit
from tests.system.site import Site

__all__ = ["FAULTS", "Baseline", "Fault", "ask", "baseline", "worst"]


@dataclass(frozen=True)
class Fault:
    """One fault: how it is made and undone, and what must be said about it.

    ``github``: only GitHub knows. ``also``: the check that names the same cause first where GitHub is asked.
    ``later``: seconds that pass before anybody looks. ``api``: the URL that is asked instead of the spec's.
    ``converge``: only a converge brings the slot back.
    """

    title: str
    make: Callable[[Site], object]
    undo: Callable[[Site], object]
    check: str
    says: str
    remedy: str
    slot: str = "a"
    github: bool = False
    also: str = ""
    later: float = 0.0
    api: Callable[[Site], str] | None = None
    converge: bool = False

    def named_by(self, health: Health) -> bool:
        """Whether the first of the worst findings has the cause in words."""
        first = next(iter(worst(health)), None)
        return first is not None and first.id in (self.check, self.also) and self.says in first.summary


@dataclass(frozen=True)
class Baseline:
    """What ``systemctl is-active`` and the REST status say together."""

    active: str
    status: str

    @property
    def alarm(self) -> bool:
        """Whether either of them shows a fault."""
        return self.active != "active" or self.status != "online"


def baseline(site: Site, slot: str) -> Baseline:
    """Ask both."""
    active = site.shell(f"systemctl is-active {unit(slot)} || true").strip()
    found = record(site, slot)
    return Baseline(active, str(found["status"]) if found else "no record")


def ask(site: Site, *, github: bool = True, later: float = 0.0, api: str = "") -> Health:
    """What `runnerctl health` says on the host; ``later``: of the same state, so many seconds later."""
    words = ["GH_TOKEN=$(cat)"] if github else []
    words += [f"RUNNERCTL_API_URL={api}"] if api else []
    command = "snapshot --no-redact" if later else "health"
    done = site.host.ssh(
        " ".join([*words, "runnerctl", command, "-o json"]), check=False, stdin=site.world.token
    )
    assert "Traceback" not in done.stderr, done.stderr
    if not later:
        return decode(done.stdout.encode())
    snapshot = json.loads(encode_snapshot(decode_snapshot(done.stdout.encode())))
    taken = datetime.fromisoformat(snapshot["time"].replace("Z", "+00:00"))
    snapshot["time"] = (taken + timedelta(seconds=later)).isoformat()
    return judge(decode_snapshot(json.dumps(snapshot).encode()))


def worst(health: Health) -> list[Any]:
    """The findings that are not OK, worst first, as they are shown."""
    bad = [finding for finding in health.findings if finding.status != "OK"]
    return sorted(bad, key=lambda finding: -SEVERITY[finding.status])


FAULTS = (
    Fault(
        "expired version that ends as a success",
        acts.expire,
        revive,
        "slot.unit",
        "it has expired",
        "version",
    ),
    Fault(
        "hung after acknowledging a job",
        acts.acknowledge_and_hang,
        acts.forget_jobs,
        "slot.connection",
        "acknowledged a job",
        "systemctl restart",
        later=300,
    ),
    Fault(
        "record deleted",
        acts.delete_record,
        lambda _: None,
        "slot.unit",
        "record was deleted on GitHub",
        "registers the runner again",
        also="github.record",
        converge=True,
    ),
    Fault(
        "session conflict",
        acts.conflict,
        revive,
        "slot.unit",
        "another host holds a session",
        "stop its copy",
    ),
    Fault(
        "clock skew",
        lambda site: site.github.settings(clock_skew_seconds=900),
        lambda site: site.github.settings(clock_skew_seconds=Settings().clock_skew_seconds),
        "host.clock",
        "s behind",
        "set-ntp",
    ),
    Fault(
        "proxy down",
        lambda site: acts.with_environ(site, f"http_proxy=http://{site.host.ip}:9"),
        revive,
        "host.api",
        "proxy",
        "http_proxy",
    ),
    Fault(
        "disk full",
        acts.fill,
        lambda site: site.shell(f"umount {ROOTS}/a/_work"),
        "host.disk",
        "0.0 of 0.0 GiB free",
        "free space",
    ),
    Fault(
        "OOM-killed worker",
        acts.run_out_of_memory,
        acts.give_memory_back,
        "slot.memory",
        "memory ran out",
        "less parallelism",
    ),
    Fault(
        "listener alive, offline for an hour",
        acts.hang,
        revive,
        "github.online",
        "while its listener runs: it hangs",
        "restart the unit",
        github=True,
        later=3600,
    ),
    Fault(
        "unit active with no process",
        acts.leave_no_process,
        revive,
        "slot.listener",
        "without a listener (in it: nothing)",
        "90-test.conf",
    ),
    Fault(
        "wrong labels",
        lambda site: acts.relabel(site, "first", "by-hand"),
        lambda site: acts.relabel(site, "first"),
        "github.labels",
        "wrong labels: has besides by-hand",
        "provision",
        github=True,
    ),
    Fault(
        "wrong group",
        lambda site: acts.put_group(site, "Default"),
        lambda site: acts.put_group(site, GROUP),
        "github.group",
        f"wrong group: Default, and should be in {GROUP}",
        "provision",
        slot="c",
        github=True,
    ),
    Fault(
        "two hosts with one name",
        acts.take_name,
        acts.free_name,
        "github.record",
        "two hosts with one name",
        "rename",
        github=True,
        converge=True,
    ),
    Fault(
        "credentials file missing",
        acts.lose_credentials,
        lambda _: None,
        "slot.credentials",
        ".credentials_rsaparams is missing",
        "registered again",
        converge=True,
    ),
    Fault(
        "DNS dead",
        acts.kill_dns,
        lambda site: site.shell("cat /root/resolv > /etc/resolv.conf"),
        "host.api",
        "DNS fails",
        "resolv.conf",
        api=lambda _: f"https://{acts.DEAD}/api/v3",
    ),
    Fault(
        "TLS interception",
        acts.intercept,
        acts.let_pass,
        "host.api",
        f"TLS is intercepted on the way to GitHub: the certificate is not GitHub's, but of issuer {ISSUER}",
        "runnerctl_ca_bundle",
        api=acts.intercepted,
    ),
    Fault(
        "bin replaced by half an update",
        lambda site: site.shell("mv /opt/actions-runner/*/bin/Runner.Worker /root/kept"),
        lambda site: site.shell("mv /root/kept $(echo /opt/actions-runner/*/bin)/Runner.Worker"),
        "slot.release",
        "half an update: bin/Runner.Worker is missing",
        "unpacks a verified copy",
    ),
    Fault(
        "read-only file system",
        lambda site: site.shell(
            f"mount --bind {ROOTS}/a/_work {ROOTS}/a/_work && mount -o remount,bind,ro {ROOTS}/a/_work"
        ),
        lambda site: site.shell(f"umount {ROOTS}/a/_work"),
        "host.read_only",
        "mounted read-only",
        "dmesg",
    ),
    Fault(
        "runner user changed", acts.change_uid, acts.restore_uid, "slot.user", "its user changed", "provision"
    ),
    Fault(
        "service masked",
        lambda site: site.shell(f"systemctl mask --now {unit('a')}"),
        acts.unmask,
        "slot.unit",
        "is masked",
        "systemctl unmask",
    ),
)
