"""Which driver a host gets: from what it is and what its spec wants, or why none can be had.

Pure. A driver is a source, a branch and a flavour; every combination that can be had is tried in the order of
preference, and the first that drives all GPUs of the host wins. A refusal names what would work instead.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from runnerctl.core.driver_installed import Present, present_driver
from runnerctl.core.driver_sources import (
    OLDEST_BRANCH,
    Choice,
    Fabric,
    branches,
    is_known,
    missing_fabric,
    parts,
    shown_source,
)
from runnerctl.core.driver_structs import DriverFacts, DriverPlan, Flavour, MigPlan, Source
from runnerctl.core.gpu_generations import fits, generation_of, has_mig, needs_subnet_manager
from runnerctl.core.sections import NvidiaDriver, Problem

__all__ = ["driver_plan", "gpus_to_drive"]

OPEN_DEFAULT = 560  # from this branch on NVIDIA's own installers take the open modules
LEAVE = "set nvidia_driver_manage: false"


def gpus_to_drive(spec: NvidiaDriver, facts: DriverFacts) -> tuple[str, ...]:
    """Device ids of the GPUs that the driver is for: those declared, else those on the host's own bus.

    A container shows the bus of its machine, whose driver is the machine's.
    """
    return tuple(each.lower() for each in spec.device_ids) or (() if facts.container else facts.pci)


def driver_plan(
    spec: NvidiaDriver, facts: DriverFacts, *, key_text: str | None = None
) -> DriverPlan | list[Problem]:
    """The plan of a host, or every problem with it. ``key_text``: the key, unless it has an address."""
    gpus = gpus_to_drive(spec, facts)
    if not spec.manage or not gpus:
        return _expectation(spec, facts)
    if not is_known(facts):
        message = (
            f"no driver's packages are known for {facts.os_id or 'this distribution'} {facts.os_version}"
        )
        remedy = f"use Debian 12 or 13, Ubuntu 22.04 or 24.04, or Enterprise Linux 9, or {LEAVE}"
        return [Problem("nvidia_driver_manage", message, remedy)]
    problems = _mig_problems(spec, gpus)
    choice = _choose(spec, facts, gpus)
    if isinstance(choice, Problem):
        return [choice, *problems]
    problems += _mixing_problems(choice, facts)
    made = _install(choice, spec, facts, gpus=gpus, key_text=key_text)
    problems += _secure_boot_problems(made, facts)
    return problems or made


def _expectation(spec: NvidiaDriver, facts: DriverFacts) -> DriverPlan:
    """Nothing to install: prove what is expected, if anything is."""
    seen = () if facts.container else facts.pci
    if not spec.manage:
        reason, expected = "others manage the driver", bool(spec.gpu_count or seen)
    else:
        reason, expected = "the host has no NVIDIA GPU", bool(spec.gpu_count)
        if facts.container and facts.pci:
            reason = "the host is a container: the driver is its machine's"
    if not expected:
        return DriverPlan("none", reason)
    return DriverPlan(
        "verify",
        reason,
        generations=_generations(seen),
        reboot=spec.reboot,
        require_loaded=spec.require_loaded,
        gpu_count=spec.gpu_count,
    )


def _install(
    choice: Choice, spec: NvidiaDriver, facts: DriverFacts, *, gpus: tuple[str, ...], key_text: str | None
) -> DriverPlan:
    fabric = _fabric(facts, gpus)
    made = parts(choice, spec, facts, fabric=fabric, key_text=key_text)
    fields = {field: getattr(made, field) for field in made.__struct_fields__}
    on_bus = None if spec.device_ids else len(facts.pci)
    generations = _generations(gpus)
    return DriverPlan(
        action="install",
        reason=f"{_shown(choice, facts)} drives {_join(generations)}",
        source=choice.source,
        branch=str(choice.branch),
        version=spec.version,
        flavour=choice.flavour,
        generations=generations,
        persistence=spec.persistence,
        fabric_manager=fabric != "none",
        mig=tuple(MigPlan(layout.profiles, layout.gpus) for layout in spec.mig),
        reboot=spec.reboot,
        require_loaded=spec.require_loaded,
        gpu_count=on_bus if spec.gpu_count is None else spec.gpu_count,
        **fields,
    )


# -- the choice --------------------------------------------------------------------------------------------


def _choose(spec: NvidiaDriver, facts: DriverFacts, gpus: tuple[str, ...]) -> Choice | Problem:
    """The best driver that the spec allows, or why there is none and what to set instead."""
    wanted = _wanted(spec, facts)
    for choice in wanted:
        if _obstacle(choice, facts, gpus) is None:
            return choice
    if not wanted:
        return _nothing_there(spec, facts, gpus)
    return _refusal(wanted, spec, facts, gpus)


def _wanted(spec: NvidiaDriver, facts: DriverFacts) -> list[Choice]:
    """Everything that the spec allows, the best first: what is installed already, then the distribution's."""
    branch = _asked_branch(spec)
    there = present_driver(facts)
    kept = [there.choice] if there and there.choice else []
    allowed = [choice for choice in (*kept, *_offered(facts, branch)) if _allows(spec, choice)]
    return list(dict.fromkeys(allowed))


