"""Told by the kernel that a worker has ended (pidfd_open(2)): nobody waits for the next look at the slots."""

from __future__ import annotations

import os
import selectors
from collections.abc import Iterable
from dataclasses import dataclass, field

from runnerctl.guard.procs import Process

__all__ = ["WorkerEnds"]


@dataclass
class WorkerEnds:
    """The workers that run, each as a file that can be read once it has ended.

    Where the kernel has no such files, or too many are open, the next look finds out.
    """

    selector: selectors.BaseSelector
    files: dict[Process, int] = field(default_factory=dict)

    def follow(self, workers: Iterable[Process]) -> None:
        """From now on these are the workers; what is known of others is closed."""
        now = set(workers)
        for worker in self.files.keys() - now:
            self._forget(worker)
        for worker in now - self.files.keys():
            try:
                file = os.pidfd_open(worker.pid)
            except OSError:
                continue
            self.files[worker] = file
            self.selector.register(file, selectors.EVENT_READ, self)

    def heard(self, file: int) -> None:
        """A worker has ended; it is said once."""
        for worker in [each for each, its in self.files.items() if its == file]:
            self._forget(worker)

    def _forget(self, worker: Process) -> None:
        file = self.files.pop(worker)
        self.selector.unregister(file)
        os.close(file)
