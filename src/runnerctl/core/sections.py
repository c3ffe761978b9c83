"""The shape of a host's spec: one struct for each role's variables, and the host with its slots."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from runnerctl.core.labels import DERIVED, custom_labels, is_derived, normalise
from runnerctl.core.layout import Layout, SlotShare
from runnerctl.core.scope import Scope, parse_scope

__all__ = [
    "SCHEMA",
    "SECTIONS",
    "SLOT_NAME",
    "Conda",
    "ContainerToolkit",
    "GithubRunner",
    "HostSpec",
    "MigLayout",
    "NvidiaDriver",
    "PrivateChannel",
    "Problem",
    "Runnerctl",
    "Slot",
]

SCHEMA = "runnerctl.host/1"
SLOT_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,26}[a-z0-9])?")  # `gha-<slot>` is a user name: 32 at most


class MigLayout(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """MIG profiles that GPUs should be cut into. ``gpus``: UUIDs of whole GPUs, none for all of the host."""

    profiles: tuple[str, ...]
    gpus: tuple[str, ...] = ()


class NvidiaDriver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The NVIDIA driver. ``device_ids``: PCI ids to prepare for, where the GPUs are not there yet."""

    manage: bool = True
    gpu_count: int | None = None
    source: Literal["auto", "distribution", "nvidia"] = "auto"
    branch: str | int | None = None
    version: str | None = None
    flavour: Literal["auto", "open", "proprietary"] = "auto"
    device_ids: tuple[str, ...] = ()
    repository_url: str = (
        "https://developer.download.nvidia.com/compute/cuda/repos/{distribution}/{architecture}"
    )
    repository_key: str | None = None
    repository_key_fingerprint: str | None = None
    persistence: bool = True
    mig: tuple[MigLayout, ...] = ()
    reboot: Literal["auto", "never"] = "auto"
    require_loaded: bool = True


class ContainerToolkit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Containers with GPUs. ``visible_devices_variable``: whether ``NVIDIA_VISIBLE_DEVICES`` gives them."""

    manage: bool = False
    version: str | None = None
    repository_url: str = "https://nvidia.github.io/libnvidia-container/stable/{format}/{architecture}"
    repository_key: str | None = None
    repository_key_fingerprint: str | None = None
    docker: bool = False
    docker_source: Literal["distribution", "docker"] = "distribution"
    docker_repository_url: str = "https://download.docker.com/linux/{distribution}"
    docker_repository_key: str | None = None
    docker_repository_key_fingerprint: str | None = None
    docker_config: dict[str, Any] = {}
    runtime: bool = True
    cdi: bool = True
    visible_devices_variable: bool = True
    rootless: bool = False


class PrivateChannel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A conda channel that belongs to one owner at GitHub: only slots of that owner may use or see it."""

    url: str
    owner: str


