"""The units of a slot and what is a slot's own in them. Pure; standard library only."""

from __future__ import annotations

from .slot_files import MANAGED, SlotSpec
from .slot_hooks import HOOK

__all__ = [
    "hold_unit_text",
    "native_environment",
    "restart_unit_text",
    "slot_unit_text",
    "templates",
    "unit_text",
]

# Why each line stands here: docs/explanation/unit.md.
_UNIT = """\
{managed}
[Unit]
Description=GitHub Actions runner of slot %i
Documentation=https://github.com/runnerctl/runnerctl
After=network-online.target nvidia-persistenced.service
Wants=network-online.target
ConditionPathExists=!/var/lib/runnerctl/hold/%i
StartLimitIntervalSec=600
StartLimitBurst=20

[Service]
Type=exec
User=gha-%i
Group=gha-%i
UMask=0077
WorkingDirectory=/var/lib/gha-runner/%i
Environment=HOME=/var/lib/gha-runner/%i/home
Environment=LANG=C.UTF-8
Environment=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
Environment=ACTIONS_RUNNER_RETURN_VERSION_DEPRECATED_EXIT_CODE=1
Environment=ACTIONS_RUNNER_HOOK_JOB_STARTED={hook}
ExecStart=/var/lib/gha-runner/%i/bin/Runner.Listener run --startuptype service
Restart=on-abnormal
RestartForceExitStatus=2
RestartSec=5
KillMode=mixed
KillSignal=SIGINT
TimeoutStopSec=330
OOMPolicy=continue

ProtectSystem=strict
ReadWritePaths=/var/lib/gha-runner/%i/_work /var/lib/gha-runner/%i/_diag /var/lib/gha-runner/%i/home
ProtectHome=yes
InaccessiblePaths=-/run/dbus
PrivateTmp=yes
RemoveIPC=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""

_RESTART_UNIT = """\
{managed}
[Unit]
Description=Restart the runner of slot %i as soon as it is idle
ConditionPathExists=/var/lib/runnerctl/pending/%i

[Service]
Type=exec
ExecStart=/opt/runnerctl/bin/runnerctl restart %i --when-idle
Restart=on-failure
RestartSec=30
"""


_HOLD_UNIT = """\
{managed}
[Unit]
Description=Stop the runner of slot %i, which is on hold, as soon as it is idle
ConditionPathExists=/var/lib/runnerctl/hold/%i

[Service]
Type=exec
ExecStart=/opt/runnerctl/bin/runnerctl drain %i --held
Restart=on-failure
RestartSec=30
"""


def unit_text() -> str:
    """The template unit of persistent slots."""
    return _UNIT.format(managed=MANAGED, hook=HOOK)


def hold_unit_text() -> str:
    """The template unit that makes a hold effective when the running job has ended."""
    return _HOLD_UNIT.format(managed=MANAGED)


def templates() -> dict[str, str]:
    """The units that all slots of a host share, by name; the slots' own first."""
    return {
        "gha-runner@.service": unit_text(),
        "gha-restart@.service": restart_unit_text(),
        "gha-hold@.service": hold_unit_text(),
    }


def restart_unit_text() -> str:
    """The template unit that applies a pending restart."""
    return _RESTART_UNIT.format(managed=MANAGED)


def slot_unit_text(slot: SlotSpec) -> str:
    """The slot's drop-in: its release, bind-mounted, and its GPUs.

    The runner takes the parent of the directory that really holds ``Runner.Listener`` as its root and follows
    links (actions/runner, HostContext): a bind mount keeps one verified copy a host and the root per slot.
    """
    root, release = f"/var/lib/gha-runner/{slot.name}", f"/opt/actions-runner/{slot.version}"
    lines = [
        MANAGED,
        "[Service]",
        f"BindReadOnlyPaths={release}/bin:{root}/bin",
        f"BindReadOnlyPaths={release}/externals:{root}/externals",
    ]
    # Advice to well-behaved programs; a slot without GPUs is told that there are none.
    gpus = ",".join(slot.gpus)
    lines += [
        f"Environment=CUDA_VISIBLE_DEVICES={gpus or '-1'}",
        f"Environment=NVIDIA_VISIBLE_DEVICES={gpus or 'none'}",
        *(f"Environment={_quoted(f'{name}={value}')}" for name, value in native_environment(slot).items()),
    ]
    return "\n".join(lines) + "\n"


def native_environment(slot: SlotSpec) -> dict[str, str]:
    """What of the slot's environment must be there before the runner reads its ``.env``.

    .NET reads it into its own copy of the environment; OpenSSL, below it, asks the process's
    (dotnet/runtime, pal_x509_root.cpp: getenv).
    """
    return {name: slot.env[name] for name in ("SSL_CERT_DIR", "SSL_CERT_FILE") if name in slot.env}


def _quoted(assignment: str) -> str:
    """As systemd's units have it: quoted, with nothing that it would replace (systemd.exec, systemd.unit)."""
    escaped = assignment.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
