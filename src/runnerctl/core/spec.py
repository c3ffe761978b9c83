"""What a host should be: the *spec*, read from inventory and kept as ``/etc/runnerctl/host.json``.

Field ``version`` of section ``conda`` **is** the variable ``conda_version``: that one law maps inventory to
the spec, lets a test compare spec, argument_specs and defaults, and rejects misspelt variables.
Secrets are never part of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from runnerctl.core.labels import check_label, custom_labels, normalise
from runnerctl.core.scope import Scope, parse_scope
from runnerctl.core.templates import check_template
from runnerctl.errors import ConfigError

__all__ = [
    "SCHEMA",
    "SECTIONS",
    "Conda",
    "ContainerToolkit",
    "GithubRunner",
    "HostSpec",
    "NvidiaDriver",
    "Problem",
    "Runnerctl",
    "Slot",
    "host_spec",
    "variables",
]

SCHEMA = "runnerctl.host/1"
SLOT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,26}[a-z0-9])?")  # `gha-<slot>` is a user name: 32 at most
GPU_ID = re.compile(r"(GPU|MIG)-[0-9A-Za-z][0-9A-Za-z/-]{3,}")
SHA256 = re.compile(r"[0-9a-f]{64}")
VERSION = re.compile(r"\d+\.\d+\.\d+")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
SECRET_NAME = re.compile(r"(TOKEN|PASSWORD|PASSWD|SECRET|PRIVATE_KEY|API_KEY|CREDENTIAL)", re.IGNORECASE)
MAX_RUNNER_NAME = 64


class NvidiaDriver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The NVIDIA driver of a host."""

    manage: bool = False
    gpu_count: int | None = None


class ContainerToolkit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Containers with GPUs."""

    manage: bool = False
    docker: bool = False


class Conda(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Miniforge, for the jobs' own ``conda`` calls."""

    manage: bool = True
    version: str = "26.3.2-3"
    url: str = (
        "https://github.com/conda-forge/miniforge/releases/download/"
        "{version}/Miniforge3-{version}-Linux-{machine}.sh"
    )
    sha256: str | None = None
    channels: tuple[str, ...] = ("conda-forge",)


class Runnerctl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The CLI on a runner host, and the limits of its health verdict."""

    wheelhouse: str | None = None
    health_disk_free_warning_percent: int = 10
    health_disk_free_critical_percent: int = 4
    health_clock_skew_warning_seconds: int = 30
    health_clock_skew_critical_seconds: int = 300
    health_version_expiry_warning_days: int = 14


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``github_runner_slots``, as inventory gives it."""

    name: str
    url: str | None = None
    group: str | None = None
    labels: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    mode: Literal["persistent", "ephemeral"] = "persistent"


class GithubRunner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The runners of a host."""

    url: str | None = None
    api_url: str | None = None
    slots: tuple[Slot, ...] = (Slot(name="main"),)
    group: str | None = None
    labels: tuple[str, ...] = ()
    no_default_labels: bool = False
    version: str | None = None
    sha256: str | None = None
    download_url: str | None = None
    replace: Literal["never", "offline"] = "never"
    packages: tuple[str, ...] | None = None
    env: dict[str, str] = {}
    online_timeout_seconds: int = 120
    drain_timeout_seconds: int = 3600


class HostSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a host should be. ``host`` is its name in the inventory."""

    host: str
    schema: str = SCHEMA
    nvidia_driver: NvidiaDriver = NvidiaDriver()
    container_toolkit: ContainerToolkit = ContainerToolkit()
    conda: Conda = Conda()
    runnerctl: Runnerctl = Runnerctl()
    github_runner: GithubRunner = GithubRunner()

    def slot_url(self, slot: Slot) -> str:
        """The registration URL of a slot: its own, or the host's."""
        return slot.url or self.github_runner.url or ""

    def slot_scope(self, slot: Slot) -> Scope:
        """The scope a slot is registered in. Raises ConfigError when the URL is none."""
        return parse_scope(self.slot_url(slot))

    def slot_group(self, slot: Slot) -> str | None:
        """The runner group of a slot, or None for the scope's default group."""
        return slot.group or self.github_runner.group

    def slot_labels(self, slot: Slot) -> tuple[str, ...]:
        """The custom labels of a slot (see `runnerctl.core.labels.custom_labels`)."""
        runner = self.github_runner
        own = (*runner.labels, *slot.labels)
        return custom_labels(own, gpus=len(slot.gpus), fixed=not runner.no_default_labels)

    def runner_name(self, slot: Slot) -> str:
        """The name on GitHub: ``<host>-<slot>``."""
        return f"{self.host}-{slot.name}"


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "nvidia_driver": NvidiaDriver,
    "container_toolkit": ContainerToolkit,
    "conda": Conda,
    "runnerctl": Runnerctl,
    "github_runner": GithubRunner,
}


class Problem(msgspec.Struct, frozen=True):
    """One thing that is wrong with a spec: which variable, what is wrong with it, what to do."""

    variable: str
    message: str
    remedy: str

    def line(self, host: str) -> str:
        """The whole problem as one line."""
        return f"{host}: {self.variable}: {self.message}; {self.remedy}"


def variables() -> dict[str, tuple[str, str]]:
    """Every public variable -> (section, field)."""
    return {
        f"{section}_{field.name}": (section, field.name)
        for section, struct in SECTIONS.items()
        for field in msgspec.structs.fields(struct)
    }


