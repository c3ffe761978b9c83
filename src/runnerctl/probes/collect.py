"""Take a snapshot: everything that may hang at the same time in bounded children, small files meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from runnerctl import __version__
from runnerctl.core.device_nodes import UnitRules
from runnerctl.core.environment import slot_environment
from runnerctl.core.guard_readings import is_guarded
from runnerctl.core.scope import api_url_for
from runnerctl.core.snapshot import (
    Api,
    Clock,
    Host,
    LogLine,
    NvidiaModule,
    PciGpu,
    SlotReading,
    SlotState,
    Snapshot,
    SpecFile,
    Unavailable,
    Unit,
)
from runnerctl.core.spec import HostSpec, Slot
from runnerctl.core.store_readings import has_store
from runnerctl.probes import (
    baseline,
    device_nodes,
    docker_due,
    env_store,
    guard,
    history,
    machine,
    memory,
    network,
    nvml,
    slot_files,
    slot_rules,
    slots,
    stuck,
    system,
    units,
)
from runnerctl.probes.bounded import Outcome, Task, run_all
from runnerctl.probes.files import read_bytes, under
from runnerctl.probes.stuck import Guard

__all__ = ["DEFAULT_API", "api_urls_of", "collect"]

DEFAULT_API = "https://api.github.com"
_HERE = Path("/")
# Of whoever asks: a runner has its own.
_NOT_THE_RUNNERS = frozenset({"http_proxy", "https_proxy", "no_proxy", "ssl_cert_file", "requests_ca_bundle"})


@dataclass(frozen=True)
class _Ground:
    """What is known before the children start."""

    rootfs: Path
    environ: Mapping[str, str]
    deadline: float | None
    host: Host
    spec: SpecFile | Unavailable
    now: float
    deep: bool
    names: tuple[str, ...]
    apis: tuple[str, ...]
    pci: tuple[PciGpu, ...] | Unavailable
    module: NvidiaModule

    @property
    def wanted(self) -> HostSpec | None:
        return self.spec.spec if isinstance(self.spec, SpecFile) else None

    @property
    def nvidia(self) -> bool:
        """Whether anything here is NVIDIA's, or should be: else kernel log and driver need no look."""
        spec = self.wanted
        if spec and (spec.nvidia_driver.gpu_count or any(slot.gpus for slot in spec.github_runner.slots)):
            return True
        return bool(self.pci or self.module.version) or machine.has_nvml(self.rootfs)


def collect(
    rootfs: Path = _HERE,
    *,
    deadline_seconds: float | None = None,
    api_urls: Sequence[str] | None = None,
    deep: bool = False,
    environ: Mapping[str, str] | None = None,
    clock: Callable[[], float] = time.time,
) -> Snapshot:
    """The host below ``rootfs``, taken now. Never raises because of what it finds.

    ``deadline_seconds`` bounds all of it: the snapshot is there half a second later at most. Without one each
    probe gets 5 s, and NVML 4 s more for each GPU on the PCI bus when nothing keeps them initialised.
    ``api_urls``: the APIs to ask instead of those of the spec's slots; empty for none. With another root than
    ``/`` systemd is not asked: it belongs to the host that runs this. ``deep``: GPUs compute and have their
    memory tested afterwards, within deadlines of their own (see `runnerctl.probes.deep`).
    """
    started, now = time.monotonic(), clock()
    ground = _ground(
        rootfs, deadline_seconds, api_urls, os.environ if environ is None else environ, now, deep=deep
    )
    outcomes = run_all(_tasks(ground), guard=Guard(under(rootfs, stuck.DIRECTORY)))
    apis = tuple(network.parse_api(url, outcomes[f"api {url}"]) for url in ground.apis)
    snapshot = Snapshot(
        tool_version=__version__,
        time=datetime.fromtimestamp(now, timezone.utc).replace(microsecond=0),
        host=ground.host,
        spec=ground.spec,
        nvml=nvml.parse(outcomes["nvml"]),
        nvidia_module=ground.module,
        pci_gpus=ground.pci,
        filesystems=system.parse_filesystems(outcomes["filesystems"]),
        time_sync=system.parse_time_sync(outcomes["time_sync"]),
        conda=machine.parse_conda(outcomes["conda"]),
        slots=_slots(ground, outcomes),
        api=apis or None,
        clock=_clock(apis),
        memory=memory.read_memory(rootfs) if under(rootfs, "/proc/meminfo").exists() else None,
        baseline=baseline.read_baseline(rootfs),
        gpu_history=history.read_gpu_history(rootfs),
        docker_due=docker_due.read_docker_due(rootfs),
        guard=guard.parse_guard(outcomes["guard"]) if "guard" in outcomes else None,
        env_store=env_store.parse_store(outcomes["env store"]) if "env store" in outcomes else None,
        device_table=device_nodes.read_table(rootfs),
        duration_seconds=round(time.monotonic() - started, 3),
        **_docker_readings(outcomes),
        **_nvidia_readings(outcomes),
    )
    return _deepened(snapshot, Guard(under(rootfs, stuck.DIRECTORY))) if deep else snapshot


