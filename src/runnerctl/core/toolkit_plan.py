"""What a host needs for containers with GPUs: repositories, packages, settings; from spec and distribution.

Pure. The target's half (``plugins/module_utils/toolkit_work.py``) applies the plan; what only the host can
tell, such as the Engine's version, is decided there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from runnerctl.core.repository_keys import key_address
from runnerctl.core.sections import ContainerToolkit, HostSpec, Problem
from runnerctl.core.templates import fill
from runnerctl.core.toolkit_rules import upstream_key

__all__ = [
    "DOCKER_FINGERPRINTS",
    "NVIDIA_FINGERPRINT",
    "TOOLKIT_PACKAGES",
    "ToolkitFacts",
    "ToolkitPlan",
    "toolkit_plan",
]

# Of the keys at nvidia.github.io/libnvidia-container/gpgkey and download.docker.com/linux/{debian,rhel}/gpg,
# as many independent public repositories pin them.
NVIDIA_FINGERPRINT = "C95B321B61E88C1809C4F759DDCAE044F796ECB0"
DOCKER_FINGERPRINTS = {
    "apt": "9DC858229FC7DD38854AE2D88D81803C0EBFCD88",
    "rpm": "060A61C51B558A7F742B77AAC52FEB6B621E9F35",
}
# One of another version than the rest breaks containers: they are installed and held together.
TOOLKIT_PACKAGES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
CODENAMES = {
    ("debian", "12"): "bookworm",
    ("debian", "13"): "trixie",
    ("ubuntu", "22.04"): "jammy",
    ("ubuntu", "24.04"): "noble",
}
EL, EL_RELEASE = ("rhel", "rocky", "almalinux"), "9"
DEB_MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
DISTRIBUTION_ENGINE = "docker.io|docker-ce|moby-engine"  # an Engine that is there already counts
DISTRIBUTION_CLIENT = (
    "docker-cli|docker-ce-cli"  # where the Engine's package does not hold the client as well
)
SEPARATE_CLIENT = (("debian", "13"),)
DOCKER_ENGINE = ("docker-ce", "docker-ce-cli", "containerd.io")
# What the Engine's packages of (format, source) would push out, and with it what runs there.
ENGINE_CONFLICTS = {
    ("apt", "distribution"): ("containerd.io", "podman-docker"),
    ("apt", "docker"): ("docker.io", "containerd", "runc", "podman-docker"),
    ("rpm", "docker"): ("moby-engine", "podman-docker"),
}
ROOTLESS = {
    ("apt", "distribution"): ("rootlesskit", "slirp4netns", "uidmap", "fuse-overlayfs", "dbus-user-session"),
    ("apt", "docker"): (
        "docker-ce-rootless-extras",
        "slirp4netns",
        "uidmap",
        "fuse-overlayfs",
        "dbus-user-session",
    ),
    ("rpm", "docker"): ("docker-ce-rootless-extras", "slirp4netns", "shadow-utils", "fuse-overlayfs"),
    ("rpm", "distribution"): ("slirp4netns", "shadow-utils", "fuse-overlayfs"),
}
PIN_PRIORITY = 1001  # above what is installed: apt goes back to it also from a newer version


class ToolkitFacts(msgspec.Struct, frozen=True):
    """What the target reports: ID and VERSION_ID of os-release(5), and the machine as uname(1) names it."""

    os_id: str
    os_version: str
    machine: str

    @property
    def format(self) -> str:
        """apt or rpm."""
        return "rpm" if self.os_id in EL else "apt"


class ToolkitPlan(msgspec.Struct, frozen=True):
    """The argument of the target's half; packages may be alternatives ``a|b``."""

    repositories: tuple[dict[str, Any], ...]
    toolkit: tuple[str, ...]
    version: str | None
    engine: tuple[str, ...]
    engine_conflicts: tuple[str, ...]
    extras: tuple[str, ...]
    runtime: bool
    cdi: bool
    daemon: dict[str, Any]
    config: dict[str, str]


def toolkit_plan(
    spec: HostSpec, facts: ToolkitFacts, *, key_texts: Mapping[str, str] | None = None
) -> tuple[ToolkitPlan | None, list[Problem]]:
    """The plan, or None with everything that stands in its way.

    ``key_texts``: the keys that the spec does not give by their address, by the name of their field.
    """
    wanted = spec.container_toolkit
    problems = _problems(wanted, facts)
    if problems:
        return None, problems
    texts = key_texts or {}
    repositories = [_nvidia(wanted, facts, texts.get("repository_key"))]
    if wanted.docker and wanted.docker_source == "docker":
        repositories.append(_docker(wanted, facts, texts.get("docker_repository_key")))
    plan = ToolkitPlan(
        repositories=tuple(repositories),
        toolkit=TOOLKIT_PACKAGES,
        version=wanted.version,
        engine=_engine(wanted, facts),
        engine_conflicts=ENGINE_CONFLICTS[(facts.format, wanted.docker_source)] if wanted.docker else (),
        extras=_extras(wanted, facts),
        runtime=wanted.runtime,
        cdi=wanted.cdi,
        daemon=wanted.docker_config,
        config=_config(wanted),
    )
    return plan, []


