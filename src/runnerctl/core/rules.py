"""The rules of a spec that types cannot say; each broken one is a problem with a remedy."""

from __future__ import annotations

import re
from collections.abc import Mapping

from runnerctl.core.bounds import bound_problems
from runnerctl.core.conda_rules import conda_problems
from runnerctl.core.driver_rules import driver_rules
from runnerctl.core.labels import DRAINED, check_label, normalise
from runnerctl.core.layout_rules import layout_problems, slot_layout_problems
from runnerctl.core.mode_rules import mode_problems
from runnerctl.core.network_rules import network_problems
from runnerctl.core.scope import check_transport, split_url
from runnerctl.core.sections import SLOT_NAME, HostSpec, Problem, Runnerctl, Slot
from runnerctl.core.templates import check_template, has_password, has_user
from runnerctl.core.toolkit_rules import toolkit_problems
from runnerctl.errors import ConfigError

__all__ = ["VERSION", "broken_rules", "duplicate_runner_names"]

GPU_ID = re.compile(r"(GPU|MIG)-[0-9A-Za-z][0-9A-Za-z/-]{3,}")
SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"\d+\.\d+\.\d+")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_NAME = re.compile(
    r"(^|_)(TOKEN|PASSWORD|PASSWD|SECRET|PRIVATE_KEY|API_KEY|CREDENTIALS?)(_|$)", re.IGNORECASE
)
MAX_RUNNER_NAME = 64
RUNNER_NAME = re.compile(r"[^\s-](?:[^\x00-\x1f\x7f]{0,62}\S)?")  # config.sh takes a hyphen for an option


def broken_rules(spec: HostSpec) -> list[Problem]:
    """Every rule that ``spec`` breaks; none when it can be."""
    runner = spec.github_runner
    problems = [*_label_problems("github_runner_labels", runner.labels), *_pin_problems(spec)]
    problems += _api_problems(runner.api_url) + conda_problems(spec)
    problems += _env_problems(runner.env) + _limit_problems(spec) + driver_rules(spec.nvidia_driver)
    problems += toolkit_problems(spec.container_toolkit) + network_problems(spec) + layout_problems(spec)
    problems += bound_problems(spec) + mode_problems(spec) + _container_problems(spec)
    names = [slot.name for slot in runner.slots]
    claimed: dict[str, str] = {}
    for index, slot in enumerate(runner.slots):
        where = f"github_runner_slots[{index}]"
        problems += _slot_problems(spec, slot, where)
        if names.index(slot.name) != index:
            problems.append(Problem(where, f"name {slot.name!r} is given twice", "name each slot once"))
        for gpu in slot.gpus:
            if gpu in claimed:
                message = f"GPU {gpu} is already claimed by slot {claimed[gpu]!r}"
                problems.append(Problem(where, message, "give each GPU to one slot"))
            claimed[gpu] = slot.name
    return problems


def _container_problems(spec: HostSpec) -> list[Problem]:
    """Between two jobs of a persistent slot it is the guard that ends containers and forgets images."""
    runner = spec.github_runner
    persistent = any(slot.mode == "persistent" for slot in runner.slots)
    if runner.containers != "rootless" or not persistent or spec.runnerctl.guard:
        return []
    message = "is 'rootless' with runnerctl_guard: false: a job would find what the one before left"
    return [Problem("github_runner_containers", message, "leave the guard on, or use ephemeral slots")]


def _label_problems(where: str, labels: tuple[str, ...]) -> list[Problem]:
    found = ((label, check_label(label)) for label in labels)
    problems = [
        Problem(where, f"label {label[:40]!r} {wrong}", "use up to 256 characters, no comma, no hyphen first")
        for label, wrong in found
        if wrong
    ]
    if DRAINED in normalise(labels):
        message = f"label {DRAINED!r} is the mark of runners that were cut from routing"
        problems.append(Problem(where, message, "use another label"))
    return problems


