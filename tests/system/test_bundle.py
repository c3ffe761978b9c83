"""An air-gapped host: all comes from a bundle that the real command made, over Ansible's connection."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.wheelhouse import wheelhouse
from tests.hosts.world import World
from tests.system.cut_off import cut_off
from tests.system.site import LEAN, Site

FINGERPRINT = (
    "find /etc /opt /usr/local /var/lib /root -xdev -not -path '/var/lib/systemd/*'"
    " -printf '%p %m %u %g %T@ %l\\n' | sort; dpkg -l; systemctl list-unit-files --no-legend"
)


def _make(site: Site, target: Path) -> None:
    """As a person on a connected machine would; pip takes the wheels that the tests have fetched already."""
    variables = {**site.world.variables(runnerctl_wheelhouse=None), **LEAN}
    inventory = site.controller.write_inventory(site.hosts, variables)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GH_", "GITHUB_"))}
    command = [sys.executable, "-m", "runnerctl", "bundle", str(target), "-i", str(inventory)]
    done = subprocess.run(
        [*command, "--python", "3.11"],
        env={**kept, **site.world.environment(), "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheelhouse())},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "is complete" in done.stdout


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A host without a way out, a bundle, and a mirror that must not be asked any more."""
    place = tmp_path_factory.mktemp("bundle")
    host = module_hosts()
    site = Site([host], module_world, Controller(place / "controller", lab.keys))
    _make(site, place / "site")
    cut_off(host)
    module_world.mirror.forget_downloads()
    site.variables = {"runnerctl_wheelhouse": None, "runnerctl_bundle": str(place / "site")}
    yield site
    assert module_world.mirror.downloads() == {}, "a host or the controller asked the mirror"
    assert module_world.control.violations() == []


def test_a_flipped_byte_is_refused_before_anything_changes(site: Site, tmp_path: Path) -> None:
    """One line from preflight; the host and GitHub are as they were."""
    copy = tmp_path / "damaged"
    shutil.copytree(site.variables["runnerctl_bundle"], copy)
    file = next((copy / "miniforge").iterdir())
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    before = site.shell(FINGERPRINT)
    sound = dict(site.variables)
    site.variables = {**sound, "runnerctl_bundle": str(copy)}
    try:
        outcome = site.play("provision.yml")
    finally:
        site.variables = sound
    assert outcome.rc != 0
    (failure,) = outcome.failures()
    assert "runnerctl_bundle" in failure.msg and f"{file.name}: SHA-256 is" in failure.msg
    assert len(failure.msg.splitlines()) == 1
    assert site.shell(FINGERPRINT) == before
    assert site.github.counts()[1] == 0


def test_a_host_without_a_way_out_converges_and_runs_a_job(site: Site) -> None:
    """Check mode says what the real run then does, and brings nothing; the runner is online and works."""
    before = site.shell(FINGERPRINT)
    predicted = site.provision("--check", "--diff")
    assert site.shell(FINGERPRINT) == before
    real = site.provision()
    assert predicted.changed(site.host.name) == real.changed(site.host.name)
    record = site.record("main")
    assert record is not None and record["status"] == "online"
    job = site.job("/opt/miniforge3/bin/conda --version", labels=["self-hosted", "linux", "x64"])
    result, log = site.result(job)
    assert result in ("succeeded", "success"), log
    assert "conda 26" in log
    left = site.shell("find /root/.ansible/tmp /tmp /opt -name '*.whl' -o -name '*.tar' -o -name '*.partial'")
    assert left == ""


def test_the_second_run_brings_nothing(site: Site) -> None:
    """`changed=0`, nothing written to GitHub; a bundle that is gone from the controller is still missed."""
    site.github.clear_requests()
    outcome = site.provision()
    assert outcome.recap[site.host.name].changed == 0, [
        each.data.get("actions") for each in outcome.results if each.status == "changed"
    ]
    assert site.github.counts()[1] == 0
    sound = dict(site.variables)
    site.variables = {**sound, "runnerctl_bundle": f"{sound['runnerctl_bundle']}-gone"}
    try:
        outcome = site.play("provision.yml")
    finally:
        site.variables = sound
    assert [failure.msg.count("there is no such bundle") for failure in outcome.failures()] == [1]
