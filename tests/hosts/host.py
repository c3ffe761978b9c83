"""One test host: a container that boots systemd and is reached by SSH, like a machine on the network."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import socket
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from docker.errors import APIError, NotFound
from docker.types import Mount

from tests.hosts.engine import LABEL, Engine, Network
from tests.hosts.keys import Keys
from tests.hosts.machine import KEY, HostsError, locked

__all__ = ["OWNER", "Device", "Done", "Host", "create", "find", "names", "prune"]

OWNER = "runnerctl.hosts.owner"  # "pid:start time" of the process a host belongs to, or "kept"
UNIFIED = "/sys/fs/cgroup/unified"  # where a machine with both versions of control groups has the second
BOOT_SECONDS = 60
CAPABILITIES = ("SYS_ADMIN", "NET_ADMIN", "SYS_PTRACE")  # the last: root may look at anyone's processes
# Device files vanish with /dev at each stop, and the boot id is the kernel's: both are made before systemd.
# A shared root mount is what systemd's LoadCredential= needs.
PRELUDE = """mount --make-rshared /
cat /proc/sys/kernel/random/uuid >/run/boot_id
mount --bind /run/boot_id /proc/sys/kernel/random/boot_id
{nodes}exec /sbin/init
"""
NO_ROOT_LOGIN = "PermitRootLogin no\n"


@dataclass(frozen=True)
class Device:
    """A character device file of a host."""

    path: str
    major: int
    minor: int
    mode: str = "666"


@dataclass(frozen=True)
class Done:
    """A command that ended on a host."""

    command: str
    rc: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Host:
    """A running test host. ``user`` is whom SSH and Ansible log in as: root, or admin with sudo."""

    name: str
    ip: str
    suite: str
    user: str
    container: Any
    keys: Keys

    def ssh(self, command: str, *, check: bool = True, seconds: float = 60, stdin: str | None = None) -> Done:
        """Run a shell command by SSH as ``user``. Raises HostsError when it fails and ``check`` is set."""
        argv = [*self.keys.ssh(self.user, self.ip), "--", command]
        done = subprocess.run(argv, input=stdin or "", capture_output=True, text=True, timeout=seconds)
        return self._checked(Done(command, done.returncode, done.stdout, done.stderr), check)

    def exec(self, *argv: str, check: bool = True, seconds: int = 60, user: str = "root") -> Done:
        """Run a program without SSH, also when the network or sshd is what a test took away."""
        timed = ["timeout", str(seconds), *argv]
        rc, (out, err) = self.container.exec_run(timed, demux=True, user=user)
        done = Done(shlex.join(argv), rc, (out or b"").decode(), (err or b"").decode())
        return self._checked(done, check)

    def _checked(self, done: Done, check: bool) -> Done:
        if check and done.rc:
            text = f"{done.stdout.strip()}\n{done.stderr.strip()}".strip()
            raise HostsError(f"{self.name}: `{done.command}` failed with {done.rc}:\n{text}")
        return done

    def put(
        self, path: str, data: bytes | str, *, mode: int = 0o644, owner: tuple[int, int] = (0, 0)
    ) -> None:
        """Write a file; its directory is made when there is none. Not for /run and /tmp, which are mounts."""
        _put(self.container, {path: data}, mode=mode, owner=owner)

    def install(self, file: Path, path: str, *, mode: int = 0o644) -> None:
        """Copy a file of this machine onto the host."""
        self.put(path, file.read_bytes(), mode=mode)

    def read(self, path: str) -> str:
        """The text of a file, symbolic links followed."""
        return self.exec("cat", path).stdout

    def exists(self, path: str) -> bool:
        """Whether anything is at the path."""
        return self.exec("test", "-e", path, check=False).rc == 0

    def journal(self, *units: str, lines: int = 200) -> str:
        """The last lines of the journal, of some units or of all."""
        chosen = [f"--unit={unit}" for unit in units]
        return self.exec(
            "journalctl", "--no-pager", "--quiet", f"--lines={lines}", *chosen, check=False
        ).stdout

    def boot_id(self) -> str:
        """The id of this boot."""
        return self.read("/proc/sys/kernel/random/boot_id").strip()

    def state(self) -> str:
        """What systemd says of the whole system: ``running``, ``degraded``, ``starting`` ..."""
        return self.exec("systemctl", "is-system-running", check=False).stdout.strip()

    def start(self) -> None:
        """Start the host and wait until SSH answers."""
        self.container.start()
        self.wait()

    def stop(self) -> None:
        """Shut down; the container and its disk stay."""
        self.container.stop(timeout=20)
        self.keys.hang_up()

    def reboot(self) -> None:
        """Shut down and start again, as a person at the machine would; waits until SSH answers."""
        self.container.restart(timeout=20)
        self.keys.hang_up()
        self.wait()

    def pull_the_plug(self) -> None:
        """End every process at once, without a shutdown; `start` brings the host back."""
        self.container.kill()
        self.keys.hang_up()

    def wait(self, *, seconds: float = BOOT_SECONDS) -> None:
        """Wait until sshd greets and systemd has finished booting. Raises HostsError."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if _greets(self.ip) and self.state() in ("running", "degraded"):
                return
            time.sleep(0.1)
        raise HostsError(f"{self.name} did not boot within {seconds:.0f} s:\n{self.journal(lines=20)}")

    def remove(self) -> None:
        """Take the host away, with all it holds."""
        with contextlib.suppress(NotFound):
            self.container.remove(force=True, v=True)
        self.keys.hang_up()


