"""What the target reads of GPUs, kernels, firmware and packages, from a tree of files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import driver_facts
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_facts import read_driver_facts
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import Result
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt

from runnerctl.core.driver_structs import DriverFacts

DPKG = """\
nvidia-kernel-dkms\t535.261.03-1\tinstalled
nvidia-smi\t535.261.03-1\tinstalled
nvidia-driver\t525.1-1\tconfig-files
"""


def put(root: Path, name: str, text: str | bytes = "") -> Path:
    """A file of the tree."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def device(root: Path, address: str, *, ids: str, kind: str, driver: str = "") -> Path:
    """A PCI function: ``ids`` is vendor:device, ``kind`` its class."""
    vendor, _, number = ids.partition(":")
    place = f"sys/bus/pci/devices/{address}"
    put(root, f"{place}/vendor", f"0x{vendor}\n")
    put(root, f"{place}/device", f"0x{number}\n")
    put(root, f"{place}/class", f"0x{kind}\n")
    if driver:
        (root / place / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
    return root / place


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two GPUs and an NVSwitch that are this host's, and four functions that are not."""
    device(tmp_path, "0000:17:00.0", ids="10de:2330", kind="030200", driver="nvidia")
    device(tmp_path, "0001:18:00.0", ids="10de:26B9", kind="030000")
    device(tmp_path, "0000:05:00.0", ids="10de:22a3", kind="068000")
    device(tmp_path, "0000:19:00.0", ids="10de:2330", kind="030200", driver="vfio-pci")
    (device(tmp_path, "0000:1a:00.0", ids="10de:2330", kind="030200") / "physfn").symlink_to("../x")
    device(tmp_path, "0000:1b:00.1", ids="10de:22ba", kind="040300")
    device(tmp_path, "0000:02:00.0", ids="1a03:2000", kind="030000")
    return tmp_path


def asked(monkeypatch: pytest.MonkeyPatch, answers: dict[str, str]) -> list[list[str]]:
    """Programs of the host answer with these texts; returns the commands that were run."""
    calls: list[list[str]] = []

    def run(argv: list[str], **_: Any) -> Result:
        calls.append(argv)
        return Result(1, answers.get(Path(argv[0]).name, ""), "")

    monkeypatch.setattr(driver_facts, "run", run)
    monkeypatch.setattr(os.path, "exists", lambda path: Path(path).name in answers)
    return calls


def test_gpus_that_this_host_may_drive(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No virtual function, none handed to a virtual machine, no sound, no other vendor; no program is run."""
    calls = asked(monkeypatch, {})
    facts = read_driver_facts(driver="never", root=str(root))
    assert facts == {"pci": ["2330", "26b9"], "nvswitches": 1, "container": False}
    assert calls == []


def test_a_host_without_gpus_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is asked, whether or not the driver is managed."""
    calls = asked(monkeypatch, {"dpkg-query": DPKG})
    assert read_driver_facts(driver="gpus", root=str(tmp_path))["pci"] == []
    assert calls == []


def test_the_driver_that_is_installed(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages, loaded module, .run file and receipt; what is left of a removed package does not count."""
    calls = asked(monkeypatch, {"dpkg-query": DPKG})
    put(root, "sys/module/nvidia/version", "535.261.03\n")
    put(root, "proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64\n")
    receipt = Receipt(root / "receipt.json")
    receipt.record("package", ["nvidia-smi", "dkms"], role="nvidia_driver")
    facts = read_driver_facts(driver="gpus", root=str(root), receipt=receipt)
    assert facts["installed"] == {
        "loaded": "535.261.03",
        "open": True,
        "packages": {"nvidia-kernel-dkms": "535.261.03-1", "nvidia-smi": "535.261.03-1"},
        "run_file": False,
        "noted": ["nvidia-smi"],
    }
    assert len(calls) == 1
    whole = {**facts, "os_id": "debian", "os_version": "12", "machine": "x86_64"}
    assert msgspec.convert(whole, DriverFacts).installed.noted == ("nvidia-smi",)


def test_rpm_is_asked_where_there_is_no_dpkg(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the epoch, which is part of a version there."""
    asked(monkeypatch, {"rpm": "kmod-nvidia-open-dkms\t3:580.95.05-1.el9\tinstalled\n"})
    installed = read_driver_facts(driver="gpus", root=str(root), receipt=Receipt(root / "none"))["installed"]
    assert installed["packages"] == {"kmod-nvidia-open-dkms": "3:580.95.05-1.el9"}


def test_kernels_newest_first(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with modules; what a removed kernel left behind is none."""
    asked(monkeypatch, {})
    for release in ("6.1.0-9-amd64", "6.1.0-27-amd64"):
        put(root, f"lib/modules/{release}/modules.dep")
    (root / "lib/modules/5.10.0-1-amd64").mkdir()
    facts = read_driver_facts(driver="always", root=str(root), receipt=Receipt(root / "none"))
    assert facts["kernels"] == ["6.1.0-27-amd64", "6.1.0-9-amd64"]


@pytest.mark.parametrize(
    ("value", "secure"), [(b"\x06\0\0\0\x01", True), (b"\x06\0\0\0\0", False), (None, None)]
)
def test_secure_boot(
    value: bytes | None, secure: bool | None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The firmware's variable: attributes first, then the value; no firmware of that kind: not known."""
    asked(monkeypatch, {})
    if value is not None:
        put(root, driver_facts.SECURE_BOOT.lstrip("/"), value)
    facts = read_driver_facts(driver="gpus", root=str(root), receipt=Receipt(root / "none"))
    assert (facts["secure_boot"], facts["mok_enrolled"]) == (secure, None)


@pytest.mark.parametrize(
    ("answer", "enrolled"),
    [
        ("/var/lib/dkms/mok.pub is already enrolled\n", True),
        ("/var/lib/dkms/mok.pub is not enrolled\n", False),
        ("/var/lib/dkms/mok.pub is already in the enrollment request\n", False),
    ],
)
def test_the_key_of_dkms(answer: str, enrolled: bool, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that nobody confirmed at the console is no enrolment."""
    asked(monkeypatch, {"mokutil": answer})
    put(root, driver_facts.SECURE_BOOT.lstrip("/"), b"\x06\0\0\0\x01")
    put(root, "var/lib/dkms/mok.pub", b"key")
    facts = read_driver_facts(driver="gpus", root=str(root), receipt=Receipt(root / "none"))
    assert facts["mok_enrolled"] is enrolled


def test_a_container_says_so(root: Path) -> None:
    """It sees its machine's bus."""
    put(root, "run/systemd/container", "docker")
    assert read_driver_facts(driver="never", root=str(root))["container"] is True