def _deepened(snapshot: Snapshot, guard: Guard) -> Snapshot:
    from runnerctl.probes.deep import probe

    gpus = snapshot.gpus
    if isinstance(gpus, Unavailable):
        return snapshot
    return msgspec.structs.replace(snapshot, deep=probe(gpus, guard=guard))


def api_urls_of(spec: HostSpec | None, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The APIs that this host's runners talk to, each once; GitHub's own where nobody said."""
    if given := environ.get("RUNNERCTL_API_URL"):
        return (given,)
    if spec is None:
        return (DEFAULT_API,)
    if spec.github_runner.api_url:
        return (spec.github_runner.api_url,)
    urls = (spec.slot_url(slot) for slot in spec.github_runner.slots)
    return tuple(dict.fromkeys(_api_of(url) for url in urls if url))


def _api_of(url: str) -> str:
    """A URL that is none is asked as it is: its failure then shows it."""
    try:
        return api_url_for(url)
    except ValueError:
        return url


def _ground(
    rootfs: Path,
    deadline: float | None,
    api_urls: Sequence[str] | None,
    environ: Mapping[str, str],
    now: float,
    *,
    deep: bool,
) -> _Ground:
    spec = machine.read_spec(rootfs)
    wanted = spec.spec if isinstance(spec, SpecFile) else None
    return _Ground(
        rootfs=rootfs,
        environ=environ,
        deadline=deadline,
        now=now,
        deep=deep,
        host=machine.read_host(rootfs),
        spec=spec,
        names=slots.slot_names(rootfs, wanted),
        apis=api_urls_of(wanted, environ) if api_urls is None else tuple(dict.fromkeys(api_urls)),
        pci=machine.read_pci_gpus(rootfs),
        module=machine.read_nvidia_module(rootfs),
    )


def _tasks(ground: _Ground) -> dict[str, Task]:
    """The slowest first: they all run at the same time."""
    deadline, spec = ground.deadline or nvml.BASE_SECONDS, ground.wanted
    gpus = 0 if isinstance(ground.pci, Unavailable) else len(ground.pci)
    tasks = {"nvml": nvml.task(ground.deadline, rootfs=ground.rootfs, gpus=gpus, deep=ground.deep)}
    for url in ground.apis:
        environ = _runner_environ(ground, url)
        call = partial(network.read_api, url=url, environ=environ, timeout_seconds=deadline)
        tasks[f"api {url}"] = Task(call, deadline)
    if spec and spec.container_toolkit.docker:
        tasks |= _docker_tasks(ground, deadline)
    if ground.nvidia:
        tasks |= _nvidia_tasks(ground, deadline)
    if ground.names and _asks_systemd(ground):
        tools = units.Tools(ground.names, ground.environ, deadline, ground.host.root, _ephemeral(ground))
        tasks["units"] = Task(partial(units.read_units, tools=tools), deadline)
        tasks["journal"] = Task(partial(units.read_journal, tools=tools), deadline)
        tasks["out of memory"] = Task(partial(units.read_out_of_memory, tools=tools), deadline)
    if is_guarded(spec) and _asks_systemd(ground):
        call = partial(guard.read_guard, environ=ground.environ, timeout_seconds=deadline)
        tasks["guard"] = Task(call, deadline)
    if has_store(spec) and _asks_systemd(ground):
        call = partial(env_store.read_store, environ=ground.environ, timeout_seconds=deadline)
        tasks["env store"] = Task(call, deadline)
    if ground.names:
        files = partial(slot_files.read_slot_files, rootfs=ground.rootfs, slots=ground.names)
        tasks["slot files"] = Task(files, deadline, guard="slot-files")
    filesystems = partial(system.read_filesystems, rootfs=ground.rootfs, slots=ground.names)
    tasks["filesystems"] = Task(filesystems, deadline, guard="filesystems")
    # /opt, as any place for programs, may be a network mount whose server is away.
    tasks["conda"] = Task(partial(machine.read_conda, rootfs=ground.rootfs), deadline, guard="conda")
    tasks["time_sync"] = Task(partial(system.read_time_sync, rootfs=ground.rootfs), deadline)
    return tasks


def _runner_environ(ground: _Ground, url: str) -> dict[str, str]:
    """What the runners that talk to this API have in their environment: their request is what counts.

    The ``.env`` of the first such slot, else what the spec gives them. The shell's proxies are not theirs.
    """
    spec = ground.wanted
    if spec is None:
        return dict(ground.environ)
    own = {name: value for name, value in ground.environ.items() if name.lower() not in _NOT_THE_RUNNERS}
    talking = [slot.name for slot in spec.github_runner.slots if url in _apis_of_slot(spec, slot)]
    files = (slots.slot_environ(ground.rootfs, name) for name in talking)
    found = next((environ for environ in files if environ is not None), slot_environment(spec))
    return {**own, **found}


def _apis_of_slot(spec: HostSpec, slot: Slot) -> tuple[str, ...]:
    target = spec.slot_url(slot)
    return (spec.github_runner.api_url or (_api_of(target) if target else DEFAULT_API),)


def _docker_tasks(ground: _Ground, deadline: float) -> dict[str, Task]:
    from runnerctl.probes import containers, engine  # this and the next: not every host pays for their import

    engine_call = partial(engine.read_docker, environ=ground.environ, timeout_seconds=deadline)
    containers_call = partial(
        containers.read_containers, rootfs=ground.rootfs, environ=ground.environ, timeout_seconds=deadline
    )
    return {
        "docker": Task(engine_call, deadline, guard="docker"),
        "containers": Task(containers_call, deadline, guard="containers"),
    }


def _docker_readings(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    if "docker" not in outcomes:
        return {}
    from runnerctl.probes import containers, engine

    return {
        "docker": engine.parse_docker(outcomes["docker"]),
        "container_gpus": containers.parse_containers(outcomes["containers"]),
    }


def _nvidia_tasks(ground: _Ground, deadline: float) -> dict[str, Task]:
    from runnerctl.probes import driver_install, kernel_log, residue

    rootfs, environ = ground.rootfs, ground.environ
    log = partial(
        kernel_log.read_kernel_log, rootfs=rootfs, environ=environ, now=ground.now, timeout_seconds=deadline
    )
    return {
        "kernel log": Task(log, deadline, guard="kernel-log"),
        "driver": Task(partial(driver_install.read_driver_install, rootfs=rootfs, environ=environ), deadline),
        "residue": Task(partial(residue.read_residue, rootfs=rootfs), deadline, guard="residue"),
    }


def _nvidia_readings(outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    if "kernel log" not in outcomes:
        return {}
    from runnerctl.probes import driver_install, kernel_log, residue

    return {
        "driver_install": driver_install.parse_driver_install(outcomes["driver"]),
        "kernel_log": kernel_log.parse_kernel_log(outcomes["kernel log"]),
        "residue": residue.parse_residue(outcomes["residue"]),
    }


def _ephemeral(ground: _Ground) -> frozenset[str]:
    states = {name: slots.slot_state(ground.rootfs, name) for name in ground.names}
    return frozenset(
        name for name, state in states.items() if isinstance(state, SlotState) and state.ephemeral
    )


def _asks_systemd(ground: _Ground) -> bool:
    return ground.rootfs == _HERE and ground.host.systemd


def _slots(ground: _Ground, outcomes: Mapping[str, Outcome]) -> tuple[SlotReading, ...]:
    if not ground.names:
        return ()
    if not _asks_systemd(ground):
        why = (
            "systemd does not run here"
            if ground.rootfs == _HERE
            else "systemd is asked on the host itself only"
        )
        gone = Unavailable(why)
        return tuple(_slot(ground, outcomes, name, unit=gone, log=gone) for name in ground.names)
    shown = units.outcome_text(outcomes["units"])
    texts = units.outcome_text(outcomes["journal"])
    found = {} if isinstance(shown, Unavailable) else units.parse_units(shown)
    rules = {} if isinstance(shown, Unavailable) else slot_rules.parse_slot_rules(shown, ground.rootfs)
    missing = shown if isinstance(shown, Unavailable) else Unavailable("systemctl did not show it")
    pids = {slot: unit.last_pid for slot, unit in found.items()}
    told = () if isinstance(texts, Unavailable) else texts
    logs = units.parse_journal(told, slots.invocations(found), pids=pids)
    return tuple(
        _slot(
            ground,
            outcomes,
            name,
            unit=found.get(name, missing),
            log=texts if isinstance(texts, Unavailable) else logs.get(name, ()),
            rules=rules.get(found[name].name) if name in found else None,
        )
        for name in ground.names
    )


def _killed_at(outcomes: Mapping[str, Outcome], name: str) -> datetime | None:
    """When memory last ran out for a slot; not knowing is no finding of its own."""
    outcome = outcomes.get("out of memory")
    texts = outcome.value if outcome and not outcome.failure else ()
    return units.parse_out_of_memory(texts).get(name)


def _slot(
    ground: _Ground,
    outcomes: Mapping[str, Outcome],
    name: str,
    *,
    unit: Unit | Unavailable,
    log: tuple[LogLine, ...] | Unavailable,
    rules: UnitRules | None = None,
) -> SlotReading:
    rootfs = ground.rootfs
    processes = slots.read_processes(rootfs, unit)
    state = slots.slot_state(rootfs, name)
    return SlotReading(
        name=name,
        unit=unit,
        processes=processes,
        log=log,
        connections=slots.count_connections(rootfs, unit, processes),
        registration=slots.parse_registration(read_bytes(under(rootfs, f"{slots.ROOTS}/{name}/.runner"))),
        state=state,
        hold=slots.note(under(rootfs, f"{slots.STATE}/hold/{name}")),
        pending_restart=slots.note(under(rootfs, f"{slots.STATE}/pending/{name}")),
        bound_version=slots.bound_version(rootfs, name, state),
        running_version=units.running_version(log),
        files=slot_files.parse_slot_files(outcomes.get("slot files"), name),
        oom_kills=slots.count_oom_kills(rootfs, unit),
        oom_at=_killed_at(outcomes, name),
        rules=rules,
        minting=slots.minting(rootfs, name),
    )


def _clock(apis: tuple[Api, ...]) -> Clock | Unavailable | None:
    return network.clock_of(apis) if apis else None