def host_spec(host: str, values: Mapping[str, Any]) -> tuple[HostSpec | None, list[Problem]]:
    """Build the spec of ``host`` from variables; other variables than ours are ignored.

    Shapes: ``values`` holds plain data (str, int, bool, list, dict). Returns the spec, or None with all
    problems found: a user mends them in one go.
    """
    problems: list[Problem] = []
    sections: dict[str, dict[str, Any]] = {name: {} for name in SECTIONS}
    known = variables()
    for variable, value in sorted(values.items()):
        if variable in known:
            section, field = known[variable]
            sections[section][field] = value
        elif owner := _section_of(variable):
            problems.append(_unknown(variable, owner, known))
    built: dict[str, Any] = {}
    for name, fields in sections.items():
        built[name], found = _section(name, fields)
        problems += found
    if problems:
        return None, problems
    spec = HostSpec(host=host, **built)
    problems = list(_rules(spec))
    return (None, problems) if problems else (spec, [])


def _section_of(variable: str) -> str | None:
    return next((name for name in SECTIONS if variable.startswith(f"{name}_")), None)


def _unknown(variable: str, section: str, known: Mapping[str, Any]) -> Problem:
    close = difflib.get_close_matches(variable, known, n=1)
    remedy = f"did you mean {close[0]}?" if close else f"see the reference of role {section}"
    return Problem(variable, "is no variable of this collection", remedy)


def _section(name: str, fields: dict[str, Any]) -> tuple[msgspec.Struct | None, list[Problem]]:
    """Convert a section field by field, so that each wrong one is named."""
    struct = SECTIONS[name]
    converted: dict[str, Any] = {}
    problems: list[Problem] = []
    for field in msgspec.structs.fields(struct):
        if field.name not in fields:
            continue
        value = fields[field.name]
        try:
            converted[field.name] = msgspec.convert(_tidy(value), field.type, strict=False)
        except msgspec.ValidationError as error:
            problems.append(_mistyped(f"{name}_{field.name}", value, str(error)))
    return (None, problems) if problems else (struct(**converted), [])


def _tidy(value: Any) -> Any:
    """Ansible gives the text 'None' or '' where a template had nothing to say."""
    return None if isinstance(value, str) and value in ("", "None") else value


def _mistyped(variable: str, value: Any, reason: str) -> Problem:
    where = re.search(r" - at `\$(.*)`", reason)
    text = reason.split(" - at ")[0]
    unknown = re.search(r"unknown field `(.*)`", text)
    if unknown:
        close = difflib.get_close_matches(unknown[1], [f.name for f in msgspec.structs.fields(Slot)], n=1)
        remedy = f"did you mean {close[0]}?" if close else "leave it out"
        return Problem(variable + (where[1] if where else ""), f"has an unknown key {unknown[1]!r}", remedy)
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return Problem(
        variable + (where[1] if where else ""), f"is {shown}: {text}", "give a value of the type expected"
    )


def _rules(spec: HostSpec) -> list[Problem]:
    """The rules that types cannot say."""
    runner = spec.github_runner
    problems = [*_label_problems("github_runner_labels", runner.labels), *_pin_problems(spec)]
    problems += _managed_problems(spec) + _env_problems(runner.env) + _limit_problems(spec)
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


def _label_problems(where: str, labels: tuple[str, ...]) -> list[Problem]:
    found = ((label, check_label(label)) for label in labels)
    return [
        Problem(where, f"label {label[:40]!r} {wrong}", "use up to 256 characters without a comma")
        for label, wrong in found
        if wrong
    ]


def _slot_problems(spec: HostSpec, slot: Slot, where: str) -> list[Problem]:
    problems = _label_problems(f"{where}.labels", slot.labels)
    if not SLOT_NAME.fullmatch(slot.name):
        remedy = "use up to 28 lower-case letters, digits and inner hyphens"
        problems.append(Problem(where, f"name {slot.name!r} is no slot name", remedy))
    if len(spec.runner_name(slot)) > MAX_RUNNER_NAME:
        message = f"runner name {spec.runner_name(slot)!r} has more than {MAX_RUNNER_NAME} characters"
        problems.append(Problem(where, message, "shorten the slot's or the host's name"))
    problems += [
        Problem(where, f"{gpu!r} is no GPU UUID", "give it as `nvidia-smi -L` prints it: GPU-... or MIG-...")
        for gpu in slot.gpus
        if not GPU_ID.fullmatch(gpu)
    ]
    if slot.mode == "ephemeral":
        problems.append(
            Problem(f"{where}.mode", "is 'ephemeral', which needs a later release", "use persistent")
        )
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
    for variable, (text, names) in given.items():
        if text is not None and (wrong := check_template(text, *names)):
            remedy = "use " + " and ".join(f"{{{name}}}" for name in names) + ", or the whole address"
            problems.append(Problem(variable, wrong, remedy))
    return problems


def _managed_problems(spec: HostSpec) -> list[Problem]:
    remedy = "this release verifies a driver managed by others: leave it false"
    problems = []
    for name, section in (
        ("nvidia_driver", spec.nvidia_driver),
        ("container_toolkit", spec.container_toolkit),
    ):
        if section.manage:
            problems.append(Problem(f"{name}_manage", "is true", remedy))
    return problems


def _env_problems(env: Mapping[str, str]) -> list[Problem]:
    """`.env` has no quoting: one line each; and every job can read it, so no secret belongs there."""
    problems = []
    for name, value in env.items():
        where = f"github_runner_env.{name}"
        if not ENV_NAME.fullmatch(name):
            problems.append(Problem(where, "is no variable name", "use letters, digits and underscores"))
        if any(ord(character) < 32 and character != "\t" for character in value):
            problems.append(Problem(where, "has a line break or a control character", "give one plain line"))
        if SECRET_NAME.search(name):
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
