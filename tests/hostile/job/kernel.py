"""The kernel: clocks, names, settings, modules, namespaces, mounts, control groups, other processes."""

from __future__ import annotations

import ctypes
import errno
import functools
import glob
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from .report import ReachedError, attempt, config, in_child

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW = {"mount": 0x20000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000, "pid": 0x20000000}
_NEW["net"] = 0x40000000
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
# x86_64 and the numbers that all architectures share since 5.1.
_CALLS = {"init_module": 175, "delete_module": 176, "kexec_load": 246, "bpf": 321}
_CALLS |= {"swapon": 167, "pivot_root": 155, "fsopen": 430, "open_tree": 428, "iopl": 172, "quotactl": 179}


def _call(name: str, *arguments: object) -> str:
    """A function of libc; ReachedError when it succeeds."""
    ctypes.set_errno(0)
    if getattr(_LIBC, name)(*arguments) != -1:
        raise ReachedError(f"{name}{arguments}")
    return errno.errorcode.get(ctypes.get_errno(), "?")


def _write(path: str, text: str) -> str:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, "?")
    raise ReachedError(path)


@attempt("kernel.clock")
def clock() -> str:
    """Set the time, and bend it."""
    try:
        time.clock_settime(time.CLOCK_REALTIME, time.time() + 86400)
    except OSError as error:
        bent = ctypes.create_string_buffer(b"\x01\x00\x00\x00" + b"\x01" * 204)
        return f"{errno.errorcode[error.errno or 0]},{_call('adjtimex', bent)}"
    raise ReachedError("clock_settime")


@attempt("kernel.hostname")
def hostname() -> str:
    """Another name for the host, and for its domain."""
    try:
        socket.sethostname("hostile")
    except OSError as error:
        return f"{errno.errorcode[error.errno or 0]},{_call('setdomainname', b'hostile', 7)}"
    raise ReachedError("sethostname")


@attempt("kernel.settings")
def settings() -> str:
    """Settings of the kernel: who handles core dumps, what may be traced, the magic key."""
    names = (
        "sys/kernel/core_pattern",
        "sys/kernel/yama/ptrace_scope",
        "sys/vm/overcommit_memory",
        "sysrq-trigger",
    )
    return ",".join(_write(f"/proc/{name}", "|/tmp/x" if "core" in name else "0") for name in names)


@attempt("kernel.sysfs")
def sysfs() -> str:
    """Take devices away from everybody, or drop a processor."""
    paths = [*glob.glob("/sys/bus/pci/devices/*/remove")[:2], "/sys/bus/pci/rescan"]
    paths += ["/sys/devices/system/cpu/cpu1/online", "/sys/power/state", "/sys/module/nvidia/parameters/x"]
    return ",".join(sorted({_write(path, "1") for path in paths}))


@attempt("kernel.modules-and-calls")
def calls() -> str:
    """Load code into the kernel, or change its memory, mounts, disks."""
    said = set()
    for number in _CALLS.values():
        ctypes.set_errno(0)
        if _LIBC.syscall(number, 0, 0, 0, 0, 0) >= 0:
            raise ReachedError(f"call {number}")
        said.add(errno.errorcode.get(ctypes.get_errno(), "?"))
    if said - {"EPERM", "ENOSYS", "EACCES"}:
        # It was let in, and refused what it was given.
        raise ReachedError(f"a call was looked at: {said}")
    return ",".join(sorted(said))


