"""Fill a snapshot with GitHub's view of each slot: record, group, and how long its version lives."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from runnerctl.cli.context import Context
from runnerctl.cli.remote import api_url, credential, has_credential
from runnerctl.core.scope import parse_scope
from runnerctl.core.snapshot import GithubRecord, Registration, SlotReading, SlotState, Snapshot, Unavailable
from runnerctl.core.spec import HostSpec
from runnerctl.errors import AccessError, RunnerctlError, UnavailableError
from runnerctl.github.client import GitHubClient
from runnerctl.github.models import Deprecation, Runner, RunnerGroup
from runnerctl.github.registry import Registry

__all__ = ["with_github"]

LONGEST_WAIT_SECONDS = 2.0  # a verdict is wanted now: a rate limit that lasts longer is its own finding


def with_github(context: Context, snapshot: Snapshot, *, deadline_seconds: float) -> Snapshot:
    """The snapshot with GitHub's view of its slots; unchanged without a credential or without slots.

    What GitHub does not tell becomes `Unavailable`. All calls together get ``deadline_seconds``.
    """
    if not has_credential(context) or not isinstance(snapshot.slots, tuple):
        return snapshot
    view = _View(context, snapshot.host_spec, ends=time.monotonic() + deadline_seconds)
    slots = tuple(msgspec.structs.replace(slot, github=view.reading(slot)) for slot in snapshot.slots)
    return msgspec.structs.replace(snapshot, slots=slots)


@dataclass
class _View:
    """One look at GitHub; every scope, group list and version is asked for once."""

    context: Context
    spec: HostSpec | None
    ends: float
    clock: Callable[[], float] = time.monotonic
    registries: dict[str, Registry | RunnerctlError] = field(default_factory=dict)
    groups: dict[str, tuple[RunnerGroup, ...]] = field(default_factory=dict)
    ends_of: dict[tuple[str, str], Deprecation | None] = field(default_factory=dict)

    def reading(self, slot: SlotReading) -> GithubRecord | Unavailable | None:
        """GitHub's record of a slot; None when it is not known where the slot would be registered."""
        url, name = self._where(slot)
        if not url or not name:
            return None
        try:
            registry = self._registry(url)
            runner = self._runner(registry, slot, name)
            return (
                GithubRecord(found=False, name=name)
                if runner is None
                else self._record(registry, slot, runner)
            )
        except RunnerctlError as error:
            return Unavailable(str(error), call="GitHub")

    def _where(self, slot: SlotReading) -> tuple[str | None, str | None]:
        """URL and runner name: as the spec says, else as the slot was registered."""
        for wanted in self.spec.github_runner.slots if self.spec else ():
            if self.spec and wanted.name == slot.name:
                return self.spec.slot_url(wanted), self.spec.runner_name(wanted)
        registration = slot.registration if isinstance(slot.registration, Registration) else None
        state = slot.state if isinstance(slot.state, SlotState) else None
        url = (registration.url if registration else None) or (state.url if state else None)
        return url, registration.name if registration else None

    def _registry(self, url: str) -> Registry:
        if url not in self.registries:
            self.registries[url] = self._connect(url)
        found = self.registries[url]
        if isinstance(found, RunnerctlError):
            raise found
        left = self.ends - self.clock()
        if left <= 0:
            raise UnavailableError("GitHub did not answer in time")
        return found

    def _connect(self, url: str) -> Registry | RunnerctlError:
        try:
            scope = parse_scope(url)
            base = api_url(self.context, scope, self.spec.github_runner.api_url if self.spec else None)
            left = max(self.ends - self.clock(), 0.1)
            connect = partial(
                GitHubClient, base, max_wait_seconds=LONGEST_WAIT_SECONDS, deadline_seconds=left
            )
            found = credential(self.context, scope, api=base, connect=connect)
            if found is None:
                return AccessError("there is no GitHub credential")
            return Registry(connect(found), scope)
        except RunnerctlError as error:
            return error

    def _runner(self, registry: Registry, slot: SlotReading, name: str) -> Runner | None:
        """By the id in ``.runner``; by name where there is none, or where that record is gone."""
        registration = slot.registration if isinstance(slot.registration, Registration) else None
        own = registry.runner(registration.agent_id) if registration else None
        return own or registry.runner_by_name(name)

    def _record(self, registry: Registry, slot: SlotReading, runner: Runner) -> GithubRecord:
        group = self._group(registry, runner)
        version = runner.version or slot.running_version
        ending = self._ending(registry, version) if version else None
        return GithubRecord(
            found=True,
            id=runner.id,
            name=runner.name,
            status=runner.status,
            busy=runner.busy,
            labels=tuple(sorted(runner.custom_labels())),
            group=group.name if group else None,
            group_is_default=group.default if group else None,
            version=runner.version,
            deprecations_known=ending is not None,
            registration_deprecates_at=ending.registration_deprecates_at if ending else None,
            runtime_deprecates_at=ending.runtime_deprecates_at if ending else None,
        )

    def _group(self, registry: Registry, runner: Runner) -> RunnerGroup | None:
        path = registry.scope.path
        if path not in self.groups:
            self.groups[path] = registry.groups()
        return next((group for group in self.groups[path] if group.id == runner.runner_group_id), None)

    def _ending(self, registry: Registry, version: str) -> Deprecation | None:
        key = (registry.scope.path, version)
        if key not in self.ends_of:
            try:
                self.ends_of[key] = registry.deprecations(version)
            except AccessError:  # needs more than reading runners does: not knowing is no fault of the host
                self.ends_of[key] = None
        return self.ends_of[key]
