"""Make GitHub and the plans agree: the part that the Ansible action and the CLI on a host share.

It stands above ``github`` and ``core``: observe the records, plan, write what a plan says, mint tokens. What
happens on the host itself is done by ``plugins/module_utils/slot.py`` in both cases.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from runnerctl.core.environment import slot_environment
from runnerctl.core.plan import LocalSlot, Record, SlotPlan, plan_slot
from runnerctl.core.scope import Scope, api_url_for, owner_of, parse_scope
from runnerctl.core.spec import HostSpec, Slot
from runnerctl.errors import AccessError, ConfigError, TryAgainError
from runnerctl.github.auth import credentials
from runnerctl.github.client import Call
from runnerctl.github.connect import Connector
from runnerctl.github.models import Runner, RunnerDownload
from runnerctl.github.registry import Registry
from runnerctl.github.transport import origin
from runnerctl.modes import refuse_public
from runnerctl.play import Play
from runnerctl.reads import DirectReads, Reads, SharedReads
from runnerctl.runner_release import Release, choose_release

__all__ = ["Fleet", "Release", "desired_slot", "record_of"]

GIB = 1 << 30
POLL_SECONDS = 1.0
DRAIN_POLL_SECONDS = 5.0


def record_of(runner: Runner) -> Record:
    """GitHub's record in the shape that plans compare."""
    read_only = frozenset(label.name.lower() for label in runner.labels if label.type == "read-only")
    return Record(
        id=runner.id,
        name=runner.name,
        online=runner.status == "online",
        busy=runner.busy,
        labels=runner.custom_labels(),
        read_only=read_only,
        group_id=runner.runner_group_id,
        ephemeral=runner.ephemeral,
    )


def desired_slot(spec: HostSpec, slot: Slot, version: str) -> dict[str, Any]:
    """The slot in the shape that the host's half takes (``SlotSpec.from_dict``)."""
    runner, share = spec.github_runner, spec.share(slot)
    return {
        "name": slot.name,
        "runner_name": spec.runner_name(slot),
        "url": spec.slot_scope(slot).url,
        "version": version,
        "labels": list(spec.slot_labels(slot)),
        "gpus": list(slot.gpus),
        "group": spec.slot_group(slot),
        "no_default_labels": runner.no_default_labels,
        "env": slot_environment(spec),
        "mode": slot.mode,
        "containers": runner.containers,
        "cpus": share.cpus if share else None,
        "memory_bytes": share.memory_bytes if share else None,
        "tasks": runner.tasks_per_slot,
        "disk_bytes": runner.disk_per_slot_gib * GIB if runner.disk_per_slot_gib else None,
        "store": spec.conda.store,
        "store_owner": owner_of(spec.slot_url(slot)) if spec.conda.store else None,
    }


