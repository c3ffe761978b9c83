"""A slot's container engine on a real host: what a job gets of it, what it cannot reach, what is left of it.

No image registry is needed: jobs make their image of busybox. Two things that any machine has, a container
that plays one lacks: a file system that can carry an overlay (here a tmpfs; its own is one already), and a
/proc with nothing mounted over it, without which the kernel lets no namespace mount its own (here in /dev).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.hosts import gpu
from tests.hosts.controller import Controller
from tests.hosts.host import Device, Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

NODES = (Device("/dev/nvidia1", gpu.MAJOR, 1),)
MACHINE = """set -e
mkdir -p /dev/net /dev/.whole/proc /var/lib/gha-runner
[ -e /dev/net/tun ] || mknod -m 666 /dev/net/tun c 10 200
mount -t proc proc /dev/.whole/proc
mount -t tmpfs tmpfs /var/lib/gha-runner
"""
IMAGE = """cd "$HOME" && mkdir -p image/bin image/etc image/tmp && cp /bin/busybox image/bin/
for name in sh cat id ls mount sleep wget httpd; do ln -sf busybox image/bin/$name; done
echo root:x:0:0::/:/bin/sh >image/etc/passwd
tar -C image -cf image.tar . && docker import -q image.tar localhost/box:1 >/dev/null
"""


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host with two slots that have an engine each."""
    host = module_hosts(devices=(*gpu.devices(), *NODES))
    host.exec("sh", "-c", MACHINE)
    variables = {
        "github_runner_slots": [{"name": "a", "labels": ["a"]}, {"name": "b-2", "labels": ["b"]}],
        "github_runner_containers": "rootless",
        "github_runner_packages": ["busybox-static"],
        "conda_manage": False,
        "nvidia_driver_manage": False,
    }
    controller = Controller(Path(tmp_path_factory.mktemp("containers")), lab.keys)
    site = Site([host], module_world, controller, variables)
    site.provision()
    yield site
    assert module_world.control.violations() == []


def _run(site: Site, script: str, *, slot: str = "a") -> str:
    """What the script of a job that succeeds prints; its log shows the script, too."""
    job = site.job(script, labels=["self-hosted", "linux", "x64", slot[0]])
    result, log = site.result(job, seconds=90)
    assert result in ("success", "succeeded"), log + site.host.journal(
        f"gha-containers@{slot}.service", "runnerctl-guard"
    )
    return log.partition("##[section]Starting: run")[2].partition("##[endgroup]")[2]


def _gone(site: Site, slot: str, *, seconds: float = 20) -> str:
    """What is left of a slot's engine, when nothing more goes away."""
    user = f"gha-{slot}"
    command = (
        f"find /var/lib/gha-runner/{slot}/_containers -mindepth 1;"
        f" systemctl is-active gha-containers@{slot}.service | grep -x active;"
        f" first=$(sed -n 's/^{user}:\\([0-9]*\\):.*/\\1/p' /etc/subuid);"
        " ps -eo uid=,args= | awk -v first=$first '$1 >= first && $1 < first + 65536'"
    )
    until = time.monotonic() + seconds
    while (left := site.shell(f"{command}; true").strip()) and time.monotonic() < until:
        time.sleep(0.5)
    return left


def test_a_job_builds_runs_and_joins_containers_of_its_own_engine(site: Site) -> None:
    """docker build, run, network with names, bind mounts of the workspace, and a client of the socket."""
    log = _run(
        site,
        IMAGE + """set -e
printf 'FROM localhost/box:1\\nRUN id >/who\\n' >Dockerfile && docker build -q -t built . >/dev/null
docker run --rm -v "$PWD:/mine" built sh -c 'cat /who; echo written >/mine/made'
cat made; stat -c 'owner %U' made
docker network create --label run=1 own >/dev/null
serve='echo served >/tmp/x; exec httpd -f -p 80 -h /tmp'
docker run -d --name web --network own localhost/box:1 sh -c "$serve" >/dev/null
docker run --rm --network own localhost/box:1 wget -q -O - http://web/x
docker run --rm -v /var/run/docker.sock:/var/run/docker.sock localhost/box:1 ls /var/run/docker.sock
""",
    )
    for expected in ("uid=0", "written", "owner gha-a", "served", "/var/run/docker.sock"):
        assert expected in log
    assert _gone(site, "a") == ""


def test_no_flag_of_a_container_opens_the_neighbours_gpu_or_files(site: Site) -> None:
    """Neither --privileged nor a mount of the whole host is a way around the unit's rules."""
    log = _run(
        site,
        IMAGE + """docker run --rm --privileged --network host --pid host -v /:/host localhost/box:1 sh -c '
for node in nvidia0 nvidia1 nvidiactl; do cat /host/dev/$node; done
cat /host/etc/shadow /host/etc/runnerctl/credentials/* /host/proc/1/environ
ls /host/var/lib/gha-runner/b-2/home
ls -l /host/run/docker.sock; ls /host/run/gha-containers; echo x >/host/etc/planted
mount -o remount,rw /host && echo REMOUNTED; grep -h . /host/proc/self/cgroup' 2>&1; true
""",
    )
    for node in ("nvidia0", "nvidia1", "nvidiactl"):
        assert f"/host/dev/{node}': Operation not permitted" in log, log
    assert "daemon:" not in log
    assert "REMOUNTED" not in log
    assert "gha-containers@a.service" in log
    assert site.shell("ls /etc/planted 2>/dev/null; true") == ""
    assert _gone(site, "a") == ""


def test_images_and_containers_of_a_job_are_not_there_for_the_next(site: Site) -> None:
    """A poisoned image and a container that outlives its job are gone; the next job has a working engine."""
    _run(site, IMAGE + "docker tag localhost/box:1 node:20; docker run -d localhost/box:1 sleep 999")
    assert _gone(site, "a") == ""
    assert "node" not in _run(site, "docker images")
    assert "box" not in _run(
        site, IMAGE + "docker rmi -f localhost/box:1 >/dev/null; docker images", slot="b-2"
    )


def test_the_slots_own_unit_keeps_its_hardening(site: Site) -> None:
    """All exceptions are the engine's; the figures are those of the documentation."""
    for unit, limit in (("gha-runner@a.service", 3.0), ("gha-containers@a.service", 3.8)):
        last = site.shell(f"systemd-analyze security --no-pager {unit} | tail -1")
        assert float(last.split(":")[1].split()[0]) <= limit, last


def test_it_goes_with_the_setting(site: Site) -> None:
    """The second run changes nothing; `none` takes engine and storage away."""
    assert site.slots().recap[site.host.name].changed == 0
    ranges = site.shell("sort -t: -k2n /etc/subuid").split()
    starts = [int(line.split(":")[1]) for line in ranges]
    assert all(later - earlier >= 65536 for earlier, later in pairwise(starts))
    site.variables["github_runner_containers"] = "none"
    site.slots()
    assert site.shell("ls -d /var/lib/gha-runner/*/_containers /run/gha-containers/* 2>/dev/null; true") == ""
    log = _run(site, "ls /run/docker.sock 2>&1 || true")
    assert "No such file" in log
