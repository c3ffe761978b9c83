"""What takes longer than a look: children that parse, solve and build, a bounded number at a time.

Each is a process group of its own that ends with its last line, at its deadline, or with the service; what it
was doing then is the next one's trash. Nobody has all places of a lane while others wait.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

import msgspec

from runnerctl.envs.model import Event
from runnerctl.envs.owners import Asker
from runnerctl.envs.service_asks import event_line
from runnerctl.envs.service_door import Client, Door
from runnerctl.envs.wire import LONGEST_ANSWER, LONGEST_REQUEST
from runnerctl.errors import RunnerctlError, TryAgainError, UnavailableError

__all__ = ["Job", "Jobs", "Lane", "Pipe"]

MOST_HELD = 4 * LONGEST_REQUEST  # bytes of one user's questions that run or wait
_PIECE = 64 * 1024
_LAST_WORDS = 2000  # bytes of what a child wrote to its standard error
_LOOK_SECONDS = 1.0  # between looks whether a child that says nothing is still there
_END_SECONDS = 0.3


@dataclass(frozen=True)
class Lane:
    """A kind of work: how many at a time, how many of one user may run or wait, and the deadline of each."""

    name: str
    most: int
    each: int
    seconds: float


@dataclass(eq=False)
class Job:
    """One child, or one that waits for its turn. ``then`` gets its last line.

    ``key``: of what it does; ``texts``: other names of the same, by what was asked; ``weight``: bytes held.
    """

    lane: Lane
    key: str
    asker: Asker
    order: bytes
    then: Callable[[Job, dict[str, Any]], None]
    subject: str
    asked_at: float
    waiters: list[Client] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)
    child: subprocess.Popen[bytes] | None = None
    began_at: float = 0.0
    data: bytearray = field(default_factory=bytearray)
    words: bytearray = field(default_factory=bytearray)
    last_event: bytes = b""
    place: int = 0
    weight: int = 0

    def __post_init__(self) -> None:
        self.weight = len(self.order)


@dataclass(frozen=True, eq=False)
class Pipe:
    """An end of a child's output in the selector."""

    job: Job
    stream: IO[bytes]
    is_answer: bool


