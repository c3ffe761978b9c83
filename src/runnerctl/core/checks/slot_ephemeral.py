"""Does an ephemeral slot get a registration for each job? What is particular to its life."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import Minting, SlotReading, SlotState, Snapshot, Unit
from runnerctl.core.spec import HostSpec, Slot

__all__ = ["SLOT_MINTING", "ephemeral_registered", "ephemeral_starting"]

_PASSES_SECONDS = 300.0  # what takes longer is an outage, and the slot is lost to its users
_PASSES_TIMES = 3


def ephemeral_registered(state: SlotState, *, spec: HostSpec, wanted: Slot) -> Verdict:
    """On ``slot.registered``: the last registration is what there is; a new one comes with each job."""
    # Not as agent_id: at GitHub it may be another one by now.
    data: dict[str, object] = {"last_agent_id": state.agent_id, "name": state.runner_name, "url": state.url}
    if state.agent_id is None:
        return warning("has had no registration yet", f"see `runnerctl logs {wanted.name}`", **data)
    if (state.runner_name or "").lower() != spec.runner_name(wanted).lower():
        return warning(f"registers as {state.runner_name}, and should as {spec.runner_name(wanted)}", **data)
    return ok(f"registers as {state.runner_name} for each job", **data)


def ephemeral_starting(slot: SlotReading, unit: Unit, data: dict[str, object]) -> Verdict:
    """On ``slot.unit``, between two jobs: it is a matter of a second, unless `SLOT_MINTING` tells of more."""
    if isinstance(slot.minting, Minting) and slot.minting.not_before is not None:
        return warning("waits for its next registration", "see slot.minting", **data)
    return ok(f"is getting its next registration ({unit.sub_state})", **data)


def _judge_minting(
    slot: SlotReading, minting: Minting | None, hold: str | None, time: datetime, *, spec: HostSpec | None
) -> Iterable[Verdict]:
    del spec
    if not slot.ephemeral or hold is not None:
        return
    if minting is None or (not minting.failures and minting.ends < 2):
        yield ok("gets its registrations")
        return
    data = {"failures": minting.failures, "ends": minting.ends, "not_before": minting.not_before}
    since = max(0.0, time.timestamp() - (minting.since or time.timestamp()))
    times = max(minting.failures, minting.ends)
    summary = f"takes no job: {minting.reason} ({times} {'time' if times == 1 else 'times in a row'})"
    if since < _PASSES_SECONDS and times <= _PASSES_TIMES:
        yield warning(summary, **data)
    else:
        yield critical(summary, **data)


def _has_ephemeral(snapshot: Snapshot) -> bool:
    """Whether the host has ephemeral slots."""
    return isinstance(snapshot.slots, tuple) and any(slot.ephemeral for slot in snapshot.slots)


SLOT_MINTING = Check(
    id="slot.minting",
    title="Each ephemeral slot gets its registrations",
    docs=(
        "An ephemeral slot asks GitHub for a new registration before each job. If that fails it tries again "
        "by itself, after 5 seconds, then 10, 20, at most 300, and writes down why; so it does when its "
        "listener keeps on ending with an error. After five minutes, or the fourth time, that is critical."
    ),
    remedy="mend what the reason says: the slot comes back by itself; `runnerctl restart SLOT` does not wait",
    judge=_judge_minting,
    needs=(".minting", ".hold?", "time"),
    over="slots",
    when=_has_ephemeral,
)
