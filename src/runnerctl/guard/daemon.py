"""The guard's loop: one thread that waits for hooks, for its children, and for the next look at the slots."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import msgspec

from runnerctl.core.kernel_lines import plain_boot_id
from runnerctl.core.spec import HostSpec
from runnerctl.errors import RunnerctlError
from runnerctl.guard import setup_info, work
from runnerctl.guard.door import Client, Door
from runnerctl.guard.ends import WorkerEnds
from runnerctl.guard.errands import Errands, Outcome
from runnerctl.guard.guardian import Guardian
from runnerctl.guard.parts import Parts
from runnerctl.guard.places import places, user_of
from runnerctl.guard.procs import Kernel
from runnerctl.hostfile import load_host_spec
from runnerctl.probes.files import read_bytes, read_line
from runnerctl.replace import replace_file

__all__ = ["Daemon", "notify"]

USERS_SECONDS = 20.0
USERS_PAUSE_SECONDS = 2.0  # between looks for the users of slots that have none yet
SETUP_SECONDS = 60.0
SETUP_PAUSE_SECONDS = 300.0  # when NVML did not tell
ABSENT_PAUSE_SECONDS = 5.0  # when a slot has no directory yet
MARK_SECONDS = 30.0  # between looks whether another driver is loaded
LEDGER_SECONDS = 10.0
METRICS_SECONDS = 60.0  # between two writings of the metrics of jobs
_ROOT = 0


class _Since(msgspec.Struct, frozen=True):
    """Since when a host is guarded: in which boot, and how many clock ticks after it."""

    boot_id: str
    ticks: float


def notify(text: str, address: str | None) -> None:
    """Tell systemd (sd_notify(3)); without an address nobody asked to be told."""
    if not address:
        return
    target = f"\0{address[1:]}" if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stream:
        stream.settimeout(1.0)
        stream.sendto(text.encode(), target)


@dataclass
class Daemon:
    """The guard of one host. ``notify`` tells systemd."""

    parts: Parts
    listener: socket.socket
    notify: Callable[[str], None] = lambda _text: None
    kernel: Kernel = field(default_factory=Kernel)
    clock: Callable[[], float] = time.monotonic
    spec: HostSpec | None = None
    pci: Mapping[str, str] = field(default_factory=dict)
    running: bool = True
    _host_mark: tuple[int, int, int] | None = None
    _users: dict[str, tuple[int, int]] = field(default_factory=dict)
    _users_at: float = float("-inf")
    _setup_at: float = 0.0
    _mark_at: float = 0.0
    _driver: str = ""
    _resumed: bool = False
    _metrics_at: float = 0.0

    @cached_property
    def selector(self) -> selectors.BaseSelector:
        """Everything that may wake the loop."""
        return selectors.DefaultSelector()

    @cached_property
    def ends(self) -> WorkerEnds:
        """The workers, as the kernel tells of their ends."""
        return WorkerEnds(self.selector)

    @cached_property
    def errands(self) -> Errands:
        """The children."""
        return Errands(self.selector, self.clock)

    @cached_property
    def guardian(self) -> Guardian:
        """The mind."""
        boot_id = plain_boot_id(read_line(Path(self.kernel.proc) / "sys/kernel/random/boot_id") or "")
        return Guardian(
            parts=self.parts,
            kernel=self.kernel,
            errands=self.errands,
            boot_id=boot_id,
            spec=lambda: self.spec,
            pci=lambda: self.pci,
            answer=self.door.answer,
            guarded_since=self._since(boot_id),
            clock=self.clock,
        )

    @cached_property
    def door(self) -> Door:
        """The socket."""
        return Door(
            selector=self.selector,
            listener=self.listener,
            welcome=self._welcome,
            ask=lambda client, request: self.guardian.asked(client, request),
            flood=lambda uid, seconds: self.guardian.flooded(uid, seconds),
            clock=self.clock,
        )

    def run(self) -> None:
        """Until `stop`. What goes wrong with one thing is said, and the others go on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        self._begin()
        self.notify("READY=1")
        turn_at = 0.0
        while self.running:
            ended = self._wait(turn_at)
            self.errands.turn_all()
            self.door.turn()
            if ended or self.clock() >= turn_at or self._is_due():
                self._turn()
                turn_at = self.clock() + self.guardian.pause
            self.ends.follow(slot.worker for slot in self.guardian.watch.slots.values() if slot.worker)
        self.notify("STOPPING=1")
        self.errands.close()
        self.parts.meter.close()

    def stop(self) -> None:
        """End the loop; jobs go on, and the next guard goes on with them."""
        self.running = False

    def _begin(self) -> None:
        self.parts.paths.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        call = partial(work.close_open, ledger=self.parts.ledger, at=time.time())
        self.errands.start("close open jobs", call, seconds=LEDGER_SECONDS, then=self._closed)

    def _closed(self, outcome: Outcome) -> None:
        if outcome.failure:
            self.parts.say(f"the job database: {outcome.failure}")
        self._resume()

    def _wait(self, turn_at: float) -> bool:
        """Wait for something to happen, and hear it; returns whether a worker has ended."""
        ended = False
        times = [turn_at, self.errands.next_at(), self.door.next_at(), self.guardian.admission.next_at()]
        pause = min(each for each in times if each is not None) - self.clock()
        for key, mask in self.selector.select(max(pause, 0.0)):
            if isinstance(key.data, Door):
                key.data.accept()
            elif isinstance(key.data, Client):
                self.door.ready(key.data, mask)
            elif isinstance(key.data, WorkerEnds):
                key.data.heard(key.fd)
                ended = True
            else:
                self.errands.heard(key.data)
        return ended

    def _is_due(self) -> bool:
        at = self.guardian.admission.next_at()
        return at is not None and self.clock() >= at

    def _turn(self) -> None:
        self.notify("WATCHDOG=1")
        self._spec()
        self._find_users()
        self._set_up()
        if self._resumed:
            self.parts.meter.tend()
            self.guardian.turn()
            self._metrics()

    # -- what the host should be

    def _spec(self) -> None:
        path = self.parts.paths.host_file
        try:
            state = os.stat(path)
            mark = (state.st_mtime_ns, state.st_ino, state.st_size)
        except OSError:
            mark = None
        if mark == self._host_mark:
            return
        self._host_mark = mark
        try:
            self.spec = load_host_spec(path)
        except RunnerctlError as error:
            self.parts.say(f"{error}; the guard keeps to what it knew before")
            return
        self._users_at = float("-inf")
        self._setup_at = 0.0

    def _find_users(self) -> None:
        """The users of the slots: a slot may get its own a while after the spec names it."""
        names = [user_of(slot.name) for slot in self.spec.github_runner.slots] if self.spec else []
        missing = not set(names) <= set(self._users) or not self._resumed
        again = self._users_at == float("-inf") or (
            missing and self.clock() - self._users_at >= USERS_PAUSE_SECONDS
        )
        if again and "users" not in self.errands:
            self._users_at = self.clock()
            call = partial(work.users, names=names)
            self.errands.start("users", call, seconds=USERS_SECONDS, then=self._found_users)

    def _found_users(self, outcome: Outcome) -> None:
        if outcome.failure:
            self.parts.say(f"the users of the slots cannot be looked up: {outcome.failure}")
            return
        found = msgspec.convert(outcome.value, dict[str, tuple[int, int]])
        if found != self._users:
            self._setup_at = 0.0
        self._users = found
        if self.spec is not None:
            known = places(self.spec, found)
            self.guardian.watch.set_places(known)
            if any(place.gpus for place in known):
                self.parts.meter.warm()
        self._resume()

    def _resume(self) -> None:
        """Once, when the slots are known and what an earlier guard left open is closed."""
        ready = "close open jobs" not in self.errands and self._users_at != float("-inf")
        if not self._resumed and ready and "users" not in self.errands:
            self._resumed = True
            self.guardian.resume()
            self.guardian.turn()
            self.door.open()  # who came before waits in the socket's queue

    def _welcome(self) -> set[int]:
        return {_ROOT, *(slot.place.uid for slot in self.guardian.watch.slots.values())}

    # -- what jobs are told of the host

    def _set_up(self) -> None:
        now = self.clock()
        if now >= self._mark_at:
            self._mark_at = now + MARK_SECONDS
            mark = setup_info.driver_mark(self.parts.paths.root)
            if mark != self._driver:
                self._driver, self._setup_at = mark, 0.0
        slots = [slot.place for slot in self.guardian.watch.slots.values()]
        if self.spec is None or not slots or now < self._setup_at or "setup" in self.errands:
            return
        self._setup_at = float("inf")
        call = partial(
            setup_info.write_all, host=self.spec.host, places=slots, root=str(self.parts.paths.root)
        )
        self.errands.start("setup", call, seconds=SETUP_SECONDS, then=self._is_set_up, patient=True)

    def _is_set_up(self, outcome: Outcome) -> None:
        if outcome.failure:
            self.parts.say(f"the slots' .setup_info could not be written: {outcome.failure}")
        known = not outcome.failure and bool(outcome.value.get("known"))
        if not outcome.failure:
            self.pci = msgspec.convert(outcome.value.get("pci", {}), dict[str, str])
        absent = not outcome.failure and bool(outcome.value.get("absent"))
        if self._setup_at == float("inf") and (absent or not known):
            self._setup_at = self.clock() + (ABSENT_PAUSE_SECONDS if absent else SETUP_PAUSE_SECONDS)

    def _metrics(self) -> None:
        """Have the file for Prometheus written, where one is wanted."""
        spec, now = self.spec, self.clock()
        wanted = spec is not None and spec.runnerctl.jobs_prometheus is not None
        if spec is None or not wanted or now < self._metrics_at or "metrics" in self.errands:
            return
        self._metrics_at = now + METRICS_SECONDS
        call = partial(work.metrics, spec=spec)
        self.errands.start("metrics", call, seconds=LEDGER_SECONDS, then=self._measured, patient=True)

    def _measured(self, outcome: Outcome) -> None:
        if outcome.failure:
            self.parts.say(f"the metrics of jobs could not be written: {outcome.failure}")

    # -- since when

    def _since(self, boot_id: str) -> float:
        """Ticks after boot since which this host is guarded; jobs that are older were never asked to ask.

        On a later boot all of them are younger.
        """
        path = self.parts.paths.since
        data = read_bytes(path)
        with contextlib.suppress(msgspec.MsgspecError):
            since = msgspec.json.decode(data if isinstance(data, bytes) else b"", type=_Since)
            return since.ticks if since.boot_id == boot_id else 0.0
        up = float((read_line(Path(self.kernel.proc) / "uptime") or "0").split()[0])
        ticks = up * os.sysconf("SC_CLK_TCK")
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            replace_file(path, msgspec.json.encode(_Since(boot_id, ticks)), mode=0o600, lasting=True)
        return ticks
