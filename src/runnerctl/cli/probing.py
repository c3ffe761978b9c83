"""What ``runnerctl health --act`` has GPUs prove, and what it notes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from runnerctl.core.deep_readings import DeepProbe, Extent
from runnerctl.core.driver_readings import GpuEvent
from runnerctl.core.ladder import GpuState
from runnerctl.core.probe_results import ProbeResult, probe_results
from runnerctl.core.snapshot import Gpu, Snapshot
from runnerctl.core.xid import Moment

__all__ = ["PROBE_SECONDS", "Probe", "Prober"]

PROBE_SECONDS = 100.0  # the small workload, and a memory test: see runnerctl.probes.deep
Probe = Callable[[Sequence[Gpu], Extent], DeepProbe]


@dataclass(frozen=True)
class Prober:
    """One round on one host. ``busy``: the UUIDs of GPUs whose slots run a job, asked when it matters."""

    snapshot: Snapshot
    states: Mapping[str, GpuState]
    moment: Moment
    busy: Callable[[], Collection[str]]
    probe: Probe
    say: Callable[[str], None]

    def events(self) -> list[GpuEvent]:
        """What is to be noted, of a probe that was made already or of those that are due."""
        deep = self.snapshot.deep
        if isinstance(deep, DeepProbe):
            owed = {uuid for uuid, state in self.states.items() if state.probe == "thorough"}
            return self._noted(probe_results(self.snapshot, deep, thorough=owed))
        return [*self._probed(self._due("small"), "small"), *self._probed(self._due("thorough"), "memory")]

    def _probed(self, due: Sequence[Gpu], extent: Extent) -> list[GpuEvent]:
        if not due:
            return []
        uuids = {gpu.uuid for gpu in due if gpu.uuid}
        found = self.probe(due, extent)
        results = probe_results(self.snapshot, found, thorough=uuids if extent == "memory" else ())
        without = {uuid: ProbeResult(None, "it has no device to compute on") for uuid in uuids}
        return self._noted(self._fair({**without, **results}))

    def _fair(self, results: Mapping[str, ProbeResult]) -> dict[str, ProbeResult]:
        """The results, without failures that a job may have made: one that began meanwhile competes."""
        failed = any(result.kind == "probe_failed" for result in results.values())
        busy = self.busy() if failed else ()
        began = ProbeResult(None, "a job began meanwhile")
        return {
            uuid: began if result.kind == "probe_failed" and uuid in busy else result
            for uuid, result in results.items()
        }

    def _due(self, wanted: str) -> list[Gpu]:
        """The GPUs that should be probed so and that nobody uses."""
        due = [gpu for gpu in self.snapshot.listed_gpus if self._state(gpu, wanted)]
        busy = self.busy() if due else ()
        free = []
        for gpu in due:
            state = self.states[gpu.uuid or ""]
            if state.users == "" and gpu.uuid not in busy:
                free.append(gpu)
            else:
                users = state.users or ("a job" if gpu.uuid in busy else "somebody who is not known")
                self.say(f"{state.name} is to be probed, and is in use by {users}")
        return free

    def _state(self, gpu: Gpu, wanted: str) -> bool:
        state = self.states.get(gpu.uuid or "")
        return state is not None and state.probe == wanted

    def _noted(self, results: Mapping[str, ProbeResult]) -> list[GpuEvent]:
        noted = []
        now, boot = self.moment
        for uuid, (kind, reason) in results.items():
            state = self.states.get(uuid)
            name = state.name if state else "GPU"
            if kind is None:
                self.say(f"{name} was not probed: {reason}")
                continue
            self.say(f"{name} {'passed' if kind == 'probe_passed' else 'failed'} its probe: {reason}")
            noted.append(GpuEvent(now, boot, kind, uuid, state.pci if state else None, reason))
        return noted
