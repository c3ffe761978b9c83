"""The driver on a host: the plan, apt's components, kernels, units. Commands are programs of our own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import driver_plan as target
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_files import (
    DROP_IN,
    PERSISTENCE_UNIT,
    Units,
    block_upgrades,
    prepare_units,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_kernels import (
    build_missing,
    kernels,
    next_kernel,
    switch_nouveau_off,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_plan import DriverPlan
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_sources import (
    FILE,
    add_components,
    parse_lines,
    parse_stanzas,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.removal import Removal
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import UnitState

from runnerctl.core import driver_structs
from tests.component.driver_support import KERNEL, NAMES, OLDER, A, Machine


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


# -- the plan ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["DriverPlan", "Repository", "Pin", "Headers", "MigPlan"])
def test_both_halves_have_the_same_fields_and_defaults(name: str) -> None:
    """The target cannot import msgspec, so the plan is declared twice."""
    theirs = msgspec.structs.fields(getattr(driver_structs, name))
    ours = getattr(target, name).__dataclass_fields__
    assert [field.name for field in theirs] == list(ours)
    for field in theirs:
        if field.default is not msgspec.NODEFAULT:
            assert ours[field.name].default == field.default, field.name


def test_a_plan_travels_as_json() -> None:
    plan = driver_structs.DriverPlan(
        action="install",
        reason="one H100",
        repositories=(driver_structs.Repository("nvidia", "apt", "http://a/b", components=("main",)),),
        pins=(driver_structs.Pin(("nvidia-*",), "version 580.*", 1001),),
        headers=driver_structs.Headers("linux-headers-amd64", "linux-headers-{kernel}"),
        mig=(driver_structs.MigPlan(("1g.10gb",), (A,)),),
        versions={"nvidia-driver-cuda": "580.*"},
    )
    read = DriverPlan.from_dict(json.loads(msgspec.json.encode(plan)))
    assert msgspec.to_builtins(plan) == msgspec.to_builtins(read)
    assert read.repositories[0].components == ("main",)


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({}, "DriverPlan lacks action"),
        ({"action": "none", "reason": "", "colour": 1}, "DriverPlan has no field colour"),
        ({"action": "none", "reason": "", "mig": [{}]}, "MigPlan lacks profiles"),
        ({"action": "none", "reason": "", "pins": [3]}, "Pin is int, no mapping"),
    ],
)
def test_what_is_no_plan_is_refused(data: dict[str, Any], line: str) -> None:
    with pytest.raises(HostError, match=line):
        DriverPlan.from_dict(data)


# -- apt's components --------------------------------------------------------------------------------------

ONE_LINE = """# deb http://a/off bookworm main
deb http://a/debian bookworm main contrib # why
deb-src http://a/debian bookworm main
deb [arch=amd64 signed-by=/k.gpg] http://b/other bookworm main
deb http://flat/ ./
"""
DEB822 = """Types: deb deb-src
URIs: http://a/debian http://c/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc-archive-
# a comment

