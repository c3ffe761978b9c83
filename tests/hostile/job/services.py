"""Services: engines, buses, systemd, the journal, the guard, the network."""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import os
import shutil
import socket
import stat
import struct
import subprocess

from .report import ReachedError, attempt, config

_ENGINES = (
    "docker.sock",
    "containerd/containerd.sock",
    "podman/podman.sock",
    "crio/crio.sock",
    "buildkit/buildkitd.sock",
)


def _connect(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(3)
        try:
            client.connect(path)
        except OSError as error:
            return errno.errorcode.get(error.errno or 0, "?")
    raise ReachedError(path)


def _command(*words: str) -> bool:
    """Whether a program is there and says that it did what it was asked."""
    if shutil.which(words[0]) is None:
        return False
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
    return done.returncode == 0


@attempt("service.engines")
def engines() -> str:
    """The socket of any container engine of the host's; whoever has it is root."""
    places = [f"{top}/{name}" for top in ("/run", "/var/run", "/var/lib/docker/..") for name in _ENGINES]
    return ",".join(sorted({_connect(place) for place in places}))


@attempt("service.buses")
def buses() -> str:
    """The system bus, systemd's own socket, and the user manager's."""
    places = [
        "/run/dbus/system_bus_socket",
        "/run/systemd/private",
        "/run/systemd/notify",
        f"/run/user/{os.getuid()}/bus",
    ]
    places += [
        "/run/systemd/io.system.ManagedOOM",
        "/run/systemd/journal/io.systemd.journal",
        "/run/udev/control",
    ]
    for words in (("busctl", "--system", "list"), ("systemctl", "stop", config()["other_unit"])):
        if _command(*words):
            raise ReachedError(" ".join(words))
    return ",".join(sorted({_connect(place) for place in places}))


@attempt("service.any-socket")
def any_socket() -> str:
    """Every socket in the file system that it can find, but the guard's."""
    tried = 0
    for top in ("/run", "/var", "/tmp", "/dev", "/etc", "/opt"):
        for directory, _, names in os.walk(top):
            for name in names:
                path = os.path.join(directory, name)
                with contextlib.suppress(OSError):
                    if stat.S_ISSOCK(os.lstat(path).st_mode) and path not in config()["open_sockets"]:
                        tried += 1
                        _connect(path)
    return f"{tried} tried"


@attempt("service.user-manager")
def user_manager() -> str:
    """A manager of its own that outlives the job: linger, a user unit, a transient scope."""
    place = os.path.expanduser("~/.config/systemd/user")
    os.makedirs(f"{place}/default.target.wants", exist_ok=True)
    with open(f"{place}/hostile.service", "w", encoding="ascii") as file:
        file.write("[Service]\nExecStart=/bin/sleep 3600\n[Install]\nWantedBy=default.target\n")
    with contextlib.suppress(FileExistsError):
        os.symlink(f"{place}/hostile.service", f"{place}/default.target.wants/hostile.service")
    for words in (
        ("loginctl", "enable-linger"),
        ("systemctl", "--user", "start", "hostile"),
        ("systemd-run", "--user", "--scope", "sleep", "1"),
        ("systemd-run", "sleep", "3600"),
    ):
        if _command(*words):
            raise ReachedError(" ".join(words))
    return "refused"


@attempt("journal.read")
def read_journal() -> str:
    """The host's journal, by the program and by its files."""
    for words in (["journalctl", "--no-pager", "-n", "5", "-o", "cat"], ["journalctl", "-k", "-n", "1"]):
        done = subprocess.run(words, capture_output=True, timeout=10, check=False)
        if done.stdout.strip() and b"No entries" not in done.stdout and b"No journal" not in done.stdout:
            raise ReachedError(done.stdout[:100].decode(errors="replace"))
    for path in glob.glob("/var/log/journal/*/*") + glob.glob("/run/log/journal/*/*"):
        if os.access(path, os.R_OK):
            raise ReachedError(path)
    if os.access("/var/log/auth.log", os.R_OK) or os.access("/var/log/syslog", os.R_OK):
        raise ReachedError("/var/log")
    return "nothing to read"


@attempt("journal.forge")
def forge_journal() -> str:
    """Entries that look like the kernel's, the guard's or a neighbour's."""
    mark = config()["forgery"]
    xid = "NVRM: Xid (PCI:0000:01:00): 79, pid=1, GPU has fallen off the bus."
    entry = f"MESSAGE={xid} {mark}\nPRIORITY=0\nSYSLOG_IDENTIFIER=kernel\n_TRANSPORT=kernel\n_UID=0\n"
    entry += f"_SYSTEMD_UNIT={config()['other_unit']}\n_PID=1\n"
    said = []
    for path, data in (
        ("/run/systemd/journal/socket", entry),
        ("/dev/log", f"<2>kernel: {xid} {mark}"),
        ("/run/systemd/journal/dev-log", f"<2>kernel: {xid} {mark}"),
        ("/run/systemd/journal/syslog", f"<2>kernel: {xid} {mark}"),
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            try:
                client.sendto(data.encode(), path)
                said.append("sent")
            except OSError as error:
                said.append(errno.errorcode.get(error.errno or 0, "?"))
    # The socket that the job's own output goes to is there in any case: what matters is who it says it was.
    print(f"<0>kernel: {xid} {mark}")
    return ",".join(said)


@attempt("guard.flood")
def flood() -> str:
    """The guard's socket: many connections at once, junk, endless lines, silence."""
    path = config()["guard_socket"]
    if not os.path.exists(path):
        return "no guard"
    kept, said = [], set()
    for number in range(300):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(0.2)
        try:
            client.connect(path)
            if number % 3 == 0:
                client.sendall(b"\xff\x00{" * 100)
            if number % 3 == 1:
                client.sendall(b"[" * 60000)
            kept.append(client)
        except OSError as error:
            said.add(errno.errorcode.get(error.errno or 0, type(error).__name__))
            client.close()
    for client in kept:
        client.close()
    return f"{len(kept)} connected, {','.join(sorted(said))}"


@attempt("guard.claim-another")
def claim_another() -> str:
    """Tell the guard that the neighbour's job has ended, that this one is admitted, that it is root."""
    path = config()["guard_socket"]
    if not os.path.exists(path):
        return "no guard"
    other = config()["other_slot"]
    said = set()
    for request in (
        {"event": "completed", "slot": other, "result": "Failed"},
        {"hook": "completed", "slot": other, "uid": 0, "pid": 1},
        {"event": "started", "slot": "../../etc", "claims": {"repository": "a/b"}},
        {"event": "hold", "slot": other, "reason": "hostile"},
        {"kind": "completed", "slot": other},
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(3)
            try:
                client.connect(path)
                rights = struct.pack("3i", 1, 0, 0)
                with contextlib.suppress(OSError):
                    client.sendmsg([b" "], [(socket.SOL_SOCKET, 2, rights)])  # SCM_CREDENTIALS of pid 1
                client.sendall(json.dumps(request).encode() + b"\n")
                said.add(client.recv(200).decode(errors="replace").strip()[:60])
            except OSError as error:
                said.add(errno.errorcode.get(error.errno or 0, type(error).__name__))
    return " | ".join(sorted(said))


@attempt("network.raw")
def raw() -> str:
    """Packets of its own making, other families, ports and addresses of root's."""
    said = set()
    for family, kind, protocol in (
        (socket.AF_PACKET, socket.SOCK_RAW, 3),
        (socket.AF_INET, socket.SOCK_RAW, 1),
        (38, socket.SOCK_SEQPACKET, 0),  # AF_ALG
        (40, socket.SOCK_STREAM, 0),  # AF_VSOCK
        (31, socket.SOCK_RAW, 0),  # AF_BLUETOOTH
    ):
        try:
            socket.socket(family, kind, protocol).close()
        except OSError as error:
            said.add(errno.errorcode.get(error.errno or 0, "?"))
        else:
            raise ReachedError(f"family {family}, kind {kind}")
    if _command("ip", "link", "add", "hostile0", "type", "dummy") or _command(
        "ip", "link", "set", "lo", "down"
    ):
        raise ReachedError("the network was changed")
    return ",".join(sorted(said))


@attempt("network.neighbour-abstract")
def neighbour_abstract() -> str:
    """A socket of the neighbour's that has a name but no file: one network for all, by design."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(3)
        client.connect(b"\0" + config()["abstract"].encode())
        raise ReachedError(client.recv(100).decode(errors="replace"))


@attempt("network.loopback")
def loopback() -> str:
    """A service of root's at the host's own address: one network for all, by design."""
    with socket.create_connection(("127.0.0.1", config()["loopback_port"]), timeout=3) as client:
        raise ReachedError(client.recv(100).decode(errors="replace"))