@attempt("kernel.reboot")
def reboot() -> str:
    """Halt, by the call (with a command that does nothing yet), by programs, by the magic key."""
    said = [_call("reboot", 0)]
    for words in (["systemctl", "reboot"], ["/sbin/reboot", "-f"], ["/sbin/poweroff", "-f"]):
        try:
            done = subprocess.run(words, capture_output=True, timeout=10, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            raise ReachedError(words[0])
    return ",".join(said)


def _unshare(flag: int) -> int:
    return 0 if _LIBC.unshare(flag) == 0 else ctypes.get_errno()


@attempt("kernel.namespaces")
def namespaces() -> str:
    """Namespaces of its own, in which it would be root."""

    said = set()
    for name, flag in _NEW.items():
        status = in_child(functools.partial(_unshare, flag))
        if status == 0:
            raise ReachedError(f"a new {name} namespace")
        said.add(errno.errorcode.get(os.waitstatus_to_exitcode(status), "?"))
    done = subprocess.run(["unshare", "-Ur", "true"], capture_output=True, timeout=10, check=False)
    if done.returncode == 0:
        raise ReachedError("unshare -Ur")
    return ",".join(sorted(said))


@attempt("kernel.others-namespaces")
def others_namespaces() -> str:
    """The namespaces of root's and of the neighbour's processes."""
    tried = 0
    for pid in (1, *config()["other_pids"]):
        for name in ("mnt", "ipc", "uts", "user", "net"):
            tried += 1
            try:
                descriptor = os.open(f"/proc/{pid}/ns/{name}", os.O_RDONLY)
            except OSError:
                continue
            if _LIBC.setns(descriptor, 0) == 0:
                raise ReachedError(f"{name} of {pid}")
    return f"{tried} tried"


@attempt("kernel.mounts")
def mounts() -> str:
    """Mount something, over something, and unmount what hides something."""
    here = os.getcwd().encode()
    said = [
        _call("mount", b"none", here, b"tmpfs", 0, None),
        _call("mount", b"/etc", here, None, 0x1000, None),
        _call("mount", None, b"/", None, 0x20 | 0x1000, None),
        _call("umount2", f"{config()['root']}/bin".encode(), 2),
        _call("umount2", b"/run", 2),
        _call("chroot", here),
    ]
    return ",".join(sorted(set(said)))


@attempt("kernel.own-limits")
def own_limits() -> str:
    """Lift its own limits, or leave its control group."""
    said = set()
    for place in glob.glob("/sys/fs/cgroup/**/cgroup.procs", recursive=True)[:400]:
        said.add(_write(place, str(os.getpid())))
    own = [line.strip().rpartition(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()]
    names = (
        "memory.limit_in_bytes",
        "memory.max",
        "pids.max",
        "cpu.max",
        "cpu.cfs_quota_us",
        "devices.allow",
    )
    for path in set(own):
        for place in [*glob.glob(f"/sys/fs/cgroup/*{path}"), f"/sys/fs/cgroup{path}"]:
            for name in names:
                if os.path.exists(f"{place}/{name}"):
                    said.add(_write(f"{place}/{name}", "a" if name.startswith("devices") else "-1"))
    return ",".join(sorted(said))


@attempt("process.trace-others")
def trace_others() -> str:
    """Attach to root's and the neighbour's processes, and read their memory."""
    said = set()
    for pid in (1, *config()["other_pids"]):
        if _LIBC.ptrace(_PTRACE_ATTACH, pid, None, None) == 0:
            _LIBC.ptrace(_PTRACE_DETACH, pid, None, None)
            raise ReachedError(f"traced {pid}")
        said.add(errno.errorcode.get(ctypes.get_errno(), "?"))
        try:
            os.close(os.open(f"/proc/{pid}/mem", os.O_RDWR))
        except OSError:
            continue
        raise ReachedError(f"memory of {pid}")
    return ",".join(sorted(said))


@attempt("process.kill-others")
def kill_others() -> str:
    """Every process there is, known or guessed, but the slot's own."""
    # A thread's number is as good as its process's.
    own = {int(path.split("/")[4]) for path in glob.glob("/proc/[0-9]*/task/[0-9]*")}
    said: dict[str, int] = {}
    for pid in {*range(1, 4000), *config()["other_pids"]} - own:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError as error:
            name = errno.errorcode.get(error.errno or 0, "?")
            said[name] = said.get(name, 0) + 1
        else:
            if not _was_mine(pid):
                raise ReachedError(f"killed {pid}")
    return str(said)


def _was_mine(pid: int) -> bool:
    """Whether a process that just came up was one of this job's own."""
    return pid not in config()["other_pids"] and pid != 1


@attempt("process.see-others")
def see_others() -> str:
    """Command lines, environments, files and directories of others' processes."""
    seen = [path for path in glob.glob("/proc/[0-9]*") if os.stat(path).st_uid not in (os.getuid(), 65534)]
    for pid in config()["other_pids"]:
        for name in ("cmdline", "environ", "maps", "status"):
            try:
                content = Path(f"/proc/{pid}/{name}").read_bytes()
            except OSError:
                continue
            raise ReachedError(f"/proc/{pid}/{name}: {content[:60]!r}")
        for name in ("cwd", "root", "exe", "fd/1"):
            try:
                raise ReachedError(os.readlink(f"/proc/{pid}/{name}"))
            except OSError:
                continue
    if seen:
        raise ReachedError(f"others' processes: {seen[:5]}")
    return "none is there"


@attempt("process.priority")
def priority() -> str:
    """Be served before others: nice, real time, the last to be killed; and change others' priorities."""
    said = []
    attempts: list[tuple[Callable[..., object], tuple[object, ...]]] = [
        (os.setpriority, (os.PRIO_PROCESS, 0, -10)),
        (os.sched_setscheduler, (0, os.SCHED_FIFO, os.sched_param(50))),
        (Path("/proc/self/oom_score_adj").write_text, ("-900",)),
        *((os.setpriority, (os.PRIO_PROCESS, pid, 19)) for pid in config()["other_pids"]),
        *((os.sched_setaffinity, (pid, {0})) for pid in config()["other_pids"]),
    ]
    for action, arguments in attempts:
        try:
            action(*arguments)
        except OSError as error:
            said.append(errno.errorcode.get(error.errno or 0, "?"))
        else:
            raise ReachedError(f"action {len(said)}")
    return ",".join(said)


@attempt("process.listener-memory")
def listener_memory() -> str:
    """The session key in the memory and files of its own listener: the runner's design leaves it there."""
    listener = int(config()["listener_pid"])
    try:
        os.close(os.open(f"/proc/{listener}/mem", os.O_RDONLY))
    except OSError as error:
        said = errno.errorcode.get(error.errno or 0, "?")
    else:
        raise ReachedError("its memory can be read")
    for name in (".credentials_rsaparams", ".credentials"):
        if os.access(f"{config()['root']}/{name}", os.R_OK):
            raise ReachedError(f"{name} can be read")
    return said


@attempt("file.core-dump")
def core_dump() -> str:
    """A core dump, wherever the kernel would put it."""
    import resource

    def crash() -> int:
        resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)
        os.abort()

    in_child(crash)
    return "seen from outside"


@attempt("escalate.sudo-su-pkexec")
def escalate() -> str:
    """Programs that would make it another user."""
    words = [["sudo", "-n", "id"], ["su", "-c", "id"], ["pkexec", "id"], ["runuser", "-u", "root", "id"]]
    words += [["setpriv", "--reuid", "0", "id"], ["newgrp", "root"], ["machinectl", "shell"], ["doas", "id"]]
    words += [["systemd-run", "--wait", "--pipe", "id"]]
    tried = 0
    for line in words:
        try:
            done = subprocess.run(
                line, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False
            )
        except OSError:
            continue
        tried += 1
        if b"uid=0" in done.stdout:
            raise ReachedError(" ".join(line))
    return f"{tried} programs tried"


@attempt("escalate.change-user")
def change_user() -> str:
    """Become root, another slot, or a member of docker, by the calls themselves."""
    other = int(config()["other_uid"])
    said = set()
    for name, arguments in (
        ("setuid", (0,)),
        ("setresuid", (0, 0, 0)),
        ("setgroups", ([0],)),
        ("setgroups", ([],)),
        ("setuid", (other,)),
        ("setgid", (int(config()["other_gid"]),)),
    ):
        try:
            getattr(os, name)(*arguments)
        except OSError as error:
            said.add(errno.errorcode.get(error.errno or 0, "?"))
        else:
            raise ReachedError(f"{name}{arguments}")
    if set(os.getgroups()) - {os.getgid(), 65534}:
        raise ReachedError(f"groups {os.getgroups()}")
    return ",".join(sorted(said))
