"""The driver from NVIDIA's repository: a signed mirror of it with small packages of the same names.

Real apt, real signatures, real dpkg; the modules are empty files, since no kernel of a test host loads any.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.mirror.apt_repo import AptRepo, Deb, Script, SigningKey
from tests.hosts import gpu
from tests.hosts.controller import Controller, Outcome
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.site import Site

TASK = "Install the driver the spec asks for"
KERNEL = "6.1.0-99-amd64"
OLD, NEW = "580.95.05-1", "580.105.08-1"
H100, BLACKWELL = "2330", "2901"
HELD = {"libnvidia-ml1", "nvidia-driver-cuda", "nvidia-kernel-open-dkms", "nvidia-persistenced"}
MODULE = f"/lib/modules/{KERNEL}/updates/dkms/nvidia.ko"
SLOW, STUCK = "/root/slow", "/root/stuck"
BUILD = f"mkdir -p $(dirname {MODULE}) && echo module >{MODULE}"
# What NVIDIA's packages do when they are configured: build the module, start a daemon that needs a driver.
BUILD_SCRIPT = f"#!/bin/sh\nset -e\nif [ -e {SLOW} ]; then touch {STUCK}; sleep 300; fi\n{BUILD}\n"
UNIT = "/lib/systemd/system/nvidia-persistenced.service"
UNIT_TEXT = (
    "[Service]\nType=forking\nExecStart=/bin/false --user nvpd --no-persistence-mode\n"
    "[Install]\nWantedBy=multi-user.target\n"
)
START_SCRIPT = (
    "#!/bin/sh\nsystemctl daemon-reload\nsystemctl enable -q nvidia-persistenced\n"
    "systemctl start nvidia-persistenced || true\n"
)


def _driver(version: str) -> list[Deb]:
    upstream = version.partition("-")[0]
    sources = {
        f"/usr/src/nvidia-{upstream}/dkms.conf": "\n",
        f"/var/lib/dkms/nvidia/{upstream}/source": "\n",
    }
    same = {"Depends": f"libnvidia-ml1 (= {version})"}
    return [
        Deb("libnvidia-ml1", version),
        Deb("nvidia-driver-cuda", version, relations=same),
        Deb(
            "nvidia-kernel-open-dkms",
            version,
            relations={"Depends": "dkms"},
            files=sources,
            scripts={"postinst": BUILD_SCRIPT},
        ),
        Deb("nvidia-persistenced", version, files={UNIT: UNIT_TEXT}, scripts={"postinst": START_SCRIPT}),
    ]


def _others() -> list[Deb]:
    headers = f"/usr/src/linux-headers-{KERNEL}"
    return [
        Deb("nvidia-driver-pinning-580", "580-1"),
        Deb("dkms", "99-1", files={"/usr/sbin/dkms": Script(f"#!/bin/sh\n{BUILD}\n")}),
        Deb(
            "linux-headers-amd64",
            "99-1",
            files={f"{headers}/Makefile": "\n", f"/lib/modules/{KERNEL}/build/Makefile": "\n"},
        ),
    ]


@pytest.fixture(scope="module")
def key() -> Iterator[SigningKey]:
    with SigningKey() as made:
        yield made


@pytest.fixture
def repo(module_world: World, key: SigningKey) -> AptRepo:
    """The repository as it should be, whatever the test before did to it."""
    made = AptRepo(module_world.mirror.root / "driver", key, origin="NVIDIA")
    made.add(*_driver(OLD), *_others())
    made.publish()
    return made


MakeSite = Callable[..., Site]


@pytest.fixture(scope="module")
def make_site(
    lab: Lab, module_world: World, key: SigningKey, tmp_path_factory: pytest.TempPathFactory
) -> MakeSite:
    """Inventory for a host with an H100 to come, whose driver is on the mirror."""

    def make(host: Host, **variables: Any) -> Site:
        url = f"{module_world.mirror.url}/driver"
        settings = {
            "nvidia_driver_manage": True,
            "nvidia_driver_device_ids": [H100],
            "nvidia_driver_source": "nvidia",
            "nvidia_driver_require_loaded": False,
            "nvidia_driver_repository_url": url,
            "nvidia_driver_repository_key": f"{url}/gpgkey",
            "nvidia_driver_repository_key_fingerprint": key.fingerprint,
            **variables,
        }
        controller = Controller(Path(tmp_path_factory.mktemp("driver")), lab.keys)
        return Site([host], module_world, controller, settings)

    return make


@pytest.fixture(scope="module")
def site(make_site: MakeSite, module_hosts: Callable[..., Host]) -> Site:
    """The host of this file's story: bare, then with a driver, then with a newer one."""
    return make_site(module_hosts(variant="bare"))


@pytest.fixture
def fresh(make_site: MakeSite, hosts: Callable[..., Host]) -> Site:
    """A host of the test's own."""
    return make_site(hosts())


def _driver_play(site: Site, *options: str) -> Outcome:
    return site.play("provision.yml", "--tags", "nvidia_driver", *options)


