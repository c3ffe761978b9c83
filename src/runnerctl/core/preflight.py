"""Can this host be what its spec says? Judged from what it reports, before anything is changed."""

from __future__ import annotations

import msgspec

from runnerctl.core.labels import ARCHITECTURES
from runnerctl.core.spec import SCHEMA, HostSpec, Problem

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


class HostFacts(msgspec.Struct, frozen=True):
    """What the target's half of ``preflight`` reports. ``host_json`` is None when there is none."""

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


def host_problems(spec: HostSpec, facts: HostFacts) -> list[Problem]:
    """Everything that stands in the way, each with its remedy."""
    problems = []
    versions = SUPPORTED.get(facts.os_id, ())
    if facts.os_version not in versions and facts.os_version.split(".")[0] not in versions:
        known = ", ".join(f"{name} {'/'.join(each)}" for name, each in SUPPORTED.items())
        message = f"{facts.os_id or 'an unknown distribution'} {facts.os_version} is not supported"
        problems.append(Problem("distribution", message, f"use {known}"))
    if facts.machine not in ARCHITECTURES:
        message = f"{facts.machine!r} is not supported"
        problems.append(Problem("architecture", message, "use an x86_64 or aarch64 host"))
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
    problems += _space_problems(spec, facts)
    return problems


def _space_problems(spec: HostSpec, facts: HostFacts) -> list[Problem]:
    needed = 0 if facts.cli else CLI_BYTES
    if spec.conda.manage and not facts.conda:
        needed += CONDA_BYTES
    if spec.github_runner.slots and not facts.releases:
        needed += RELEASE_BYTES
    if facts.free_bytes >= needed:
        return []
    message = f"has {facts.free_bytes >> 20} MiB free, {needed >> 20} MiB are needed"
    return [Problem("/opt", message, "free some space")]


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