def _allows(spec: NvidiaDriver, choice: Choice) -> bool:
    return (
        spec.source in ("auto", choice.source)
        and spec.flavour in ("auto", choice.flavour)
        and _asked_branch(spec) in (None, choice.branch)
    )


def _offered(facts: DriverFacts, branch: int | None) -> Iterator[Choice]:
    """What can be had on this host, of a branch when one is asked for, the best first."""
    sources: tuple[Source, ...] = ("distribution", "nvidia")
    for source in sources:
        known = branches(source, facts)
        # NVIDIA's repository holds more branches than the two that are chosen without being asked for.
        asked = branch is not None and (source == "nvidia" or branch in known)
        for each in (branch,) if asked and branch else () if branch else known:
            flavours: tuple[Flavour, ...] = ("open", "proprietary")
            for flavour in flavours if each >= OPEN_DEFAULT else reversed(flavours):
                yield Choice(source, each, flavour)


def _obstacle(choice: Choice, facts: DriverFacts, gpus: tuple[str, ...]) -> str | None:
    """Why a driver is no driver for these GPUs, or None when it is."""
    for gpu in gpus:
        if why := fits(gpu, choice.branch, choice.flavour):
            return f"GPU {gpu} ({generation_of(gpu).name}) cannot run {_shown(choice, facts)}: {why}"
    if choice.branch < OLDEST_BRANCH:
        return (
            f"branch {choice.branch} gets no fixes any more: {OLDEST_BRANCH} is the oldest that is installed"
        )
    if why := missing_fabric(choice.source, facts, _fabric(facts, gpus)):
        return f"this host cannot use {shown_source(choice.source, facts)}: {why}"
    return None


def _refusal(wanted: list[Choice], spec: NvidiaDriver, facts: DriverFacts, gpus: tuple[str, ...]) -> Problem:
    """Why no wish can be had, and the smallest change that helps."""
    working = [each for each in _all(spec, facts) if _obstacle(each, facts, gpus) is None]
    if not working:
        why = _impossible(gpus) or _obstacle(wanted[0], facts, gpus) or ""
        return Problem(_blamed(spec, "nvidia_driver_manage"), why, _without(gpus))
    best = min(working, key=lambda each: len(_changes(spec, each)))
    # The wish that is nearest to what works: its obstacle is the one that the change takes away.
    nearest = max(wanted, key=lambda each: (each.source == best.source, each.branch == best.branch))
    changes = _changes(spec, best)
    why = _obstacle(nearest, facts, gpus) or ""
    return Problem(_blamed(spec, changes[0].partition(":")[0]), why, "set " + " and ".join(changes))


def _all(spec: NvidiaDriver, facts: DriverFacts) -> list[Choice]:
    return [*_offered(facts, None), *_offered(facts, _asked_branch(spec))]


def _changes(spec: NvidiaDriver, choice: Choice) -> list[str]:
    """What of the spec would have to change for a driver."""
    changes = []
    if spec.source not in ("auto", choice.source):
        changes.append(f"nvidia_driver_source: {choice.source}")
    if _asked_branch(spec) not in (None, choice.branch):
        changes.append(f'nvidia_driver_branch: "{choice.branch}"')
        if spec.version:
            changes.append("nvidia_driver_version: null")
    if spec.flavour not in ("auto", choice.flavour):
        changes.append(f"nvidia_driver_flavour: {choice.flavour}")
    return changes


def _nothing_there(spec: NvidiaDriver, facts: DriverFacts, gpus: tuple[str, ...]) -> Problem:
    """The distribution has no driver, or not of that branch."""
    branch, known = _asked_branch(spec), branches("distribution", facts)
    place = shown_source("distribution", facts)
    if not known:
        return Problem("nvidia_driver_source", f"{place} has no driver", "set nvidia_driver_source: nvidia")
    unasked = msgspec.structs.replace(spec, branch=None, version=None)
    fitting = (each for each in _offered(facts, None) if _allows(unasked, each))
    working = next((each for each in fitting if _obstacle(each, facts, gpus) is None), None)
    own = (
        "nvidia_driver_version: null"
        if spec.version
        else f'nvidia_driver_branch: "{working and working.branch}"'
    )
    remedy = f"set {own} or nvidia_driver_source: nvidia" if working else "set nvidia_driver_source: nvidia"
    return Problem(_blamed(spec, "nvidia_driver_branch"), f"{place} has no branch {branch}", remedy)


