"""The child of the meter: asks NVML about the GPUs of running jobs, and writes what it saw on the board.

Started by `runnerctl.guard.meter` as a process of its own, because any call of NVML can hang or end the
process. It reads commands from standard input, one line of JSON each, and answers looks on standard output:

    {"measure": {"7": ["GPU-..."]}}     the jobs to measure from now on, by number
    {"sample": 12, "job": "7"}          a last sample of that job; answered with {"id": 12}
    {"look": 13, "gpus": ["GPU-..."]}   answered with a line for each of them, then {"id": 13}

It holds NVML, and with it the GPUs' device files, only while it measures: a GPU that is to be reset, or a
driver that is to be loaded again, must have no clients. It ends with its standard input.

Utilisation comes from the driver's own buffer of samples (nvmlDeviceGetSamples), which holds several a second
since the last look; without that (older drivers) the rate of the last moment stands for the time between.
Accounting mode is not used: somebody must have switched it on, and it knows processes, not jobs.
"""

from __future__ import annotations

import contextlib
import os
import resource
import select
import sys
import time
from typing import Any, Literal

import msgspec

from runnerctl.guard.meter_board import Board
from runnerctl.guard.meter_sums import Content, Sample, Sums
from runnerctl.probes.child import Report
from runnerctl.probes.nvml_calls import INVALID_ARGUMENT, NOT_FOUND, CallError, Calls, text

__all__ = ["Work", "main"]

SAMPLE_SECONDS = 2.0
EARLY_SAMPLE_SECONDS, EARLY_SECONDS = 0.5, 10.0  # a job that lasts seconds deserves more than two samples
HOLD_SECONDS = 5.0  # how long a GPU that was only looked at is kept open: its job is about to start
_LINE_BYTES = 65536
_GPU_SAMPLES = 1  # NVML_GPU_UTILIZATION_SAMPLES
_TEMPERATURE_GPU = 0
_CORRECTED, _UNCORRECTED, _VOLATILE = 0, 1, 0
_RECOVERY_ACTION, _RESET, _DRAIN_AND_RESET = 230, 226, 227  # fields of nvml.h; the last two: older drivers
# nvmlDeviceGpuRecoveryAction_t; 3 and 5 only concern work across several GPUs
_WISHES = {
    1: "a reset of the GPU",
    2: "a reboot of the host",
    4: "no more work, and then a reset of the GPU",
    6: "a reset of the GPU over the PCI bus",
    7: "a reboot of the whole system",
}
# These say nothing of the GPU itself.
_UNKNOWING = frozenset({"foreign_binding", "no_permission", "library_broken"})


class _Stages(Report):
    """Announces each call on the board."""

    def __init__(self, board: Board) -> None:
        super().__init__(-1)
        self.board = board
        self.gpu = ""

    def stage(self, call: str, gpu: int | None = None) -> None:
        del gpu
        self.board.enter(f"{call} {self.gpu}", time.monotonic())

    def done(self) -> None:
        """Nothing that could hang comes next."""
        self.board.enter("", time.monotonic())


