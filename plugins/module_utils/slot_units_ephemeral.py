"""The units of ephemeral slots: a listener that is new for each job, and who gets its registration.

Pure; standard library only. The App's key is a credential of ``gha-mint@`` alone: what a unit's user can
read, its jobs can read. What the listener starts from comes by its first process's environment, becomes
files, and is gone from the environment before the listener begins: jobs can read its ``/proc/PID/environ``.
"""

from __future__ import annotations

from .slot_files import MANAGED
from .slot_hardening import hardening
from .slot_hooks import COMPLETED, HOOK

__all__ = [
    "APP_FILE",
    "APP_KEY",
    "CREDENTIALS",
    "JIT",
    "MEMO",
    "TICKETS",
    "VARIABLE",
    "ephemeral_templates",
    "ephemeral_unit_text",
    "mint_unit_text",
]

CREDENTIALS = "/etc/runnerctl/credentials"
APP_KEY = f"{CREDENTIALS}/app-key.pem"
APP_FILE = f"{CREDENTIALS}/app.json"
TICKETS = "/etc/runnerctl/mint"  # a file for each ephemeral slot: what its registrations look like
JIT = "/run/runnerctl/jit"
MEMO = "/run/runnerctl/mint"  # root's notes between two starts
VARIABLE = "RUNNERCTL_LISTENER_FILES"  # NAME:BASE64 for each file that the listener starts from

# The files are the slot's own user's, in a root directory that is made for this start alone. Dollars and
# percents are doubled for systemd.
_START = (
    f"for each in $${VARIABLE}; do"
    ' echo "$${each#*:}" | /usr/bin/base64 -d >"$${each%%%%:*}" || exit 78; done;'
    f' [ -e .runner ] || exit 78; unset {VARIABLE} each; exec "$$0" "$$@"'
)

# A unit's own /run and directories hold for its commands of root's as well (systemd, namespace.c): these go
# back to the host's.
_OUTSIDE = "nsenter --target 1 --mount -- /bin/sh -c"

_UNIT = """\
{managed}
[Unit]
Description=GitHub Actions runner of slot %i, new for each job
Documentation=https://github.com/runnerctl/runnerctl
After=network-online.target nvidia-persistenced.service
Wants=network-online.target
ConditionPathExists=!/var/lib/runnerctl/hold/%i
StartLimitIntervalSec=0

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
Environment=ACTIONS_RUNNER_HOOK_JOB_COMPLETED={completed}
EnvironmentFile=-{jit}/%i
ExecStartPre=+{outside} 'systemctl start gha-fresh@%i gha-mint@%i || {{ sleep 5; exit 75; }}'
ExecStart=/bin/sh -c '{start}' /var/lib/gha-runner/%i/bin/Runner.Listener run --startuptype service
ExecStartPost=+{outside} 'rm {jit}/%i; systemctl start --no-block gha-sweep@%i.service || :'
ExecStopPost=+-{outside} 'umask 077; echo "$$EXIT_CODE $$EXIT_STATUS" >{memo}/%i.end'
Restart=always
RestartSec=20ms
TimeoutStartSec=900
KillMode=mixed
KillSignal=SIGINT
TimeoutStopSec=330
OOMPolicy=continue

TemporaryFileSystem=/var/lib/gha-runner/%i:rw,nosuid,nodev,mode=1777,size=64M,nr_inodes=16k
BindPaths=/var/lib/gha-runner/%i/_work /var/lib/gha-runner/%i/_diag /var/lib/gha-runner/%i/home
BindReadOnlyPaths=-/var/lib/gha-runner/%i/.env -/var/lib/gha-runner/%i/.setup_info
{hardening}
[Install]
WantedBy=multi-user.target
"""

# It speaks to GitHub and writes what the listener starts from; it comes near nothing that a job wrote.
_MINT_UNIT = """\
{managed}
[Unit]
Description=Registration of ephemeral slot %i for its next job
Documentation=https://github.com/runnerctl/runnerctl
PartOf=gha-ephemeral@%i.service
ConditionPathExists=!/var/lib/runnerctl/hold/%i
StartLimitIntervalSec=0

[Service]
Type=oneshot
UMask=0077
LoadCredential=app-key:{key}
ExecStart=/opt/runnerctl/bin/runnerctl mint %i
TimeoutStartSec=840
RuntimeDirectory=runnerctl/jit runnerctl/mint
RuntimeDirectoryMode=0700
RuntimeDirectoryPreserve=yes

DevicePolicy=closed
ProtectSystem=strict
ReadWritePaths=/var/lib/runnerctl
InaccessiblePaths=-/var/lib/gha-runner
PrivateTmp=yes
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
NoNewPrivileges=yes
CapabilityBoundingSet=
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
"""

# The link hides from Python which environment it belongs to.
_PYTHON = 'cd -P /opt/runnerctl/bin && exec "$$PWD/python"'

# It ends and removes what jobs left behind, whoever owns it and wherever it is: a unit without the App's key,
# and without a network.
_FRESH_UNIT = """\
{managed}
[Unit]
Description=Everything new for the next job of ephemeral slot %i
Documentation=https://github.com/runnerctl/runnerctl
PartOf=gha-ephemeral@%i.service
ConditionPathExists=!/var/lib/runnerctl/hold/%i
StartLimitIntervalSec=0

[Service]
Type=oneshot
UMask=0077
ExecStart=/bin/sh -c '{python} -I -m runnerctl.minting_fresh %i'
TimeoutStartSec=120

DevicePolicy=closed
PrivateNetwork=yes
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX
RestrictNamespaces=mnt
RestrictRealtime=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service @mount
SystemCallErrorNumber=EPERM
"""

_SWEEP_UNIT = """\
{managed}
[Unit]
Description=Removal of what ended jobs of slot %i left on the disk
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'rm -rf --one-file-system -- /var/lib/gha-runner/%i/.old-*'
ExecStart=/bin/sh -c '{python} -I -m runnerctl.guard.residue_trash /var/lib/gha-runner/%i'
Nice=19
IOSchedulingClass=idle
TimeoutStartSec=3600
ProtectSystem=strict
ReadWritePaths=-/var/lib/gha-runner/%i
PrivateNetwork=yes
CapabilityBoundingSet=CAP_DAC_OVERRIDE CAP_FOWNER
NoNewPrivileges=yes
"""


def ephemeral_unit_text() -> str:
    """The template unit of ephemeral slots.

    Why ``ExecStartPre=`` rather than ``Requires=gha-mint@``: a start that fails for a dependency is not tried
    again (systemd.service, ``Restart=``), one that fails by itself is. A failure costs five seconds at least,
    and minting backs off by itself.
    """
    return _UNIT.format(
        managed=MANAGED,
        hook=HOOK,
        completed=COMPLETED,
        outside=_OUTSIDE,
        jit=JIT,
        memo=MEMO,
        start=_START,
        hardening=hardening(),
    )


def mint_unit_text() -> str:
    """The template unit that gets a slot's next registration: root's, with the App's key."""
    return _MINT_UNIT.format(managed=MANAGED, key=APP_KEY)


def ephemeral_templates() -> dict[str, str]:
    """The units that all ephemeral slots of a host share, by name; the slots' own first."""
    return {
        "gha-ephemeral@.service": ephemeral_unit_text(),
        "gha-mint@.service": mint_unit_text(),
        "gha-fresh@.service": _FRESH_UNIT.format(managed=MANAGED, python=_PYTHON),
        "gha-sweep@.service": _SWEEP_UNIT.format(managed=MANAGED, python=_PYTHON),
    }
