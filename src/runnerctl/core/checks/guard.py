"""Root's guard: without it no job begins."""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.findings import Check, Verdict, critical, ok
from runnerctl.core.guard_readings import GuardState, is_guarded
from runnerctl.core.snapshot import Snapshot
from runnerctl.core.spec import HostSpec

__all__ = ["HOST_GUARD"]


def _judge(guard: GuardState, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    data = {"service": guard.service, "socket": guard.socket, "answers": guard.answers}
    if guard.socket != "active":
        state = guard.socket or "not there"
        yield critical(f"nobody listens for the runners' hooks: its socket is {state}", **data)
    elif guard.answers is False:
        yield critical(f"it does not answer ({guard.failure}), so every job fails", **data)
    elif guard.answers is None and guard.service != "active":
        yield critical(f"it does not run: its service is {guard.service or 'not there'}", **data)
    else:
        yield ok("it answers" if guard.answers else "it runs", **data)


def _matters(snapshot: Snapshot) -> bool:
    """Whether the host has slots, and a guard watches over them (`runnerctl_guard`)."""
    return snapshot.guard is not None and is_guarded(snapshot.host_spec)


HOST_GUARD = Check(
    id="host.guard",
    title="Root's guard answers",
    docs=(
        "The guard (runnerctl-guard.service) admits jobs, cleans up behind them and writes them down. A job "
        "whose hook gets no answer from it fails. Looks at its two units; as root it also asks the guard "
        "whether it is there. Not looked at where runnerctl_guard is false, or where there is no slot."
    ),
    remedy=(
        "look at `journalctl -u runnerctl-guard.service`, and start it: "
        "`systemctl start runnerctl-guard.socket runnerctl-guard.service`"
    ),
    judge=_judge,
    needs=("guard",),
    when=_matters,
)
