"""A test run's view of its GPUs: NVML is asked in a child with a deadline, so no driver can hang a run."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from runnerctl.gpu_child import Peak
from runnerctl.gpu_nvml import Gpu

__all__ = ["DEADLINE_SECONDS", "Sight", "Watch", "usable"]

# Without persistence mode the first open of a GPU takes 1 to 3 s (NVIDIA); a host may have eight of them.
DEADLINE_SECONDS = 40.0
_ANSWER_SECONDS = 10.0  # for one last sample
_GRACE_SECONDS = 0.5
CODE = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); import runnerctl.gpu_child as it; it.main()"


class Sight(NamedTuple):
    """Names of the GPUs that this process can use; ``reason``: why there are none, or not more."""

    usable: tuple[str, ...]
    reason: str = ""


class Watch:
    """The child and its answers. Nothing here waits longer than its deadline, and nothing raises."""

    def __init__(
        self,
        environ: Mapping[str, str],
        *,
        deadline_seconds: float = DEADLINE_SECONDS,
        code: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``code``: the child's Python, which gets the import path as its argument; default `CODE`."""
        self._environ, self._deadline, self._clock = environ, deadline_seconds, clock
        self._code = code or CODE
        self._child: subprocess.Popen[bytes] | None = None
        self._sight: Sight | None = None
        self._buffer = b""
        self._stage, self._ended = "", False

    def sight(self) -> Sight:
        """What can be used; looked up once."""
        if self._sight is None:
            self._sight = self._look()
        return self._sight

    def begin(self, token: str) -> None:
        """Sample what this process and its children hold, from now on."""
        self._order({"begin": token, "root": os.getpid()})

    def end(self, token: str) -> Peak:
        """What was held at most since `begin`."""
        seconds = min(_ANSWER_SECONDS, self._deadline)
        answer = self._ask({"end": token}, seconds)
        if answer is None:
            return Peak(None, None, self._silence(seconds))
        return Peak(**answer)

    def close(self) -> None:
        """Let the child end, kill it when it does not; one that cannot be killed is left behind."""
        child, self._child = self._child, None
        if child is None:
            return
        for pipe in (child.stdin, child.stdout):
            if pipe:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            child.wait(_GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_GRACE_SECONDS)

    def _look(self) -> Sight:
        try:
            self._child = self._start()
        except OSError as error:
            return Sight((), f"the process that asks NVML cannot be started: {error.strerror}")
        answer = self._ask({"look": True}, self._deadline)
        if answer is None:
            return Sight((), self._silence(self._deadline))
        if "failure" in answer:
            return Sight((), str(answer["failure"]))
        return usable([Gpu(**gpu) for gpu in answer["gpus"]], self._environ)

    def _start(self) -> subprocess.Popen[bytes]:
        path = json.dumps([entry for entry in sys.path if os.path.isabs(entry)])
        return subprocess.Popen(
            [sys.executable, "-I", "-c", self._code, path],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _order(self, order: dict[str, Any]) -> None:
        if self._child is None or self._child.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):  # it has ended: the missing answer will say so
            self._child.stdin.write(json.dumps(order).encode() + b"\n")
            self._child.stdin.flush()

    def _ask(self, order: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The next answer, or None when there is none; then the child is given up."""
        self._order(order)
        end = self._clock() + seconds
        while self._child is not None:
            line = self._line(end - self._clock())
            if line is None:
                self.close()
                break
            if "stage" not in line:
                return line
            self._stage = str(line["stage"])
        return None

    def _line(self, seconds: float) -> dict[str, Any] | None:
        output = self._child.stdout if self._child else None
        end = self._clock() + seconds
        while output and b"\n" not in self._buffer:
            if not select.select([output], [], [], max(0.0, end - self._clock()))[0]:
                return None
            data = os.read(output.fileno(), 65536)
            if not data:
                self._ended = True
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return dict(json.loads(line)) if line else None

    def _silence(self, seconds: float) -> str:
        where = f": {self._stage}" if self._stage else ""
        if self._ended:
            return f"NVML ended the process that asked it{where}"
        return f"NVML did not answer within {seconds:.0f} s{where}"


def usable(gpus: Sequence[Gpu], environ: Mapping[str, str]) -> Sight:
    """Those that this process can open and that the environment leaves it.

    ``CUDA_VISIBLE_DEVICES`` is read as CUDA does (up to the first entry that is none). Of
    ``NVIDIA_VISIBLE_DEVICES`` UUIDs count alone: its numbers are the host's, which a container renumbers.
    """
    if not gpus:
        return Sight((), "NVML lists no GPU")
    names = [name for gpu in gpus if not gpu.problem for name in gpu.migs or (gpu.uuid,)]
    problems = [f"{gpu.name}: {gpu.problem}" for gpu in gpus if gpu.problem]
    if not names:
        return Sight((), f"none of {len(gpus)} GPUs can be used: {'; '.join(problems)}")
    parents = {mig: gpu.uuid for gpu in gpus for mig in gpu.migs or ()}
    for variable in ("NVIDIA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"):
        given = environ.get(variable)
        if given is None:
            continue
        left = (_cuda if variable.startswith("CUDA") else _nvidia)(names, parents, given)
        if not left:
            return Sight((), f"{variable}={given!r} leaves none of the GPUs that can be used")
        names = left
    return Sight(tuple(names), "; ".join(problems))


def _nvidia(names: list[str], parents: Mapping[str, str], given: str) -> list[str]:
    wanted = [entry.strip() for entry in given.split(",")]
    if wanted == ["none"]:
        return []
    uuids = [entry for entry in wanted if entry.startswith(("GPU-", "MIG-"))]
    return [name for name in names if not uuids or name in uuids or parents.get(name) in uuids]


def _cuda(names: list[str], parents: Mapping[str, str], given: str) -> list[str]:
    left: list[str] = []
    for entry in (part.strip() for part in given.split(",")):
        found = _entry(names, parents, entry)
        if found is None or found in left:
            return [] if found else left  # CUDA takes a device that is named twice for no device at all
        left.append(found)
    return left


def _entry(names: list[str], parents: Mapping[str, str], entry: str) -> str | None:
    if entry.isdigit():  # which of them it is depends on CUDA_DEVICE_ORDER; how many there are does not
        return names[int(entry)] if int(entry) < len(names) else None
    if not entry.startswith(("GPU-", "MIG-")):
        return None
    found = [name for name in names if name.startswith(entry) or parents.get(name, "").startswith(entry)]
    return found[0] if found else None
