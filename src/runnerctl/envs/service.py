"""The service that builds environments for this host's jobs: a loop that answers hits at once, and children.

A job can only ask. What it asks for is a file's text and what a `model.Request` has besides; whose
environments it may see, the kernel's word on its user and the host's spec decide.
"""

from __future__ import annotations

import contextlib
import selectors
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

from runnerctl import __version__
from runnerctl.envs.leases import Holder
from runnerctl.envs.model import Ready, Request
from runnerctl.envs.owners import Asker
from runnerctl.envs.service_asks import (
    Ask,
    Payload,
    fingerprint,
    line_of,
    parse_ask,
    ready_line,
)
from runnerctl.envs.service_door import Client, Door, Limits
from runnerctl.envs.service_jobs import Job, Jobs, Lane, Pipe
from runnerctl.envs.service_peers import holder_of
from runnerctl.envs.service_policy import HostPolicy, PolicyFile
from runnerctl.errors import AccessError, BugError, RunnerctlError

__all__ = ["Lanes", "Service", "Shelf", "Sight", "notify"]

_TURN_SECONDS = 5.0
_NOTE_SECONDS = 1.0  # between two notes for systemd's watchdog
TIDY_SECONDS = 3600.0  # between two collections after builds
_LAST_SECONDS = 1.0  # for the last lines to be read when the service stops


class Sight(NamedTuple):
    """Who asks, what he may see, and by which rules. ``owner``: whose private part of the store is his."""

    asker: Asker
    owner: str | None
    policy: HostPolicy


class Shelf(Protocol):
    """What the loop itself does with the store; each takes milliseconds."""

    def find(self, request: Request, sight: Sight, holder: Holder | None) -> Ready | None:
        """What is there already, kept while ``holder`` lives; None when somebody must look closer."""

    def keep(self, digest: str, sight: Sight, holder: Holder) -> bool:
        """Keep an environment while a process lives; False when it is not there (any more)."""

    def order(self, op: str, payload: Payload, sight: Sight) -> bytes:
        """The line that a child gets for what takes longer."""

    def learn(self, facts: dict[str, Any]) -> None:
        """What a child found out about this host."""


@dataclass(frozen=True)
class Lanes:
    """How much goes on at once, of each kind, and for how long."""

    look: Lane = field(default_factory=lambda: Lane("look", most=4, each=32, seconds=600.0))
    build: Lane = field(default_factory=lambda: Lane("build", most=3, each=8, seconds=7200.0))
    verify: Lane = field(default_factory=lambda: Lane("verify", most=1, each=4, seconds=7200.0))
    tidy: Lane = field(default_factory=lambda: Lane("tidy", most=1, each=4, seconds=7200.0))