def _slot_problems(spec: HostSpec, slot: Slot, where: str) -> list[Problem]:
    problems = _label_problems(f"{where}.labels", slot.labels)
    if not SLOT_NAME.fullmatch(slot.name):
        remedy = "use up to 28 lower-case letters, digits and inner hyphens"
        problems.append(Problem(where, f"name {slot.name!r} is no slot name", remedy))
    if len(spec.runner_name(slot)) > MAX_RUNNER_NAME:
        message = f"runner name {spec.runner_name(slot)!r} has more than {MAX_RUNNER_NAME} characters"
        problems.append(Problem(where, message, "shorten the slot's or the host's name"))
    if slot.runner_name is not None and not RUNNER_NAME.fullmatch(slot.runner_name):
        remedy = "give the adopted runner's name as `runnerctl adopt` shows it, or leave it out"
        problems.append(Problem(f"{where}.runner_name", f"is {slot.runner_name!r}", remedy))
    problems += [
        Problem(where, f"{gpu!r} is no GPU UUID", "give it as `nvidia-smi -L` prints it: GPU-... or MIG-...")
        for gpu in slot.gpus
        if not GPU_ID.fullmatch(gpu)
    ]
    problems += slot_layout_problems(spec, slot, where)
    return problems + _scope_problems(spec, slot, where)


def _scope_problems(spec: HostSpec, slot: Slot, where: str) -> list[Problem]:
    variable = f"{where}.url" if slot.url else "github_runner_url"
    if not spec.slot_url(slot):
        remedy = "give github_runner_url, or a url in the slot"
        return [Problem(where, "has no URL to register at", remedy)]
    try:
        scope = spec.slot_scope(slot)
    except ConfigError as error:
        return [Problem(variable, error.what, error.remedy)]
    if (spec.slot_group(slot) or "").startswith("-"):
        message = f"group {spec.slot_group(slot)!r} begins with a hyphen"
        return [Problem(where, message, "rename the group: the runner would take it for an option")]
    if spec.slot_group(slot) and scope.kind == "repository":
        message = f"group {spec.slot_group(slot)!r} is given for a repository, which has no runner groups"
        return [Problem(where, message, "leave the group out, or register at the organisation")]
    if spec.github_runner.no_default_labels and not spec.slot_labels(slot):
        message = "no_default_labels leaves the slot without any label"
        return [Problem(where, message, "give it labels")]
    return []


def _pin_problems(spec: HostSpec) -> list[Problem]:
    runner, problems = spec.github_runner, []
    for variable, value in (("github_runner_sha256", runner.sha256), ("conda_sha256", spec.conda.sha256)):
        if value is not None and not SHA256.fullmatch(value):
            problems.append(Problem(variable, f"is {value[:70]!r}", "give 64 lower-case hexadecimal digits"))
    if runner.version is not None and not VERSION.fullmatch(runner.version):
        problems.append(Problem("github_runner_version", f"is {runner.version!r}", "give it as 2.336.0"))
    if runner.sha256 and not runner.version:
        message = "is pinned without github_runner_version"
        problems.append(Problem("github_runner_sha256", message, "pin both, or neither"))
    return problems + _address_problems(spec)


def _address_problems(spec: HostSpec) -> list[Problem]:
    given = {
        "github_runner_download_url": (spec.github_runner.download_url, ("version", "architecture")),
        "conda_url": (spec.conda.url, ("version", "machine")),
    }
    problems = []
    if has_user(spec.runnerctl.wheelhouse or ""):
        remedy = "host.json is readable by all: use a directory on the controller"
        problems.append(Problem("runnerctl_wheelhouse", "holds a user or a password", remedy))
    for variable, (text, names) in given.items():
        if text is not None and (wrong := check_template(text, *names)):
            remedy = "use " + " and ".join(f"{{{name}}}" for name in names) + ", or the whole address"
            problems.append(Problem(variable, wrong, remedy))
    return problems


