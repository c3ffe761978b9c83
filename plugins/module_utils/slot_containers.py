"""A slot's own container engine, podman without root, in a unit of its own beside the slot's. Pure.

Why podman, why a unit of its own, why nothing is kept from job to job: docs/adr/0016-rootless-containers.md.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path

from . import slot_engine
from .errors import HostError
from .slot_engine import Range
from .slot_files import MANAGED, MODES, SlotSpec, unit_name

__all__ = [
    "CLIENT",
    "COUNT",
    "DOCKER_HOST",
    "NETWORKS",
    "TUN",
    "engine_drop_in_text",
    "engine_service",
    "engine_slice",
    "engine_socket",
    "engine_templates",
    "free_range",
    "settings",
    "slice_text",
    "slot_engine_lines",
    "storage",
]

CONF, STORAGE_CONF = "/etc/runnerctl/containers/containers.conf", "/etc/runnerctl/containers/storage.conf"
CLIENT = "/opt/runnerctl/containers/bin/docker"
NETWORKS = "/var/lib/cni"  # podman mounts over it or, where it is not there, over all of /var/lib
TUN = "DeviceAllow=/dev/net/tun rw"  # the containers' own network
DOCKER_HOST = "unix:///run/docker.sock"
COUNT, _FIRST, _LAST = 65536, 524288, 1879048191  # systemd's own range for containers (UIDS-GIDS)
ENGINE = "/opt/runnerctl/containers/engine.py"
_PYTHON = f"/opt/runnerctl/bin/python -IBS {ENGINE}"

# Containers stay in the unit's control group: its device rules and limits bind them, whatever they ask for.
_CONF_TEXT = """\
{managed}
[containers]
cgroups = "disabled"
cgroupns = "host"
log_driver = "k8s-file"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "crun"

[network]
network_backend = "netavark"
"""
_STORAGE_TEXT = '{managed}\n[storage]\ndriver = "overlay"\n'

_CLIENT_TEXT = """\
#!/bin/sh
{managed}
# What jobs call docker: podman, as a client of the slot's engine.
if [ -z "$XDG_RUNTIME_DIR" ]; then
    XDG_RUNTIME_DIR="${{TMPDIR:-/tmp}}/.podman-$(/usr/bin/id -u)"
    export XDG_RUNTIME_DIR
    /bin/mkdir -p -m 0700 "$XDG_RUNTIME_DIR"
fi
logins="${{DOCKER_CONFIG:-$HOME/.docker}}/config.json"
if [ -z "$REGISTRY_AUTH_FILE" ] && {{ [ -f "$logins" ] || [ "$1" = login ]; }}; then
    export REGISTRY_AUTH_FILE="$logins"
fi
exec /usr/bin/podman --remote --url "${{DOCKER_HOST:-{host}}}" "$@"
"""

_SOCKET = """\
{managed}
[Unit]
Description=Where jobs of slot %i reach their container engine

[Socket]
ListenStream=/run/gha-containers/%i/docker.sock
DirectoryMode=0755
SocketUser=gha-%i
SocketGroup=gha-%i
SocketMode=0600
"""

# Each line that this lacks of the slots' own hardening: docs/adr/0016-rootless-containers.md.
_SERVICE = """\
{managed}
[Unit]
Description=Container engine of slot %i, without root
Documentation=https://github.com/runnerctl/runnerctl
PartOf={slots}
JoinsNamespaceOf={slots}
StartLimitIntervalSec=30
StartLimitBurst=20

[Service]
Type=exec
User=gha-%i
Group=gha-%i
UMask=0022
WorkingDirectory=/var/lib/gha-runner/%i
RuntimeDirectory=gha-engine/%i
RuntimeDirectoryMode=0700
Environment=HOME={storage} XDG_RUNTIME_DIR=/run/gha-engine/%i LANG=C.UTF-8
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Environment=CONTAINERS_CONF={conf} CONTAINERS_STORAGE_CONF={storage_conf}
ExecStartPre=+/usr/bin/find {storage} -xdev -mindepth 1 -delete
ExecStart={python} run system service --time=0
ExecStartPost=+{python} map $MAINPID gha-%i
ExecStopPost=+/usr/bin/find {storage} -xdev -mindepth 1 -delete
KillMode=control-group
TimeoutStartSec=300
TimeoutStopSec=300
OOMPolicy=continue

DevicePolicy=closed
ProtectSystem=strict
ReadWritePaths={storage} /var/lib/gha-runner/%i/_work /var/lib/gha-runner/%i/home
ProtectHome=yes
TemporaryFileSystem=/run:ro,mode=0755,size=1M
BindPaths=/run/gha-engine/%i
BindReadOnlyPaths=/run/gha-containers/%i/docker.sock:/run/docker.sock -/run/systemd/resolve -/run/resolvconf
BindReadOnlyPaths=-/run/NetworkManager -/run/nscd -/run/cdi -/run/nvidia-persistenced
PrivateTmp=yes
RemoveIPC=yes
KeyringMode=private
ProtectControlGroups=yes
ProtectKernelModules=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount @debug @pkey setns unshare sethostname setdomainname userfaultfd
SystemCallFilter=seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM
"""


def engine_service(slot: str) -> str:
    """The unit that a slot's engine and all of its containers run in."""
    return f"gha-containers@{slot}.service"


