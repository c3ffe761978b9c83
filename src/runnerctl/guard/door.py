"""The guard's socket: who comes is known to the kernel, and nobody can take more than a small share of it."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from runnerctl.guard.protocol import LONGEST_REQUEST, Answer, Request, encode_answer, parse_request

__all__ = ["Client", "Door"]

MOST_OF_ONE = 4  # open connections of one user
READ_SECONDS = 2.0  # for the request to be there
WAIT_SECONDS = 120.0  # for an answer; those who give it have shorter deadlines
WRITE_SECONDS = 5.0
FLOOD, FLOOD_SECONDS = 400, 10.0  # connections of one user in such a time: no hook needs more than a few
_AT_A_TIME = 32
_PEER = struct.Struct("3i")  # struct ucred: pid, uid, gid


@dataclass(eq=False)
class Client:
    """One connection. ``request`` is set once it is there; ``out``: what is still to be written."""

    stream: socket.socket
    pid: int
    uid: int
    deadline: float
    data: bytes = b""
    request: Request | None = None
    out: bytes = b""
    closed: bool = False


@dataclass
class Door:
    """Accepts, reads and answers; `ask` gets every whole request and answers it sooner or later.

    ``welcome``: the user ids that may come at all. ``flood`` hears of a user who comes far too often, and in
    how many seconds.
    """

    selector: selectors.BaseSelector
    listener: socket.socket
    welcome: Callable[[], Collection[int]]
    ask: Callable[[Client, Request], None]
    flood: Callable[[int, float], None]
    clock: Callable[[], float]
    clients: set[Client] = field(default_factory=set)
    arrivals: dict[int, deque[float]] = field(default_factory=dict)

    def open(self) -> None:
        """Begin to listen."""
        self.listener.setblocking(False)
        self.selector.register(self.listener, selectors.EVENT_READ, self)

    def accept(self) -> None:
        """Take some of those who wait; the loop comes back for the rest."""
        for _ in range(_AT_A_TIME):
            try:
                stream, _address = self.listener.accept()
            except OSError:  # nobody more; or no more files, until some are closed
                return
            try:
                pid, uid, _gid = _PEER.unpack(
                    stream.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
                )
                self._admit(stream, pid, uid)
            except OSError:
                stream.close()

    def _admit(self, stream: socket.socket, pid: int, uid: int) -> None:
        theirs = sum(client.uid == uid for client in self.clients)
        if uid not in self.welcome() or self._is_flood(uid) or theirs >= MOST_OF_ONE:
            stream.close()
            return
        stream.setblocking(False)
        client = Client(stream, pid, uid, self.clock() + READ_SECONDS)
        self.clients.add(client)
        self.selector.register(stream, selectors.EVENT_READ, client)

    def _is_flood(self, uid: int) -> bool:
        now, seen = self.clock(), self.arrivals.setdefault(uid, deque(maxlen=FLOOD))
        seen.append(now)
        if uid == 0 or len(seen) < FLOOD or now - seen[0] > FLOOD_SECONDS:
            return False
        since = seen[0]
        seen.clear()
        self.flood(uid, now - since)
        return True

    def ready(self, client: Client, mask: int) -> None:
        """A connection can be read, or written to."""
        if client.closed:
            return
        if mask & selectors.EVENT_WRITE:
            self._write(client)
        if not client.closed and mask & selectors.EVENT_READ:
            self._read(client)

    def _read(self, client: Client) -> None:
        try:
            data = client.stream.recv(LONGEST_REQUEST + 1)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data or client.request is not None:  # gone; or it says more than it should
            self.close(client)
            return
        client.data += data
        line, ended, more = client.data.partition(b"\n")
        if ended:
            request = None if more else parse_request(line)
            if request is None:
                self.close(client)
                return
            client.request, client.deadline = request, self.clock() + WAIT_SECONDS
            self.ask(client, request)
        elif len(client.data) > LONGEST_REQUEST:
            self.close(client)

    def answer(self, client: Client, answer: Answer) -> None:
        """Say what became of its question; one that has gone is no trouble."""
        if client.closed:
            return
        client.out, client.deadline = encode_answer(answer), self.clock() + WRITE_SECONDS
        self._write(client)

    def _write(self, client: Client) -> None:
        try:
            client.out = client.out[client.stream.send(client.out) :]
        except BlockingIOError:
            pass
        except OSError:
            client.out = b""
        if not client.out:
            self.close(client)
        else:
            self.selector.modify(client.stream, selectors.EVENT_READ | selectors.EVENT_WRITE, client)

    def close(self, client: Client) -> None:
        """End a connection; children may hold a copy of it, which must not keep it open."""
        if not client.closed:
            client.closed = True
            self.clients.discard(client)
            self.selector.unregister(client.stream)
            with contextlib.suppress(OSError):
                client.stream.shutdown(socket.SHUT_RDWR)
            client.stream.close()

    def turn(self) -> None:
        """Let go of those who take too long."""
        now = self.clock()
        for client in [client for client in self.clients if now >= client.deadline]:
            self.close(client)

    def next_at(self) -> float | None:
        """When `turn` has something to do next."""
        return min((client.deadline for client in self.clients), default=None)
