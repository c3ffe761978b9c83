"""Can this host be what its spec says? Judged from what it reports, before anything is changed."""

from __future__ import annotations

import msgspec

from runnerctl.core.driver_installed import present_driver
from runnerctl.core.driver_plan import driver_plan
from runnerctl.core.driver_structs import DriverFacts
from runnerctl.core.labels import ARCHITECTURES
from runnerctl.core.spec import SCHEMA, HostSpec, Problem
from runnerctl.core.toolkit_plan import ToolkitFacts, toolkit_plan

__all__ = ["SUPPORTED", "HostFacts", "host_problems", "schema_problem"]

# os-release ID -> the versions whose packages and units the roles know.
SUPPORTED = {
    "debian": ("12", "13"),
    "ubuntu": ("22.04", "24.04"),
    "rocky": ("9",),
    "rhel": ("9",),
    "almalinux": ("9",),
}
# Unpacked sizes, with the download beside them while it is unpacked.
RELEASE_BYTES = 1 << 30
CONDA_BYTES = 1 << 30
CLI_BYTES = 256 << 20
BUILDER_BYTES = 320 << 20  # what the store of environments needs besides
DRIVER_BYTES = 1536 << 20  # packages, compiler, headers, the modules built for two kernels


class HostFacts(msgspec.Struct, frozen=True):
    """What the target's half of ``preflight`` reports. ``host_json`` is None when there is none.

    ``driver`` is None where the driver is not looked at. ``free_bytes`` is where /opt is, ``root_free_bytes``
    where / is: often the same file system.
    """

    os_id: str
    os_version: str
    machine: str
    uid: int
    systemd: bool
    free_bytes: int
    host_json: str | None = None
    conda: bool = False
    cli: bool = False
    releases: tuple[str, ...] = ()
    registered: tuple[str, ...] = ()
    root_free_bytes: int | None = None
    driver: DriverFacts | None = None


def host_problems(spec: HostSpec, facts: HostFacts, *, toolkit: bool = True) -> list[Problem]:
    """Everything that stands in the way, each with its remedy. ``toolkit``: whether that role will run."""
    problems = _kind_problems(facts)
    known_kind = not problems
    if facts.uid != 0:
        problems.append(
            Problem("ansible_become", "the play is not root on the host", "connect as root or set become")
        )
    if not facts.systemd:
        problems.append(
            Problem("systemd", "does not run as the first process", "use a host that systemd manages")
        )
    if problem := schema_problem(facts.host_json):
        problems.append(problem)
    needed = _opt_bytes(spec, facts)
    problems += _space_problems("/opt", facts.free_bytes, needed)
    if known_kind:
        problems += _driver_problems(spec, facts, beside=needed)
    if toolkit and spec.container_toolkit.manage:
        problems += _toolkit_problems(spec, facts, known_kind=known_kind)
    return problems


def _kind_problems(facts: HostFacts) -> list[Problem]:
    """A distribution or an architecture that the roles do not know."""
    problems = []
    versions = SUPPORTED.get(facts.os_id, ())
    if facts.os_version not in versions and facts.os_version.split(".")[0] not in versions:
        known = ", ".join(f"{name} {'/'.join(each)}" for name, each in SUPPORTED.items())
        message = f"{facts.os_id or 'an unknown distribution'} {facts.os_version} is not supported"
        problems.append(Problem("distribution", message, f"use {known}"))
    if facts.machine not in ARCHITECTURES:
        message = f"{facts.machine!r} is not supported"
        problems.append(Problem("architecture", message, "use an x86_64 or aarch64 host"))
    return problems


def _opt_bytes(spec: HostSpec, facts: HostFacts) -> int:
    needed = 0 if facts.cli else CLI_BYTES + (BUILDER_BYTES if spec.conda.store else 0)
    if spec.conda.manage and not facts.conda:
        needed += CONDA_BYTES
    if spec.github_runner.slots and not facts.releases:
        needed += RELEASE_BYTES
    return needed


def _space_problems(where: str, free: int, needed: int) -> list[Problem]:
    if free >= needed:
        return []
    message = f"has {free >> 20} MiB free, {needed >> 20} MiB are needed"
    return [Problem(where, message, "free some space")]


def _driver_problems(spec: HostSpec, facts: HostFacts, *, beside: int) -> list[Problem]:
    """A driver that cannot be, or has no room; ``beside``: needed in /opt, maybe on the same file system."""
    if facts.driver is None:
        return []
    plan = driver_plan(spec.nvidia_driver, facts.driver)
    if isinstance(plan, list):
        return plan
    free = facts.root_free_bytes
    if plan.action != "install" or present_driver(facts.driver) or free is None:
        return []
    shared = free == facts.free_bytes >= beside
    return _space_problems("/", free, DRIVER_BYTES + (beside if shared else 0))


def _toolkit_problems(spec: HostSpec, facts: HostFacts, *, known_kind: bool) -> list[Problem]:
    """What the toolkit cannot have here; that nothing at all runs here is said only once."""
    host = ToolkitFacts(facts.os_id, facts.os_version, facts.machine)
    found = toolkit_plan(spec, host)[1]
    return [each for each in found if known_kind or each.variable != "container_toolkit_manage"]


def schema_problem(text: str | None) -> Problem | None:
    """What is wrong with a ``host.json`` that is there: truncated, or of a newer schema. None is fine."""
    if text is None:
        return None
    where = "/etc/runnerctl/host.json"
    try:
        schema = msgspec.json.decode(text.encode(), type=dict).get("schema")
    except msgspec.DecodeError:
        return Problem(where, "is truncated or no JSON", "remove it: the next converge writes it anew")
    name, _, version = str(schema).partition("/")
    known = SCHEMA.partition("/")
    if name != known[0] or not version.isdigit():
        return Problem(
            where, f"has schema {schema!r}, not {SCHEMA}", "remove it: the next converge writes it anew"
        )
    if int(version) > int(known[2]):
        remedy = "upgrade runnerctl on the controller"
        return Problem(where, f"has the newer schema {schema}, this release knows {SCHEMA}", remedy)
    return None
