"""What a slot's files on a host say: the unit, its drop-in, the environment. Pure; standard library only."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "HOOK",
    "MANAGED",
    "Layout",
    "SlotSpec",
    "env_text",
    "hold_unit_text",
    "hook_text",
    "native_environment",
    "read_runner_file",
    "restart_unit_text",
    "runner_fields",
    "slot_unit_text",
    "templates",
    "unit_text",
]

HOOK = "/opt/runnerctl/hooks/job-started.sh"

MANAGED = "# Managed by runnerctl: changes here are undone by the next converge.\n"


@dataclass(frozen=True)
class Layout:
    """Where everything of a slot stands. ``root`` is ``/`` on a host."""

    root: Path = Path("/")

    def path(self, absolute: str) -> Path:
        """A path of the host under ``root``."""
        return self.root / absolute.lstrip("/")

    def slot_root(self, slot: str) -> Path:
        """The runner's root directory."""
        return self.path(f"/var/lib/gha-runner/{slot}")

    def release(self, version: str) -> Path:
        """The one verified copy of a runner release on this host."""
        return self.path(f"/opt/actions-runner/{version}")

    @property
    def units(self) -> Path:
        """Where systemd reads the administrator's units."""
        return self.path("/etc/systemd/system")

    def drop_in(self, slot: str) -> Path:
        """What is this slot's own in its unit."""
        return self.units / f"gha-runner@{slot}.service.d" / "10-slot.conf"

    def wanted(self, slot: str) -> Path:
        """The link that starts the slot at boot."""
        return self.units / "multi-user.target.wants" / f"gha-runner@{slot}.service"

    def state(self, kind: str, slot: str) -> Path:
        """A file of our own state: ``slots`` (JSON), ``hold`` (a reason), ``pending`` (a restart is due)."""
        name = f"{slot}.json" if kind == "slots" else slot
        return self.path(f"/var/lib/runnerctl/{kind}/{name}")


@dataclass(frozen=True)
class SlotSpec:
    """One slot as the controller wants it; every field is final."""

    name: str
    runner_name: str
    url: str
    version: str
    labels: tuple[str, ...] = ()
    gpus: tuple[str, ...] = ()
    group: str | None = None
    no_default_labels: bool = False
    env: dict[str, str] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> SlotSpec:
        """Read the module's argument."""
        known = {key: data[key] for key in cls.__dataclass_fields__ if data.get(key) is not None}
        for key in ("labels", "gpus"):
            known[key] = tuple(known.get(key, ()))
        return cls(**known)

    @property
    def user(self) -> str:
        """The system user the slot's jobs run as."""
        return f"gha-{self.name}"

    @property
    def unit(self) -> str:
        """The systemd unit of a persistent slot."""
        return f"gha-runner@{self.name}.service"


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

# The runner starts it as the job's user before the first step (actions/runner, JobExtension). It calls no
# program and reads nothing of the job's: which slot this is, the kernel says.
_HOOK = """\
#!/bin/sh
{managed}
# A job that reaches a slot on hold fails at once, with the reason.
slot=
while IFS= read -r line; do
  case $line in
    *gha-runner@*.service*)
      slot=${{line#*gha-runner@}}
      slot=${{slot%%.service*}}
      ;;
  esac
done </proc/self/cgroup
hold=/var/lib/runnerctl/hold/$slot
if [ -z "$slot" ] || [ ! -e "$hold" ]; then
  exit 0
fi
reason=
IFS= read -r reason <"$hold" || :
printf '::error title=Runner slot on hold::slot %s takes no jobs: %s; %s\\n' \\
  "$slot" "${{reason:-no reason given}}" 'run the job again, on another runner'
exit 1
"""


def unit_text() -> str:
    """The template unit of persistent slots."""
    return _UNIT.format(managed=MANAGED, hook=HOOK)


def hold_unit_text() -> str:
    """The template unit that makes a hold effective when the running job has ended."""
    return _HOLD_UNIT.format(managed=MANAGED)


def hook_text() -> str:
    """The runner's job-started hook."""
    return _HOOK.format(managed=MANAGED)


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


def env_text(slot: SlotSpec) -> str:
    """The runner's ``.env``: ``KEY=VALUE`` lines, no quotes, no comments (actions/runner, Program.cs)."""
    return "".join(f"{key}={value}\n" for key, value in sorted(slot.env.items()))


def read_runner_file(path: Path) -> dict[str, Any] | None:
    """The runner's own ``.runner``; None when it is absent or says nothing: the slot is not registered."""
    try:
        return runner_fields(path.read_bytes())
    except OSError:
        return None


def runner_fields(content: bytes) -> dict[str, Any] | None:
    """What a ``.runner`` says: JSON, perhaps with a byte order mark; keys lower-cased.

    None when it cannot be read as JSON, or holds no id.
    """
    try:
        data = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    fields = {str(key).lower(): value for key, value in data.items()} if isinstance(data, dict) else {}
    agent_id = fields.get("agentid")
    texts = (fields.get("agentname"), fields.get("githuburl"))
    known = isinstance(agent_id, int) and not isinstance(agent_id, bool) and 0 < agent_id < 1 << 63
    return fields if known and all(text is None or isinstance(text, str) for text in texts) else None