def create(
    on: Engine,
    net: Network,
    keys: Keys,
    *,
    name: str,
    image: str,
    user: str = "root",
    devices: Sequence[Device] = (),
    owner: str | None = None,
    docker_volume: bool = False,
    unified: bool = False,
) -> Host:
    """Make and boot a host. ``user`` other than root: root may not log in by SSH.

    ``unified``: control groups of version 2 only, as new distributions have them, whatever this machine has.
    ``docker_volume`` puts /var/lib/docker on a volume, for tests that run containers inside the host.
    """
    container_name = f"{name}-{KEY}"
    nodes = "".join(
        f"mknod -m {node.mode} {shlex.quote(node.path)} c {node.major} {node.minor}\n" for node in devices
    )
    groups = UNIFIED if unified and Path(UNIFIED).is_dir() else "/sys/fs/cgroup"
    volumes = {groups: {"bind": "/sys/fs/cgroup", "mode": "rw"}}
    with locked("addresses"):
        ip = _free_address(on, net)
        container = on.client.containers.create(
            image,
            ["sh", "-c", PRELUDE.format(nodes=nodes)],
            name=container_name,
            hostname=name,
            cap_add=list(CAPABILITIES),
            security_opt=["seccomp=unconfined", "apparmor=unconfined"],
            cgroupns="host",
            volumes=volumes,
            mounts=[Mount("/var/lib/docker", None, type="volume")] if docker_volume else [],
            tmpfs={"/run": "", "/run/lock": "", "/tmp": "exec"},
            stop_signal="SIGRTMIN+3",
            restart_policy={"Name": "always"},
            device_cgroup_rules=[
                "c 195:* rmw",
                "c 234:* rmw",
                "c 235:* rmw",
                "c 10:200 rmw",
                "c 10:237 rmw",
                "b 7:* rmw",
            ],  # GPUs, net/tun
            labels={LABEL: KEY, OWNER: owner or process(os.getpid()), "suite": _suite(image), "user": user},
            network=net.name,
            networking_config={net.name: on.client.api.create_endpoint_config(ipv4_address=ip)},
        )
    host = Host(name, ip, _suite(image), user, container, keys)
    try:
        _put(container, {**keys.host_key()}, mode=0o600)
        for home, ids in (("/root", (0, 0)), ("/home/admin", (1000, 1000))):
            _put(container, {f"{home}/.ssh/authorized_keys": keys.public_key()}, mode=0o600, owner=ids)
        if user != "root":
            _put(container, {"/etc/ssh/sshd_config.d/10-test.conf": NO_ROOT_LOGIN}, mode=0o600)
        host.start()
    except BaseException:
        host.remove()
        raise
    return host


def find(on: Engine, keys: Keys, name: str) -> Host | None:
    """A host that is there already."""
    try:
        container = on.client.containers.get(f"{name}-{KEY}")
    except NotFound:
        return None
    ip = next(iter(container.attrs["NetworkSettings"]["Networks"].values()))["IPAMConfig"]["IPv4Address"]
    return Host(name, ip, container.labels["suite"], container.labels["user"], container, keys)


def names(on: Engine) -> list[str]:
    """The names of this checkout's hosts, also of those that are stopped."""
    found = on.client.containers.list(all=True, filters={"label": f"{LABEL}={KEY}"})
    return sorted(str(container.name).removesuffix(f"-{KEY}") for container in found)


def prune(on: Engine, *, everything: bool = False) -> list[str]:
    """Remove hosts whose process has ended, or all of this checkout's; gives their names."""
    removed = []
    for container in on.client.containers.list(all=True, filters={"label": f"{LABEL}={KEY}"}):
        owner = container.labels.get(OWNER, "")
        alive = owner == "kept" or owner == process(int(owner.partition(":")[0] or 0))
        if everything or not alive:
            try:
                container.remove(force=True, v=True)
                removed.append(str(container.name).removesuffix(f"-{KEY}"))
            except APIError:  # another process of ours was quicker
                continue
    return removed


def process(pid: int) -> str:
    """A process by its pid and its start time, for pids come round again."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return f"{pid}:{stat.rpartition(')')[2].split()[19]}"


def _suite(image: str) -> str:
    return image.partition(":")[2].partition("-")[0]


def _free_address(on: Engine, net: Network) -> str:
    used = set()
    for container in on.client.containers.list(all=True, filters={"network": net.name}):
        settings = container.attrs["NetworkSettings"]["Networks"][net.name]
        used |= {settings["IPAddress"], (settings["IPAMConfig"] or {}).get("IPv4Address")}
    for number in range(10, 250):
        if (address := str(net.subnet[number])) not in used:
            return address
    raise HostsError("240 test hosts are up: remove some with `python -m tests.hosts down`")


def _put(
    container: Any, files: dict[str, bytes | str], *, mode: int = 0o644, owner: tuple[int, int] = (0, 0)
) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for path, data in files.items():
            content = data.encode() if isinstance(data, str) else data
            member = tarfile.TarInfo(path.lstrip("/"))
            member.size, member.mode, (member.uid, member.gid) = len(content), mode, owner
            member.mtime = int(time.time())
            tar.addfile(member, io.BytesIO(content))
    if not container.put_archive("/", buffer.getvalue()):
        raise HostsError(f"{container.name}: {', '.join(files)} cannot be written")


def _greets(ip: str) -> bool:
    try:
        with socket.create_connection((ip, 22), timeout=1) as connection:
            connection.settimeout(2)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False
