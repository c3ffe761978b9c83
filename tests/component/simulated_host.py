"""A host's half of a converge, without a host: what it knows survives kills, as files on a disk would."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import requests

from runnerctl.core.plan import LocalSlot, SlotPlan
from runnerctl.core.spec import HostSpec
from runnerctl.errors import RunnerctlError, TryAgainError
from runnerctl.reconcile import Fleet
from tests.fakes.github_api import Control

__all__ = ["FailedError", "KilledError", "SimulatedHost"]

VERSION = "2.336.0"


class KilledError(Exception):
    """The process is gone between two steps."""


class FailedError(Exception):
    """The host's half failed: the runner's own configuration got no answer, or a refusal."""


@dataclass
class SimulatedHost:
    """One host. ``kill_share`` is how often a run is killed at each step between reading and the end."""

    spec: HostSpec
    base: str
    control: Control
    random: random.Random
    kill_share: float = 0.0
    slots: dict[str, LocalSlot] = field(default_factory=dict)
    online: set[int] = field(default_factory=set)

    def local(self) -> dict[str, LocalSlot]:
        """What the host reports, one entry a wanted slot."""
        wanted = (slot.name for slot in self.spec.github_runner.slots)
        return {name: self.slots.get(name, LocalSlot(name)) for name in wanted}

    def converge(self, fleet: Fleet) -> bool:
        """Read, plan, act, as the action does it; True when nothing had to be done.

        Raises RunnerctlError, FailedError or KilledError.
        """
        plans = fleet.plans(self.local())
        if errors := [plan.error for plan in plans if plan.error]:
            raise TryAgainError("; ".join(errors))
        register = [plan for plan in plans if plan.registration is not None]
        self._step()
        enrolments = {plan.name: fleet.enrolment(plan) for plan in register}
        self._step()
        for plan in register:
            fleet.delete_before(plan)
            self._step()
        for plan in register:
            self._register(plan, enrolments[plan.name])
        for plan in plans:
            fleet.write(plan)
            self._step()
        self._start()
        agents = {name: slot.agent_id for name, slot in self.local().items() if slot.agent_id is not None}
        if any(not plan.online for plan in plans):
            fleet.wait_online(agents, seconds=0)
        return not any(plan.changes or plan.waits_for for plan in plans)

    def _step(self) -> None:
        if self.random.random() < self.kill_share:
            raise KilledError

    def _register(self, plan: SlotPlan, enrolment: dict[str, Any]) -> None:
        """Note what is begun, forget the old registration, configure, note the end: as the host does."""
        before = self.slots.get(plan.name, LocalSlot(plan.name))
        if enrolment["seen"] != (before.agent_id or 0):
            raise FailedError("was registered by another run meanwhile")
        slot = next(slot for slot in self.spec.github_runner.slots if slot.name == plan.name)
        url = self.spec.slot_scope(slot).url
        begun = msgspec.structs.replace(before, registering=True, agent_name=plan.runner_name, url=url)
        self.slots[plan.name] = begun
        self._step()
        self._stop(before.agent_id)
        self.slots[plan.name] = msgspec.structs.replace(begun, agent_id=None)
        self._step()
        agent_id = self._configure(plan, enrolment, url)
        self._step()
        self.slots[plan.name] = msgspec.structs.replace(begun, agent_id=agent_id)
        self._step()
        self.slots[plan.name] = msgspec.structs.replace(begun, agent_id=agent_id, registering=False)

    def _configure(self, plan: SlotPlan, enrolment: dict[str, Any], url: str) -> int:
        """What `config.sh --unattended` sends."""
        slot = next(slot for slot in self.spec.github_runner.slots if slot.name == plan.name)
        setup = self._post(
            "/api/v3/actions/runner-registration",
            {"url": url, "runner_event": "register"},
            f"RemoteAuth {enrolment['token']}",
        )["token"]
        agent = {
            "name": plan.runner_name,
            "labels": sorted(self.spec.slot_labels(slot)),
            "version": VERSION,
            "replace": enrolment["replace"],
            "no_default_labels": self.spec.github_runner.no_default_labels,
            "group": self.spec.slot_group(slot),
        }
        return int(self._post("/_runner/agents", agent, f"Bearer {setup}")["id"])

    def _post(self, path: str, body: dict[str, Any], authorization: str) -> dict[str, Any]:
        headers = {"Authorization": authorization, "User-Agent": "listener"}
        try:
            answer = requests.post(self.base + path, json=body, headers=headers, timeout=10)
        except requests.RequestException as error:
            raise FailedError(str(error)) from None
        if answer.status_code != 200:
            raise FailedError(f"{path}: {answer.status_code}")
        found: dict[str, Any] = answer.json()
        return found

    def _stop(self, agent_id: int | None) -> None:
        """The unit stops before its registration goes: GitHub loses its listener."""
        self.online.discard(agent_id or 0)
        if any(runner["id"] == agent_id for runner in self.control.runners()):
            self.control.change_runner(agent_id or 0, status="offline")

    def _start(self) -> None:
        """The unit runs: GitHub sees a listener of each registration."""
        for slot in self.local().values():
            if slot.agent_id is not None and slot.agent_id not in self.online:
                self.control.change_runner(slot.agent_id, status="online")
                self.online.add(slot.agent_id)


def attempt(host: SimulatedHost, fleet: Fleet, *, told: Callable[[str], None] = lambda _: None) -> bool:
    """One run; whatever ends it, the next one goes on from there. True when nothing had to be done."""
    try:
        return host.converge(fleet)
    except (RunnerctlError, FailedError, KilledError) as error:
        told(f"{type(error).__name__}: {error}")
        return False
