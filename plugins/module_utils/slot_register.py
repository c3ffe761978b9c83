"""Register a slot's runner with GitHub, without the token ever being near the slot's own user.

``Runner.Listener configure`` runs in a transient unit of systemd: as root but without any capability, on the
verified, root-owned code, with the job-writable directories hidden under empty ones. The token goes in by
standard input and becomes an environment variable of that one process (``ACTIONS_RUNNER_INPUT_TOKEN``, which
the runner removes from its environment when it has read it): it is in no argument, file or unit property.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from .errors import HostError
from .slot_files import Layout, SlotSpec, read_runner_file
from .slot_system import System, run
from .slot_units import native_environment

__all__ = [
    "CREDENTIAL_FILES",
    "Enrolment",
    "can_sign_in",
    "forget_registration",
    "refuse_stale",
    "register",
]

CREDENTIAL_FILES = (
    ".runner",
    ".credentials",
    ".credentials_rsaparams",
    ".runner_migrated",
    ".credentials_migrated",
)
# One of each must be there: GitHub may have moved a runner to migrated credentials.
_SIGNS_IN_WITH = ((".credentials", ".credentials_migrated"), (".credentials_rsaparams",))
DEADLINE_SECONDS = 300.0
_READ_TOKEN = (
    'IFS= read -r ACTIONS_RUNNER_INPUT_TOKEN && export ACTIONS_RUNNER_INPUT_TOKEN && umask 077 && exec "$@"'
)


@dataclass(frozen=True)
class Enrolment:
    """A permission to register: the short-lived token, and whether to take an existing record's place.

    ``seen`` is the runner's id on the host when this was decided, 0 for none; None: do not compare.
    """

    token: str
    replace: bool = False
    seen: int | None = None

    def __repr__(self) -> str:
        return f"Enrolment(token=<hidden>, replace={self.replace})"


def can_sign_in(layout: Layout, slot: str) -> bool:
    """Whether what the listener signs in with is there: without it a registration is worth nothing."""
    root = layout.slot_root(slot)
    return all(any((root / each).exists() for each in either) for either in _SIGNS_IN_WITH)


def forget_registration(layout: Layout, slot: SlotSpec) -> None:
    """Delete the local half of an older registration: the runner refuses to configure over it."""
    for name in (*CREDENTIAL_FILES, ".service"):
        (layout.slot_root(slot.name) / name).unlink(missing_ok=True)


def refuse_stale(system: System, slot: SlotSpec, enrolment: Enrolment, *, agent_id: int | None) -> None:
    """What was decided before the host was locked may be wrong by now: another run, or a job, was faster.

    ``agent_id`` is the runner's id on the host now. Raises HostError.
    """
    where = f"slot {slot.name}"
    if enrolment.seen is not None and (agent_id or 0) != enrolment.seen:
        raise HostError("was registered by another run meanwhile", where=where, remedy="run again")
    if system.busy(slot.unit):
        raise HostError("has begun a job meanwhile", where=where, remedy="run again when it has ended")


def register(layout: Layout, system: System, slot: SlotSpec, enrolment: Enrolment) -> int:
    """Configure the runner and give its files to root and the slot's group; returns the runner's id.

    Raises HostError with the runner's own reason.
    """
    unit = f"gha-configure-{slot.name}.service"
    if system.unit_states([unit])[unit].running:  # left by a run that was killed
        system.systemctl("stop", unit)
    try:
        done = run(
            _transient(layout, slot, unit) + _configure(layout, slot, replace=enrolment.replace),
            stdin=f"{enrolment.token}\n",
            seconds=DEADLINE_SECONDS,
            check=False,
        )
    except HostError:
        system.systemctl("stop", unit)
        raise
    runner = read_runner_file(layout.slot_root(slot.name) / ".runner")
    if done.rc or runner is None:
        reason = _reason(done.out + "\n" + done.err).replace(enrolment.token, "<token>")
        raise HostError(
            f"the runner could not be registered: {reason}",
            where=f"slot {slot.name}",
            remedy="mend that, or wait for GitHub, and run again: it goes on from here",
        )
    (layout.slot_root(slot.name) / "svc.sh").unlink(missing_ok=True)  # it would install a second unit
    gid = system.ids(slot.user)[1]
    for name in CREDENTIAL_FILES:
        path = layout.slot_root(slot.name) / name
        if path.is_file():
            os.chown(path, os.geteuid(), gid, follow_symlinks=False)
            path.chmod(0o640)
    return int(runner["agentid"])


def _transient(layout: Layout, slot: SlotSpec, unit: str) -> list[str]:
    root, release = str(layout.slot_root(slot.name)), str(layout.release(slot.version))
    properties = [
        f"WorkingDirectory={root}",
        f"BindReadOnlyPaths={release}/bin:{root}/bin",
        f"BindReadOnlyPaths={release}/externals:{root}/externals",
        f"ReadWritePaths={root}",
        f"TemporaryFileSystem={root}/_diag {root}/_work {root}/home",
        "ProtectSystem=strict",
        "ProtectHome=yes",
        "PrivateTmp=yes",
        "CapabilityBoundingSet=",
        "NoNewPrivileges=yes",
        f"RuntimeMaxSec={DEADLINE_SECONDS:.0f}",
    ]
    environment = {
        "HOME": f"{root}/home",
        "LANG": "C.UTF-8",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "RUNNER_ALLOW_RUNASROOT": "1",
        **native_environment(slot),
    }
    words = [
        "systemd-run",
        "--quiet",
        "--wait",
        "--collect",
        "--pipe",
        "--service-type=exec",
        f"--unit={unit}",
    ]
    words += [f"--property={value}" for value in properties]
    words += [f"--setenv={key}={value}" for key, value in environment.items()]
    return [*words, "--", "/bin/sh", "-c", _READ_TOKEN, "configure"]


def _configure(layout: Layout, slot: SlotSpec, *, replace: bool) -> list[str]:
    words = [
        f"{layout.slot_root(slot.name)}/bin/Runner.Listener",
        "configure",
        "--unattended",
        "--disableupdate",
    ]
    words += ["--url", slot.url, "--name", slot.runner_name, "--work", "_work"]
    if slot.labels:
        words += ["--labels", ",".join(slot.labels)]
    if slot.group:
        words += ["--runnergroup", slot.group]
    if slot.no_default_labels:
        words.append("--no-default-labels")
    if replace:
        words.append("--replace")
    return [word.replace("$", "$$") for word in words]  # systemd replaces $NAME in a unit's command line


def _reason(output: str) -> str:
    """The line that says why: the last that is neither empty nor decoration."""
    lines = [line.strip() for line in output.splitlines()]
    telling = [line for line in lines if any(character.isalpha() for character in line)]
    return telling[-1][:300] if telling else "it gave no reason"
