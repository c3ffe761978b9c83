"""Files: the neighbour's, the host's, the runner's code and settings, logs."""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from .report import ReachedError, attempt, config

_LINE = b"\n# left by a hostile job\n"


def root() -> str:
    """The slot's own directory."""
    return str(config()["root"])


def _read(paths: Iterable[str], *, limit: int = 65536) -> str:
    """Read and show all that can be read of some patterns; the canary in it is the proof."""
    tried = 0
    for path in paths:
        for found in glob.glob(path, recursive=True) or [path]:
            tried += 1
            try:
                content = Path(found).read_bytes()[:limit]
            except OSError:
                continue
            raise ReachedError(f"{found}: {content[:80]!r}")
    return f"{tried} tried"


def _write(paths: Iterable[str]) -> str:
    """Append to files, make new ones in directories."""
    said = set()
    for path in paths:
        target = os.path.join(path, "hostile") if os.path.isdir(path) else path
        for flags in (os.O_WRONLY | os.O_APPEND, os.O_WRONLY | os.O_CREAT | os.O_APPEND):
            try:
                descriptor = os.open(target, flags, 0o755)
                os.write(descriptor, _LINE)
                os.close(descriptor)
            except OSError as error:
                said.add(errno.errorcode.get(error.errno or 0, "?"))
            else:
                raise ReachedError(target)
    return ",".join(sorted(said))


def _each(*actions: Callable[[], object]) -> str:
    """Do several things, each of which should fail."""
    said = set()
    for number, action in enumerate(actions):
        try:
            action()
        except (OSError, shutil.Error, subprocess.SubprocessError) as error:
            said.add(errno.errorcode.get(getattr(error, "errno", 0) or 0, type(error).__name__))
        else:
            raise ReachedError(f"action {number}")
    return ",".join(sorted(said))


@attempt("file.neighbour")
def neighbour() -> str:
    """The other slot's registration, workspace, home and logs."""
    home = config()["other_root"]
    if os.path.isdir(home) and os.access(home, os.R_OK):
        raise ReachedError(f"{home}: {os.listdir(home)}")
    names = (".runner", ".credentials", ".credentials_rsaparams", ".env", "home/canary", "_work/canary")
    return _read([f"{home}/{name}" for name in (*names, "_diag/*", "_work/*/*/*")])


@attempt("file.host-secrets")
def host_secrets() -> str:
    """Root's files, password hashes, keys, credentials of units."""
    return _read(
        [
            "/etc/shadow",
            "/etc/ssh/ssh_host_*_key",
            "/etc/runnerctl/*key*",
            "/etc/runnerctl/credentials/*",
            "/root/**",
            "/root/canary",
            "/run/credentials/**/*",
            "/run/runnerctl/jit/*",
            "/var/lib/runnerctl/canary",
            "/var/lib/runnerctl/jobs.db",
            "/var/lib/systemd/credential.secret",
        ]
    )


@attempt("file.other-logs")
def other_logs() -> str:
    """Logs that earlier jobs of this slot, and jobs of others, left behind."""
    mark = str(config().get("log_canary", ""))
    places = [f"{root()}/_diag", "/var/lib/runnerctl/logs", f"{config()['other_root']}/_diag"]
    tried = 0
    for place in places:
        for found in glob.glob(f"{place}/**", recursive=True):
            tried += 1
            try:
                content = Path(found).read_bytes()
            except OSError:
                continue
            if mark and mark.encode() in content:
                raise ReachedError(f"{found}: {mark}")
    return f"{tried} tried"


@attempt("file.hooks")
def hooks() -> str:
    """The hooks, and the directory they lie in."""
    return _write(
        [*glob.glob("/opt/runnerctl/hooks/*"), "/opt/runnerctl/hooks", "/opt/runnerctl/bin", "/opt"]
    )


@attempt("file.runner-code")
def runner_code() -> str:
    """The runner's programs, where they are and where they are mounted."""
    listener = f"{root()}/bin/Runner.Listener"
    return _write([listener, f"{root()}/bin", f"{root()}/externals", *glob.glob("/opt/actions-runner/*/bin")])


@attempt("file.cli-code")
def cli_code() -> str:
    """What root's programs are made of."""
    packages = glob.glob("/opt/runnerctl/lib/python3*/site-packages/runnerctl/*.py")[:3]
    return _write(
        [*packages, "/opt/runnerctl/bin/runnerctl", "/opt/runnerctl/lib", "/usr/local/bin", "/usr/bin/env"]
    )


@attempt("file.units")
def units() -> str:
    """Unit files, drop-ins and the places that systemd also reads."""
    own = glob.glob("/etc/systemd/system/gha-*")
    return _write([*own, "/etc/systemd/system", "/usr/lib/systemd/system", "/run/systemd/system"])


@attempt("file.host-json")
def host_json() -> str:
    """The host's description, the slots' state, holds and the job records."""
    names = ("slots/a.json", "hold/hostile", "pending/hostile", "jobs.db", "receipt.json", "")
    return _write(
        ["/etc/runnerctl/host.json", "/etc/runnerctl", *(f"/var/lib/runnerctl/{name}" for name in names)]
    )