Types: deb
URIs: http://off/
Suites: bookworm
Components: main
Enabled: no
"""


def test_both_notations_are_read() -> None:
    lines = parse_lines(ONE_LINE)
    assert [(each.uri, each.components) for each in lines] == [
        ("http://a/debian", ("main", "contrib")),
        ("http://b/other", ("main",)),
    ]
    assert lines[1].fields == (("Architectures", "amd64"), ("Signed-By", "/k.gpg"))
    stanzas = parse_stanzas(DEB822)
    assert [(each.uri, each.suite) for each in stanzas] == [
        ("http://a/debian", "bookworm"),
        ("http://a/debian", "bookworm-updates"),
        ("http://c/debian/", "bookworm"),
        ("http://c/debian/", "bookworm-updates"),
    ]
    key = dict(stanzas[0].fields)["Signed-By"]
    assert key == "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc-archive-"


def test_only_missing_components_of_the_distribution_are_added(machine: Machine) -> None:
    """Another vendor's source of the same suite is left alone: by its key, or by its list's origin."""
    machine.put("/etc/os-release", 'ID=debian\nVERSION_CODENAME="bookworm"\n')
    machine.put("/etc/apt/sources.list", ONE_LINE + "deb http://vendor/x_y bookworm main\n")
    machine.put("/etc/apt/sources.list.d/more.sources", DEB822)
    machine.put("/var/lib/apt/lists/vendor_x%5fy_dists_bookworm_InRelease", "Origin: Vendor\n")
    before = machine.tree()
    predicted = machine.work(check=True)
    assert add_components(predicted, ["contrib", "non-free"])
    assert machine.tree() == before
    work = machine.work()
    assert add_components(work, ["contrib", "non-free"])
    assert work.actions == predicted.actions
    written = parse_stanzas(machine.tree()[str(machine.root / FILE.lstrip("/"))])
    assert {(each.uri, each.suite): each.components for each in written} == {
        ("http://a/debian", "bookworm"): ("non-free",),
        ("http://a/debian", "bookworm-updates"): ("contrib", "non-free"),
        ("http://c/debian/", "bookworm"): ("contrib", "non-free"),
        ("http://c/debian/", "bookworm-updates"): ("contrib", "non-free"),
    }
    assert "-archive-" in dict(written[1].fields)["Signed-By"]
    assert not add_components(machine.work(), ["contrib", "non-free"]), "our own file is not read as theirs"
    assert [entry.name for entry in work.receipt.entries("path")] == [FILE]


def test_our_file_goes_when_the_user_enables_the_components(machine: Machine) -> None:
    machine.put("/etc/os-release", "VERSION_CODENAME=bookworm\n")
    listed = machine.put("/etc/apt/sources.list", "deb http://a/debian bookworm main\n")
    add_components(machine.work(), ["contrib"])
    listed.write_text("deb http://a/debian bookworm main contrib\n")
    assert add_components(machine.work(), ["contrib"])
    assert not (machine.root / FILE.lstrip("/")).exists()
    assert (machine.root / FILE.lstrip("/")).parent.is_dir(), "apt warns where its own directory is missing"


def test_a_host_without_its_own_sources_is_refused(machine: Machine) -> None:
    machine.put("/etc/apt/sources.list", "deb http://a/debian bookworm main\n")
    with pytest.raises(HostError, match="no enabled source of the distribution"):
        add_components(machine.work(), ["contrib"])


# -- kernels -----------------------------------------------------------------------------------------------


def test_kernels_their_headers_and_their_module(machine: Machine) -> None:
    machine.kernel(KERNEL, module=True)
    machine.kernel("6.1.0-9-amd64", headers=False)
    machine.put("/lib/modules/6.1.0-99-amd64/modules.dep")  # what a removed kernel leaves
    found = kernels(machine.work(), NAMES)
    assert [(each.release, each.headers, each.module is not None) for each in found] == [
        (KERNEL, True, True),
        ("6.1.0-9-amd64", False, False),
    ]
    assert next_kernel(machine.work()) == KERNEL


def test_nouveau_is_off_in_every_initramfs_once(machine: Machine) -> None:
    machine.program("update-initramfs", f"touch {machine.root}/boot/initrd.img-{KERNEL}")
    for kernel in (KERNEL, OLDER):
        machine.kernel(kernel)
    machine.put(f"/boot/initrd.img-{KERNEL}")
    for left in (f"initrd.img-{KERNEL}.old-dkms", "initrd.img-5.10.0-1-amd64", "initramfs-1kdump.img"):
        os.utime(machine.put(f"/boot/{left}"), (0, 0))  # nothing makes these again
    predicted = machine.work(check=True)
    switch_nouveau_off(predicted)
    assert machine.calls() == []
    work = machine.work()
    switch_nouveau_off(work)
    assert work.actions == predicted.actions
    assert machine.calls() == ["update-initramfs -u -k all"]
    again = machine.work()
    switch_nouveau_off(again)
    assert again.actions == []
    os.utime(machine.put(f"/boot/initrd.img-{OLDER}"), (0, 0))
    switch_nouveau_off(again)
    assert again.actions == [f"initramfs made again, without nouveau (initrd.img-{OLDER})"]
    assert again.reboot == []
    (machine.root / "sys/module/nouveau").mkdir(parents=True)
    switch_nouveau_off(again)
    assert again.reboot == ["nouveau is loaded and holds the GPU"]


def test_a_module_that_dkms_did_not_finish_is_built_again(machine: Machine) -> None:
    """Half a result looks whole to DKMS: it is removed; a kernel that has its module is left alone."""
    machine.kernel(KERNEL, module=True)
    machine.kernel(OLDER)
    for version in ("535.1", "535.10"):
        machine.put(f"/usr/src/nvidia-current-{version}/dkms.conf")
        machine.put(f"/var/lib/dkms/nvidia-current/{version}/source")
    half = machine.put(f"/var/lib/dkms/nvidia-current/535.1/{OLDER}/x86_64/module/nvidia-current.ko").parent
    whole = machine.put(f"/var/lib/dkms/nvidia-current/535.1/{KERNEL}/x86_64/module/nvidia-current.ko", "x")
    updates = f"{machine.root}/lib/modules/$5/updates/dkms"
    machine.program("dkms", f"mkdir -p {updates}; [ -e {half} ] || echo m >{updates}/nvidia-current.ko")
    predicted = machine.work(check=True)
    build_missing(predicted, NAMES)
    assert machine.calls() == []
    work = machine.work()
    after = build_missing(work, NAMES)
    assert work.actions == predicted.actions == [f"module built for kernel {OLDER}"]
    assert machine.calls() == [f"dkms install --force nvidia-current/535.10 -k {OLDER}"]
    assert all(kernel.module for kernel in after)
    assert whole.exists()
    again = machine.work()
    build_missing(again, NAMES)
    assert again.actions == []


# -- units -------------------------------------------------------------------------------------------------


def test_persistence_is_on_whatever_the_distribution_says(machine: Machine) -> None:
    unit = "[Service]\nExecStart=/usr/bin/nvidia-persistenced --user nvpd --no-persistence-mode --verbose\n"
    machine.put(f"/lib/systemd/system/{PERSISTENCE_UNIT}", unit)
    assert prepare_units(machine.work(), persistence=True)
    text = (machine.root / DROP_IN.lstrip("/")).read_text()
    assert "ExecStart=\nExecStart=/usr/bin/nvidia-persistenced --user nvpd --verbose\n" in text
    assert "ConditionPathExists=/proc/driver/nvidia/version" in text
    assert not prepare_units(machine.work(), persistence=True)
    prepare_units(machine.work(), persistence=False)
    assert "ExecStart" not in (machine.root / DROP_IN.lstrip("/")).read_text()


def test_a_daemon_that_failed_without_a_driver_is_forgiven(machine: Machine) -> None:
    machine.system.states = {PERSISTENCE_UNIT: UnitState("failed", "disabled", "loaded", needs_reload=True)}
    work = machine.work()
    units = Units(work, present=[PERSISTENCE_UNIT])
    units.reload(False)
    units.forgive(PERSISTENCE_UNIT)
    units.want(PERSISTENCE_UNIT, start=False)
    assert machine.system.calls == [
        "daemon-reload",
        f"reset-failed {PERSISTENCE_UNIT}",
        f"enable {PERSISTENCE_UNIT}",
    ]
    machine.system.calls.clear()
    predicted = machine.work(check=True)
    units = Units(predicted, present=[PERSISTENCE_UNIT])
    units.reload(True)
    units.forgive(PERSISTENCE_UNIT)
    units.want(PERSISTENCE_UNIT, start=False)
    assert machine.system.calls == []
    assert predicted.actions == work.actions


def test_unattended_upgrades_leave_the_driver_alone(machine: Machine) -> None:
    (machine.root / "etc/apt").mkdir(parents=True)
    block_upgrades(machine.work(), ["nvidia-", "libnvidia-"])
    text = (machine.root / "etc/apt/apt.conf.d/52runnerctl-nvidia").read_text()
    assert 'Unattended-Upgrade::Package-Blacklist {\n  "nvidia-";\n  "libnvidia-";\n};\n' in text
    block_upgrades(machine.work(), [])
    assert not (machine.root / "etc/apt/apt.conf.d/52runnerctl-nvidia").exists()


# -- deprovision -------------------------------------------------------------------------------------------


def test_the_driver_stays_until_it_is_named(machine: Machine) -> None:
    """What the receipt says of it stays too, so that a later run can still remove it."""
    block = "/etc/modprobe.d/runnerctl-nouveau.conf"
    drop_in = machine.root / DROP_IN.lstrip("/")
    work = machine.work()
    switch_nouveau_off(work)
    prepare_units(work, persistence=True)
    work.write("/etc/runnerctl/mig.json", "{}")
    work.receipt.record("path", "/etc/runnerctl/host.json", role="runnerctl")
    machine.put("/etc/runnerctl/host.json")
    machine.put("/var/lib/runnerctl/baseline.json")
    removal = Removal(Layout(machine.root), machine.system)
    removal.run()
    assert removal.kept == ["nvidia_driver"]
    assert drop_in.exists()
    assert not (machine.root / "var/lib/runnerctl/baseline.json").exists()
    assert [entry.role for entry in work.receipt.entries()] == ["nvidia_driver"] * 4
    again = Removal(Layout(machine.root), machine.system)
    again.run()
    assert again.removed == [], "asked twice, it changes nothing"
    assert [path.name for path in (machine.root / "etc/runnerctl").iterdir()] == ["mig.json"]
    named = Removal(Layout(machine.root), machine.system, also=("nvidia_driver",))
    named.run()
    assert block in named.removed
    assert "disable --now --quiet runnerctl-nvidia-devices.service" in machine.system.calls
    assert [path for path in machine.tree() if "boot" not in path] == []
    assert not drop_in.parent.exists()


def test_two_runs_never_change_one_driver(machine: Machine) -> None:
    """One build of DKMS would remove what the other is writing."""
    with machine.work().alone():
        with (
            pytest.raises(HostError, match=r"driver\.lock: held by another run"),
            machine.work().alone(seconds=0),
        ):
            pass
        with machine.work(check=True).alone():
            pass
    with machine.work().alone(seconds=0):
        pass
