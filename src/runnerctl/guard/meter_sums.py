"""What is added up of one GPU during one job, sample by sample. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

from runnerctl.guard.ports import GpuUse

__all__ = ["Content", "Counter", "Sample", "Sums"]

# nvmlClocksEventReasons: those that slow a GPU down although nobody chose so. Its power limit (0x4) and a
# clock setting (0x2) are everyday.
_SLOWDOWNS = {
    0x8: "hardware slowdown",
    0x20: "heat (software)",
    0x40: "heat (hardware)",
    0x80: "power brake",
}


class Counter(msgspec.Struct):
    """A number of the driver's that only grows; ``total``: by how much it did."""

    first: int
    last: int
    total: int = 0

    def add(self, value: int) -> None:
        """One more reading; a counter that fell began anew."""
        self.total += value - self.last if value >= self.last else 0
        self.last = value

    def join(self, later: Counter) -> None:
        """Go on with what another process counted after this one, and with the gap between the two."""
        self.total += later.total + max(later.first - self.last, 0)
        self.last = later.last


class Sample(msgspec.Struct):
    """One look at a GPU; None: not measured. ``percent``: mean utilisation since the last one, ``peak`` its
    highest; ``energy``: millijoules since the driver was loaded; ``power``: milliwatts.
    """

    percent: float | None = None
    peak: int | None = None
    memory: int | None = None
    energy: int | None = None
    power: int | None = None
    temperature: int | None = None
    reasons: int | None = None


class Sums(msgspec.Struct):
    """One GPU during one job, as one process saw it. Seconds are those between samples."""

    name: str | None = None
    memory_total: int | None = None
    seconds: float = 0.0
    rated_seconds: float = 0.0
    busy_seconds: float | None = None
    peak: int | None = None
    memory_peak: int | None = None
    energy: Counter | None = None
    power_joules: float | None = None
    temperature_peak: int | None = None
    reasons: int | None = None
    corrected: Counter | None = None
    uncorrected: Counter | None = None
    failure: str | None = None

    def add(self, sample: Sample, seconds: float) -> None:
        """One more sample, so many seconds after the one before."""
        self.seconds += seconds
        if sample.percent is not None and seconds:
            self.rated_seconds += seconds
            self.busy_seconds = (self.busy_seconds or 0.0) + sample.percent / 100 * seconds
        if sample.power is not None:
            self.power_joules = (self.power_joules or 0.0) + sample.power / 1000 * seconds
        if sample.reasons is not None:
            self.reasons = (self.reasons or 0) | sample.reasons
        self.energy = _counted(self.energy, sample.energy)
        self.peak = _most(self.peak, sample.peak)
        self.memory_peak = _most(self.memory_peak, sample.memory)
        self.temperature_peak = _most(self.temperature_peak, sample.temperature)

    def count(self, corrected: int | None, uncorrected: int | None) -> None:
        """ECC errors since the driver was loaded."""
        self.corrected = _counted(self.corrected, corrected)
        self.uncorrected = _counted(self.uncorrected, uncorrected)

    def join(self, later: Sums) -> None:
        """Add what a process saw that came after the one that saw this."""
        self.name, self.memory_total = later.name or self.name, later.memory_total or self.memory_total
        self.seconds += later.seconds
        self.rated_seconds += later.rated_seconds
        self.busy_seconds = _sum(self.busy_seconds, later.busy_seconds)
        self.power_joules = _sum(self.power_joules, later.power_joules)
        self.peak = _most(self.peak, later.peak)
        self.memory_peak = _most(self.memory_peak, later.memory_peak)
        self.temperature_peak = _most(self.temperature_peak, later.temperature_peak)
        self.reasons = _either(self.reasons, later.reasons)
        self.energy = _joined(self.energy, later.energy)
        self.corrected = _joined(self.corrected, later.corrected)
        self.uncorrected = _joined(self.uncorrected, later.uncorrected)
        self.failure = later.failure or self.failure

    def use(self, uuid: str, seconds: float) -> GpuUse:
        """The sums for people, of a job that had the GPU for so many seconds."""
        rated = self.busy_seconds is not None and self.rated_seconds > 0
        return GpuUse(
            uuid=uuid,
            name=self.name,
            seconds=round(seconds, 3),
            measured_seconds=round(min(self.seconds, seconds), 3) if self.memory_peak is not None else None,
            busy_seconds=_rounded(self.busy_seconds),
            utilization_mean_percent=(
                round((self.busy_seconds or 0) / self.rated_seconds * 100, 1) if rated else None
            ),
            utilization_peak_percent=self.peak,
            memory_peak_bytes=self.memory_peak,
            memory_total_bytes=self.memory_total,
            energy_joules=_rounded(self.energy.total / 1000 if self.energy else self.power_joules),
            temperature_peak_celsius=self.temperature_peak,
            throttled=tuple(word for bit, word in _SLOWDOWNS.items() if (self.reasons or 0) & bit),
            ecc_corrected=self.corrected.total if self.corrected else None,
            ecc_uncorrected=self.uncorrected.total if self.uncorrected else None,
        )


class Content(msgspec.Struct):
    """What the child writes on the board: sums by job and GPU; ``down``: why NVML cannot be asked at all.

    ``verdict``: what that means for every GPU.
    """

    jobs: dict[str, dict[str, Sums]] = {}
    down: str | None = None
    verdict: Literal["sick", "unknown"] = "unknown"


def _most(old: int | None, new: int | None) -> int | None:
    return new if old is None else old if new is None else max(old, new)


def _either(old: int | None, new: int | None) -> int | None:
    return new if old is None else old if new is None else old | new


def _sum(old: float | None, new: float | None) -> float | None:
    return new if old is None else old if new is None else old + new


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _counted(counter: Counter | None, value: int | None) -> Counter | None:
    if value is None:
        return counter
    if counter is None:
        return Counter(value, value)
    counter.add(value)
    return counter


def _joined(old: Counter | None, later: Counter | None) -> Counter | None:
    if old is None or later is None:
        return old or later
    old.join(later)
    return old