class Conda(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Miniforge, for the jobs' own ``conda`` calls, and the store of environments.

    ``store_channels``: the only channels that environments may name (none: every one without
    licence). ``store_aliases``: channel name -> address of a mirror. ``store_credentials_file`` is a path on
    the controller.
    """

    manage: bool = True
    version: str = "26.3.2-3"
    url: str = (
        "https://github.com/conda-forge/miniforge/releases/download/"
        "{version}/Miniforge3-{version}-Linux-{machine}.sh"
    )
    sha256: str | None = None
    channels: tuple[str, ...] = ("conda-forge",)
    store: bool = True
    store_budget_gib: int = 200
    store_owner_quota_gib: int | None = None
    store_keep_days: int = 30
    store_channels: tuple[str, ...] = ("conda-forge",)
    store_aliases: dict[str, str] = {}
    store_private_channels: tuple[PrivateChannel, ...] = ()
    store_credentials_file: str | None = None
    store_pip_index: str | None = None


class Runnerctl(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The CLI on a runner host, the host's way to the network, and the limits of its health verdict.

    ``bundle`` and ``ca_bundle`` are paths on the controller; the proxies hold no password.
    """

    wheelhouse: str | None = None
    bundle: str | None = None
    http_proxy: str | None = None
    https_proxy: str | None = None
    no_proxy: tuple[str, ...] = ()
    ca_bundle: str | None = None
    health_disk_free_warning_percent: int = 10
    health_disk_free_critical_percent: int = 4
    health_clock_skew_warning_seconds: int = 30
    health_clock_skew_critical_seconds: int = 300
    health_version_expiry_warning_days: int = 14
    health_timer: bool = True
    health_interval_seconds: int = 60
    health_reset: bool = True
    health_reboot: bool = False
    health_resets_per_day: int = 2
    health_reboots_per_day: int = 1
    health_clean_probes: int = 3
    health_prometheus: str | None = None
    fleet_max_held_percent: int = 34
    guard: bool = True
    jobs_keep_days: int = 400
    jobs_prometheus: str | None = None
    clean: bool = True
    clean_interval_hours: int = 6
    clean_work_gib: int = 200
    clean_tools_gib: int = 50
    clean_images_gib: int = 100
    clean_logs_days: int = 30


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One entry of ``github_runner_slots``, as inventory gives it.

    ``runner_name`` is that of an adopted runner, whose record was there before the slot. ``mig``: a profile,
    for a slot that has one MIG device of that profile instead of ``gpus``.
    """

    name: str
    url: str | None = None
    group: str | None = None
    labels: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    mig: str | None = None
    mode: Literal["persistent", "ephemeral"] = "persistent"
    runner_name: str | None = None


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
    drain_quiet_seconds: int = 75
    drain_group: str | None = None
    gpus_per_slot: int | None = None
    mig_profile: str | None = None
    derived_labels: bool = True
    cpus_per_slot: int | None = None
    memory_per_slot_mib: int | None = None
    tasks_per_slot: int = 16384
    disk_per_slot_gib: int | None = None
    containers: Literal["none", "rootless"] = "none"
    app_id: str | None = None
    app_installation_id: str | None = None
    app_key_file: str | None = None
    allow_repository_app: bool = False
    allow_public: tuple[str, ...] = ()
    policy_fork_pull_requests: Literal["refuse", "allow"] = "refuse"
    policy_repositories: tuple[str, ...] = ()
    policy_workflows: tuple[str, ...] = ()


class HostSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a host should be. ``host`` is its name in the inventory.

    ``layout``: which GPUs, CPUs and memory each slot has, once the hardware is known (`core.layout`).
    """

    host: str
    schema: str = SCHEMA
    nvidia_driver: NvidiaDriver = NvidiaDriver()
    container_toolkit: ContainerToolkit = ContainerToolkit()
    conda: Conda = Conda()
    runnerctl: Runnerctl = Runnerctl()
    github_runner: GithubRunner = GithubRunner()
    layout: Layout | None = None

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
        runner, share = self.github_runner, self.share(slot)
        return custom_labels(
            (*runner.labels, *slot.labels),
            gpus=self.has_gpus(slot),
            fixed=not runner.no_default_labels,
            derived=share.labels if share and runner.derived_labels else (),
        )

    def has_gpus(self, slot: Slot) -> bool:
        """Whether the slot has GPUs, or will have once it is laid out: gpus_per_slot is for every slot."""
        return bool(slot.gpus or slot.mig) or self.github_runner.gpus_per_slot is not None

    def expected_labels(self, slot: Slot, have: Iterable[str]) -> tuple[str, ...]:
        """The custom labels of a slot whose record has ``have``.

        Where the layout is not at hand, as on the controller, what was derived on the host is taken as right.
        """
        wanted = self.slot_labels(slot)
        if self.layout is not None or not self.github_runner.derived_labels:
            return wanted
        if not self.has_gpus(slot):
            return wanted
        taken = tuple(family for family in DERIVED if any(label.startswith(family) for label in wanted))
        kept = {label for label in normalise(have) if is_derived(label)}
        return tuple(sorted({*wanted, *(label for label in kept if not (taken and label.startswith(taken)))}))

    def share(self, slot: Slot) -> SlotShare | None:
        """What the slot has of this host's hardware; None while that is not known."""
        return self.layout.share(slot.name) if self.layout else None

    def runner_name(self, slot: Slot) -> str:
        """The name on GitHub: ``<host>-<slot>``, or that of the runner that was adopted."""
        return slot.runner_name or f"{self.host}-{slot.name}"


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
