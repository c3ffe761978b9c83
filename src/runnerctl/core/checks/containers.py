"""Can containers use the GPUs, and do they keep them?"""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.driver_names import TOOLKIT_PACKAGES
from runnerctl.core.driver_readings import ContainerGpus, DriverInstall
from runnerctl.core.findings import Check, Verdict, critical, ok, warning
from runnerctl.core.snapshot import Docker, NvidiaModule, Snapshot
from runnerctl.core.spec import HostSpec

__all__ = ["CHECKS"]


def _runtime_wanted(snapshot: Snapshot) -> bool:
    """Whether the spec wants Docker with NVIDIA's runtime, and an Engine answers (else see docker.engine)."""
    spec = snapshot.host_spec
    if spec is None or not (spec.container_toolkit.manage and spec.container_toolkit.runtime):
        return False
    silent = isinstance(snapshot.docker, Docker) and snapshot.docker.failure is not None
    return spec.container_toolkit.docker and snapshot.container_gpus is not None and not silent


def _judge_runtime(gpus: ContainerGpus, *, spec: HostSpec | None) -> Iterable[Verdict]:
    wants_cdi = spec is not None and spec.container_toolkit.cdi
    data = {"runtime": gpus.runtime_configured, "cdi": gpus.cdi_enabled, "toolkit": gpus.toolkit_version}
    if not gpus.runtime_configured:
        yield critical("the Docker Engine has no runtime named nvidia: containers get no GPU", **data)
    elif wants_cdi and gpus.cdi_enabled is False:
        remedy = (
            "`nvidia-ctk runtime configure --runtime=docker --cdi.enabled`, then restart docker while idle"
        )
        yield warning("the Docker Engine has CDI switched off, and the spec wants it", remedy, **data)
    else:
        version = f" (toolkit {gpus.toolkit_version})" if gpus.toolkit_version else ""
        yield ok(f"the Docker Engine has the nvidia runtime{version}", **data)


def _has_containers(snapshot: Snapshot) -> bool:
    """Whether containers with GPUs run."""
    gpus = snapshot.container_gpus
    return isinstance(gpus, ContainerGpus) and bool(gpus.containers)


def _judge_devices(gpus: ContainerGpus, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    for container in gpus.containers:
        data = {"container": container.id[:12], "denied": container.denied}
        if container.denied:
            verdict = critical("it was given GPUs, and its device rules no longer let it open them", **data)
        elif container.denied is None:
            continue
        else:
            verdict = ok("its device rules let it open its GPUs", **data)
        yield Verdict(verdict.status, verdict.summary, "", container.name, verdict.data)
    untold = [each.name for each in gpus.containers if each.denied is None]
    if len(untold) == len(gpus.containers):
        count = len(untold)
        yield ok(f"{count} container{'' if count == 1 else 's'} with GPUs; no sign that any has lost them")


def _reload_matters(snapshot: Snapshot) -> bool:
    """Whether a reload can take GPUs away: a loaded driver, containers, control groups of systemd's."""
    gpus, module = snapshot.container_gpus, snapshot.nvidia_module
    if not isinstance(gpus, ContainerGpus) or snapshot.host.container:
        return False
    uses = gpus.runtime_configured or bool(gpus.containers)
    return uses and isinstance(module, NvidiaModule) and bool(module.version)


def _judge_reload(gpus: ContainerGpus, *, spec: HostSpec | None) -> Iterable[Verdict]:
    del spec
    missing = gpus.char_links_missing
    data = {"cgroup_driver": gpus.cgroup_driver, "missing": list(missing)}
    if gpus.cgroup_driver != "systemd":
        yield ok(f"the Engine manages control groups itself ({gpus.cgroup_driver})", **data)
    elif missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        yield warning(
            f"the next `systemctl daemon-reload` takes the GPUs from running containers: no {shown}", **data
        )
    else:
        yield ok("containers keep their GPUs over a daemon-reload: /dev/char has the links", **data)


def _toolkit_there(snapshot: Snapshot) -> bool:
    """Whether a package of the container toolkit is installed."""
    install = snapshot.driver_install
    return isinstance(install, DriverInstall) and any(name in install.packages for name in TOOLKIT_PACKAGES)


def _judge_versions(install: DriverInstall, *, spec: HostSpec | None) -> Iterable[Verdict]:
    found = {name: install.packages[name] for name in TOOLKIT_PACKAGES if name in install.packages}
    versions = {version.split(":")[-1] for version in found.values()}
    wanted = spec.container_toolkit.version if spec and spec.container_toolkit.manage else None
    data = {"packages": found, "wanted": wanted}
    if len(versions) > 1:
        shown = ", ".join(f"{name} {version}" for name, version in found.items())
        yield warning(f"the container toolkit's packages are of several versions: {shown}", **data)
    elif wanted and not any(version.startswith(wanted) for version in versions):
        yield warning(f"the container toolkit is {versions.pop()}, and the spec says {wanted}", **data)
    else:
        yield ok(f"the container toolkit's packages are all {versions.pop()}", **data)


CHECKS: tuple[Check, ...] = (
    Check(
        id="docker.gpu_runtime",
        title="The Engine has the NVIDIA runtime",
        docs=(
            "Only where container_toolkit_manage, container_toolkit_docker and container_toolkit_runtime "
            "are true. Asks the Engine for its runtimes and whether it takes CDI names."
        ),
        remedy="run the provision playbook with --tags container_toolkit",
        judge=_judge_runtime,
        needs=("container_gpus",),
        when=_runtime_wanted,
    ),
    Check(
        id="docker.gpu_devices",
        title="Containers still have their GPUs",
        docs=(
            "Looks at each running container that was started with GPUs whether its device rules still let "
            "it open them. After `systemctl daemon-reload` systemd may have written the rules anew without "
            "the GPUs; programs in the container then fail with 'Failed to initialize NVML: Unknown "
            "Error'. With control groups of version 1 the kernel's own list is read. With version 2 rules "
            "cannot be read: where systemd was not told of the GPUs, a short-lived process enters the "
            "container's group and opens /dev/nvidiactl."
        ),
        remedy="create the container anew, then prevent it with `nvidia-ctk system create-dev-char-symlinks`",
        judge=_judge_devices,
        needs=("container_gpus",),
        when=_has_containers,
    ),
    Check(
        id="docker.daemon_reload",
        title="A daemon-reload leaves containers their GPUs",
        docs=(
            "Where the Engine leaves control groups to systemd, a device is named to systemd by its link in "
            "/dev/char. NVIDIA's driver does not make these links; without them the next `systemctl "
            "daemon-reload`, which any package upgrade may bring, takes the GPUs from running containers."
        ),
        remedy="`nvidia-ctk system create-dev-char-symlinks --create-all`, and provision again to keep them",
        judge=_judge_reload,
        needs=("container_gpus",),
        when=_reload_matters,
    ),
    Check(
        id="docker.toolkit_versions",
        title="The container toolkit is of one version",
        docs=(
            "The four packages of the NVIDIA container toolkit must be upgraded together; a mixture keeps "
            "containers from starting. Where the spec names a version it must be that one."
        ),
        remedy="run the provision playbook with --tags container_toolkit",
        judge=_judge_versions,
        needs=("driver_install",),
        when=_toolkit_there,
    ),
)
