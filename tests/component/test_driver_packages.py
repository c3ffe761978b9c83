"""The driver's packages: headers for each kernel, holds that are lifted and put back, locks on rpm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_packages import (
    HELD,
    PREFERENCES,
    VERSION_LOCK,
    DriverPackages,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_plan import DriverPlan
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_work import Work
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.packages_apt import Apt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.packages_rpm import Rpm

from tests.component.driver_support import KERNEL, OLDER, Machine

PLAN: dict[str, Any] = {
    "action": "install",
    "reason": "an H100",
    "source": "nvidia",
    "branch": "580",
    "packages": ["nvidia-driver-pinning-580", "nvidia-driver-cuda"],
    "headers": {"meta": "linux-headers-amd64", "per_kernel": "linux-headers-{kernel}"},
    "hold": ["nvidia-*", "libnvidia-*"],
    "pins": [{"packages": ["nvidia-*"], "pin": "version 580.*", "priority": 1001}],
}
# dpkg's database as a file of lines "name version want"; apt-get writes what it installs into it.
DPKG = """
case "$*" in
  *Status-Want*) awk '{{printf "%s\\t%s\\tinstalled\\n", $1, $3}}' {db} ;;
  *Version*) awk '{{printf "%s\\tinstalled\\t%s\\n", $1, $2}}' {db} ;;
  *Provides*) awk '{{printf "%s\\tamd64\\tinstalled\\t\\n", $1}}' {db} ;;
esac
"""
APT = """
case " $*" in
  *" -s "*|*" update") exit 0 ;;
esac
[ -e {fails} ] && {{ echo "E: Sub-process /usr/bin/dpkg returned an error code (1)" >&2; exit 100; }}
for word in "$@"; do
  case "$word" in
    linux-headers*|nvidia*|libnvidia*)
      name=${{word%%=*}}; version=${{word#*=}}; [ "$name" = "$version" ] && version=1
      sed -i "/^$name /d" {db}; echo "$name $version install" >>{db} ;;
  esac
done
"""
MARK = """
want=install; [ "$1" = hold ] && want=hold; shift
for name in "$@"; do sed -i "s/^\\($name [^ ]*\\) .*/\\1 $want/" {db}; done
"""
POLICY = """
[ "$1" = madison ] && {{ echo " $2 | 580.2-1 | x"; echo " $2 | 570.1-1 | x"; exit; }}
shift
for name in "$@"; do case $name in *{older}) ;; *) echo "$name:"; echo "  Candidate: 1" ;; esac; done
"""


class Debian:
    """dpkg and apt of our own."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.db, self.fails = machine.put("/db"), machine.root / "fails"
        names = {"db": self.db, "fails": self.fails, "older": OLDER}
        for name, script in (
            ("dpkg-query", DPKG),
            ("apt-get", APT),
            ("apt-mark", MARK),
            ("apt-cache", POLICY),
        ):
            machine.program(name, script.format(**names))
        machine.put("/etc/apt/sources.list", "deb http://a/debian bookworm main\n")
        machine.put("/lists/x_Packages")
        self.status = machine.root / "dpkg"
        self.status.mkdir()

    def install(self, *, check: bool = False, **changes: Any) -> Work:
        """One run over sources, packages and holds."""
        work = self.machine.work(check=check)
        root = self.machine.root
        apt = Apt("Debian", lists=f"{root}/lists", status=str(self.status), sources=f"{root}/etc/apt")
        packages = DriverPackages(work, DriverPlan.from_dict({**PLAN, **changes}), apt)
        packages.sources()
        outcome = packages.install()
        packages.hold(outcome.installed)
        return work

    def rows(self) -> dict[str, tuple[str, str]]:
        """Package -> version and what is wanted of it."""
        rows = [line.split() for line in self.db.read_text().splitlines()]
        return {row[0]: (row[1], row[2]) for row in rows}


@pytest.fixture
def debian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Debian:
    return Debian(Machine(tmp_path, monkeypatch))


def test_headers_for_every_kernel_that_has_some(debian: Debian) -> None:
    """A kernel whose headers no repository has is named; the others and the metapackage are served."""
    debian.machine.kernel(KERNEL, headers=False)
    debian.machine.kernel(OLDER, headers=False)
    predicted = debian.install(check=True)
    work = debian.install()
    assert work.actions == predicted.actions
    assert {"linux-headers-amd64", f"linux-headers-{KERNEL}"} <= debian.rows().keys()
    assert f"linux-headers-{OLDER}" not in debian.rows()
    assert (
        f"no repository has linux-headers-{OLDER}: the module cannot be built for kernel {OLDER}"
        in work.notes
    )
    assert debian.install().actions == []
    assert "Pin: version 580.*" in (debian.machine.root / PREFERENCES.lstrip("/")).read_text()