def _converge(site: Site, *options: str) -> Mapping[str, Any]:
    """Run the role; the play must succeed. Gives what the module said."""
    outcome = _driver_play(site, *options)
    assert outcome.rc == 0, outcome.output
    return outcome.result(TASK).data


def _refusal(site: Site, *options: str) -> str:
    """Run the role; the play must fail, with one line."""
    outcome = _driver_play(site, *options)
    assert outcome.rc != 0, outcome.output
    (failure,) = outcome.failures()
    assert "\n" not in failure.msg
    return str(failure.msg)


def _everything(host: Host) -> str:
    """All that a play could change: files, packages, holds, units. Holds first: asking makes a cache."""
    command = (
        "apt-mark showhold; find / -xdev"
        " \\( -path /proc -o -path /sys -o -path /run -o -path /tmp -o -path /var/log"
        " -o -path /var/lib/systemd -o -path /root/.ansible \\) -prune -o -printf '%p %m %U %s %T@\\n' | sort"
        "; dpkg -l; systemctl list-unit-files --no-legend | sort"
    )
    return host.exec("sh", "-c", command).stdout


def _versions(host: Host) -> dict[str, str]:
    form = "${Package} ${Version} ${db:Status-Abbrev}\\n"
    rows = [row.split() for row in host.exec("dpkg-query", "-W", "-f", form).stdout.splitlines()]
    return {row[0]: row[1] for row in rows if row[2] in ("ii", "hi")}


def _held(host: Host) -> set[str]:
    return set(host.exec("apt-mark", "showhold").stdout.split())


def test_check_mode_on_a_bare_host_predicts_and_writes_nothing(site: Site, repo: AptRepo) -> None:
    """What it says it would do is what the real run then does."""
    del repo
    before = _everything(site.host)
    predicted = _converge(site, "--check", "--diff")
    assert _everything(site.host) == before
    real = _converge(site)
    assert sorted(predicted["actions"]) == sorted(real["actions"])
    assert predicted["installed"] == real["installed"]


def test_the_driver_is_there_held_pinned_and_leaves_nothing_failed(site: Site, repo: AptRepo) -> None:
    """One version of all, no upgrade of them, nouveau off, no daemon that failed without a driver."""
    del repo
    versions = _versions(site.host)
    assert {name: versions[name] for name in HELD} == dict.fromkeys(HELD, OLD)
    assert _held(site.host) >= HELD
    assert "linux-headers-amd64" not in _held(site.host), "kernels and their headers go on"
    preferences = site.host.read("/etc/apt/preferences.d/runnerctl-nvidia-driver")
    assert "Pin: version 580.*\nPin-Priority: 1001\n" in preferences
    assert "Package-Blacklist" in site.host.read("/etc/apt/apt.conf.d/52runnerctl-nvidia")
    assert "blacklist nouveau" in site.host.read("/etc/modprobe.d/runnerctl-nouveau.conf")
    assert site.host.exists(MODULE)
    assert site.host.state() == "running"
    assert "contrib" in site.host.read("/etc/apt/sources.list.d/runnerctl-components.sources")
    show = site.shell("systemctl show -p ExecStart -p ConditionResult nvidia-persistenced")
    assert "--user nvpd" in show
    assert "--no-persistence-mode" not in show


def test_the_second_run_changes_nothing(site: Site, repo: AptRepo) -> None:
    """Neither for real nor in check mode, and without asking the repository."""
    del repo
    site.world.mirror.forget_downloads()
    before = _everything(site.host)
    assert _driver_play(site).recap[site.host.name].changed == 0
    assert _driver_play(site, "--check", "--diff").recap[site.host.name].changed == 0
    assert _everything(site.host) == before
    assert not [path for path in site.world.mirror.downloads() if path.startswith("/driver")]


def test_what_was_changed_by_hand_is_repaired(site: Site, repo: AptRepo) -> None:
    """A lost hold, file, unit and module; predicted before."""
    del repo
    site.shell(
        "apt-mark unhold libnvidia-ml1; rm /etc/modprobe.d/runnerctl-nouveau.conf;"
        f"systemctl disable -q runnerctl-nvidia-devices; rm {MODULE}"
    )
    predicted = _converge(site, "--check")
    assert sorted(predicted["actions"]) == sorted(_converge(site)["actions"])
    assert _held(site.host) >= HELD
    assert site.host.exists(MODULE)
    assert _driver_play(site).recap[site.host.name].changed == 0


def test_upgrades_leave_the_driver_and_a_new_version_lifts_the_hold(site: Site, repo: AptRepo) -> None:
    """`apt-get upgrade` keeps all of it back; inventory moves all of it, and it is held again."""
    repo.add(*_driver(NEW))
    repo.publish()
    site.shell("apt-get -qq update")
    assert not [
        line for line in site.shell("apt-get -s dist-upgrade").splitlines() if "Inst" in line and NEW in line
    ]
    site.variables["nvidia_driver_version"] = NEW.partition("-")[0]
    repo.add(Deb(f"nvidia-driver-pinning-{NEW.partition('-')[0]}", "580-1"))
    repo.publish()
    site.shell("apt-get -qq update")
    _converge(site)
    versions = _versions(site.host)
    assert {name: versions[name] for name in HELD} == dict.fromkeys(HELD, NEW)
    assert _held(site.host) >= HELD
    assert _driver_play(site).recap[site.host.name].changed == 0


