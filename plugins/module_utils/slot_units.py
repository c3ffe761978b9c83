"""The units of a slot and what is a slot's own in them. Pure; standard library only."""

from __future__ import annotations

from .slot_containers import slot_engine_lines
from .slot_files import MANAGED, MODES, STORE, SlotSpec, unit_name
from .slot_hardening import hardening
from .slot_hooks import COMPLETED, HOOK

__all__ = [
    "again_unit_text",
    "devices_unit",
    "devices_unit_text",
    "hardening",
    "hold_unit_text",
    "limit_lines",
    "native_environment",
    "quoted",
    "restart_unit_text",
    "slot_lines",
    "slot_unit_text",
    "store_lines",
    "templates",
    "unit_text",
]

CLI = "/opt/runnerctl/bin/runnerctl"

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
Environment=ACTIONS_RUNNER_HOOK_JOB_COMPLETED={completed}
ExecStart=/var/lib/gha-runner/%i/bin/Runner.Listener run --startuptype service
Restart=on-abnormal
RestartForceExitStatus=2
RestartSec=5
KillMode=mixed
KillSignal=SIGINT
TimeoutStopSec=330
OOMPolicy=continue

ReadWritePaths=/var/lib/gha-runner/%i/_work /var/lib/gha-runner/%i/_diag /var/lib/gha-runner/%i/home
{hardening}
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

_DEVICES_UNIT = """\
{managed}
[Unit]
Description=Open the device nodes of slot %i's GPUs to its runner
After=nvidia-persistenced.service
ConditionPathExists={cli}
OnFailure=gha-again@%i.service
StartLimitIntervalSec=0

[Service]
Type=oneshot
ExecStart={cli} isolation devices %i --apply
TimeoutStartSec=90
UMask=0022
"""

# systemd does not try a start again that failed for another unit's sake, whatever Restart= says.
_AGAIN_UNIT = """\
{managed}
[Unit]
Description=Try again to start the runner of slot %i, whose GPUs did not answer
ConditionPathExists=!/var/lib/runnerctl/hold/%i

[Service]
Type=oneshot
ExecStart=/bin/sleep 30
ExecStart=/bin/sh -c 'for unit; do systemctl -q is-enabled "$$unit" || continue; \\
  systemctl start --no-block "$$unit"; done' sh {units}
"""


def unit_text() -> str:
    """The template unit of persistent slots."""
    return _UNIT.format(managed=MANAGED, hook=HOOK, completed=COMPLETED, hardening=hardening())


def hold_unit_text() -> str:
    """The template unit that makes a hold effective when the running job has ended."""
    return _HOLD_UNIT.format(managed=MANAGED)


def templates() -> dict[str, str]:
    """The units that all slots of a host share, by name; the slots' own first."""
    return {
        "gha-runner@.service": unit_text(),
        "gha-restart@.service": restart_unit_text(),
        "gha-hold@.service": hold_unit_text(),
        "gha-devices@.service": devices_unit_text(),
        "gha-again@.service": again_unit_text(),
    }


def restart_unit_text() -> str:
    """The template unit that applies a pending restart."""
    return _RESTART_UNIT.format(managed=MANAGED)


def slot_unit_text(slot: SlotSpec) -> str:
    """The slot's drop-in, of either mode: its release, what is due before a start, its GPUs, its limits."""
    devices = devices_unit(slot.name)
    # A slot with GPUs does not start without knowing which nodes are theirs; one that has none any more has
    # those taken back that it had before.
    unit = [f"Requires={devices}", f"AssertPathExists={CLI}"] if slot.gpus else [f"Wants={devices}"]
    unit += [f"After={devices}", *slot_engine_lines(slot)[0]]
    return "\n".join([MANAGED, "[Unit]", *unit, "", "[Service]", *slot_lines(slot)]) + "\n"


def slot_lines(slot: SlotSpec) -> list[str]:
    """Lines for ``[Service]``: what is the slot's own in its unit.

    The runner takes the parent of the directory that really holds ``Runner.Listener`` as its root and follows
    links (actions/runner, HostContext): a bind mount keeps one verified copy a host and the root per slot.
    """
    root, release = f"/var/lib/gha-runner/{slot.name}", f"/opt/actions-runner/{slot.version}"
    # Advice to well-behaved programs; a slot without GPUs is told that there are none.
    gpus = ",".join(slot.gpus)
    return [
        f"BindReadOnlyPaths={release}/bin:{root}/bin",
        f"BindReadOnlyPaths={release}/externals:{root}/externals",
        f"Environment=CUDA_VISIBLE_DEVICES={gpus or '-1'}",
        f"Environment=NVIDIA_VISIBLE_DEVICES={gpus or 'none'}",
        *(f"Environment={quoted(f'{name}={value}')}" for name, value in native_environment(slot).items()),
        *limit_lines(slot),
        *store_lines(slot),
        *slot_engine_lines(slot)[1],
    ]


def store_lines(slot: SlotSpec) -> list[str]:
    """Of the environments that are one owner's alone, a slot sees its own owner's; nothing without a store.

    The directories of all owners are behind one that nobody but the builder may enter.
    """
    if not slot.store:
        return []
    owners = f"{STORE}/owners"
    own = [f"BindReadOnlyPaths=-{owners}/{slot.store_owner}"] if slot.store_owner else []
    return [f"TemporaryFileSystem={owners}:ro,mode=0755,size=1M", *own]


def limit_lines(slot: SlotSpec) -> list[str]:
    """The slot's share of the host; nothing for what has no limit.

    Control groups of version 1 have no ``AllowedCPUs=``: there the affinity is where a job starts, and the
    quota is what bounds it.
    """
    lines = []
    if slot.cpus:
        lines += [f"AllowedCPUs={slot.cpus}", f"CPUAffinity={slot.cpus}"]
        lines += [f"CPUQuota={100 * cpu_count(slot.cpus)}%"]
    if slot.memory_bytes is not None:
        lines.append(f"MemoryMax={slot.memory_bytes}")
    if slot.tasks is not None:
        lines.append(f"TasksMax={slot.tasks}")
    return lines


def cpu_count(cpus: str) -> int:
    """How many processors a list of the kernel's form names (``0-3,8``); each counts once."""
    named: set[int] = set()
    for part in cpus.split(","):
        first, _, last = part.strip().partition("-")
        named.update(range(int(first), int(last or first) + 1))
    return len(named)


def devices_unit(slot: str) -> str:
    """The unit that finds out, before each start, which device nodes a slot's GPUs have now."""
    return f"gha-devices@{slot}.service"


def devices_unit_text() -> str:
    """The template unit that opens a slot's device nodes to its unit, and to nobody else."""
    return _DEVICES_UNIT.format(managed=MANAGED, cli=CLI)


def again_unit_text() -> str:
    """The template unit that gives a slot another chance when its GPUs could not be found."""
    return _AGAIN_UNIT.format(managed=MANAGED, units=" ".join(unit_name("%i", mode) for mode in MODES))


def native_environment(slot: SlotSpec) -> dict[str, str]:
    """What of the slot's environment must be there before the runner reads its ``.env``.

    .NET reads it into its own copy of the environment; OpenSSL, below it, asks the process's
    (dotnet/runtime, pal_x509_root.cpp: getenv).
    """
    return {name: slot.env[name] for name in ("SSL_CERT_DIR", "SSL_CERT_FILE") if name in slot.env}


def quoted(assignment: str) -> str:
    """An assignment as units have it: quoted, with nothing that systemd would replace (systemd.exec)."""
    escaped = assignment.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{escaped}"'