@dataclass
class Jobs:
    """All children of the service. ``command``: what runs one; it reads its order from standard input."""

    selector: selectors.BaseSelector
    door: Door
    command: Sequence[str]
    clock: Callable[[], float]
    say: Callable[[str], None]
    running: list[Job] = field(default_factory=list)
    waiting: list[Job] = field(default_factory=list)
    _gone: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def find(self, lane: Lane, key: str) -> Job | None:
        """The job of that key, which somebody else asked for."""
        jobs = [*self.running, *self.waiting]
        return next((job for job in jobs if job.lane is lane and job.key == key), None)

    def with_text(self, lane: Lane, text: str) -> Job | None:
        """The job that does what was asked with that text."""
        jobs = [*self.running, *self.waiting]
        return next((job for job in jobs if job.lane is lane and text in job.texts), None)

    def join(self, job: Job, client: Client) -> None:
        """One more waits for a job."""
        job.waiters.append(client)
        client.on_close = lambda: self._left(job, client)
        if job.child is None:
            self._tell_place(job, [client])
        elif job.last_event:
            self.door.tell(client, job.last_event)

    def put(self, job: Job, client: Client | None = None) -> None:
        """A new job, for a client or for nobody but the host.

        Raises TryAgainError when its asker has enough of that kind.
        """
        mine = [each for each in self.running + self.waiting if each.asker.uid == job.asker.uid]
        theirs = sum(each.lane is job.lane for each in mine)
        if theirs >= job.lane.each or sum(each.weight for each in mine) + job.weight > MOST_HELD:
            what = f"{theirs} of your questions of this kind run or wait already"
            raise TryAgainError(what, where=job.subject, remedy="run it again when they are done")
        self.waiting.append(job)
        if client is not None:
            job.waiters.append(client)
            client.on_close = lambda: self._left(job, client)
        self.turn()
        if client is not None and job in self.waiting:
            self._tell_place(job, [client])

    def _left(self, job: Job, client: Client) -> None:
        """One who waited has gone: what nobody waits for is not begun; what has begun, the next may want."""
        with contextlib.suppress(ValueError):
            job.waiters.remove(client)
        if not job.waiters and job.child is None:
            with contextlib.suppress(ValueError):
                self.waiting.remove(job)

    # -- whose turn it is

    def turn(self) -> None:
        """Begin what may begin; end what took too long or died without a word."""
        now = self.clock()
        for job in list(self.running):
            if now - job.began_at >= job.lane.seconds:
                self._fail(job, self._too_long(job))
            elif job.child is not None and job.child.poll() is not None:
                self._drain(job)
        self._gone = [child for child in self._gone if child.poll() is None]
        while (first := self._next()) is not None:
            self.waiting.remove(first)
            self._begin(first)
        self._tell_places()

    def next_at(self) -> float:
        """When `turn` has something to do next."""
        if not self.running and not self._gone:
            return float("inf")
        ends = [job.began_at + job.lane.seconds for job in self.running]
        return min([self.clock() + _LOOK_SECONDS, *ends])

    def _next(self) -> Job | None:
        free = [job for job in self.waiting if self._may_run(job)]
        return min(free, key=lambda job: (self._runs(job), job.asked_at), default=None)

    def _runs(self, job: Job) -> int:
        return sum(each.lane is job.lane and each.asker.uid == job.asker.uid for each in self.running)

    def _may_run(self, job: Job) -> bool:
        theirs, lane = self._runs(job), job.lane
        total = sum(each.lane is lane for each in self.running)
        return total < lane.most and (theirs < max(1, lane.most - 1))

    def _tell_places(self) -> None:
        for job in self.waiting:
            place = self._place(job)
            if place != job.place:
                self._tell_place(job, job.waiters)

    def _place(self, job: Job) -> int:
        return 1 + sum(each.lane is job.lane and each.asked_at < job.asked_at for each in self.waiting)

    def _tell_place(self, job: Job, clients: Sequence[Client]) -> None:
        job.place = self._place(job)
        busy = sum(each.lane is job.lane for each in self.running)
        text = f"number {job.place} in the queue; {busy} at work before it"
        for client in clients:
            self.door.tell(client, event_line(Event("wait", text)))

    # -- children

    def _begin(self, job: Job) -> None:
        job.began_at = self.clock()
        try:
            child = subprocess.Popen(
                [*self.command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except OSError as error:
            self._close(job)
            self._answer(job, UnavailableError(f"cannot be built now: {error.strerror}", where=job.subject))
            return
        job.child = child
        self.running.append(job)
        for stream, is_answer in ((child.stdout, True), (child.stderr, False)):
            if stream is not None:
                os.set_blocking(stream.fileno(), False)
                self.selector.register(stream, selectors.EVENT_READ, Pipe(job, stream, is_answer))
        if child.stdin is not None:
            os.set_blocking(child.stdin.fileno(), False)
            self.selector.register(child.stdin, selectors.EVENT_WRITE, Pipe(job, child.stdin, True))

    def heard(self, pipe: Pipe, mask: int) -> None:
        """A child can be read, or written to."""
        if pipe.job.child is None:
            return
        if mask & selectors.EVENT_WRITE:
            self._feed(pipe)
            return
        try:
            piece = os.read(pipe.stream.fileno(), _PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not pipe.is_answer:
            self._listen(pipe, piece)
        elif piece:
            self._take(pipe.job, piece)
        else:
            self._fail(pipe.job, self._died(pipe.job))

    def _feed(self, pipe: Pipe) -> None:
        """Its order; the pipe stays open, and its end tells the child that the service has ended."""
        job = pipe.job
        try:
            sent = os.write(pipe.stream.fileno(), job.order)
        except BlockingIOError:
            return
        except OSError:
            sent = len(job.order)  # it has died; its other end says so
        job.order = job.order[sent:]
        if not job.order:
            self.selector.unregister(pipe.stream)

    def _listen(self, pipe: Pipe, piece: bytes) -> None:
        if not piece:
            self.selector.unregister(pipe.stream)
        pipe.job.words = (pipe.job.words + piece)[-_LAST_WORDS:]

    def _take(self, job: Job, piece: bytes) -> None:
        *lines, rest = (bytes(job.data) + piece).split(b"\n")
        job.data = bytearray(rest)
        for line in lines:
            try:
                value = msgspec.json.decode(line, type=dict[str, Any])
            except msgspec.MsgspecError:
                self._fail(job, self._died(job))
                return
            if "event" in value:
                job.last_event = line + b"\n"
                for client in list(job.waiters):
                    self.door.tell(client, job.last_event)
            else:
                self._end(job)
                job.then(job, value)
                return
        if len(job.data) > LONGEST_ANSWER:
            self._fail(job, self._died(job))

    def _drain(self, job: Job) -> None:
        """A child that has ended may have left its last line."""
        child = job.child
        while job.child is not None and child is not None and child.stdout is not None:
            try:
                piece = os.read(child.stdout.fileno(), _PIECE)
            except OSError:
                piece = b""
            if not piece:
                break
            self._take(job, piece)
        if job.child is not None:
            self._fail(job, self._died(job))

    def _died(self, job: Job) -> RunnerctlError:
        code = None
        if job.child is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = job.child.wait(_END_SECONDS)
        words = " ".join(bytes(job.words).decode("utf-8", "replace").split())[-300:]
        how = f"was killed by signal {-code}" if code is not None and code < 0 else f"ended with {code}"
        self.say(f"{job.lane.name} of {job.subject} for {job.asker.name}: the child {how}: {words}")
        remedy = "run it again; see journalctl -u runnerctl-env.service"
        return UnavailableError(f"the process that built it {how}", where=job.subject, remedy=remedy)

    def _too_long(self, job: Job) -> RunnerctlError:
        minutes = job.lane.seconds / 60
        what = f"took longer than {minutes:.0f} min and was ended"
        return UnavailableError(what, where=job.subject, remedy="name fewer packages, or mirror the channel")

    def drop(self, job: Job) -> None:
        """End a job whose answer cannot be used; who waits is let go, and asks again."""
        waiters, job.waiters = job.waiters, []
        self._end(job)
        for client in waiters:
            self.door.close(client)

    def _fail(self, job: Job, error: RunnerctlError) -> None:
        self._end(job)
        self._answer(job, error)

    def _answer(self, job: Job, error: RunnerctlError) -> None:
        fields = {"what": error.what, "where": error.where, "remedy": error.remedy}
        job.then(job, {"error": {**fields, "exit_code": error.exit_code}})

    def _end(self, job: Job) -> None:
        """Whatever of a child is left goes, those that it started too."""
        child, job.child = job.child, None
        self._close(job)
        if child is None:
            return
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with contextlib.suppress(KeyError, ValueError):
                    self.selector.unregister(stream)
                with contextlib.suppress(OSError):
                    stream.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        self._gone.append(child)

    def _close(self, job: Job) -> None:
        with contextlib.suppress(ValueError):
            self.running.remove(job)
        for client in job.waiters:
            client.on_close = None

    def close(self) -> None:
        """End everything; who waits is told by the caller."""
        self.waiting.clear()
        for job in list(self.running):
            self._end(job)
        for child in self._gone:
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_END_SECONDS)