def engine_socket(slot: str) -> str:
    """The unit that starts the engine when a job asks for it."""
    return f"gha-containers@{slot}.socket"


def engine_slice(slot: str) -> str:
    """The slice that the slot's own unit and its engine share: one limit for both."""
    return f"ghaslot-{slot.replace('-', chr(92) + 'x2d')}.slice"


def storage(slot: str) -> str:
    """Where the engine keeps images and containers, while a job runs."""
    return f"/var/lib/gha-runner/{slot}/_containers"


def engine_templates() -> dict[str, str]:
    """The units that all engines of a host share, by name."""
    words = {
        "managed": MANAGED,
        "slots": " ".join(unit_name("%i", mode) for mode in MODES),
        "storage": storage("%i"),
        "conf": CONF,
        "storage_conf": STORAGE_CONF,
        "python": _PYTHON,
    }
    return {
        "gha-containers@.socket": _SOCKET.format(**words),
        "gha-containers@.service": _SERVICE.format(**words),
    }


def settings() -> dict[str, tuple[str, int]]:
    """The files that all engines of a host share: path -> text and mode."""
    return {
        CONF: (_CONF_TEXT.format(managed=MANAGED), 0o644),
        STORAGE_CONF: (_STORAGE_TEXT.format(managed=MANAGED), 0o644),
        ENGINE: (MANAGED + inspect.getsource(slot_engine), 0o644),
        CLIENT: (_CLIENT_TEXT.format(managed=MANAGED.rstrip(), host=DOCKER_HOST), 0o755),
    }


def slot_engine_lines(slot: SlotSpec) -> tuple[list[str], list[str]]:
    """Lines for ``[Unit]`` and ``[Service]`` of the slot's own unit; none without an engine.

    They add a socket and a path to look for programs, and take back nothing of the hardening.
    """
    if slot.containers != "rootless":
        return [], []
    socket = engine_socket(slot.name)
    path = str(Path(CLIENT).parent)
    return [f"Wants={socket}", f"After={socket}"], [
        f"Slice={engine_slice(slot.name)}",
        f"BindReadOnlyPaths=-/run/gha-containers/{slot.name}/docker.sock:/run/docker.sock",
        f"Environment=DOCKER_HOST={DOCKER_HOST}",
        f"Environment=PATH={path}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    ]


def engine_drop_in_text(slot: SlotSpec) -> str:
    """What is the slot's own in its engine's unit: its GPUs, and the runner's code where jobs know it."""
    root, release = f"/var/lib/gha-runner/{slot.name}", f"/opt/actions-runner/{slot.version}"
    devices = f"gha-devices@{slot.name}.service"
    unit = [f"Requires={devices}" if slot.gpus else f"Wants={devices}", f"After={devices}"]
    service = [
        f"Slice={engine_slice(slot.name)}",
        f"BindReadOnlyPaths={release}/bin:{root}/bin",
        f"BindReadOnlyPaths={release}/externals:{root}/externals",
        f"Environment=CUDA_VISIBLE_DEVICES={','.join(slot.gpus) or '-1'}",
        TUN,
    ]
    return "\n".join([MANAGED, "[Unit]", *unit, "", "[Service]", *service]) + "\n"


def slice_text(slot: SlotSpec, limits: Iterable[str]) -> str:
    """The slice of a slot with an engine. ``limits``: the lines of `slot_units.limit_lines`.

    A process's affinity is no property of a slice; it stays in the units.
    """
    lines = [line for line in limits if not line.startswith("CPUAffinity=")]
    return "\n".join(
        [MANAGED, "[Unit]", f"Description=Slot {slot.name} and its containers", "", "[Slice]", *lines, ""]
    )


def free_range(*texts: str) -> Range:
    """The lowest range of ids that no line of these texts (subuid(5)) touches. Raises HostError."""
    taken = []
    for line in "\n".join(texts).splitlines():
        fields = line.strip().split(":")
        if len(fields) == 3 and fields[1].isdecimal() and fields[2].isdecimal():
            taken.append((int(fields[1]), int(fields[1]) + int(fields[2])))
    for first in range(_FIRST, _LAST - COUNT, COUNT):
        if all(end <= first or begin >= first + COUNT for begin, end in taken):
            return first, COUNT
    raise HostError(
        "no range of ids is left", where="/etc/subuid", remedy="remove ranges of users that are gone"
    )
