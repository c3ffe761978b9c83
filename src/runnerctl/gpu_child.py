"""The child that asks NVML for a test run: which GPUs can be used, and what a test's processes hold on them.

A process of its own, because any call of NVML can hang or end the process, and because a test may hold
Python's lock for as long as it runs. Lines of JSON in, lines of JSON out:

    {"look": true}                      answered with {"gpus": [...]} or {"failure": "..."}
    {"begin": "TOKEN", "root": 4711}    from now on, sample what that process and its children hold
    {"end": "TOKEN"}                    answered with a `Peak`

While it looks it writes {"stage": "..."} before each call of NVML: where it hangs if no answer comes.
It ends with its standard input, or with its parent.
"""

from __future__ import annotations

import json
import os
import select
import signal
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from runnerctl.gpu_nvml import Nvml, NvmlError
from runnerctl.gpu_tree import Tree, sees_host_pids, uses_cuda

__all__ = ["Members", "Memory", "Peak", "Run", "main"]

SAMPLE_SECONDS = 0.02
_IDLE_SECONDS = 5.0
_ALARM_SECONDS = 60  # a call that hangs that long ends the child, even when nobody is left to kill it


@dataclass
class Peak:
    """What a test's processes held at most. ``exact`` bytes are theirs; ``most`` is what it cannot exceed.

    The two differ where memory cannot be told apart: ``doubt`` says why. Both None: nothing is known.
    """

    exact: int | None = 0
    most: int | None = 0
    doubt: str = ""
    samples: int = 0


class Memory(Protocol):
    """Who holds how much; see `runnerctl.gpu_nvml.Nvml`."""

    def processes(self) -> dict[int, int | None]:
        """Bytes of each process. Raises NvmlError."""

    def used(self) -> int:
        """Bytes of all. Raises NvmlError."""


class Members(Protocol):
    """See `runnerctl.gpu_tree.Tree`."""

    def holds(self, pid: int) -> bool | None:
        """Whether a process is a test's."""


class Run:
    """The samples of one test."""

    def __init__(self, nvml: Memory, tree: Members, root: int, *, host_pids: bool) -> None:
        self._nvml, self._tree, self._root = nvml, tree, root
        self._listed = False
        self.peak = Peak()
        if not host_pids:
            self._doubt("process ids of NVML are the host's, and this is another PID namespace (a container)")

    def sample(self) -> None:
        """Look once. An NVML that fails leaves nothing known."""
        self.peak.samples += 1
        try:
            if self.peak.exact is not None:
                self._by_process()
            if self.peak.exact is None and self.peak.most is not None:
                self.peak.most = max(self.peak.most, self._nvml.used())
        except NvmlError as error:
            self.peak.exact = self.peak.most = None
            self.peak.doubt = str(error)

    def end(self) -> Peak:
        """The last look."""
        self.sample()
        if self.peak.exact is not None and not self._listed and uses_cuda(self._root):
            self._doubt("NVML does not list a process of this test, though it uses CUDA")
            self.sample()
        return self.peak

    def _by_process(self) -> None:
        ours = unknown = 0
        for pid, used in self._nvml.processes().items():
            held = self._tree.holds(pid)
            if held is False:
                continue
            self._listed = self._listed or bool(held)
            if used is None:
                self._doubt("NVML does not say how much memory a process holds")
                return
            ours += used if held else 0
            unknown += 0 if held else used
        self.peak.exact = max(self.peak.exact or 0, ours)
        self.peak.most = max(self.peak.most or 0, ours + unknown)
        if unknown:
            self.peak.doubt = "NVML lists processes that are gone"

    def _doubt(self, why: str) -> None:
        """From now on only what whole GPUs have in use is known, which is no less than what the test has."""
        self.peak.exact, self.peak.doubt = None, why


class _Child:
    """Obeys its parent."""

    def __init__(self) -> None:
        self._nvml: Nvml | None = None
        self._runs: dict[str, Run] = {}
        self._looking = False
        self._parent = os.getppid()

    def serve(self) -> None:
        """Until standard input ends."""
        buffer = b""
        while os.getppid() == self._parent:
            signal.alarm(_ALARM_SECONDS)
            wait = SAMPLE_SECONDS if self._runs else _IDLE_SECONDS
            if not select.select([0], [], [], wait)[0]:
                for run in self._runs.values():
                    run.sample()
                continue
            data = os.read(0, 65536)
            if not data:
                return
            *lines, buffer = (buffer + data).split(b"\n")
            for line in lines:
                self._obey(json.loads(line))

    def _obey(self, order: dict[str, Any]) -> None:
        if "look" in order:
            self._look()
        elif "begin" in order:
            self._begin(order["begin"], order["root"])
        elif "end" in order:
            run = self._runs.pop(order["end"], None)
            self._say(asdict(run.end() if run else Peak(None, None, "NVML cannot be asked")))

    def _look(self) -> None:
        self._looking = True
        try:
            self._nvml = self._nvml or Nvml(self._stage)
            self._say({"gpus": [gpu._asdict() for gpu in self._nvml.gpus()]})
        except NvmlError as error:
            self._say({"failure": str(error)})
        self._looking = False

    def _begin(self, token: str, root: int) -> None:
        if self._nvml:
            run = Run(self._nvml, Tree(root, token), root, host_pids=sees_host_pids())
            run.sample()
            self._runs[token] = run

    def _stage(self, call: str) -> None:
        if self._looking:
            self._say({"stage": call})

    @staticmethod
    def _say(line: dict[str, Any]) -> None:
        os.write(1, json.dumps(line).encode() + b"\n")


def main() -> None:
    """Serve the parent; a parent that is gone is no error."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # its default needs no Python to run, so it ends a hang too
    try:
        _Child().serve()
    except BrokenPipeError:
        os._exit(0)
