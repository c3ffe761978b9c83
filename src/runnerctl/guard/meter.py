"""Measures what the GPUs of running jobs do, without ever waiting for a GPU.

One child process (`runnerctl.guard.meter_work`) holds NVML and adds up what it sees, in memory that both
share. When a call of it hangs or ends it, it is replaced, after a pause that grows; the GPU it was at is left
out for longer. What could not be measured is None, never a zero, and `GpuMeter.trouble` says why.
"""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from runnerctl.guard.meter_child import MeterChild
from runnerctl.guard.meter_sums import Sums
from runnerctl.guard.ports import GpuUse
from runnerctl.probes import stuck

__all__ = ["GpuLook", "GpuMeter"]

HANG_SECONDS = 10.0  # without persistence mode the first open of a GPU takes 1 to 3 s (NVIDIA)
LAST_SAMPLE_SECONDS = 0.15
LOOK_SECONDS = 0.15
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 1.0, 300.0
_FIRST_SHUN_SECONDS, _LONGEST_SHUN_SECONDS = 15.0, 1800.0
_WELL_SECONDS = 60.0  # a child that lived so long starts the pauses from the beginning
_UUID = re.compile(r"(?:GPU|MIG)-[0-9A-Za-z/-]+")
_MARKER = "meter"


class GpuLook(msgspec.Struct, frozen=True):
    """How a GPU is, at a quick look. ``reason`` is empty when it is healthy; unknown: NVML did not say."""

    verdict: Literal["healthy", "sick", "unknown"]
    reason: str = ""


@dataclass
class _Job:
    """A slot's job that is measured: since when, its number for the child, what ended children saw."""

    number: str
    gpus: tuple[str, ...]
    since: float
    before: dict[str, Sums] = field(default_factory=dict)


@dataclass
class _Shunned:
    """A GPU at which a child came to grief."""

    until: float
    reason: str


