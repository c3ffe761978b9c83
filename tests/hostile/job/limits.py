"""Limits: processes, memory, processors, disk. Everything is bounded, in case nothing stops it."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import shutil
import signal
import time

from .report import ReachedError, attempt, config, in_child

MIB = 1024 * 1024


@attempt("limit.fork-bomb")
def fork_bomb() -> str:
    """Processes without end."""
    bound = int(config()["tasks_bound"])

    def bomb() -> int:
        os.setpgid(0, 0)
        for number in range(bound):
            try:
                pid = os.fork()
            except OSError:
                os.killpg(0, signal.SIGKILL)
            if pid == 0:
                signal.pause()
            if number == bound - 1:
                open("bomb-went-off", "w", encoding="ascii").close()
        os.killpg(0, signal.SIGKILL)
        return 0

    in_child(bomb)
    if os.path.exists("bomb-went-off"):
        raise ReachedError(f"{bound} processes")
    return "stopped by the limit"


def _fill(size: int, place: str) -> int:
    """Touch memory until there is as much as asked for."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
        file.write("1000")
    if not place:
        block = mmap.mmap(-1, size)
        for offset in range(0, size, 4096):
            block[offset] = 1
        return 0
    with open(place, "wb") as target:
        for _ in range(size // MIB):
            target.write(b"x" * MIB)
    return 0


@attempt("limit.memory-hog")
def memory_hog() -> str:
    """Memory beyond the slot's share."""
    size = int(config()["memory_bound"])
    status = in_child(lambda: _fill(size, ""))
    if status == 0:
        raise ReachedError(f"{size // MIB} MiB")
    return f"wait status {status}"


@attempt("limit.shared-memory-hog")
def shared_memory_hog() -> str:
    """The same, in files of shared memory and of /tmp, which no process has to hold."""
    size = int(config()["memory_bound"])
    status = in_child(lambda: _fill(size, "/dev/shm/hog"))
    held = os.path.getsize("/dev/shm/hog") if os.path.exists("/dev/shm/hog") else 0
    os.remove("/dev/shm/hog")
    if held >= size:
        raise ReachedError(f"{held // MIB} MiB")
    return f"{held // MIB} MiB, wait status {status}"


@attempt("limit.cpu-hog")
def cpu_hog() -> str:
    """Processor time beyond the slot's share."""
    seconds = 1.5
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()

    def spin() -> None:
        while time.monotonic() - began < seconds:
            pass

    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            spin()
            os._exit(0)
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
    took, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if used > (float(config()["cpus"]) + 0.3) * took:
        raise ReachedError(f"{used / took:.2f} processors")
    return f"{used / took:.2f} processors"


@attempt("limit.disk-full")
def disk_full() -> str:
    """More bytes than the slot's disk."""
    bound = int(config()["disk_bound"])
    if not bound:
        raise ReachedError("the slot has no disk of its own")
    took = 0
    names = [os.path.expanduser("~/big"), "big", f"{config()['root']}/_diag/big"]
    try:
        for name in names:
            descriptor = os.open(name, os.O_CREAT | os.O_WRONLY)
            try:
                os.posix_fallocate(descriptor, 0, bound)
            except OSError as error:
                said = errno.errorcode.get(error.errno or 0, "?")
                took = max(took, os.fstat(descriptor).st_blocks * 512)
            else:
                raise ReachedError(f"{bound // MIB} MiB in {name}")
            finally:
                os.close(descriptor)
    finally:
        for name in names:
            if os.path.exists(name):
                os.remove(name)
    return f"{said} at {took // MIB} MiB"


@attempt("limit.inodes")
def inodes() -> str:
    """So many files that none can be made elsewhere."""
    bound, made = int(config()["inode_bound"]), 0
    os.makedirs("many")
    try:
        while made < bound:
            os.close(os.open(f"many/{made}", os.O_CREAT | os.O_WRONLY))
            made += 1
    except OSError as error:
        return f"{errno.errorcode.get(error.errno or 0, '?')} after {made}"
    finally:
        shutil.rmtree("many")
    raise ReachedError(f"{made} files")