def _asked_branch(spec: NvidiaDriver) -> int | None:
    text = str(spec.branch or "") or (spec.version or "").partition(".")[0]
    return int(text) if text else None


def _blamed(spec: NvidiaDriver, otherwise: str) -> str:
    """The variable that a refusal is about: the most particular one that the inventory gives."""
    if spec.version:
        return "nvidia_driver_version"
    if spec.branch:
        return "nvidia_driver_branch"
    if spec.flavour != "auto":
        return "nvidia_driver_flavour"
    return "nvidia_driver_source" if spec.source != "auto" else otherwise


def _impossible(gpus: tuple[str, ...]) -> str | None:
    """A GPU that no driver drives, or two that no driver drives together."""
    kinds = {generation_of(gpu).name: gpu for gpu in gpus}
    if len(kinds) < 2:
        return None
    shown = _join(tuple(f"{gpu} ({name})" for name, gpu in kinds.items()))
    return f"no driver drives GPUs {shown} together"


def _without(gpus: tuple[str, ...]) -> str:
    wish = "take one kind out" if len({generation_of(gpu).name for gpu in gpus}) > 1 else "take it out"
    return f"{wish}, name the GPUs to drive in nvidia_driver_device_ids, or {LEAVE}"


# -- what stands in the way ---------------------------------------------------------------------------------


def _mixing_problems(choice: Choice, facts: DriverFacts) -> list[Problem]:
    """Two drivers never share a host: what somebody else installed is adopted whole, or left alone."""
    there: Present | None = present_driver(facts)
    if there is None or there.choice == choice or there.ours:
        return []
    if facts.installed.run_file:
        remedy = "run `nvidia-uninstall` on the host first"
    elif there.packages:
        tool = "apt-get purge" if facts.os_id in ("debian", "ubuntu") else "dnf remove"
        remedy = f"uninstall it first (`{tool} {' '.join(there.packages)}`)"
    else:
        remedy = "uninstall it first"
    message = f"the host has {there.what} and would get {_shown(choice, facts)}"
    return [Problem("nvidia_driver_manage", message, f"{LEAVE} to keep it, or {remedy}")]


def _secure_boot_problems(plan: DriverPlan, facts: DriverFacts) -> list[Problem]:
    """The kernel refuses a module whose key the firmware does not know: said before anything is installed."""
    loads = facts.installed.loaded and facts.installed.loaded.startswith(f"{plan.branch}.")
    if not plan.dkms or not facts.secure_boot or facts.mok_enrolled or facts.container or loads:
        return []
    ubuntu = facts.os_id == "ubuntu"
    key = "/var/lib/shim-signed/mok/MOK.der" if ubuntu else "/var/lib/dkms/mok.pub"
    make = "update-secureboot-policy --new-key" if ubuntu else _MAKE_KEY
    steps = f"`{make}` if {key} is missing, `mokutil --import {key}`, reboot, confirm at the console"
    signed = "set nvidia_driver_source: distribution (signed modules), or " if ubuntu else ""
    message = "Secure Boot is on and does not know the key that DKMS signs modules with"
    return [Problem("nvidia_driver_manage", message, f"{signed}enrol it: {steps}; or switch Secure Boot off")]


_MAKE_KEY = (
    "mkdir -p /var/lib/dkms && openssl req -new -x509 -newkey rsa:2048 -nodes -days 36500"
    " -subj '/CN=DKMS module signing key/' -outform DER"
    " -keyout /var/lib/dkms/mok.key -out /var/lib/dkms/mok.pub"
)


def _mig_problems(spec: NvidiaDriver, gpus: tuple[str, ...]) -> list[Problem]:
    if not spec.mig or any(has_mig(gpu) for gpu in gpus):
        return []
    shown = _join(tuple(dict.fromkeys(f"{gpu} ({generation_of(gpu).name})" for gpu in gpus)))
    return [Problem("nvidia_driver_mig", f"GPU {shown} has no MIG", "leave it out for this host")]


# -- words ---------------------------------------------------------------------------------------------------


def _fabric(facts: DriverFacts, gpus: tuple[str, ...]) -> Fabric:
    if needs_subnet_manager(gpus):
        return "subnet"
    return "switches" if facts.nvswitches and not facts.container else "none"


def _generations(gpus: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(generation_of(gpu).name for gpu in gpus))


def _shown(choice: Choice, facts: DriverFacts) -> str:
    return f"driver {choice.branch} ({choice.flavour} modules) of {shown_source(choice.source, facts)}"


def _join(words: tuple[str, ...]) -> str:
    return " and ".join(words) if len(words) < 3 else ", ".join(words[:-1]) + " and " + words[-1]