def _api_problems(url: str | None) -> list[Problem]:
    """The API's address: the credential goes there."""
    if url is None:
        return []
    parts = split_url(url)
    if parts is None or parts.scheme not in ("https", "http") or not parts.hostname or has_user(url):
        shown = "an address with a user" if has_user(url) else repr(url)
        return [Problem("github_runner_api_url", f"is {shown}", "give it as https://HOST/api/v3")]
    try:
        check_transport(url)
    except ConfigError as error:
        return [Problem("github_runner_api_url", error.what, error.remedy)]
    return []


def _env_problems(env: Mapping[str, str]) -> list[Problem]:
    """`.env` has no quoting: one line each; and every job can read it, so no secret belongs there."""
    problems = []
    for name, value in env.items():
        where = f"github_runner_env.{name}"
        if not ENV_NAME.fullmatch(name):
            problems.append(Problem(where, "is no variable name", "use letters, digits and underscores"))
        if any(ord(character) < 32 and character != "\t" for character in value):
            problems.append(Problem(where, "has a line break or a control character", "give one plain line"))
        if name.startswith("ACTIONS_RUNNER_HOOK_"):
            remedy = (
                "leave it out: the hooks of a slot are runnerctl's, which turns jobs away from a held slot"
            )
            problems.append(Problem(where, "would replace the hook of the runner", remedy))
        if SECRET_NAME.search(name) or has_password(value):
            remedy = "every job can read it: use a secret of the repository or the organisation"
            problems.append(Problem(where, "looks like a secret", remedy))
    return problems


def _limit_problems(spec: HostSpec) -> list[Problem]:
    limits, problems = spec.runnerctl, []
    for name in ("health_disk_free_warning_percent", "health_disk_free_critical_percent"):
        value = getattr(limits, name)
        if not 0 <= value <= 100:
            problems.append(Problem(f"runnerctl_{name}", f"is {value}", "give 0 to 100"))
    for name in ("online_timeout_seconds", "drain_timeout_seconds"):
        value = getattr(spec.github_runner, name)
        if value < 1:
            problems.append(Problem(f"github_runner_{name}", f"is {value}", "give at least 1"))
    if spec.github_runner.drain_quiet_seconds < 0:
        value = spec.github_runner.drain_quiet_seconds
        problems.append(Problem("github_runner_drain_quiet_seconds", f"is {value}", "give 0 or more"))
    if not 1 <= limits.fleet_max_held_percent <= 100:
        value = limits.fleet_max_held_percent
        problems.append(Problem("runnerctl_fleet_max_held_percent", f"is {value}", "give 1 to 100"))
    return problems + _ladder_problems(spec.runnerctl)


def _ladder_problems(limits: Runnerctl) -> list[Problem]:
    """Limits of what the host does by itself, and the path that goes into its unit."""
    least = {"interval_seconds": 10, "resets_per_day": 1, "reboots_per_day": 1, "clean_probes": 1}
    problems = [
        Problem(f"runnerctl_health_{name}", f"is {value}", f"give at least {minimum}")
        for name, minimum in least.items()
        if (value := getattr(limits, f"health_{name}")) < minimum
    ]
    path = limits.health_prometheus
    if path is not None and not (path.startswith("/") and path.isprintable()):
        remedy = "give an absolute path, like /var/lib/prometheus/node-exporter/runnerctl.prom"
        problems.append(Problem("runnerctl_health_prometheus", f"is {path[:60]!r}", remedy))
    return problems


def duplicate_runner_names(specs: Mapping[str, HostSpec]) -> list[str]:
    """Runner names that two hosts of one inventory would claim in one scope, lower-cased."""
    seen: set[tuple[str, str]] = set()
    twice = set()
    for spec in specs.values():
        for slot in spec.github_runner.slots:
            key = (spec.slot_url(slot).lower(), spec.runner_name(slot).lower())
            if key in seen:
                twice.add(key[1])
            seen.add(key)
    return sorted(normalise(twice))