class Fleet:
    """GitHub as one host's slots see it: a registry for each scope, made when first needed.

    ``environment`` holds the credentials (see `runnerctl.github.auth`); without one AccessError is raised.
    ``others`` are the inventory's other hosts: a record that bears the name of one is never deleted for this.
    ``play`` is the run of ansible-playbook whose workers share reads; ``max_wait`` what ``--max-wait`` gave.
    """

    def __init__(
        self,
        spec: HostSpec,
        environment: Mapping[str, str],
        *,
        others: Collection[str] = (),
        play: Play | None = None,
        max_wait: str | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.spec = spec
        self.environment = environment
        self.others = frozenset(others) - {spec.host}
        self.play = play
        self.max_wait = max_wait
        self.sleep = sleep
        self.clock = clock
        self._registries: dict[str, Registry] = {}
        self._tokens: dict[str, str] = {}
        self._directs: dict[str, DirectReads] = {}
        self._shared: dict[str, SharedReads] = {}
        self._calls: list[Call] = []

    # -- reading -----------------------------------------------------------------------------------------

    def registry(self, url: str) -> Registry:
        """The registry of a scope. Raises AccessError without a credential."""
        scope = parse_scope(url)
        if scope.url not in self._registries:
            self._refuse_unknown_server(scope)
            api_url = self.spec.github_runner.api_url or self.environment.get("RUNNERCTL_API_URL")
            api_url = api_url or api_url_for(scope.url)
            connect = self._connector(api_url)
            credential = credentials(self.environment, api_url=api_url, scope=scope, connect=connect)
            if credential is None:
                raise AccessError(
                    "there is no GitHub credential",
                    where=scope.name,
                    remedy="set GH_TOKEN, or RUNNERCTL_APP_ID and RUNNERCTL_APP_KEY_FILE, on the controller",
                )
            self._registries[scope.url] = Registry(connect(credential), scope)
        return self._registries[scope.url]

    def _connector(self, api_url: str) -> Connector:
        return Connector(
            self.environment, api_url, observer=self._calls.append, max_wait=self.max_wait, sleep=self.sleep
        )

    def _refuse_unknown_server(self, scope: Scope) -> None:
        """A host names a URL too, in its ``.runner``: the credential goes to inventory's servers only."""
        runner = self.spec.github_runner
        named = {origin(url) for url in (runner.url, *(slot.url for slot in runner.slots)) if url}
        if origin(scope.url) not in named:
            raise AccessError(
                f"the host says it is registered at {scope.url}, a server that its inventory does not name",
                remedy="remove that runner there, and then .runner in the slot's directory on the host",
            )

    def scopes(self) -> list[Scope]:
        """The distinct scopes of the host's slots."""
        found = {scope.url: scope for scope in map(self.spec.slot_scope, self.spec.github_runner.slots)}
        return list(found.values())

    def calls(self) -> dict[str, int]:
        """How many requests were sent, those that mint an App's token included, and how many write."""
        return {
            "requests": len(self._calls),
            "writes": sum(call.method != "GET" for call in self._calls),
        }

    def plans(self, local: Mapping[str, LocalSlot]) -> list[SlotPlan]:
        """Every slot's plan. Raises RunnerctlError.

        In a play they are made from its shared list; what would change something, or looks wrong, is planned
        again from reads of its own.
        """
        return [self._sure_plan(slot, local.get(slot.name, LocalSlot(slot.name))) for slot in self._slots()]

    def _sure_plan(self, slot: Slot, local: LocalSlot) -> SlotPlan:
        reads = self._reads(self.spec.slot_url(slot))
        if isinstance(reads, SharedReads):
            with suppress(ConfigError):  # of a group that was made a moment ago
                plan = self._plan(slot, local, reads)
                quiet = not (plan.changes or plan.error or plan.waits_for)
                if quiet and (plan.online or local.hold is not None):
                    return plan
        return self.plan(slot, local)

    def _slots(self) -> Iterable[Slot]:
        return self.spec.github_runner.slots

    def plan(self, slot: Slot, local: LocalSlot) -> SlotPlan:
        """The plan of one slot, from fresh reads: one request when it is converged, one for all groups."""
        return self._plan(slot, local, self.direct(self.spec.slot_url(slot)))

    def _plan(self, slot: Slot, local: LocalSlot, reads: Reads) -> SlotPlan:
        scope = self.registry(self.spec.slot_url(slot)).scope
        named = reads.by_name(self.spec.runner_name(slot))
        own = named if named is not None and named.id == local.agent_id else None
        same_scope = (local.url or "").lower() == scope.url.lower()
        if own is None and local.agent_id is not None and same_scope:
            own = reads.by_id(local.agent_id)
        return plan_slot(
            self.spec,
            slot,
            local,
            named=record_of(named) if named else None,
            own=record_of(own) if own else None,
            group_id=reads.group_id(self.spec.slot_group(slot)),
        )

    def direct(self, url: str) -> DirectReads:
        """What a scope says, asked by this process alone."""
        registry = self.registry(url)
        return self._directs.setdefault(registry.scope.url, DirectReads(registry))

    def _reads(self, url: str) -> DirectReads:
        """Those of the play, where there is one."""
        registry = self.registry(url)
        if self.play is None:
            return self.direct(url)
        if registry.scope.url not in self._shared:
            scopes = [self.spec.slot_scope(slot).url for slot in self._slots()]
            slots = self.play.hosts * scopes.count(registry.scope.url)
            self._shared[registry.scope.url] = SharedReads(registry, self.play, slots=slots)
        return self._shared[registry.scope.url]

    def group_id(self, slot: Slot) -> int | None:
        """The id of the slot's runner group, asked once; the scope's default group when it names none.

        None at a repository, which has no groups. Raises ConfigError when there is no such group.
        """
        return self.direct(self.spec.slot_url(slot)).group_id(self.spec.slot_group(slot))

    def prove_access(self, *, register: Collection[str]) -> None:
        """Ask every scope for something that needs the right to manage runners; raises AccessError.

        For the slots in ``register`` a registration token is minted too: reading proves no right to write.
        A runner group that does not exist is found here as well: ConfigError.
        """
        for scope in self.scopes():
            self._reads(scope.url).prove_access()
        for slot in self._slots():
            if self.spec.slot_group(slot):
                self._prove_group(slot)
            if slot.name in register and slot.mode != "ephemeral":
                refuse_public(self, slot)
                self.token(self.spec.slot_url(slot))

    def _prove_group(self, slot: Slot) -> None:
        """Raises ConfigError when the slot's group does not exist: now, not when a play's workers looked."""
        try:
            self._reads(self.spec.slot_url(slot)).group_id(self.spec.slot_group(slot))
        except ConfigError:
            if self.play is None:
                raise
            self.group_id(slot)

    def downloads(self, scope: Scope) -> Sequence[RunnerDownload]:
        """The releases GitHub offers to a scope; asked once."""
        return self._reads(scope.url).downloads()

    def release(self, machine: str, *, installed: Collection[str] = ()) -> Release:
        """The runner release this host should run (see `choose_release`)."""
        return choose_release(
            self.spec.github_runner,
            machine,
            scope=lambda: self.scopes()[0],
            downloads=lambda: self.downloads(self.scopes()[0]),
            digest=lambda version, name: self._reads(self.scopes()[0].url).release_digest(version, name),
            installed=installed,
        )

    # -- writing -----------------------------------------------------------------------------------------

    def token(self, url: str) -> str:
        """A registration token for a scope: minted once, good for an hour and for many runners."""
        registry = self.registry(url)
        if registry.scope.url not in self._tokens:
            self._tokens[registry.scope.url] = registry.registration_token().token
        return self._tokens[registry.scope.url]

    def write(self, plan: SlotPlan) -> None:
        """Repair labels and group of the record that was planned for. Raises RunnerctlError."""
        registry = self.registry(self.url_of(plan.name))
        if plan.record is not None and plan.labels is not None:
            registry.set_labels(plan.record, plan.labels)
        if plan.record is not None and plan.move_to_group is not None:
            registry.move_to_group(plan.record, plan.move_to_group)

    def delete_before(self, plan: SlotPlan) -> None:
        """Remove the record that a new registration leaves behind. Raises TryAgainError when it is busy."""
        registration = plan.registration
        if registration is None or registration.delete is None:
            return
        self._remove(self.registry(registration.delete_url or self.url_of(plan.name)), registration.delete)

    def _remove(self, registry: Registry, runner_id: int) -> None:
        """Delete a record, unless it bears another host's name: a copied disk carries that host's id along.

        Raises TryAgainError when it runs a job.
        """
        runner = registry.runner(runner_id) if self.others else None
        if runner is None or not self.belongs_to_another(runner.name):
            registry.delete(runner_id)

    def belongs_to_another(self, runner_name: str) -> bool:
        """Whether a name is `<host>-<slot>` of another host of the inventory."""
        name, hosts = runner_name.casefold(), (*self.others, self.spec.host)
        owners = [host for host in hosts if name.startswith(f"{host.casefold()}-")]
        return bool(owners) and max(owners, key=len) != self.spec.host

    def enrolment(self, plan: SlotPlan) -> dict[str, Any]:
        """What the host's half needs to register. Raises ConfigError where strangers may send it jobs."""
        refuse_public(self, next(slot for slot in self._slots() if slot.name == plan.name))
        registration = plan.registration
        replace, seen = (registration.replace, registration.seen) if registration else (False, None)
        return {"token": self.token(self.url_of(plan.name)), "replace": replace, "seen": seen or 0}

    def url_of(self, slot_name: str) -> str:
        """Where a slot is registered."""
        slot = next(slot for slot in self._slots() if slot.name == slot_name)
        return self.spec.slot_scope(slot).url

    def wait_online(self, agents: Mapping[str, int | str], *, seconds: float) -> dict[str, str]:
        """Wait until the runners are online: slot -> id in, slot -> ``online`` or ``offline`` out.

        An ephemeral slot is known by its runner's name.
        """
        deadline = self.clock() + seconds
        states = dict.fromkeys(agents, "offline")
        while True:
            for name, agent in agents.items():
                if states[name] != "online":
                    registry = self.registry(self.url_of(name))
                    runner = (
                        registry.runner_by_name(agent) if isinstance(agent, str) else registry.runner(agent)
                    )
                    states[name] = runner.status if runner else "offline"
            if "offline" not in states.values() or self.clock() >= deadline:
                return states
            self.sleep(POLL_SECONDS)

    def remove_record(self, local: LocalSlot, *, seconds: float = 0.0) -> None:
        """Delete the record of one slot that goes (see `drain`).

        Raises TryAgainError when it is still busy after ``seconds``.
        """
        if self.drain([local], seconds=seconds):
            raise TryAgainError(
                f"still runs a job after {seconds:.0f} s" if seconds else "runs a job",
                where=f"slot {local.name}",
                remedy="try again when its job has ended",
            )

    def drain(self, slots: Sequence[LocalSlot], *, seconds: float) -> list[str]:
        """Delete the record of each slot as soon as it is idle; returns the names of those busy to the end.

        GitHub refuses to delete a runner that works (422), so the deletion itself is the proof of idleness:
        no job can reach the runner afterwards. ``seconds`` is for all of them together.
        """
        deadline = self.clock() + seconds
        busy = list(slots)
        while busy := [slot for slot in busy if not self._delete(slot)]:
            if self.clock() >= deadline:
                break
            self.sleep(min(DRAIN_POLL_SECONDS, max(0.0, deadline - self.clock())))
        return [slot.name for slot in busy]

    def _delete(self, local: LocalSlot) -> bool:
        """Delete a slot's record; False when it runs a job.

        A registration that was cut off may have left a record whose id the host never learnt: it is found by
        its name, and is ours when it is offline (see `runnerctl.core.plan`).
        """
        if local.url is None:
            return True
        agent_id = local.agent_id
        if agent_id is None and local.registering and local.agent_name:
            runner = self.registry(local.url).runner_by_name(local.agent_name)
            agent_id = runner.id if runner is not None and runner.status != "online" else None
        if agent_id is None or not self._is_adopted_one(local, agent_id):
            return True
        try:
            self._remove(self.registry(local.url), agent_id)
        except TryAgainError:
            return False
        return True

    def _is_adopted_one(self, local: LocalSlot, agent_id: int) -> bool:
        """Whether an adopted slot's record bears the name it was adopted under; True for other slots."""
        runner = self.registry(local.url or "").runner(agent_id) if local.adopted else None
        return runner is None or runner.name.casefold() == (local.agent_name or "").casefold()

    def remove_dead(self, *, check: bool = False) -> list[str]:
        """Delete the records of a host that is gone, by name; only offline ones. With ``check`` name them.

        Raises ConfigError when one is online: then the host is not dead.
        """
        found: list[tuple[Registry, Runner]] = []
        for slot in self._slots():
            registry = self.registry(self.spec.slot_url(slot))
            runner = registry.runner_by_name(self.spec.runner_name(slot))
            if runner is None:
                continue
            if runner.status == "online":
                raise ConfigError(
                    f"runner {runner.name} is online: the host is not dead",
                    where=registry.scope.name,
                    remedy="deprovision it without deprovision_host_is_dead",
                )
            found.append((registry, runner))
        for registry, runner in found:
            if not check:
                registry.delete(runner.id)
        return [runner.name for _, runner in found]