class GpuMeter:
    """The meter of one host; a `Meter`. For one thread. Its methods raise nothing and never wait long.

    ``note`` gets a line when the child was lost. ``markers``: where a child that cannot be killed is written
    down, so that the next guard does not put a second one beside it.
    """

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        hang_seconds: float = HANG_SECONDS,
        note: Callable[[str], None] = lambda _text: None,
        markers: Path = Path(stuck.DIRECTORY),
    ) -> None:
        self._clock, self._hang_seconds, self._note = clock, hang_seconds, note
        self._markers = stuck.Guard(markers)
        self._child: MeterChild | None = None
        self._lost: MeterChild | None = None  # could not be killed; no other one as long as it lives
        self._jobs: dict[str, _Job] = {}
        self._shunned: dict[str, _Shunned] = {}
        self._left_out: frozenset[str] = frozenset()
        self._numbers = 0
        self._started = self._resume_at = 0.0
        self._pause = _FIRST_PAUSE_SECONDS
        self._trouble = ""
        self._verdict: Literal["sick", "unknown"] = "unknown"  # what the trouble says of every GPU
        self._down = False  # NVML as a whole could not be used
        self._grief: dict[str, int] = {}  # how often a child came to grief at a GPU

    @property
    def trouble(self) -> str:
        """Why GPUs are not measured right now; empty when they are, as far as is known."""
        return self._trouble

    @property
    def pid(self) -> int | None:
        """The child's process id, if there is one."""
        return self._child.pid if self._child else None

    def warm(self) -> None:
        """Start the child now, so that the first look is quick. It opens no GPU yet."""
        if self._child is None and self._may_start():
            self._start()

    def tend(self) -> None:
        """Look after the child: to be called about every second. Costs microseconds when all is well."""
        child = self._child
        if child is not None:
            if ended := child.ended():
                self._bury(child, how=ended)
            elif call := child.stuck_in(time.monotonic(), self._hang_seconds):
                self._give_up(child, call)
        if self._jobs:
            self.warm()
            if self._left_out != self._shuns().keys():
                self._tell()

    def start(self, slot: str, gpus: tuple[str, ...], *, ran_seconds: float = 0.0) -> None:
        """Begin to measure for a slot's job, which may have run for a while: of that nothing is measured."""
        self._numbers += 1
        self._jobs[slot] = _Job(str(self._numbers), gpus, self._clock() - max(ran_seconds, 0.0))
        if gpus:
            self.tend()
            self._tell()

    def read(self, slot: str) -> tuple[GpuUse, ...]:
        """What its GPUs did so far; nothing for a slot that is not measured."""
        self.tend()
        return self._used(slot)

    def stop(self, slot: str) -> tuple[GpuUse, ...]:
        """The same after a last sample, for which it waits 0.15 s at most; then no more measuring."""
        self.tend()
        job = self._jobs.get(slot)
        if job is None:
            return ()
        if self._child and job.gpus:
            list(self._child.ask("sample", seconds=LAST_SAMPLE_SECONDS, job=job.number))
        used = self._used(slot)
        del self._jobs[slot]
        self._tell()
        return used

    def look(self, gpus: Sequence[str], *, seconds: float = LOOK_SECONDS) -> dict[str, GpuLook]:
        """How these GPUs are (UUIDs, whole or MIG), as far as NVML says within ``seconds``."""
        self.tend()
        if self._down:  # NVML as a whole: the driver may have come back since
            self._resume_at = 0.0
        self.warm()
        found = {uuid: GpuLook("sick", each.reason) for uuid, each in self._shuns().items() if uuid in gpus}
        asked = [uuid for uuid in gpus if uuid not in found]
        if self._child and asked:
            for answer in self._child.ask("look", seconds=seconds, gpus=asked):
                with contextlib.suppress(msgspec.ValidationError, KeyError):
                    found[answer["gpu"]] = msgspec.convert(answer, GpuLook)
            self.tend()  # it may have ended instead of answering
        return {uuid: found.get(uuid) or self._silence(seconds) for uuid in gpus}

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        self._jobs.clear()
        if child:
            child.quit()
            child.forget()

    def _silence(self, seconds: float) -> GpuLook:
        """How a GPU is of which the child said nothing."""
        if self._child is None:
            return GpuLook(self._verdict, self._trouble or "NVML is not asked right now")
        call = self._child.board.stage().text.strip()
        return GpuLook(
            "unknown", f"NVML did not answer within {seconds:g} s{f' (in {call})' if call else ''}"
        )

    def _used(self, slot: str) -> tuple[GpuUse, ...]:
        job = self._jobs.get(slot)
        if job is None:
            return ()
        seen = self._seen(job)
        seconds = self._clock() - job.since
        return tuple(seen.get(uuid, Sums()).use(uuid, seconds) for uuid in job.gpus)

    def _seen(self, job: _Job) -> dict[str, Sums]:
        """What the living child saw of it, and those before."""
        seen = msgspec.convert(msgspec.to_builtins(job.before), dict[str, Sums])
        content = self._child.content() if self._child else None
        for uuid, sums in (content.jobs.get(job.number, {}) if content else {}).items():
            if uuid in seen:
                seen[uuid].join(sums)
            else:
                seen[uuid] = sums
            if sums.failure:
                self._trouble = sums.failure
        return seen

    def _tell(self) -> None:
        """Let the child know whom to measure."""
        shunned = self._shuns()
        jobs = {job.number: [uuid for uuid in job.gpus if uuid not in shunned] for job in self._jobs.values()}
        self._left_out = frozenset(shunned)
        wanted = {number: gpus for number, gpus in jobs.items() if gpus}
        if self._child and not self._child.send({"measure": wanted}):
            self._give_up(self._child, self._child.board.stage().text.strip())

    def _shuns(self) -> dict[str, _Shunned]:
        now = self._clock()
        self._shunned = {uuid: each for uuid, each in self._shunned.items() if each.until > now}
        return self._shunned

    def _may_start(self) -> bool:
        if self._lost is not None:
            if self._lost.ended() is None:
                return False
            self._lost.forget()
            self._lost = None
        if self._clock() < self._resume_at:
            return False
        if standing := self._markers.standing(_MARKER):
            self._trouble = standing.again().reason
            return False
        return True

    def _start(self) -> None:
        try:
            self._child = MeterChild()
        except OSError as error:
            self._fail(f"no process could be started to measure GPUs: {error.strerror}")
            return
        self._started = self._clock()
        self._trouble = ""
        if self._jobs:
            self._tell()

    def _give_up(self, child: MeterChild, call: str) -> None:
        """End a child that hangs."""
        if child.kill():
            self._bury(child, how="", call=call)
            return
        note = self._markers.record(_MARKER, child.pid, call=call)
        self._keep(child)
        self._lost, self._child = child, None
        left = f"process {child.pid} cannot be killed and was left behind{f'; {note}' if note else ''}"
        self._fail(f"{call or 'NVML'} does not return; {left}", call=call)

    def _bury(self, child: MeterChild, *, how: str, call: str = "") -> None:
        """Take over what an ended child saw, and pause before the next one."""
        content, stage = child.content(), child.board.stage().text.strip()
        self._keep(child)
        self._child = None
        child.forget()
        if content.down:
            self._fail(content.down)
            self._down, self._verdict = True, content.verdict
        elif how:
            self._fail(f"{stage or 'the meter'} ended the process ({how})", call=stage)
        else:
            self._fail(f"{call or 'NVML'} did not return within {self._hang_seconds:g} s", call=call)

    def _keep(self, child: MeterChild) -> None:
        content = child.content()
        for job in self._jobs.values():
            for uuid, sums in content.jobs.get(job.number, {}).items():
                if uuid in job.before:
                    job.before[uuid].join(sums)
                else:
                    job.before[uuid] = sums

    def _fail(self, reason: str, *, call: str = "") -> None:
        now = self._clock()
        if now - self._started > _WELL_SECONDS:
            self._pause = _FIRST_PAUSE_SECONDS
        self._trouble, self._verdict, self._down = reason, "unknown", False
        self._resume_at = now + self._pause
        # The GPU it was at stays away longer than the child, so that the others are measured meanwhile.
        for uuid in _UUID.findall(call):
            times = self._grief[uuid] = self._grief.get(uuid, 0) + 1
            pause = min(_FIRST_SHUN_SECONDS * 4 ** (times - 1), _LONGEST_SHUN_SECONDS)
            self._shunned[uuid] = _Shunned(now + pause, reason)
        self._pause = min(self._pause * 2, _LONGEST_PAUSE_SECONDS)
        self._note(f"GPUs are not measured: {reason}")