class _Gpu:
    """An open GPU, or a MIG device of one."""

    def __init__(self, calls: Calls, uuid: str) -> None:
        """Raises CallError."""
        self.calls, self.uuid = calls, uuid
        self.handle: Any = calls.must("nvmlDeviceGetHandleByUUID", uuid)
        # A MIG device has no temperature, clocks or recovery action of its own; those are its GPU's.
        self.mig = uuid.startswith("MIG-")
        parent = "nvmlDeviceGetDeviceHandleFromMigDeviceHandle"
        self.board: Any = calls.must(parent, self.handle) if self.mig else self.handle
        self.seen_until = 0  # microseconds, by the driver's samples

    def sample(self) -> Sample:
        """What it does now. Raises CallError."""
        sample = Sample(memory=self.memory().used)
        sample.temperature = self._temperature()
        sample.reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", self.board)
        if sample.reasons is None:  # the name before driver 535
            sample.reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", self.board)
        if not self.mig:  # of a MIG device neither exists, and its GPU's would be the neighbours', too
            sample.percent, sample.peak = self._utilization()
            sample.energy = self._ask("nvmlDeviceGetTotalEnergyConsumption", self.board)
            if sample.energy is None:
                sample.power = self._ask("nvmlDeviceGetPowerUsage", self.board)
        return sample

    def memory(self) -> Any:
        """Total and used bytes; version 2 leaves out what the driver keeps for itself. Raises CallError."""
        version = getattr(self.calls.pynvml, "nvmlMemory_v2", None)
        found = self._ask("nvmlDeviceGetMemoryInfo", self.handle, version) if version else None
        return found or self.calls.must("nvmlDeviceGetMemoryInfo", self.handle)

    def name(self) -> str | None:
        """The product's name."""
        name = text(self._ask("nvmlDeviceGetName", self.handle))
        return str(name)[:96] if name else None

    def ecc(self) -> tuple[int | None, int | None]:
        """Corrected and uncorrected errors since the driver was loaded; None without ECC."""
        return (
            self._ask("nvmlDeviceGetTotalEccErrors", self.handle, _CORRECTED, _VOLATILE),
            self._ask("nvmlDeviceGetTotalEccErrors", self.handle, _UNCORRECTED, _VOLATILE),
        )

    def sickness(self) -> str:
        """Why no job should have it; empty when it is well, as far as a quick look tells. Raises CallError.

        The same as `runnerctl health` calls CRITICAL, by the calls that cost microseconds.
        """
        action = self._recovery_action()
        if action in _WISHES:
            return f"the driver asks for {_WISHES[action]}"
        uncorrected = self._ask("nvmlDeviceGetTotalEccErrors", self.board, _UNCORRECTED, _VOLATILE)
        if uncorrected:
            return f"uncorrectable ECC errors since the driver was loaded: {uncorrected}"
        rows = self._ask("nvmlDeviceGetRemappedRows", self.board)
        if rows and rows[3]:
            return "a broken row of memory could not be remapped: no spare row is left"
        return ""

    def _recovery_action(self) -> int:
        ids = [_RECOVERY_ACTION, _RESET, _DRAIN_AND_RESET]
        values = self._ask("nvmlDeviceGetFieldValues", self.board, ids, absent=(INVALID_ARGUMENT,)) or ()
        found = {int(each.fieldId): int(each.value.uiVal) for each in values if int(each.nvmlReturn) == 0}
        if _RECOVERY_ACTION in found:
            return found[_RECOVERY_ACTION]
        return 4 if found.get(_DRAIN_AND_RESET) else 1 if found.get(_RESET) else 0

    def _temperature(self) -> int | None:
        found: int | None = self._ask("nvmlDeviceGetTemperatureV", self.board, _TEMPERATURE_GPU)
        if found is None:  # the older name, gone from CUDA 14 on
            found = self._ask("nvmlDeviceGetTemperature", self.board, _TEMPERATURE_GPU)
        return found

    def _utilization(self) -> tuple[float | None, int | None]:
        """Mean and highest percentage since the last time."""
        # NOT_FOUND: no sample since then
        found = self._ask(
            "nvmlDeviceGetSamples", self.board, _GPU_SAMPLES, self.seen_until, absent=(NOT_FOUND,)
        )
        first = not self.seen_until
        new = [each for each in found[1] if each.timeStamp > self.seen_until] if found else []
        if new:
            self.seen_until = max(each.timeStamp for each in new)
            values = [min(int(each.sampleValue.uiVal), 100) for each in new]
            if first:  # the buffer goes back to before the job
                values = values[-1:]
            return sum(values) / len(values), max(values)
        rates = self._ask("nvmlDeviceGetUtilizationRates", self.board)
        return (float(rates.gpu), int(rates.gpu)) if rates else (None, None)

    def _ask(self, call: str, *arguments: Any, absent: tuple[int, ...] = ()) -> Any:
        return self.calls.ask(call, *arguments, absent=absent)


