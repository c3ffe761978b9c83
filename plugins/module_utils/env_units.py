"""The units of the store of conda environments: a socket that jobs ask, the service that builds, its tidying.

Pure; standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .network import CA_FILE
from .slot_files import MANAGED
from .slot_hardening import HIDDEN
from .slot_units import CLI, quoted

__all__ = [
    "CREDENTIALS",
    "ENV_GC_SERVICE",
    "ENV_GC_TIMER",
    "ENV_SERVICE",
    "ENV_SOCKET",
    "USER",
    "env_units",
    "network_lines",
]

USER = "runnerctl-env"
CREDENTIALS = "/etc/runnerctl/env/channels.json"
ENV_SOCKET = "runnerctl-env.socket"
ENV_SERVICE = "runnerctl-env.service"
ENV_GC_TIMER = "runnerctl-env-gc.timer"
ENV_GC_SERVICE = "runnerctl-env-gc.service"
PROXIES = ("http_proxy", "https_proxy")
LOCAL = ("localhost", "127.0.0.1", "::1")

# Why each line stands here: docs/explanation/unit.md.
_SOCKET = """\
{managed}
[Unit]
Description=Where jobs ask for conda environments

[Socket]
ListenStream=/run/runnerctl/env.sock
SocketMode=0666
DirectoryMode=0755
Backlog=512
RemoveOnStop=yes

[Install]
WantedBy=sockets.target
"""

_SERVICE = """\
{managed}
[Unit]
Description=Build conda environments for the jobs of this host
Documentation=https://github.com/runnerctl/runnerctl
Requires=runnerctl-env.socket
After=runnerctl-env.socket network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
User={user}
Group={user}
UMask=0022
Environment=LANG=C.UTF-8
{environment}ExecStart={cli} env serve
Restart=on-failure
RestartSec=1
WatchdogSec=60
TimeoutStartSec=60
TimeoutStopSec=30
KillMode=mixed
OOMPolicy=continue
OOMScoreAdjust=300
Nice=10
IOSchedulingClass=best-effort
IOSchedulingPriority=7
CPUWeight=20
IOWeight=20
MemoryMax=50%
TasksMax=8192
LimitNOFILE=65536

ReadWritePaths=/var/lib/runnerctl/env
ProtectSystem=strict
ProtectHome=yes
InaccessiblePaths={hidden}
PrivateTmp=yes
PrivateIPC=yes
RemoveIPC=yes
DevicePolicy=closed
DeviceAllow=/dev/nvidiactl rw
KeyringMode=private
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=landlock_create_ruleset landlock_add_rule landlock_restrict_self
SystemCallErrorNumber=EPERM
"""

_GC_TIMER = """\
{managed}
[Unit]
Description=Remove conda environments that nobody used for long, every 6 hours

[Timer]
OnBootSec=20min
OnUnitActiveSec=6h
RandomizedDelaySec=10min

[Install]
WantedBy=timers.target
"""

# It only asks the service; that it is root is all that it brings.
_GC_SERVICE = """\
{managed}
[Unit]
Description=Remove conda environments that nobody used for long
Requires=runnerctl-env.socket
After=runnerctl-env.socket

[Service]
Type=oneshot
ExecStart={cli} env gc --store host
SuccessExitStatus=75
TimeoutStartSec=3h
Nice=19
UMask=0077
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
PrivateNetwork=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""


def env_units(network: Mapping[str, Any], *, credentials: bool) -> dict[str, str]:
    """The units by name, given the section ``runnerctl`` of ``host.json``.

    ``credentials``: whether there is a file of channel credentials, which the service alone is handed.
    """
    lines = network_lines(network)
    lines += [f"LoadCredential=channels:{CREDENTIALS}"] if credentials else []
    service = _SERVICE.format(
        managed=MANAGED,
        cli=CLI,
        user=USER,
        environment="".join(f"{line}\n" for line in lines),
        hidden=" ".join(f"-{path}" for path in ("/var/lib/gha-runner", *HIDDEN)),
    )
    return {
        ENV_SOCKET: _SOCKET.format(managed=MANAGED),
        ENV_SERVICE: service,
        ENV_GC_TIMER: _GC_TIMER.format(managed=MANAGED),
        ENV_GC_SERVICE: _GC_SERVICE.format(managed=MANAGED, cli=CLI),
    }


def network_lines(network: Mapping[str, Any]) -> list[str]:
    """The site's way to channels and to the package index, as a slot's environment has it for jobs."""
    found = {name: network[name] for name in PROXIES if network.get(name)}
    if found:
        found["no_proxy"] = ",".join(dict.fromkeys((*network.get("no_proxy", ()), *LOCAL)))
    if network.get("ca_bundle"):
        found |= dict.fromkeys(("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"), CA_FILE)
    return [f"Environment={quoted(f'{name}={value}')}" for name, value in found.items()]
