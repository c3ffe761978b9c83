"""An engine that does everything in a child process, with a deadline and a bound on memory.

Whatever ends the child (a panic of a library, the kernel for want of memory, its deadline) is one clear error
here, and the caller goes on.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from runnerctl import errors
from runnerctl.envs._engine_errors import one_line
from runnerctl.envs.build import MEMORY_BYTES, Failure, Reply, Task, encode
from runnerctl.envs.model import EngineName, Package, Solution
from runnerctl.envs.ports import Installed, Order, Tell
from runnerctl.errors import BugError, RunnerctlError, TryAgainError

__all__ = ["INSTALL_SECONDS", "SOLVE_SECONDS", "ChildEngine", "child_engine"]

SOLVE_SECONDS = 900.0
INSTALL_SECONDS = 7200.0
MAX_LINE_BYTES = 256 << 20  # of one answer
KEPT_STDERR_BYTES = 65536
PIECE = 65536
PANIC = b"panicked at"  # how Rust says so on standard error
PANIC_SECONDS = 10.0
# The child sees the way to the network, and nothing else that changes what it does.
KEPT = {"PATH", "LANG", "LC_ALL", "TMPDIR", "HOME", "SSL_CERT_FILE", "SSL_CERT_DIR"}
KEPT |= {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY"}
_DECODER = msgspec.json.Decoder(Reply)


def child_engine(name: EngineName) -> ChildEngine:
    """The engine of that name, in a child process of its own."""
    return ChildEngine(name)


class ChildEngine:
    """See `ports.Engine`. Seconds are of real time; ``memory_bytes`` of private data of one process."""

    def __init__(
        self,
        name: EngineName,
        *,
        solve_seconds: float = SOLVE_SECONDS,
        install_seconds: float = INSTALL_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
        command: Sequence[str] = (sys.executable, "-m", "runnerctl.envs.build"),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._solve_seconds = solve_seconds
        self._install_seconds = install_seconds
        self._memory_bytes = memory_bytes
        self._command = tuple(command)
        self._clock = clock
        self._locks: dict[tuple[Package, ...], str] = {}

    def solve(self, order: Order, tell: Tell) -> Solution:
        """Decide on every package."""
        task = Task("solve", self.name, order, memory_bytes=self._memory_bytes)
        solution = self._answer(task, self._solve_seconds, tell).solution
        if solution is None:
            raise self._bug("gave another answer than was asked for")
        self._locks[solution.packages] = solution.lock
        return solution

    def install(self, order: Order, packages: Sequence[Package], prefix: Path, tell: Tell) -> Installed:
        """Fetch, verify and put everything into ``prefix``; the answer holds the activation, too."""
        task = Task(
            "install",
            self.name,
            order,
            packages=tuple(packages),
            prefix=str(prefix),
            lock=self._locks.get(tuple(packages)),
            memory_bytes=self._memory_bytes,
        )
        installed = self._answer(task, self._install_seconds, tell).installed
        if installed is None:
            raise self._bug("gave another answer than was asked for")
        return installed

    def _answer(self, task: Task, seconds: float, tell: Tell) -> Reply:
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment(os.environ),
            start_new_session=True,
        )
        run = _Run(process, self._clock() + seconds, self._clock)
        try:
            run.send(encode(task))
            for line in run.lines():
                reply = self._reply(line)
                if reply.event is None:
                    break
                tell(reply.event)
            else:
                raise self._ended(run, task, seconds)
        finally:
            run.end()
        if reply.failure is not None:
            raise _error(reply.failure)
        return reply

    def _reply(self, line: bytes) -> Reply:
        try:
            return _DECODER.decode(line)
        except msgspec.MsgspecError:
            raise self._bug(f"wrote something else than an answer: {one_line(repr(line[:80]))}") from None

    def _ended(self, run: _Run, task: Task, seconds: float) -> RunnerctlError:
        """Why the child ended, or was ended, without an answer."""
        where, step = task.order.file.where, "solving" if task.do == "solve" else "building"
        if run.late and not run.panicked:
            what = f"{step} took longer than {seconds:.0f} s, and was ended"
            return TryAgainError(what, where=where, remedy="try again; what was fetched is kept")
        code, said = run.code(), run.said()
        if not run.panicked and (code == -signal.SIGKILL or "memory allocation" in said):
            what = f"{step} was ended for want of memory, or by somebody's hand (SIGKILL)"
            remedy = f"give the host more memory; a build may take {task.memory_bytes >> 20} MiB"
            return TryAgainError(what, where=where, remedy=remedy)
        if run.panicked:
            lines = said.splitlines()
            first = next(number for number, line in enumerate(lines) if PANIC.decode() in line)
            return self._bug(
                f"panicked while {step}: {one_line(' '.join(lines[first : first + 2]), 240)}", where
            )
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit code {code}"
        last = next((line for line in reversed(said.splitlines()) if line.strip()), "")
        return self._bug(f"ended with {name} while {step}: {one_line(last, 240) or 'it said nothing'}", where)

    def _bug(self, what: str, where: str = "") -> BugError:
        return BugError(f"the engine {self.name} {what}", where=where, remedy="report it with this line")


class _Run:
    """One child: what it writes, until its deadline."""

    def __init__(self, process: subprocess.Popen[bytes], deadline: float, clock: Callable[[], float]) -> None:
        self.process = process
        self.deadline = deadline
        self.clock = clock
        self.late = self.panicked = False
        self.stderr = b""

    def send(self, data: bytes) -> None:
        """Hand over the task; the pipe stays open, for its end would end the child."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(data)
            self.process.stdin.flush()

    def lines(self) -> Iterator[bytes]:
        """The lines of standard output as they come, until its end or the deadline."""
        held = b""
        assert self.process.stdout is not None and self.process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            selector.register(self.process.stderr, selectors.EVENT_READ)
            while selector.get_map():
                left = self.deadline - self.clock()
                if left <= 0:
                    self.late = True
                    return
                for key, _ in selector.select(left):
                    piece = os.read(key.fd, PIECE)
                    if not piece:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is self.process.stderr:
                        self._heard(piece)
                    else:
                        *whole, held = (held + piece).split(b"\n")
                        yield from whole
                if len(held) > MAX_LINE_BYTES:
                    return

    def _heard(self, piece: bytes) -> None:
        """A panic in one thread of the library can leave the others waiting for ever."""
        self.stderr = (self.stderr + piece)[-KEPT_STDERR_BYTES:]
        if not self.panicked and PANIC in self.stderr:
            self.panicked = True
            self.deadline = min(self.deadline, self.clock() + PANIC_SECONDS)

    def said(self) -> str:
        """The end of what the child wrote to standard error."""
        return self.stderr.decode("utf-8", "replace")

    def code(self, seconds: float = 1.0) -> int:
        """The exit code, as `subprocess` has it, of a child that closed its output and ends by itself."""
        until = time.monotonic() + seconds
        # the process stays a zombie till `end`: its number must be its own when its group is ended
        while os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            if time.monotonic() > until:
                break
            time.sleep(0.01)
        self.end()
        return self.process.returncode

    def end(self) -> None:
        """End the child and all that it started."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    kept = {name: value for name, value in environ.items() if name.upper() in KEPT}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


def _error(failure: Failure) -> RunnerctlError:
    kind = getattr(errors, failure.kind, BugError)
    known = kind if isinstance(kind, type) and issubclass(kind, RunnerctlError) else BugError
    return known(failure.what, where=failure.where, remedy=failure.remedy)
