"""The service's socket: who comes is known to the kernel, and takes no more than a small share of it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from runnerctl.envs.leases import Holder
from runnerctl.envs.service_asks import error_line
from runnerctl.envs.wire import ALIVE_SECONDS, LONGEST_REQUEST, encode_line
from runnerctl.errors import DataError, RunnerctlError, TryAgainError

__all__ = ["Client", "Door", "Limits"]

_AT_A_TIME = 32
_PIECE = 256 * 1024
_MOST_TOLD = 1024 * 1024  # bytes of progress that wait for a slow reader; what comes then is left out
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid
_ALIVE = encode_line({"alive": True})


@dataclass(frozen=True)
class Limits:
    """What one user may have at once, and how long each thing may take, in seconds.

    ``flood``: connections of one user in ``flood_seconds``, where each 64 KiB of a request counts as one;
    ``lines``: of the log about his refusals in that time.
    """

    connections: int = 64
    all_connections: int = 512
    held_bytes: int = 4 * LONGEST_REQUEST
    read_seconds: float = 10.0
    write_seconds: float = 10.0
    flood: int = 1500
    flood_seconds: float = 10.0
    lines: int = 30


@dataclass(eq=False)
class Client:
    """One connection. ``asked``: its question is whole; ``out``: what is still to be written.

    ``wants``: an environment, to be kept as long as ``holder`` lives.
    """

    stream: socket.socket
    pid: int
    uid: int
    deadline: float
    data: bytearray = field(default_factory=bytearray)
    asked: bool = False
    out: bytearray = field(default_factory=bytearray)
    ended: bool = False
    closed: bool = False
    alive_at: float = float("inf")
    on_close: Callable[[], None] | None = None
    holder: Holder | None = None
    wants: bool = False


@dataclass
class _Pace:
    """How much of one user came since when."""

    since: float
    weight: float = 0.0
    lines: int = 0


@dataclass
class Door:
    """Accepts, reads and answers; ``ask`` gets every whole request and sees that it is answered some time.

    ``refused`` hears of a user id that came too often or too many at once, once each `Limits.flood_seconds`.
    """

    selector: selectors.BaseSelector
    listener: socket.socket
    ask: Callable[[Client, bytes], None]
    refused: Callable[[int, str], None]
    clock: Callable[[], float]
    limits: Limits = field(default_factory=Limits)
    clients: set[Client] = field(default_factory=set)
    _paces: dict[int, _Pace] = field(default_factory=dict)
    _said: dict[int, float] = field(default_factory=dict)

    def open(self) -> None:
        """Begin to listen."""
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self)

    def shut(self) -> None:
        """Let nobody in any more; who comes now waits for the next service."""
        with contextlib.suppress(KeyError):
            self.selector.unregister(self.listener)

    def accept(self) -> None:
        """Take some of those who wait; the loop comes back for the rest."""
        for _ in range(_AT_A_TIME):
            try:
                stream, _address = self.listener.accept()
            except OSError:  # nobody more; or no more files, until some are closed
                return
            try:
                peer = stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
                stream.setblocking(False)
            except OSError:
                stream.close()
                continue
            pid, uid, _gid = _PEER.unpack(peer)
            self._admit(stream, pid, uid)

    def _admit(self, stream: socket.socket, pid: int, uid: int) -> None:
        theirs = sum(client.uid == uid for client in self.clients)
        what = None
        if self._is_flood(uid, 1.0):
            what = "you ask far too often"
        elif theirs >= self.limits.connections:
            what = f"you have {theirs} questions open already"
        elif len(self.clients) >= self.limits.all_connections:
            what = "too many ask at once"
        if what is not None:
            self._turn_away(stream, uid, what)
            return
        client = Client(stream, pid, uid, self.clock() + self.limits.read_seconds)
        self.clients.add(client)
        self.selector.register(stream, selectors.EVENT_READ, client)

    def _turn_away(self, stream: socket.socket, uid: int, what: str) -> None:
        self._tell_refused(uid, what)
        line = error_line(TryAgainError(what, where="environment store", remedy="wait a moment"))
        with contextlib.suppress(OSError):
            stream.send(line)
        stream.close()

    def _tell_refused(self, uid: int, what: str) -> None:
        now = self.clock()
        if now >= self._said.get(uid, float("-inf")) + self.limits.flood_seconds:
            self._said[uid] = now
            self.refused(uid, what)

    def may_say(self, uid: int) -> bool:
        """Whether the log hears of one more thing about a user, who must not be able to fill it."""
        pace = self._paces.setdefault(uid, _Pace(self.clock()))
        pace.lines += 1
        return pace.lines <= self.limits.lines

    def _is_flood(self, uid: int, weight: float) -> bool:
        now = self.clock()
        pace = self._paces.setdefault(uid, _Pace(now))
        if now - pace.since > self.limits.flood_seconds:
            pace.since, pace.weight, pace.lines = now, 0.0, 0
        pace.weight += weight
        return pace.weight > self.limits.flood

    def ready(self, client: Client, mask: int) -> None:
        """A connection can be read, or written to."""
        if not client.closed and mask & selectors.EVENT_WRITE:
            self._write(client)
        if not client.closed and mask & selectors.EVENT_READ:
            self._read(client)

    def _read(self, client: Client) -> None:
        try:
            piece = client.stream.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        if not piece or client.asked:  # gone; or it says more than it should
            self.close(client)
            return
        line, ended, more = piece.partition(b"\n")
        client.data += line
        if self._is_flood(client.uid, len(piece) / 65536):
            self.fail(client, TryAgainError("you ask far too much", remedy="wait a moment"))
        elif ended and not more:
            data, client.data = bytes(client.data), bytearray()
            client.asked, client.deadline = True, float("inf")
            client.alive_at = self.clock() + ALIVE_SECONDS
            self.ask(client, data)
        elif ended or len(client.data) >= LONGEST_REQUEST:
            self.fail(client, DataError("is no question that can be answered", where="the request"))
        elif self._held(client.uid) > self.limits.held_bytes:
            self.fail(client, TryAgainError("you ask too much at once", remedy="wait a moment"))

    def _held(self, uid: int) -> int:
        return sum(len(client.data) for client in self.clients if client.uid == uid)

    def tell(self, client: Client, line: bytes) -> None:
        """A line of progress; left out for one that does not read."""
        if not client.closed and not client.ended and len(client.out) < _MOST_TOLD:
            self._put(client, line)

    def answer(self, client: Client, line: bytes) -> None:
        """The last line; one that has gone is no trouble."""
        if not client.closed and not client.ended:
            client.ended, client.on_close = True, None
            self._put(client, line)

    def fail(self, client: Client, error: RunnerctlError) -> None:
        """An error as the last line."""
        self.answer(client, error_line(error))

    def _put(self, client: Client, line: bytes) -> None:
        client.alive_at = self.clock() + ALIVE_SECONDS
        if not client.out:
            client.deadline = self.clock() + self.limits.write_seconds
        client.out += line
        self._write(client)

    def _write(self, client: Client) -> None:
        try:
            sent = client.stream.send(client.out)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close(client)
            return
        del client.out[:sent]
        if sent:
            client.deadline = self.clock() + self.limits.write_seconds
        if client.out:
            self.selector.modify(client.stream, selectors.EVENT_READ | selectors.EVENT_WRITE, client)
        elif client.ended:
            self.close(client)
        else:
            client.deadline = float("inf")
            self.selector.modify(client.stream, selectors.EVENT_READ, client)

    def close(self, client: Client) -> None:
        """End a connection; children may hold a copy of it, which must not keep it open."""
        if client.closed:
            return
        client.closed = True
        self.clients.discard(client)
        self.selector.unregister(client.stream)
        with contextlib.suppress(OSError):
            client.stream.shutdown(socket.SHUT_RDWR)
        client.stream.close()
        if client.on_close is not None:
            client.on_close()

    def turn(self) -> None:
        """Let go of those who take too long; tell those who wait that somebody is there."""
        now = self.clock()
        for client in list(self.clients):
            if now >= client.deadline:
                self.close(client)
            elif now >= client.alive_at:
                self.tell(client, _ALIVE)

    def next_at(self) -> float:
        """When `turn` has something to do next."""
        return min((min(each.deadline, each.alive_at) for each in self.clients), default=float("inf"))