@attempt("file.runner-settings")
def runner_settings() -> str:
    """`.env`, `.path`, `.setup_info` and the registration, which the next job's listener reads."""
    names: tuple[str, ...] = (
        ".env",
        ".path",
        ".setup_info",
        ".runner",
        ".credentials",
        "run.sh",
        "svc.sh",
        ".runner_migrated",
    )
    if config()["mode"] == "ephemeral":  # its registration is its own, and ends with it
        names = tuple(name for name in (".env", ".setup_info") if os.path.exists(f"{root()}/{name}"))
    return _write([f"{root()}/{name}" for name in names])


@attempt("file.rename-structure")
def rename_structure() -> str:
    """The slot's directories, renamed, replaced or removed."""
    home, trash = root(), f"{root()}/_work/trash"
    os.makedirs(trash, exist_ok=True)
    return _each(
        lambda: os.rename(f"{home}/bin", f"{home}/bin.old"),
        lambda: os.rename(f"{home}/_work", f"{home}/_old"),
        lambda: os.rename(f"{home}/_diag", f"{trash}/_diag"),
        lambda: os.rename(f"{home}/home", f"{trash}/home"),
        lambda: os.rename(home, f"{home}.old"),
        lambda: os.rmdir(f"{home}/externals"),
        lambda: os.symlink("/etc", f"{home}/_work/../bin/x"),
    )


@attempt("file.system")
def system() -> str:
    """Where a line would be run by root or by everybody: accounts, sudo, preloading, profiles, PAM."""
    return _write(
        [
            "/etc/passwd",
            "/etc/sudoers.d",
            "/etc/ld.so.preload",
            "/etc/ld.so.conf.d",
            "/etc/profile.d",
            "/etc/environment",
            "/etc/bash.bashrc",
            "/etc/pam.d",
            "/etc/tmpfiles.d",
            "/etc/udev/rules.d",
            "/etc/modprobe.d",
            "/root/.bashrc",
            "/boot",
        ]
    )


@attempt("file.cron")
def cron() -> str:
    """cron, at and anacron."""
    places = (
        "/etc/cron.d",
        "/etc/crontab",
        "/etc/cron.hourly",
        "/var/spool/cron",
        "/var/spool/cron/crontabs",
        "/var/spool/at",
    )
    said = _write(places)
    for words in (["crontab", "-"], ["at", "now"], ["batch"]):
        if shutil.which(words[0]):
            done = subprocess.run(
                words, input=b"* * * * * id\n", capture_output=True, timeout=10, check=False
            )
            if done.returncode == 0:
                raise ReachedError(words[0])
    return said


@attempt("file.set-user-id")
def set_user_id() -> str:
    """A shell that keeps the user, or the group, of whoever owns it; and one with capabilities."""
    shutil.copy("/bin/sh", "suid-sh")
    return _each(
        lambda: os.chmod("suid-sh", 0o4755),
        lambda: os.chmod("suid-sh", 0o2755),
        lambda: os.setxattr(
            "suid-sh", "security.capability", bytes.fromhex("0100000202000000000000000000000000000000")
        ),
        lambda: (
            os.close(os.open("suid-new", os.O_CREAT | os.O_WRONLY, 0o4755)) if _kept_suid() else _refuse()
        ),
    )


def _kept_suid() -> bool:
    os.close(os.open("suid-try", os.O_CREAT | os.O_WRONLY, 0o4755))
    return bool(os.stat("suid-try").st_mode & 0o4000)


def _refuse() -> None:
    raise PermissionError(errno.EPERM, "the bit was not kept")


@attempt("file.hard-links")
def hard_links() -> str:
    """A second name, in the workspace, for files that are not its own: cleaning up would change them."""
    victims = (
        "/etc/passwd",
        "/etc/shadow",
        f"{root()}/.runner",
        f"{root()}/bin/Runner.Listener",
        "/etc/runnerctl/host.json",
    )
    links = [lambda path=path, n=n: os.link(path, f"link{n}") for n, path in enumerate(victims)]
    return _each(*links)


@attempt("file.by-handle")
def by_handle() -> str:
    """Open a file by its number on the disk, past every directory's permission."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = ctypes.create_string_buffer(8 + 128)
    ctypes.memmove(handle, (128).to_bytes(4, "little") + (0).to_bytes(4, "little"), 8)
    mount = ctypes.c_int()
    if libc.name_to_handle_at(-100, b"/etc/passwd", handle, ctypes.byref(mount), 0):
        return f"no handle: {errno.errorcode[ctypes.get_errno()]}"
    base = os.open("/etc", os.O_RDONLY)
    got = libc.open_by_handle_at(base, handle, os.O_RDONLY)
    if got >= 0:
        raise ReachedError("/etc/passwd by its handle")
    return errno.errorcode[ctypes.get_errno()]


@attempt("file.mask-structure")
def mask_structure() -> str:
    """Take away what root's clean-up needs to see: modes, attributes, and where directories lead."""
    os.makedirs("locked/inner", exist_ok=True)
    Path("locked/inner/file").write_text("x")
    os.chmod("locked/inner", 0)
    os.chmod("locked", 0)
    libc = ctypes.CDLL(None, use_errno=True)
    Path("immutable").write_text("x")
    descriptor = os.open("immutable", os.O_RDONLY)
    flags = ctypes.c_long(0x10)  # FS_IMMUTABLE_FL
    if libc.ioctl(descriptor, 0x40086602, ctypes.byref(flags)) == 0:
        raise ReachedError("a file that nobody can remove")
    return errno.errorcode[ctypes.get_errno()]
