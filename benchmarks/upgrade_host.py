"""A simulated runner host: listeners that really speak to the stand-in GitHub, and what stands on its disk.

What a host forgets when its controller dies is nothing: holds, notes, bound releases and listeners belong to
`SimHost`, which outlives every run of the engine. ``Killed`` is raised in the place of a SIGKILL.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import requests

from runnerctl.errors import UnavailableError
from runnerctl.rollout.ports import Cause, SlotNow
from runnerctl.rollout.upgrade_ports import HostNotes, Refusal
from tests.fakes.github_api.clients import Caller, Listener

__all__ = ["Killed", "SimHost", "SimSlot"]

POLL_SECONDS = 0.5


class Killed(BaseException):
    """The controller's process ended here, without a word."""


@dataclass
class SimSlot:
    """One slot: the release it is bound to, its holds, its listener and the job that runs in it."""

    name: str
    listener: Listener
    version: str
    bad: Mapping[str, str]  # release -> how it fails: exits, refused, silent
    random: random.Random
    causes: list[Cause] = field(default_factory=list)
    busy: bool = False
    killed_jobs: int = 0
    hooked_jobs: int = 0
    _thread: threading.Thread | None = None
    _stop: threading.Event = field(default_factory=threading.Event)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def active(self) -> bool:
        """Whether a listener runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """As ``systemctl start``: nothing when it runs, or is on hold."""
        with self._lock:
            if self.active or self.causes:
                return
            self._stop.clear()
            self._thread = threading.Thread(target=self._listen, daemon=True)
            self._thread.start()

    def stop_when_idle(self) -> None:
        """What a hold does: an idle listener ends at once, a busy one behind its job."""
        with self._lock:
            self._stop.set()
            thread = None if self.busy else self._thread
        if thread is not None and not self.busy:
            thread.join(POLL_SECONDS * 4)

    def _listen(self) -> None:
        fault = self.bad.get(self.version, "")
        if fault == "exits":
            return
        if fault == "silent":
            self._stop.wait()
            return
        try:
            self._serve(fault)
        except requests.RequestException:
            return  # the stand-in is gone

    def _serve(self, fault: str) -> None:
        while self.listener.open(self.version).status_code != 200:
            if self._stop.wait(0.05):
                return
        try:
            until = time.monotonic() + 0.1 if fault == "refused" else None
            while not self._stop.is_set() and (until is None or time.monotonic() < until):
                answer = self.listener.poll(wait=0.1 if until else POLL_SECONDS)
                job = answer.json().get("job") if answer.status_code == 200 else None
                if job is not None and not fault:
                    self._work(int(job["id"]))
        finally:
            self.listener.mine("DELETE", f"/sessions/{self.listener.session_id}")

    def _work(self, job: int) -> None:
        """A job as the runner does it: acquired, a worker some moments later, the hook, the steps."""
        time.sleep(self.random.uniform(0, 0.02))
        answer = self.listener.mine("POST", f"/jobs/{job}/acquire")
        if answer.status_code != 200:
            return
        time.sleep(self.random.uniform(0, 0.02))
        self.busy = True
        try:
            time.sleep(self.random.uniform(0, 0.02))
            hooked = bool(self.causes)  # the job-started hook fails a job on a held slot
            self.hooked_jobs += hooked
            if not hooked:
                time.sleep(float(answer.json()["steps"][0]["run"]))
            self.listener.mine(
                "POST", f"/jobs/{job}/complete", {"result": "Failed" if hooked else "Succeeded"}
            )
        finally:
            self.busy = False


class SimHost:
    """`runnerctl.rollout.upgrade_ports.UpgradeHost` in memory.

    ``before`` is called ahead of each operation and may raise `Killed` or UnavailableError.
    """

    def __init__(self, host: str, slots: Sequence[SimSlot], installed: str) -> None:
        self.host = host
        self.slots = {slot.name: slot for slot in slots}
        self.remembered = HostNotes(installed=(installed,))
        self.before: Callable[[str], None] = lambda _: None

    def observe(self) -> tuple[SlotNow, ...]:
        """Every slot, now."""
        self.before("observe")
        return tuple(
            SlotNow(
                slot.name,
                active=slot.active,
                busy=slot.busy,
                causes=tuple(slot.causes),
                agent_id=int(slot.listener.agent["id"]),
                runner_name=f"{self.host}-{slot.name}",
                version=slot.version,
            )
            for slot in self.slots.values()
        )

    def hold(self, slots: Sequence[str], cause: Cause) -> None:
        """Add a cause, and stop what is idle."""
        self.before("hold")
        for name in slots:
            slot = self.slots[name]
            slot.causes = [each for each in slot.causes if each.by != cause.by] + [cause]
            slot.stop_when_idle()

    def release(self, slots: Sequence[str], *, by: str) -> None:
        """Take causes away and start what is free."""
        self.before("release")
        for name in slots:
            slot = self.slots[name]
            slot.causes = [each for each in slot.causes if each.by != by]
            if not slot.causes:
                slot._stop.clear()
                slot.start()

    def install(self, *, version: str, url: str, sha256: str, token: str | None = None) -> None:
        """Have a release."""
        self.before(f"install {url} {sha256} {bool(token)}")
        installed = tuple(sorted({*self.remembered.installed, version}))
        self.remembered = HostNotes(installed, self.remembered.refused, self.remembered.previous)

    def switch(self, slots: Sequence[str], version: str) -> None:
        """Bind slots that do not run to another release."""
        self.before("switch")
        for name in slots:
            if self.slots[name].active:
                raise UnavailableError("still runs", where=f"slot {name}")
            self.slots[name].version = version

    def notes(self) -> HostNotes:
        """What the host remembers."""
        self.before("notes")
        return self.remembered

    def begin(self, slots: Mapping[str, str]) -> None:
        """Note what slots go back to."""
        self.before("begin")
        known = self.remembered
        self.remembered = HostNotes(known.installed, known.refused, {**slots, **known.previous})

    def finish(self, slots: Sequence[str]) -> None:
        """Forget it."""
        self.before("finish")
        known = self.remembered
        left = {name: version for name, version in known.previous.items() if name not in slots}
        self.remembered = HostNotes(known.installed, known.refused, left)

    def refuse(self, version: str, reason: str) -> None:
        """Remember a release that does not work."""
        self.before("refuse")
        known = self.remembered
        self.remembered = HostNotes(known.installed, (Refusal(version, reason),), known.previous)

    def allow(self, version: str) -> None:
        """Forget it."""
        self.before("allow")
        known = self.remembered
        left = tuple(each for each in known.refused if each.version != version)
        self.remembered = HostNotes(known.installed, left, known.previous)

    def shut_down(self) -> None:
        """End every listener."""
        for slot in self.slots.values():
            slot._stop.set()

    @classmethod
    def build(
        cls, api: Caller, scope: str, host: str, *, version: str, bad: Mapping[str, str], seed: int
    ) -> SimHost:
        """A host with two online slots, registered at the stand-in."""
        dice = random.Random(seed)  # noqa: S311 (repeatable)
        slots = []
        for number in range(2):
            name = f"s{number}"
            listener = Listener(api, scope, f"{host}-{name}", version=version, labels=["gpu"])
            slots.append(SimSlot(name, listener, version, bad, random.Random(dice.random())))  # noqa: S311
        made = cls(host, slots, version)
        for slot in slots:
            slot.start()
        return made
