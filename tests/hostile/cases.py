"""The table: every attempt, what it tries, what stops it, and how that is known."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CASES", "Case", "table"]


class Case(NamedTuple):
    """One attempt.

    ``proof``: ``kernel`` (the call's own result, or a secret that could only be shown by having it), ``host``
    (looked at from outside, as root), ``next`` (from outside, and by the next job on the slot). ``open``: in
    which modes it succeeds by the runner's or this release's design, and says so in SECURITY.md.
    """

    id: str
    tries: str
    stops: str
    proof: str = "kernel"
    open: tuple[str, ...] = ()


_BOTH = ("persistent", "ephemeral")

CASES: tuple[Case, ...] = (
    # device nodes
    Case("device.neighbour-gpu", "open the GPU of another slot", "DevicePolicy=closed"),
    Case("device.every-other", "open every other node under /dev", "DevicePolicy=closed"),
    Case("device.memory", "read /dev/mem, /dev/kmem, /dev/port, /dev/kmsg", "DevicePolicy=closed"),
    Case("device.make-node", "make a node of its own for a GPU, a disk, memory", "no capabilities"),
    Case("device.disks", "read the disks past the file system", "DevicePolicy=closed"),
    Case(
        "device.type-into-terminal",
        "push key strokes into root's terminals",
        "PrivateDevices of terminals",
        "kernel",
    ),
    # files
    Case(
        "file.neighbour",
        "read another slot's registration, work, home, logs",
        "a user for each slot, mode 0700",
    ),
    Case("file.host-secrets", "read keys, password hashes, credentials of units", "owner root; ProtectHome"),
    Case("file.other-logs", "read the logs of earlier jobs", "logs are moved to root after each job", "next"),
    Case("file.hooks", "change the hooks", "owner root; ProtectSystem=strict", "host"),
    Case("file.runner-code", "change the runner", "owner root; read-only bind mount", "host"),
    Case("file.cli-code", "change runnerctl", "owner root; ProtectSystem=strict", "host"),
    Case("file.units", "change units and drop-ins", "owner root; ProtectSystem=strict", "host"),
    Case("file.host-json", "change the host's description, holds, job records", "owner root", "host"),
    Case("file.runner-settings", "poison .env, .path, .setup_info, the registration", "owner root", "host"),
    Case(
        "file.rename-structure",
        "rename or replace the slot's directories",
        "the slot's root is root's",
        "host",
    ),
    Case("file.system", "change accounts, sudo, preloading, profiles, PAM", "ProtectSystem=strict", "host"),
    Case("file.cron", "leave a cron or at job", "ProtectSystem=strict, NoNewPrivileges", "host"),
    Case("file.set-user-id", "make a program that runs as another", "RestrictSUIDSGID", "host"),
    Case(
        "file.hard-links",
        "give root's files a second name in the workspace",
        "fs.protected_hardlinks",
        "host",
    ),
    Case("file.by-handle", "open files by their numbers on the disk", "no capabilities"),
    Case("file.mask-structure", "make a file that nobody can remove", "no capabilities", "host"),
    Case("file.core-dump", "leave a core dump outside its own directories", "core_pattern is root's", "host"),
    # the kernel
    Case("kernel.clock", "set the clock", "ProtectClock", "host"),
    Case("kernel.hostname", "rename the host", "ProtectHostname", "host"),
    Case(
        "kernel.settings", "change settings under /proc/sys, the magic key", "ProtectKernelTunables", "host"
    ),
    Case("kernel.sysfs", "remove devices, switch processors off", "ProtectKernelTunables", "host"),
    Case("kernel.modules-and-calls", "load modules, BPF, another kernel", "SystemCallFilter"),
    Case("kernel.reboot", "halt or reboot", "SystemCallFilter, no bus", "host"),
    Case("kernel.namespaces", "be root in a namespace of its own", "RestrictNamespaces"),
    Case(
        "kernel.others-namespaces",
        "enter root's or a neighbour's namespaces",
        "ProtectProc, RestrictNamespaces",
    ),
    Case("kernel.mounts", "mount, unmount, change its root", "SystemCallFilter, no capabilities", "host"),
    Case("kernel.own-limits", "lift its limits, leave its control group", "ProtectControlGroups", "host"),
    # processes and users
    Case("process.trace-others", "trace root's and neighbours' processes", "another user; ProtectProc"),
    Case("process.kill-others", "kill every process it can name or guess", "another user", "host"),
    Case("process.see-others", "read others' command lines and environments", "ProtectProc=invisible"),
    Case(
        "process.priority", "be served before others, slow others down", "RestrictRealtime, no capabilities"
    ),
    Case(
        "process.listener-memory", "take its own runner's session key", "nothing: same user", "kernel", _BOTH
    ),
    Case("escalate.sudo-su-pkexec", "become root by sudo, su, pkexec, systemd-run", "NoNewPrivileges"),
    Case("escalate.change-user", "become another user by the calls", "no capabilities"),
    # services
    Case(
        "service.engines",
        "connect to Docker, containerd, podman",
        "/run is empty but for a few; no group docker",
    ),
    Case("service.buses", "connect to D-Bus, systemd, udev", "/run is empty but for a few"),
    Case("service.any-socket", "connect to any socket it finds", "/run is empty but for a few"),
    Case("service.user-manager", "linger, user units, transient scopes", "no bus", "host"),
    Case("journal.read", "read the journal", "not in group systemd-journal"),
    Case("journal.forge", "write entries as the kernel or a neighbour", "journald's own fields", "host"),
    Case("guard.flood", "keep the guard from answering", "bounds and deadlines", "host"),
    Case(
        "guard.claim-another",
        "speak to the guard for another slot",
        "SO_PEERCRED and the control group",
        "host",
    ),
    Case("network.raw", "raw packets, other families, the links", "RestrictAddressFamilies, no capabilities"),
    Case(
        "network.neighbour-abstract", "a neighbour's abstract socket", "nothing: one network", "kernel", _BOTH
    ),
    Case("network.loopback", "services at the host's loopback", "nothing: one network", "kernel", _BOTH),
    # limits
    Case("limit.fork-bomb", "processes without end", "TasksMax", "host"),
    Case("limit.memory-hog", "memory beyond its share", "MemoryMax", "host"),
    Case("limit.shared-memory-hog", "the same in files of shared memory", "MemoryMax", "host"),
    Case("limit.cpu-hog", "processors beyond its share", "CPUQuota", "kernel"),
    Case("limit.disk-full", "fill the host's disk", "a disk of its own", "host"),
    Case("limit.inodes", "use up the host's inodes", "a disk of its own", "host"),
    # secrets
    Case(
        "secret.in-reach",
        "find any token or key: files, environments, /proc, journal",
        "none is there",
        "host",
    ),
    # what it leaves
    Case("left.double-fork", "leave a daemon", "the guard ends the unit's processes", "next"),
    Case("left.new-session", "leave a process with a session of its own", "the guard", "next"),
    Case("left.ignores-signals", "leave a stopped process that ignores signals", "SIGKILL by root", "next"),
    Case(
        "left.respawning", "leave processes that start each other", "freezing, or killing until none", "next"
    ),
    Case(
        "left.named-like-a-worker",
        "leave a process called Runner.Worker",
        "its parent is not the listener",
        "next",
    ),
    Case("left.holds-gpu", "leave a process that holds the GPU", "the guard", "next"),
    Case(
        "left.home", "leave start-up files of shells, git, ssh, pip, Python", "the home is made new", "next"
    ),
    Case("left.work", "leave a poisoned workspace and actions", "the workspace is made new", "next"),
    Case("left.tool-cache", "leave a poisoned tool in the tool cache", "it goes with the workspace", "next"),
    Case("left.temporary", "leave files in /tmp, /var/tmp, /dev/shm", "private and emptied", "next"),
    Case("left.ipc", "leave System V and POSIX IPC objects", "removed by owner", "next"),
    Case("left.keyring", "leave keys in its user's keyrings", "the rings are cleared", "next"),
    Case(
        "left.session-keyring",
        "leave a key in the listener's session keyring",
        "nothing",
        "next",
        ("persistent",),
    ),
    Case("left.links", "have root's clean-up follow links", "openat2 and O_NOFOLLOW", "next"),
    Case("left.strange-files", "leave what cannot be walked or removed", "removal by descriptors", "next"),
    Case("left.race", "swap a directory for a link while root removes it", "openat2 and O_NOFOLLOW", "next"),
    Case("left.environment", "leave variables", "the worker is a new process", "next"),
    # hooks
    Case("hook.no-trick", "a workflow that is not allowed", "the policy gate", "host"),
    Case(
        "hook.bash-env", "BASH_ENV that ends the hook's shell", "the guard ends jobs that never asked", "host"
    ),
    Case("hook.functions", "exported functions in place of the hook's commands", "the guard", "host"),
    Case("hook.shellopts", "SHELLOPTS=noexec", "the guard ends jobs that never asked", "host"),
    Case("hook.preload", "LD_PRELOAD, LD_AUDIT, LD_LIBRARY_PATH", "refused by the guard", "host"),
    Case("hook.python", "PYTHONPATH, PYTHONHOME, PYTHONSTARTUP", "python -I", "host"),
    Case("hook.claims", "GITHUB_* of its own in the job's env", "the runner's own context wins", "host"),
    Case("hook.path", "a bash of its own for the completed hook", "the guard sees the worker end", "next"),
    # names
    Case("name.terminal", "names that steer a terminal", "escaped wherever shown", "host"),
    Case(
        "name.commands", "names that are workflow commands, or break lines", "escaped wherever shown", "host"
    ),
    Case("name.csv", "names that are formulas in a table", "quoted and marked", "host"),
    Case("name.prometheus", "names that end a label in metrics", "escaped", "host"),
)


def table() -> str:
    """The cases as a Markdown table."""
    rows = ["| case | a job tries to | what stops it |", "|---|---|---|"]
    for case in CASES:
        where = f" (**open** in {' and '.join(case.open)} mode)" if case.open else ""
        rows.append(f"| `{case.id}` | {case.tries} | {case.stops}{where} |")
    return "\n".join(rows) + "\n"