def _problems(wanted: ContainerToolkit, facts: ToolkitFacts) -> list[Problem]:
    problems = []
    release = facts.os_version.split(".")[0] if facts.format == "rpm" else facts.os_version
    if (facts.os_id, release) not in CODENAMES and (facts.format, release) != ("rpm", EL_RELEASE):
        known = ", ".join(f"{name} {version}" for name, version in CODENAMES)
        message = f"{facts.os_id or 'an unknown distribution'} {facts.os_version} is not known"
        problems.append(
            Problem(
                "container_toolkit_manage", message, f"use {known} or Enterprise Linux 9, or set it to false"
            )
        )
    if facts.machine not in DEB_MACHINES:
        message = f"NVIDIA has no container toolkit for {facts.machine!r}"
        problems.append(Problem("container_toolkit_manage", message, "use an x86_64 or aarch64 host"))
    if facts.format == "rpm" and wanted.docker and wanted.docker_source == "distribution":
        message = "Enterprise Linux has no Docker Engine of its own"
        problems.append(Problem("container_toolkit_docker_source", message, "set it to docker"))
    return problems


def _architecture(facts: ToolkitFacts) -> str:
    """As the package format names it."""
    debian = DEB_MACHINES[facts.machine]
    return debian if facts.format == "apt" else {"amd64": "x86_64", "arm64": "aarch64"}[debian]


def _nvidia(wanted: ContainerToolkit, facts: ToolkitFacts, key_text: str | None) -> dict[str, Any]:
    """NVIDIA's repository is flat. For Enterprise Linux not its packages are signed but its lists."""
    form = "deb" if facts.format == "apt" else "rpm"
    url = fill(wanted.repository_url, format=form, architecture=_architecture(facts))
    made: dict[str, Any] = {
        "name": "nvidia-container-toolkit",
        "format": facts.format,
        "url": url,
        **_key(key_text, key_address(wanted.repository_key) or upstream_key(wanted.repository_url)),
        "key_fingerprint": wanted.repository_key_fingerprint or NVIDIA_FINGERPRINT,
        "variable": "container_toolkit_repository",
    }
    if facts.format == "rpm":
        return {**made, "check_packages": False}
    return {**made, "suite": "/", "pins": _pins(wanted.version)}


def _pins(version: str | None) -> list[dict[str, Any]]:
    """A version that was asked for is preferred to all others, whichever repository has them."""
    if version is None:
        return []
    exact = version if "-" in version else f"{version}-*"
    return [{"packages": " ".join(TOOLKIT_PACKAGES), "pin": f"version {exact}", "priority": PIN_PRIORITY}]


def _docker(wanted: ContainerToolkit, facts: ToolkitFacts, key_text: str | None) -> dict[str, Any]:
    """Docker's repository has one tree for each distribution; Rocky and AlmaLinux take that of CentOS."""
    distribution = "centos" if facts.os_id in ("rocky", "almalinux") else facts.os_id
    base = fill(wanted.docker_repository_url, distribution=distribution).rstrip("/")
    made: dict[str, Any] = {
        "name": "docker",
        "format": facts.format,
        "url": base,
        **_key(key_text, key_address(wanted.docker_repository_key) or f"{base}/gpg"),
        "key_fingerprint": wanted.docker_repository_key_fingerprint or DOCKER_FINGERPRINTS[facts.format],
        "variable": "container_toolkit_docker_repository",
    }
    if facts.format == "rpm":
        major = facts.os_version.split(".")[0]
        return {**made, "url": f"{base}/{major}/{_architecture(facts)}/stable", "check_lists": False}
    return {**made, "suite": CODENAMES[(facts.os_id, facts.os_version)], "components": ["stable"]}


def _engine(wanted: ContainerToolkit, facts: ToolkitFacts) -> tuple[str, ...]:
    if not wanted.docker:
        return ()
    if wanted.docker_source == "docker":
        return DOCKER_ENGINE
    separate = (facts.os_id, facts.os_version) in SEPARATE_CLIENT
    return (DISTRIBUTION_ENGINE, *([DISTRIBUTION_CLIENT] if separate else []))


def _key(text: str | None, address: str | None) -> dict[str, str]:
    """The key itself, or its address."""
    return {"key_text": text} if text else {"key_url": address or ""}


def _extras(wanted: ContainerToolkit, facts: ToolkitFacts) -> tuple[str, ...]:
    source = wanted.docker_source if wanted.docker else "distribution"
    return ROOTLESS[(facts.format, source)] if wanted.rootless else ()


def _config(wanted: ContainerToolkit) -> dict[str, str]:
    """Lines of ``/etc/nvidia-container-runtime/config.toml``.

    Mounts never ask for GPUs; the environment variable does, which is how Docker before 29 passes ``--gpus``
    on, unless the spec says no. An Engine without root cannot write device cgroups.
    """
    return {
        "accept-nvidia-visible-devices-envvar-when-unprivileged": _toml(wanted.visible_devices_variable),
        "accept-nvidia-visible-devices-as-volume-mounts": "false",
        "nvidia-container-cli.no-cgroups": _toml(wanted.rootless),
    }


def _toml(value: bool) -> str:
    return "true" if value else "false"