def test_an_installation_cut_off_in_its_middle_is_finished(fresh: Site, repo: AptRepo) -> None:
    """Power fails while dpkg configures a package; the next run makes everything whole."""
    del repo
    fresh.shell(f"touch {SLOW}")
    run = fresh.start("provision.yml", "--tags", "nvidia_driver")
    deadline = time.monotonic() + 240
    while not fresh.host.exists(STUCK):
        assert time.monotonic() < deadline, "the package was never configured"
        time.sleep(0.5)
    fresh.host.pull_the_plug()
    run.kill()
    fresh.host.start()
    fresh.shell(f"rm {SLOW}")
    assert "interrupted installation finished" in _converge(fresh)["actions"]
    assert _versions(fresh.host).keys() >= HELD
    assert _held(fresh.host) >= HELD
    assert fresh.host.state() == "running"
    assert _driver_play(fresh).recap[fresh.host.name].changed == 0


def test_a_repository_that_is_not_as_signed_is_refused(fresh: Site, repo: AptRepo, key: SigningKey) -> None:
    """A wrong key, an expired list, a changed package: one line each that names it, and no driver."""
    url = f"{fresh.world.mirror.url}/driver"
    fingerprint = "nvidia_driver_repository_key_fingerprint"
    fresh.variables[fingerprint] = "A" * 40
    line = _refusal(fresh)
    assert "has fingerprint" in line
    assert "A" * 40 in line
    fresh.variables[fingerprint] = key.fingerprint
    with SigningKey("Somebody Else <else@example.org>") as other:
        repo.sign_with(other)
        assert url in (line := _refusal(fresh))
        assert "signed by another key" in line
    repo.expire()
    assert url in (line := _refusal(fresh))
    assert "has expired" in line
    assert not fresh.host.exists("/etc/apt/sources.list.d/runnerctl-nvidia.sources")
    repo.publish()
    changed = next(deb for deb in _driver(OLD) if deb.name == "nvidia-driver-cuda")
    repo.tamper(changed)
    assert url in (line := _refusal(fresh))
    assert "nvidia-driver-cuda" in line
    assert "nvidia-driver-cuda" not in _versions(fresh.host)


def test_what_cannot_be_had_is_refused_before_any_change(fresh: Site) -> None:
    """Debian's own driver is older than Blackwell."""
    fresh.variables |= {"nvidia_driver_device_ids": [BLACKWELL], "nvidia_driver_source": "distribution"}
    before = _everything(fresh.host)
    line = _refusal(fresh)
    assert "Blackwell" in line
    assert "set nvidia_driver_source: nvidia" in line
    assert _everything(fresh.host) == before


def test_without_a_gpu_nothing_happens(fresh: Site) -> None:
    """The role is for every host; one without GPUs gets no driver and no complaint."""
    fresh.variables["nvidia_driver_device_ids"] = []
    before = _everything(fresh.host)
    outcome = _driver_play(fresh)
    assert outcome.rc == 0, outcome.output
    assert outcome.recap[fresh.host.name].changed == 0
    assert _everything(fresh.host) == before


def test_the_proof_decides_before_anything_is_registered(fresh: Site) -> None:
    """A driver that others manage: it answers with the GPUs expected, or the play stops with one line."""
    fresh.variables |= {"nvidia_driver_manage": False, "nvidia_driver_gpu_count": 1}
    fresh.variables["nvidia_driver_require_loaded"] = True
    assert "library is missing" in _refusal(fresh)
    gpu.install(fresh.host)
    _converge(fresh)
    fresh.variables["nvidia_driver_gpu_count"] = 2
    assert "1 of 2 GPUs answer" in _refusal(fresh)
    fresh.variables["nvidia_driver_require_loaded"] = False
    outcome = _driver_play(fresh)
    assert outcome.rc == 0, outcome.output
    assert fresh.world.control.runners() == []


def test_a_reboot_waits_for_the_job_and_the_slots_come_back(fresh: Site, repo: AptRepo) -> None:
    """nouveau holds the GPU: the job ends first, then the host reboots, and the runner is online again."""
    del repo
    fresh.variables["nvidia_driver_manage"] = False
    fresh.provision()
    job = fresh.job("echo begun; sleep 40; echo ended", labels=["self-hosted", "linux", "x64"])
    fresh.github.wait_job(job, status="in_progress")
    fresh.shell("mount -t tmpfs none /sys/module; mkdir /sys/module/nouveau")  # until the next boot
    fresh.variables["nvidia_driver_manage"] = True
    before = fresh.host.boot_id()
    data = _converge(fresh)
    assert fresh.host.boot_id() != before
    assert data["actions"][-2:] == ["stopped gha-runner@main.service for the reboot", "rebooted"]
    result, log = fresh.result(job)
    assert result == "success", log
    assert "ended" in log
    fresh.host.wait()
    fresh.github.wait_runner(fresh.world.scope, f"{fresh.host.name}-main")
    assert _driver_play(fresh).recap[fresh.host.name].changed == 0
