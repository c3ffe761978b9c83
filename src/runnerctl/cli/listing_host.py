"""The slots of this host for ``runnerctl list``: what its own files say, GitHub's view beside it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runnerctl.cli.context import Context, Paths
from runnerctl.cli.listing_rows import GpuState, Row

if TYPE_CHECKING:
    from runnerctl.cli.local import LocalSlot
    from runnerctl.core.driver_readings import GpuHistory
    from runnerctl.core.spec import HostSpec

__all__ = ["gpu_states", "host_rows"]

HEALTH_UNIT = "runnerctl-health.service"
SYSTEMCTL_SECONDS = 5.0
FRESH_SECONDS = 600.0  # several rounds of the health timer
VERDICTS = ("0", "1", "2")  # 3: it could not tell


def host_rows(context: Context, paths: Paths, spec: HostSpec | None, slots: Sequence[LocalSlot]) -> list[Row]:
    """A row for each slot, without GitHub's view."""
    interval = spec.runnerctl.health_interval_seconds if spec else 0
    states = gpu_states(context, paths, slots, fresh_seconds=max(FRESH_SECONDS, 3.0 * interval))
    return [
        Row(
            runner=slot.runner_name,
            slot=slot.name,
            host=spec.host if spec else _host_of(slot),
            local=slot,
            gpus=states[slot.name],
        )
        for slot in slots
    ]


def _host_of(slot: LocalSlot) -> str | None:
    """A runner's name is ``<host>-<slot>``."""
    name, end = slot.runner_name or "", f"-{slot.name}"
    return name.removesuffix(end) if name.endswith(end) else None


def gpu_states(
    context: Context, paths: Paths, slots: Sequence[LocalSlot], *, fresh_seconds: float = FRESH_SECONDS
) -> dict[str, GpuState | None]:
    """The GPUs of each slot, from the notes and holds that the last round of the verdict left.

    No GPU is asked: that is what ``runnerctl health`` is for. None: the slot is in no spec, so nobody knows
    which GPUs it has.
    """
    if not any(slot.gpus for slot in slots):
        return {slot.name: GpuState(0) if slot.in_spec else None for slot in slots}
    from runnerctl.core.snapshot import Unavailable
    from runnerctl.probes.history import read_gpu_history

    notes = read_gpu_history(paths.root)
    readable = not isinstance(notes, Unavailable)
    out = _taken_out(notes) if not isinstance(notes, Unavailable) else {}
    known = readable and paths.is_this_host() and _judged_lately(context, fresh_seconds)
    return {
        slot.name: _state(slot, out, _held_gpus(paths.state / "hold" / slot.name), known=known)
        for slot in slots
    }


def _state(slot: LocalSlot, out: Mapping[str, str], held: Sequence[str], *, known: bool) -> GpuState | None:
    if not slot.in_spec:
        return None
    own = {uuid.lower() for uuid in slot.gpus}
    taken = [out[uuid] for uuid in out if uuid in own]
    return GpuState(len(slot.gpus), tuple(dict.fromkeys([*held, *taken])), known)


def _taken_out(notes: GpuHistory | None) -> dict[str, str]:
    """UUID in lower case -> as it was noted, of every GPU whose last word is that it was taken out."""
    last = {}
    for event in notes.events if notes else ():
        if event.kind in ("taken_out", "released"):
            last[event.uuid.lower()] = event
    return {uuid: event.uuid for uuid, event in last.items() if event.kind == "taken_out"}


def _held_gpus(hold: Path) -> tuple[str, ...]:
    """The GPUs for which the verdict put the slot on hold: whole ones, also for MIG devices."""
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import HEALTH, parse_hold

    try:
        cause = parse_hold(hold.read_text(errors="replace")).cause(HEALTH)
    except OSError:
        return ()
    return cause.gpus if cause else ()


def _judged_lately(context: Context, seconds: float) -> bool:
    """Whether the timer's last round ended within ``seconds`` and came to a verdict, as systemd tells."""
    properties = "--property=ExecMainExitTimestampMonotonic,ExecMainStatus"
    command = ["systemctl", "show", properties, HEALTH_UNIT]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=SYSTEMCTL_SECONDS, check=False
        )
        found = dict(line.split("=", 1) for line in answer.stdout.splitlines() if "=" in line)
        ended = int(found.get("ExecMainExitTimestampMonotonic") or 0) / 1e6
    except FileNotFoundError:
        return False
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        context.note(f"runnerctl: systemctl did not answer: {error}")
        return False
    verdict = found.get("ExecMainStatus") in VERDICTS
    return verdict and ended > 0 and time.monotonic() - ended <= seconds
