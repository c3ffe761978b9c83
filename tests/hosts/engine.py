"""A Docker Engine for test hosts: the one that runs here, or one of our own in the checkout's cache."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
from docker.errors import APIError, DockerException
from docker.types import IPAMConfig, IPAMPool

from tests.hosts.machine import CACHE, KEY, HostsError, ensure_programs, locked, say

__all__ = ["LABEL", "NETWORK", "Engine", "Network", "engine", "network", "stop_engine"]

LABEL = "runnerctl.hosts"  # on every container and network of ours; the value is the checkout
NETWORK = f"runnerctl-hosts-{KEY}"
RUN = Path(f"/run/runnerctl-hosts-{KEY}")  # short: a socket's path has 108 bytes at most
DATA = CACHE / "docker"
START_SECONDS = 60
REQUEST_SECONDS = 300


@dataclass(frozen=True)
class Engine:
    """A Docker Engine that answers. ``ours`` tells whether `stop_engine` would end it."""

    client: docker.DockerClient
    url: str
    ours: bool


@dataclass(frozen=True)
class Network:
    """The network of the hosts. ``gateway`` is this machine's address in it: stand-ins listen there."""

    name: str
    subnet: ipaddress.IPv4Network
    gateway: str


def engine() -> Engine:
    """The engine that runs here (``DOCKER_HOST`` or the usual socket), or our own, started when needed.

    Raises HostsError when there is none and none can be made.
    """
    with locked("engine"):
        found = _answering()
        if found:
            return found
        ensure_programs({"dockerd": "docker.io", "iptables": "iptables"})
        found = _answering()  # the package may have started one
        return found or _start()


def _answering() -> Engine | None:
    if os.environ.get("DOCKER_HOST"):
        url = os.environ["DOCKER_HOST"]
        client = _client(url)
        if client is None:
            raise HostsError(
                f"DOCKER_HOST={url}: no Docker Engine answers there; start it or unset the variable"
            )
        return Engine(client, url, ours=False)
    for url, ours in ((f"unix://{RUN}/docker.sock", True), ("unix:///var/run/docker.sock", False)):
        if Path(url.removeprefix("unix://")).exists() and (client := _client(url)):
            return Engine(client, url, ours)
    return None


def _client(url: str) -> docker.DockerClient | None:
    try:
        client = docker.DockerClient(base_url=url, timeout=REQUEST_SECONDS)
        client.ping()
    except (DockerException, OSError):
        return None
    return client


def _start() -> Engine:
    if os.geteuid() != 0:
        raise HostsError(
            "no Docker Engine answers, and only root can start one: start Docker, or run this as root"
        )
    say("starting a Docker Engine of our own")
    RUN.mkdir(mode=0o711, exist_ok=True)
    DATA.mkdir(parents=True, exist_ok=True)
    (DATA / "daemon.json").write_text("{}")  # not the machine's own settings
    failures = []
    for program in ("iptables", "iptables-legacy"):  # a kernel may know only one of the two
        path = _path_with(program)
        failure = _launch(path) if path else None
        if path and failure is None and (found := _answering()):
            return found
        failures.append(f"with {program}: {failure or 'not installed'}")
    raise HostsError(f"dockerd does not start; its log is {DATA}/dockerd.log:\n  " + "\n  ".join(failures))


def _path_with(program: str) -> str | None:
    """A PATH on which ``iptables`` is ``program``."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    found = shutil.which(program, path=path)
    if found is None or program == "iptables":
        return path if found else None
    bin_ = DATA / "bin"
    bin_.mkdir(exist_ok=True)
    link = bin_ / "iptables"
    link.unlink(missing_ok=True)
    link.symlink_to(found)
    return f"{bin_}:{path}"


def _launch(path: str) -> str | None:
    """Start dockerd and wait until it answers; gives the reason when it does not."""
    pidfile = RUN / "docker.pid"
    if _pid() is None:
        pidfile.unlink(missing_ok=True)  # a recycled pid would keep dockerd from starting
    command = ["dockerd", "--config-file", f"{DATA}/daemon.json", "--data-root", f"{DATA}/data"]
    command += ["--exec-root", f"{RUN}/exec", "--pidfile", str(pidfile), "-H", f"unix://{RUN}/docker.sock"]
    command += ["--bridge", "none", "--userland-proxy=false"]
    with (DATA / "dockerd.log").open("wb") as log:
        daemon = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "PATH": path},
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if _answering():
            return None
        if daemon.poll() is not None:
            return (DATA / "dockerd.log").read_text(errors="replace").strip().splitlines()[-1][:400]
        time.sleep(0.1)
    daemon.terminate()
    return f"no answer within {START_SECONDS} s"


def _pid() -> int | None:
    """The pid of our own dockerd while it runs."""
    try:
        pid = int((RUN / "docker.pid").read_text())
        return pid if Path(f"/proc/{pid}/comm").read_text().strip() == "dockerd" else None
    except (OSError, ValueError):
        return None


def stop_engine() -> bool:
    """End our own dockerd, by its pid; False when it does not run."""
    with locked("engine"):
        pid = _pid()
        if pid is None:
            return False
        if found := _answering():
            for one in found.client.networks.list(names=[f"^{NETWORK}$"]) if found.ours else []:
                with contextlib.suppress(APIError):  # hosts are still on it
                    one.remove()
        os.kill(pid, signal.SIGTERM)
        deadline = time.monotonic() + START_SECONDS
        while _pid() == pid and time.monotonic() < deadline:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            time.sleep(0.1)
        return True


def network(on: Engine) -> Network:
    """The hosts' network, made on first use in a range that nothing here uses."""
    with locked("network"):
        found: Any = next(iter(on.client.networks.list(names=[f"^{NETWORK}$"])), None)
        for subnet in [] if found else _free_ranges():
            pool = IPAMPool(subnet=str(subnet), gateway=str(subnet[1]))
            with contextlib.suppress(APIError):  # another network's range: the next one
                found = on.client.networks.create(
                    NETWORK,
                    driver="bridge",
                    ipam=IPAMConfig(pool_configs=[pool]),
                    labels={LABEL: KEY},
                    options={"com.docker.network.driver.mtu": str(_mtu())},
                )
                break
        if found is None:
            raise HostsError("no free address range for the hosts' network: remove unused Docker networks")
        found.reload()
        config = found.attrs["IPAM"]["Config"][0]
        return Network(NETWORK, ipaddress.IPv4Network(config["Subnet"]), config["Gateway"])


def _free_ranges() -> list[ipaddress.IPv4Network]:
    used = []
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        address, mask = (bytes.fromhex(fields[column])[::-1] for column in (1, 7))
        if any(mask):
            used.append(
                ipaddress.IPv4Network((int.from_bytes(address, "big"), bin(mask_int(mask)).count("1")))
            )
    wanted = ipaddress.IPv4Network("172.30.0.0/16").subnets(new_prefix=24)
    return [subnet for subnet in wanted if not any(subnet.overlaps(other) for other in used)][:20]


def mask_int(mask: bytes) -> int:
    """A netmask as a number."""
    return int.from_bytes(mask, "big")


def _mtu() -> int:
    """The packet size that leaves this machine whole: that of the default route's device."""
    for line in Path("/proc/net/route").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1] == "00000000":
            return int(Path(f"/sys/class/net/{fields[0]}/mtu").read_text())
    return 1500
