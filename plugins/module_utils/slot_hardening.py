"""What the kernel keeps a slot's jobs from: the part of the units that both modes share. Pure.

Why each line stands here, and what is left out: docs/explanation/unit.md.
"""

from __future__ import annotations

__all__ = ["HIDDEN", "hardening"]

# Other engines' and hypervisors' places outside /run: a socket there would be a way around every rule here.
HIDDEN = (
    "/var/lib/docker",
    "/var/lib/containerd",
    "/var/lib/containers",
    "/var/lib/incus",
    "/var/lib/lxd",
    "/var/lib/libvirt",
)

# Of /run a job sees what it needs to resolve names, and the guard; every other socket is not there, whenever
# its service starts and whatever groups the user is in.
_RUN = (
    "/run/runnerctl",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
)

_BLOCK = f"""\
DevicePolicy=closed
ProtectSystem=strict
ProtectHome=yes
TemporaryFileSystem=/run:ro,mode=0755,size=1M
BindReadOnlyPaths={" ".join(f"-{path}" for path in _RUN)}
InaccessiblePaths={" ".join(f"-{path}" for path in HIDDEN)}
PrivateTmp=yes
TemporaryFileSystem=/dev/shm:rw,nosuid,nodev,mode=1777,size=50%
PrivateIPC=yes
RemoveIPC=yes
PrivateUsers=yes
KeyringMode=private
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @debug @pkey
SystemCallFilter=seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM
"""


def hardening() -> str:
    """Lines for ``[Service]`` of a unit that runs jobs; the unit adds ``ReadWritePaths=`` of its own.

    They are the same with a container engine: that is in a unit of its own (`slot_containers`).
    """
    return _BLOCK
