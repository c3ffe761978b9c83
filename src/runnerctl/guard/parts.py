"""What the guard is put together from; everything is an argument, and most is made in a child only."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hold import Holds
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_hooks import COMPLETED, HOOK
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

from runnerctl.guard.meter import GpuLook, GpuMeter
from runnerctl.guard.ports import Cleaner, JobReport, Ledger, Meter

__all__ = ["Looker", "Parts", "Paths"]


class Looker(Meter, Protocol):
    """A meter that also tells at once how GPUs are (`runnerctl.guard.meter.GpuMeter`)."""

    def warm(self) -> None:
        """Be ready to look."""
        ...

    def tend(self) -> None:
        """Look after its own process; about every second."""
        ...

    def look(self, gpus: tuple[str, ...], *, seconds: float) -> dict[str, GpuLook]:
        """How GPUs are, within so many seconds."""
        ...


@dataclass(frozen=True)
class Paths:
    """Where things are; below ``root``."""

    root: Path = Path("/")

    def __truediv__(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    @property
    def host_file(self) -> Path:
        """The spec."""
        return self / "/etc/runnerctl/host.json"

    @property
    def run(self) -> Path:
        """The running jobs."""
        return self / "/run/runnerctl/guard"

    @property
    def since(self) -> Path:
        """Since when this host is guarded."""
        return self / "/var/lib/runnerctl/guard.json"

    @property
    def verdict(self) -> Path:
        """The last health verdict of each GPU."""
        return self / "/run/runnerctl/gpu-verdict.json"


def _cleaner() -> Cleaner:
    from runnerctl.guard.residue import HostCleaner

    return HostCleaner()


def _ledger() -> Ledger:
    from runnerctl.guard.ledger import JobLedger
    from runnerctl.hostfile import load_host_spec

    spec = load_host_spec()
    return JobLedger(keep_days=spec.runnerctl.jobs_keep_days) if spec else JobLedger()


def _text(report: JobReport) -> str:
    from runnerctl.guard.report import text_report

    return text_report(report)


def _summary(report: JobReport) -> str:
    from runnerctl.guard.report import summary_report

    return summary_report(report)


def _holds() -> Holds:
    return Holds(Layout(), System())


@dataclass(frozen=True)
class Parts:
    """The parts. ``cleaner`` and ``ledger`` are made anew in each child that needs one."""

    paths: Paths = field(default_factory=Paths)
    meter: Looker = field(default_factory=GpuMeter)
    cleaner: Callable[[], Cleaner] = _cleaner
    ledger: Callable[[], Ledger] = _ledger
    holds: Callable[[], Holds] = _holds
    text: Callable[[JobReport], str] = _text
    summary: Callable[[JobReport], str] = _summary
    python: str = field(default_factory=lambda: os.path.realpath(sys.executable))
    started_hook: str = HOOK
    completed_hook: str = COMPLETED
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True)