class Work:
    """The child's state. ``jobs``: the GPUs to measure, by job."""

    def __init__(self, board: Board, answers: int) -> None:
        self._board, self._answers = board, answers
        self._stages = _Stages(board)
        self._calls: Calls | None = None
        self._gpus: dict[str, _Gpu] = {}
        self._jobs: dict[str, list[str]] = {}
        self._content = Content()
        self._began: dict[str, float] = {}
        self._sampled: dict[tuple[str, str], float] = {}
        self._looked = 0.0
        self._next = 0.0

    def wait_seconds(self) -> float | None:
        """How long nothing is to be done; None: until there is a command."""
        now = time.monotonic()
        if self._jobs:
            return max(self._next - now, 0.0)
        return max(self._looked + HOLD_SECONDS - now, 0.0) if self._calls else None

    def tick(self) -> None:
        """Sample when it is time to; let go of GPUs that nobody wants any more."""
        now = time.monotonic()
        wanted = {uuid for gpus in self._jobs.values() for uuid in gpus}
        if self._calls and not wanted.issuperset(self._gpus) and now >= self._looked + HOLD_SECONDS:
            self._let_go()
        if self._jobs and now >= self._next:
            for job in self._jobs:
                self._sample(job, ecc=False)
            young = any(now - began < EARLY_SECONDS for began in self._began.values())
            self._next = now + (EARLY_SAMPLE_SECONDS if young else SAMPLE_SECONDS)
            self._publish()
        self._stages.done()

    def obey(self, line: bytes) -> None:
        """Do what a command says; one that is none is not for us to judge."""
        command: dict[str, Any] = msgspec.json.decode(line)
        if "measure" in command:
            self._measure(command["measure"])
        elif "sample" in command:
            self._sample(command["job"], ecc=True)
            self._publish()
            self._answer({"id": command["sample"]})
        elif "look" in command:
            self._look(command["look"], command["gpus"])
        self._stages.done()

    def _measure(self, jobs: dict[str, list[str]]) -> None:
        new, gone = jobs.keys() - self._jobs.keys(), self._jobs.keys() - jobs.keys()
        self._jobs = jobs
        for job in gone:
            self._began.pop(job, None)
            for uuid in self._content.jobs.pop(job, {}):
                self._sampled.pop((job, uuid), None)
        if gone:
            self._looked = 0.0
        for job in new:
            self._began[job] = time.monotonic()
            self._sample(job, ecc=True)
        self._publish()

    def _sample(self, job: str, *, ecc: bool) -> None:
        for uuid in self._jobs.get(job, ()):
            sums = self._content.jobs.setdefault(job, {}).setdefault(uuid, Sums())
            try:
                self._add(sums, job, self._open(uuid), ecc=ecc)
                sums.failure = None
            except CallError as error:
                sums.failure = error.failure.message
                self._gpus.pop(uuid, None)

    def _add(self, sums: Sums, job: str, gpu: _Gpu, *, ecc: bool) -> None:
        if sums.name is None:
            sums.name, sums.memory_total = gpu.name(), gpu.memory().total
        sample = gpu.sample()
        now = time.monotonic()
        sums.add(sample, now - self._sampled.get((job, gpu.uuid), now))
        self._sampled[job, gpu.uuid] = now
        if ecc:
            sums.count(*gpu.ecc())

    def _look(self, number: int, gpus: list[str]) -> None:
        had = self._calls is not None
        for uuid in gpus:
            try:
                reason = self._open(uuid).sickness()
                verdict = "sick" if reason else "healthy"
            except CallError as error:
                reason = error.failure.message
                verdict = _verdict(error)
                self._gpus.pop(uuid, None)
                if had and error.failure.code == NOT_FOUND:
                    # NVML knows the GPUs that were there when it was loaded: a new process sees the others.
                    verdict = self._content.verdict = "unknown"
                    self._content.down = reason
                    self._publish()
            self._answer({"id": number, "gpu": uuid, "verdict": verdict, "reason": reason})
        self._answer({"id": number})
        self._looked = time.monotonic()

    def _open(self, uuid: str) -> _Gpu:
        """Raises CallError; when NVML as a whole cannot be used, the board says so, too."""
        self._stages.gpu = uuid
        if uuid not in self._gpus:
            if self._calls is None:
                self._calls = self._initialised()
            self._gpus[uuid] = _Gpu(self._calls, uuid)
        return self._gpus[uuid]

    def _initialised(self) -> Calls:
        try:
            calls = Calls(self._stages)
            calls.init()
        except CallError as error:
            self._content.down = error.failure.message
            self._content.verdict = _verdict(error)
            self._publish()
            raise
        self._content.down = None
        return calls

    @property
    def down(self) -> bool:
        """Whether NVML as a whole could not be used: a library that was loaded stays what it was."""
        return self._content.down is not None

    def _let_go(self) -> None:
        """Close every GPU; those of running jobs are opened again with their next sample."""
        calls, self._calls = self._calls, None
        self._gpus.clear()
        self._stages.gpu = ""
        if calls:
            with contextlib.suppress(CallError):
                calls.ask("nvmlShutdown")

    def _publish(self) -> None:
        self._board.write(msgspec.json.encode(self._content))

    def _answer(self, value: dict[str, Any]) -> None:
        # A parent that does not read its answers any more has given them up.
        with contextlib.suppress(BlockingIOError):
            os.write(self._answers, msgspec.json.encode(value) + b"\n")


def _verdict(error: CallError) -> Literal["sick", "unknown"]:
    return "unknown" if error.failure.kind in _UNKNOWING else "sick"


def main() -> None:
    """Run until standard input ends, or NVML as a whole cannot be used."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an answer here
    board = Board(int(sys.argv[1]))
    os.set_blocking(1, False)
    work, buffer = Work(board, 1), b""
    while True:
        ready = select.select([0], [], [], work.wait_seconds())[0]
        if ready:
            data = os.read(0, _LINE_BYTES)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                work.obey(line)
        work.tick()
        if work.down:
            return


if __name__ == "__main__":
    main()