@dataclass
class Service:
    """One store's service. ``command`` runs a child, ``notify`` tells systemd, ``say`` writes a log line."""

    shelf: Shelf
    policies: PolicyFile
    listener: socket.socket
    command: Sequence[str]
    say: Callable[[str], None]
    notify: Callable[[str], None] = lambda _text: None
    clock: Callable[[], float] = time.monotonic
    limits: Limits = field(default_factory=Limits)
    lanes: Lanes = field(default_factory=Lanes)
    holder: Callable[[int, int], Holder | None] = holder_of
    running: bool = True
    _noted_at: float = float("-inf")
    _tidied_at: float = float("-inf")

    @cached_property
    def selector(self) -> selectors.BaseSelector:
        """Everything that may wake the loop."""
        return selectors.DefaultSelector()

    @cached_property
    def door(self) -> Door:
        """The socket."""
        return Door(
            selector=self.selector,
            listener=self.listener,
            ask=self._ask,
            refused=lambda uid, what: self.say(f"turned away uid {uid}: {what}"),
            clock=self.clock,
            limits=self.limits,
        )

    @cached_property
    def jobs(self) -> Jobs:
        """The children."""
        return Jobs(
            selector=self.selector, door=self.door, command=self.command, clock=self.clock, say=self.say
        )

    @cached_property
    def _bell(self) -> tuple[socket.socket, socket.socket]:
        """Two ends: a byte in one wakes the loop."""
        ends = socket.socketpair()
        for end in ends:
            end.setblocking(False)
        return ends

    def run(self) -> None:
        """`serve` until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        self.serve()

    def serve(self) -> None:
        """Until `stop`. What goes wrong with one question is said, and the others go on."""
        self.selector.register(self._bell[0], selectors.EVENT_READ, None)
        with contextlib.suppress(RunnerctlError):
            self.policies.current()  # what is wrong there is said now, and to everybody who asks
        self.door.open()
        self.notify("READY=1")
        while self.running:
            self._turn()
        self._end()
        self.selector.close()

    def stop(self) -> None:
        """End the loop, from a signal or another thread; those who wait are sent to the next service."""
        self.running = False
        with contextlib.suppress(OSError):
            self._bell[1].send(b"!")

    def _turn(self) -> None:
        if self.clock() - self._noted_at >= _NOTE_SECONDS:
            self._noted_at = self.clock()
            self.notify("WATCHDOG=1")
        pause = min(self.door.next_at(), self.jobs.next_at()) - self.clock()
        for key, mask in self.selector.select(min(max(pause, 0.0), _TURN_SECONDS)):
            try:
                self._heard(key.data, mask)
            except Exception as error:  # one thing's trouble is not everybody's
                self.say(f"a bug: {type(error).__name__}: {error}")
                self._drop(key.data)
        self.jobs.turn()
        self.door.turn()

    def _heard(self, thing: object, mask: int) -> None:
        if isinstance(thing, Door):
            thing.accept()
        elif isinstance(thing, Client):
            self.door.ready(thing, mask)
        elif isinstance(thing, Pipe):
            self.jobs.heard(thing, mask)

    def _drop(self, thing: object) -> None:
        if isinstance(thing, Client):
            self.door.close(thing)
        elif isinstance(thing, Pipe):
            self.jobs.drop(thing.job)

    def _end(self) -> None:
        """Running builds end; who waited asks again, and finds the next service behind the same socket."""
        self.notify("STOPPING=1")
        self.door.shut()
        self.jobs.close()
        for client in list(self.door.clients):
            self.door.answer(client, line_of({"again": "the service stops"}))
        end = self.clock() + _LAST_SECONDS
        while self.door.clients and self.clock() < end:
            for key, mask in self.selector.select(0.1):
                if isinstance(key.data, Client):
                    self.door.ready(key.data, mask)
        for client in list(self.door.clients):
            self.door.close(client)

    # -- questions

    def _ask(self, client: Client, line: bytes) -> None:
        asker = Asker("other", client.uid, f"uid {client.uid}")
        try:
            ask = parse_ask(line)
            policy = self.policies.current()
            asker = policy.askers.who(client.uid)
            self._answer(client, ask, Sight(asker, _owner(asker, ask), policy))
        except RunnerctlError as error:
            self._refuse(client, asker, error)
        except Exception as error:  # one question's trouble is not everybody's
            self.say(f"a bug, met by {asker.name}: {type(error).__name__}: {error}")
            self.door.fail(client, _bug(error))

    def _refuse(self, client: Client, asker: Asker, error: RunnerctlError) -> None:
        if self.door.may_say(client.uid):
            self.say(f"refused {asker.name}: {error}")
        self.door.fail(client, error)

    def _answer(self, client: Client, ask: Ask, sight: Sight) -> None:
        payload = ask.payload
        if ask.op == "ping":
            self.door.answer(client, ready_line({"schema": ask.schema, "version": __version__}))
        elif ask.op == "lease":
            self._lease(client, payload.digest or "", sight)
        elif ask.op == "ensure" and payload.request is not None:
            self._ensure(client, payload, payload.request, sight)
        else:
            lanes = {"verify": self.lanes.verify, "gc": self.lanes.tidy, "remove": self.lanes.tidy}
            self._put(client, ask.op, payload, sight, lanes.get(ask.op, self.lanes.look))

    def _lease(self, client: Client, digest: str, sight: Sight) -> None:
        holder = self.holder(client.pid, client.uid)
        if holder is not None and not self.shelf.keep(digest, sight, holder):
            raise AccessError("is no environment that you can see", where=digest, remedy="runnerctl env list")
        self.door.answer(client, ready_line({"digest": digest}))

    def _ensure(self, client: Client, payload: Payload, request: Request, sight: Sight) -> None:
        client.holder, client.wants = self.holder(client.pid, client.uid), True
        ready = self.shelf.find(request, sight, client.holder)
        if ready is not None:
            self.door.answer(client, ready_line(ready))
            return
        text = fingerprint(request, sight.owner, sight.asker.kind, sight.policy.mark)
        building = self.jobs.with_text(self.lanes.build, text)
        if building is not None:
            self.jobs.join(building, client)
        else:
            self._put(client, "peek", payload, sight, self.lanes.look, key=text)

    def _put(
        self,
        client: Client | None,
        op: str,
        payload: Payload,
        sight: Sight,
        lane: Lane,
        *,
        key: str = "",
        text: str = "",
    ) -> None:
        """Have a child see to it; one that does the same already will do."""
        same = self.jobs.find(lane, key) if key else None
        if same is not None and client is not None:
            self.jobs.join(same, client)
            same.texts.add(text)
            return
        where = payload.request.where[:200] if payload.request else payload.digest
        job = Job(
            lane=lane,
            key=key,
            asker=sight.asker,
            order=self.shelf.order(op, payload, sight),
            then=lambda job, value: self._done(job, value, payload, sight),
            subject=where or "the store",
            asked_at=self.clock(),
            texts={text} if text else set(),
        )
        self.jobs.put(job, client)

    def _done(self, job: Job, value: dict[str, Any], payload: Payload, sight: Sight) -> None:
        """A child's last line, which may be anything."""
        waiters, job.waiters = job.waiters, []
        try:
            self._finish(job, value, waiters, payload, sight)
        except Exception as error:
            self.say(f"a bug, met by {job.asker.name}: {type(error).__name__}: {error}")
            for client in waiters:
                self.door.fail(client, _bug(error))

    def _finish(
        self, job: Job, value: dict[str, Any], waiters: list[Client], payload: Payload, sight: Sight
    ) -> None:
        """What everybody who waits for a job is told; or there is more to do."""
        facts = value.pop("facts", None)
        if facts is not None:
            self.shelf.learn(facts)
        if "build" in value:
            key = f"{value['build'].get('owner')}/{value['build'].get('key')}"
            for client in waiters:
                self._build(client, payload, sight, key=key, text=job.key)
            return
        self._note(job, value)
        for client in waiters:
            self.door.answer(client, self._line_for(client, value, sight))
        if job.lane is self.lanes.build and "ready" in value:
            self._tidy(sight.policy)

    def _tidy(self, policy: HostPolicy) -> None:
        """After a build: what is beyond the host's budget or was not used for too long goes, now and then."""
        if self.clock() - self._tidied_at < TIDY_SECONDS:
            return
        self._tidied_at = self.clock()
        sight = Sight(Asker("root", 0, "the host"), None, policy)
        with contextlib.suppress(RunnerctlError):  # root's own have the lane
            self._put(None, "gc", Payload(), sight, self.lanes.tidy)

    def _build(self, client: Client, payload: Payload, sight: Sight, *, key: str, text: str) -> None:
        asker = sight.policy.askers.who(client.uid)
        try:
            own = sight._replace(asker=asker)
            self._put(client, "build", payload, own, self.lanes.build, key=key, text=text)
        except RunnerctlError as error:
            self._refuse(client, asker, error)

    def _line_for(self, client: Client, value: dict[str, Any], sight: Sight) -> bytes:
        ready = value.get("ready")
        if not isinstance(ready, dict) or not client.wants or client.holder is None:
            return line_of(value)
        kept = self.shelf.keep(str(ready.get("digest")), sight, client.holder)
        return line_of(value if kept else {"again": "the environment was removed at that moment"})

    def _note(self, job: Job, value: dict[str, Any]) -> None:
        """One line for each build and for each thing that failed."""
        seconds = self.clock() - job.asked_at
        what = f"{job.subject} for {job.asker.name}"
        if "error" in value:
            error = value["error"]
            if not self.door.may_say(job.asker.uid):
                return
            self.say(f"{job.lane.name} of {what} failed after {seconds:.1f} s: {error.get('what')}")
        elif job.lane is self.lanes.build:
            ready = value.get("ready", {})
            self.say(f"{ready.get('status')} {ready.get('digest')} of {what} in {seconds:.1f} s")
        elif job.lane is not self.lanes.look:
            self.say(f"{job.lane.name} {what} took {seconds:.1f} s")


def _bug(error: Exception) -> BugError:
    remedy = "please report it, with the lines of journalctl -u runnerctl-env.service"
    return BugError(f"the environment store met a bug ({type(error).__name__})", remedy=remedy)


def _owner(asker: Asker, ask: Ask) -> str | None:
    """Whose private part of the store an answer may come from. Raises AccessError."""
    wanted = ask.payload.owner.lower() if ask.payload.owner is not None else None
    if ask.op in ("gc", "remove") and asker.kind != "root":
        raise AccessError("is for root alone", where=ask.op, remedy="run it with sudo")
    if wanted is None or wanted == asker.owner:
        return asker.owner
    if asker.kind != "root":
        raise AccessError("these environments are another owner's", where=wanted, remedy="name none")
    return wanted


def notify(text: str, address: str | None) -> None:
    """Tell systemd (sd_notify(3)); without an address nobody asked to be told."""
    if not address:
        return
    target = f"\0{address[1:]}" if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stream:
        stream.settimeout(1.0)
        stream.sendto(text.encode(), target)