def test_another_branch_is_replaced_and_held_again(debian: Debian) -> None:
    """The names are the same in every branch of NVIDIA's repository; headers are never held."""
    debian.db.write_text(
        "nvidia-driver-cuda 570.1-1 hold\nlibnvidia-ml1 570.1-1 hold\nlinux-headers-amd64 1 install\n"
    )
    work = debian.install()
    assert debian.rows() == {
        "nvidia-driver-cuda": ("580.2-1", "hold"),
        "libnvidia-ml1": ("570.1-1", "hold"),
        "linux-headers-amd64": ("1", "install"),
        "nvidia-driver-pinning-580": ("1", "hold"),
    }
    assert HELD in work.actions
    calls = [call for call in debian.machine.calls() if call.startswith("apt-mark")]
    assert calls[0] == "apt-mark unhold libnvidia-ml1 nvidia-driver-cuda"


def test_a_failed_installation_leaves_the_holds_as_they_were(debian: Debian) -> None:
    """And it says where DKMS wrote what it failed on."""
    debian.db.write_text("libnvidia-ml1 570.1-1 hold\n")
    debian.fails.touch()
    log = debian.machine.put("/var/lib/dkms/nvidia/580.2/build/make.log")
    with pytest.raises(HostError, match=rf"error code \(1\); see {log} on the host"):
        debian.install()
    assert debian.rows()["libnvidia-ml1"] == ("570.1-1", "hold")


def test_rpm_packages_are_locked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the plugin of dnf, which is installed when it is not there."""
    machine = Machine(tmp_path, monkeypatch)
    machine.program("rpm", "exit 0")
    machine.program("dnf", f"mkdir -p {machine.root}/etc/dnf/plugins; echo $6 >>{machine.root}{VERSION_LOCK}")
    plan = DriverPlan.from_dict({**PLAN, "hold": ["*nvidia*580*"], "pins": []})
    predicted = machine.work(check=True)
    DriverPackages(predicted, plan, Rpm("Rocky Linux 9")).hold()
    assert machine.calls() == []
    work = machine.work()
    DriverPackages(work, plan, Rpm("Rocky Linux 9")).hold()
    assert work.actions == predicted.actions == [HELD]
    assert "dnf -q -y versionlock add --raw *nvidia*580*" in machine.calls()
    DriverPackages(work, plan, Rpm("Rocky Linux 9")).hold()
    assert work.actions == [HELD]


def test_a_lock_on_another_version_is_lifted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would keep the wanted version out; a lock that somebody else made stays."""
    machine = Machine(tmp_path, monkeypatch)
    machine.put(VERSION_LOCK, "*nvidia*580.95.05*\nkernel-0:5.14.0-1.el9.*\n")
    there = f"{machine.root}/there"
    answer = 'case "$*" in *VERSION*) printf "nvidia-driver-cuda\\t580.105.08-1\\n" ;; esac'
    missing = 'echo "no package provides nvidia-driver-cuda"'
    machine.program("rpm", f"if [ -e {there} ]; then {answer}; else {missing}; fi")
    fails = machine.put("/fails")
    installing = f"[ ! -e {fails} ] || exit 1; touch {there}"
    machine.program(
        "dnf", f'case "$*" in *" install "*) {installing} ;; *repoquery*) echo 580.105.08-1 ;; esac'
    )
    changes = {
        "hold": ["*nvidia*580.105.08*"],
        "pins": [],
        "headers": None,
        "packages": ["nvidia-driver-cuda"],
    }
    plan = DriverPlan.from_dict({**PLAN, **changes})
    with pytest.raises(HostError, match="dnf install failed"):
        DriverPackages(machine.work(), plan, Rpm("Rocky Linux 9")).install()
    assert machine.calls()[-1] == "dnf -q -y versionlock add --raw *nvidia*580.95.05*"
    fails.unlink()
    machine.log.unlink()
    DriverPackages(machine.work(), plan, Rpm("Rocky Linux 9")).install()
    calls = [call for call in machine.calls() if "versionlock" in call or " install " in call]
    assert calls[0] == "dnf -q -y versionlock delete --raw *nvidia*580.95.05*"
    assert calls[1].endswith("install nvidia-driver-cuda-580.105.08-1")
