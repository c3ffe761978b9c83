"""The installed driver, read from trees of files as they stand on real hosts."""

from __future__ import annotations

import json
import lzma
import os
import sqlite3
import struct
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

from runnerctl.core.driver_readings import DriverInstall, Memory
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes import boot_guard, driver_packages, kernels, memory, modules_on_disk, pci_paths
from runnerctl.probes.bounded import Task, run_all
from runnerctl.probes.driver_install import parse_driver_install, read_driver_install

OLD, NEW = "6.1.0-9-amd64", "6.1.0-40-amd64"
MACHINE = os.uname().machine


def _write(root: Path, files: Mapping[str, str | bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def _elf(version: str, *, signed: bool = False) -> bytes:
    """A kernel module as small as can be: an ELF header, .modinfo, the section names, the section table."""
    info = b"license=NVIDIA\0version=" + version.encode() + b"\0srcversion=ABC\0"
    names = b"\0.modinfo\0.shstrtab\0"
    table = 64 + len(info) + len(names)
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 1, 62, 1, 0, 0, table, 0, 64, 0, 0, 64, 3, 2)
    sections = bytes(64)
    for name, offset, size in ((1, 64, len(info)), (10, 64 + len(info), len(names))):
        sections += struct.pack("<IIQQQQIIQQ", name, 1, 0, 0, offset, size, 0, 0, 1, 0)
    return head + info + names + sections + (b"~Module signature appended~\n" if signed else b"")


def _debian(root: Path) -> None:
    """Debian with a module that DKMS built for the old kernel and not for the new one."""
    library = "usr/lib/x86_64-linux-gnu" if MACHINE == "x86_64" else f"usr/lib/{MACHINE}-linux-gnu"
    _write(
        root,
        {
            "proc/sys/kernel/osrelease": f"{OLD}\n",
            f"lib/modules/{OLD}/modules.dep": "",
            f"lib/modules/{NEW}/modules.dep": "",
            f"lib/modules/{NEW}/kernel/drivers/gpu/drm/nouveau/nouveau.ko": b"",
            f"lib/modules/{OLD}/updates/dkms/nvidia-current.ko": _elf("535.261.03", signed=True),
            f"lib/modules/{OLD}/updates/dkms/nvidia-current-drm.ko": _elf("1.2"),
            "lib/modules/6.1.0-50-amd64/build/Makefile": "",
            f"boot/vmlinuz-{OLD}": "",
            f"boot/vmlinuz-{NEW}": "",
            f"usr/src/linux-headers-{OLD}/Makefile": "",
            f"var/lib/dkms/nvidia-current/535.261.03/{OLD}/{MACHINE}/module/nvidia-current.ko": b"",
            "var/lib/dkms/nvidia-current/535.261.03/build/make.log": f"DKMS make.log for {NEW} ({MACHINE})\n",
            f"{library}/nvidia/current/libnvidia-ml.so.535.261.03": b"",
            "etc/modprobe.d/nvidia-blacklists-nouveau.conf": "# no\nblacklist nouveau\n",
        },
    )
    (root / f"lib/modules/{OLD}/build").symlink_to(f"/usr/src/linux-headers-{OLD}")
    (root / "var/lib/dkms/nvidia-current/535.261.03/source").symlink_to("/usr/src/nvidia-current-535.261.03")
    state = root / f"var/lib/dkms/nvidia-current/kernel-{OLD}-{MACHINE}"
    state.symlink_to(f"535.261.03/{OLD}/{MACHINE}")
    (root / "etc/alternatives").mkdir()
    (root / "etc/alternatives/ml").symlink_to(f"/{library}/nvidia/current/libnvidia-ml.so.1")
    (root / library / "libnvidia-ml.so.1").symlink_to("/etc/alternatives/ml")
    (root / library / "nvidia/current/libnvidia-ml.so.1").symlink_to("libnvidia-ml.so.535.261.03")


def _read(root: Path) -> DriverInstall:
    call = partial(read_driver_install, rootfs=root, environ={})
    reading = parse_driver_install(run_all({"it": Task(call, 10)})["it"])
    assert isinstance(reading, DriverInstall), reading
    return reading


def test_a_debian_host_before_a_kernel_upgrade_takes_effect(tmp_path: Path) -> None:
    """Links of the tree stay in the tree, headers alone are no kernel, and a failed build is known."""
    _debian(tmp_path)
    found = _read(tmp_path)
    assert (found.kernel, found.next_kernel) == (OLD, NEW)
    assert found.library_version == "535.261.03"
    assert found.dkms_sources == ("535.261.03",)
    old, new = found.modules
    assert (old.kernel, old.version, old.headers, old.dkms, old.signed) == (
        OLD,
        "535.261.03",
        True,
        "installed",
        True,
    )
    assert old.path == f"/lib/modules/{OLD}/updates/dkms/nvidia-current.ko"
    assert (new.kernel, new.version, new.headers, new.dkms) == (NEW, None, False, "failed")
    assert (found.nouveau_blacklisted, found.nouveau_present, found.nouveau_loaded) == (True, True, False)
    assert (found.initramfs_newer, found.secure_boot, found.persistenced) == (None, None, None)


def test_an_empty_tree_is_no_failure(tmp_path: Path) -> None:
    """A host without anything gives a reading without anything."""
    found = _read(tmp_path)
    assert (found.modules, found.next_kernel, found.library_version, found.packages) == ((), None, None, {})


def test_damaged_files_are_no_failure(tmp_path: Path) -> None:
    """What cannot be understood is left out, and a module that cannot be read is still a module."""
    _debian(tmp_path)
    _write(
        tmp_path,
        {
            f"lib/modules/{OLD}/updates/dkms/nvidia-current.ko": b"\x7fELF\x02\x01" + b"\xff" * 80,
            "var/lib/dpkg/status": b"\xff\xfe\0garbage\n\nPackage: nvidia-smi\n\n",
            "etc/cdi/nvidia.yaml": b'kind: nvidia.com/gpu\n\xff\xff- name: "0"\n',
            "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\1",
            "etc/apt/apt.conf.d/50x": b"\xff{{{",
        },
    )
    found = _read(tmp_path)
    assert found.modules[0].version == "535.261.03"  # DKMS knows what it built
    assert (found.packages, found.secure_boot, found.cdi_driver) == ({}, None, None)


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("nvidia.ko", _elf("575.57.08"), ("575.57.08", False)),
        ("nvidia.ko", _elf("575.57.08", signed=True), ("575.57.08", True)),
        ("nvidia-drm.ko.xz", lzma.compress(_elf("580.95.05", signed=True)), ("580.95.05", True)),
        ("nvidia.ko", b"short", (None, None)),
        ("nvidia.ko", b"", (None, None)),
        ("nvidia-drm.ko.xz", b"no xz at all", (None, None)),
    ],
)
def test_a_modules_version_is_read_from_its_file(
    tmp_path: Path, name: str, data: bytes, expected: tuple[str | None, bool | None]
) -> None:
    """Uncompressed from the file itself; compressed from the small module beside it."""
    _write(tmp_path, {name: data})
    asked = tmp_path / ("nvidia.ko.xz" if name.endswith(".xz") else name)
    assert modules_on_disk.modinfo_of(asked, {}) == expected


def test_modinfo_is_asked_for_other_compressions(tmp_path: Path) -> None:
    """Zstandard is not in Python's library yet; a tool that fails leaves the version untold."""
    _write(tmp_path, {"bin/modinfo": "#!/bin/sh\necho 'version:        580.95.05'\necho 'sig_id:  PKCS#7'\n"})
    (tmp_path / "bin/modinfo").chmod(0o755)
    path = f"{tmp_path}/bin:/usr/bin:/bin"
    assert modules_on_disk.modinfo_of(tmp_path / "nvidia.ko.zst", {"PATH": path}) == ("580.95.05", True)
    _write(tmp_path, {"bin/modinfo": "#!/bin/sh\nexit 1\n"})
    assert modules_on_disk.modinfo_of(tmp_path / "nvidia.ko.zst", {"PATH": path}) == (None, None)


@pytest.mark.parametrize(
    ("default", "saved", "expected"),
    [
        (None, None, NEW),
        ("GRUB_DEFAULT=0\n", None, NEW),
        ("GRUB_DEFAULT=saved\n", f"saved_entry=gnulinux-advanced-ab>gnulinux-{OLD}-advanced-ab\n", OLD),
        ("GRUB_DEFAULT=saved\n", None, NEW),
        (f'GRUB_DEFAULT="Advanced options>Debian GNU/Linux, with Linux {OLD}"\n', None, OLD),
        ("GRUB_DEFAULT=0\n", f"next_entry=gnulinux-{OLD}-advanced-ab\n", OLD),
        ('GRUB_DEFAULT="1>2"\n', None, None),
        ("GRUB_DEFAULT=saved\n", "saved_entry=0123456789abcdef-custom\n", OLD),
    ],
)
def test_the_next_kernel(
    tmp_path: Path, default: str | None, saved: str | None, expected: str | None
) -> None:
    """What GRUB was told, or else the highest; a number in the menu cannot be resolved."""
    _write(tmp_path, {f"boot/vmlinuz-{OLD}": "", f"boot/vmlinuz-{NEW}": "", f"boot/vmlinuz-{NEW}.old": ""})
    _write(tmp_path, {"boot/vmlinuz-0-rescue-0123456789abcdef": ""})
    _write(tmp_path, {"boot/loader/entries/0123456789abcdef-custom.conf": f"title X\nversion {OLD}\n"})
    if default:
        _write(tmp_path, {"etc/default/grub": default})
    if saved:
        _write(tmp_path, {"boot/grub/grubenv": f"# GRUB Environment Block\n{saved}####"})
    assert kernels.next_kernel(tmp_path) == expected


def test_kernels_are_ordered_as_boot_loaders_do() -> None:
    """Numbers as numbers; a release candidate before its release."""
    releases = ["6.1.0-40-amd64", "6.1.0-9-amd64", "6.12.3+bpo-amd64", "6.12-rc2-amd64", "6.2.0-1-amd64"]
    assert sorted(releases, key=kernels.kernel_order) == [
        "6.1.0-9-amd64",
        "6.1.0-40-amd64",
        "6.2.0-1-amd64",
        "6.12-rc2-amd64",
        "6.12.3+bpo-amd64",
    ]
    el = ["5.14.0-611.el9.x86_64", "5.14.0-503.40.1.el9_5.x86_64", "5.14.0-503.el9.x86_64"]
    assert sorted(el, key=kernels.kernel_order)[-1] == "5.14.0-611.el9.x86_64"


STATUS = """\
Package: bash
Status: install ok installed
Version: 5.2

Package: nvidia-open-kernel-dkms
Status: hold ok installed
Version: 535.261.03-1

Package: libnvidia-ml1
Status: install ok installed
Architecture: amd64
Version: 535.261.03-1

Package: nvidia-old
Status: deinstall ok config-files
Version: 470.1-1

Package: nvidia-fabricmanager-535
Status: install ok installed
Version: 535.261.03-1
"""
PERIODIC = 'APT::Periodic::Unattended-Upgrade "1";\n'


@pytest.mark.parametrize(
    ("conf", "expected"),
    [
        ("", None),
        ('APT::Periodic::Unattended-Upgrade "0";', None),
        (PERIODIC, False),
        (PERIODIC + 'Unattended-Upgrade::Package-Blacklist { "nvidia-"; "libnvidia-"; };', True),
        (PERIODIC + 'Unattended-Upgrade::Package-Blacklist {\n//  "nvidia-";\n  "libnvidia-";\n};', False),
        (PERIODIC + 'Unattended-Upgrade::Package-Blacklist:: "(lib)?nvidia";', True),
    ],
)
def test_packages_holds_and_unattended_upgrades(tmp_path: Path, conf: str, expected: bool | None) -> None:
    """Dpkg's database and apt's configuration, as files."""
    _write(tmp_path, {"var/lib/dpkg/status": STATUS, "usr/bin/unattended-upgrade": ""})
    _write(tmp_path, {"etc/apt/apt.conf.d/20auto": conf, "etc/apt/apt.conf.d/20auto.dpkg-old": PERIODIC})
    found = _read(tmp_path)
    assert set(found.packages) == {"nvidia-open-kernel-dkms", "libnvidia-ml1", "nvidia-fabricmanager-535"}
    assert found.held == ("nvidia-open-kernel-dkms",)
    assert found.fabric_manager_version == "535.261.03"
    assert found.upgrades_blocked is expected


def _header(name: str, version: str, release: str) -> bytes:
    index, data = b"", b""
    for tag, text in ((1000, name), (1001, version), (1002, release)):
        index += struct.pack(">IIII", tag, 6, len(data), 1)
        data += text.encode() + b"\0"
    return struct.pack(">II", 3, len(data)) + index + data


def test_packages_and_versionlock_of_fedoras_family(tmp_path: Path) -> None:
    """RPM's database without rpm; a lock with an epoch, and a pattern."""
    path = tmp_path / "var/lib/rpm/rpmdb.sqlite"
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as database:
        database.execute("create table Packages (hnum integer primary key, blob blob)")
        database.execute("create table Name (key text, hnum integer, idx integer)")
        rows = [("nvidia-driver-cuda", "580.95.05"), ("kmod-nvidia-open-dkms", "580.95.05"), ("bash", "5.1")]
        for number, (name, version) in enumerate(rows):
            database.execute("insert into Packages values (?, ?)", (number, _header(name, version, "1.el9")))
            database.execute("insert into Name values (?, ?, 0)", (name, number))
    database.close()
    _write(tmp_path, {"etc/dnf/plugins/versionlock.list": "# x\nnvidia-driver-cuda-3:580.95.05-1.el9.*\n"})
    packages, held = driver_packages.read_packages(tmp_path)
    expected = {"nvidia-driver-cuda": "580.95.05-1.el9", "kmod-nvidia-open-dkms": "580.95.05-1.el9"}
    assert (packages, held) == (expected, ())
    assert driver_packages.held_packages(tmp_path, packages) == ("nvidia-driver-cuda",)
    _write(tmp_path, {"etc/dnf/plugins/versionlock.list": "*nvidia*580*\n"})
    assert set(driver_packages.held_packages(tmp_path, packages)) == set(expected)
    path.write_bytes(b"no database")
    assert driver_packages.read_packages(tmp_path) == ({}, ())


def test_dnf_automatic(tmp_path: Path) -> None:
    """Only where it applies what it finds and its timer is on."""
    _write(tmp_path, {"etc/dnf/automatic.conf": "[commands]\napply_updates = yes\n"})
    assert driver_packages.upgrades_blocked(tmp_path, ["kmod-nvidia"]) is None
    _write(tmp_path, {"etc/systemd/system/timers.target.wants/dnf-automatic.timer": ""})
    assert driver_packages.upgrades_blocked(tmp_path, ["kmod-nvidia"]) is False
    _write(tmp_path, {"etc/dnf/dnf.conf": "[main]\nexcludepkgs=kmod-nvidia* nvidia-*\n"})
    assert driver_packages.upgrades_blocked(tmp_path, ["kmod-nvidia"]) is True


@pytest.mark.parametrize(
    ("package", "version"),
    [
        ("nvidia-fabricmanager-580", "580.95.05"),
        ("nvidia-fabricmanager", "580.95.05"),
        ("nvidia-fabric-manager", "580.95.05"),
        ("nvidia-fabricmanager-dev-580", None),
    ],
)
def test_the_fabric_managers_package(tmp_path: Path, package: str, version: str | None) -> None:
    """Its name differs between releases and distributions."""
    status = f"Package: {package}\nStatus: install ok installed\nVersion: 1:580.95.05-1\n"
    _write(tmp_path, {"var/lib/dpkg/status": status})
    assert _read(tmp_path).fabric_manager_version == version


def test_nouveau_and_the_initramfs(tmp_path: Path) -> None:
    """A blacklist that came after the initramfs does not reach it; the command line always does."""
    blacklist = "etc/modprobe.d/nouveau.conf"
    _write(tmp_path, {blacklist: "install nouveau /bin/false\n", f"boot/initrd.img-{NEW}": ""})
    os.utime(tmp_path / blacklist, (2_000_000, 2_000_000))
    os.utime(tmp_path / f"boot/initrd.img-{NEW}", (1_000_000, 1_000_000))
    found = boot_guard.nouveau(tmp_path, NEW)
    assert (found["nouveau_blacklisted"], found["initramfs_newer"]) == (True, False)
    os.utime(tmp_path / f"boot/initrd.img-{NEW}", (3_000_000, 3_000_000))
    assert boot_guard.nouveau(tmp_path, NEW)["initramfs_newer"] is True
    (tmp_path / blacklist).write_text("#blacklist nouveau\noptions nouveau modeset=0\n")
    assert boot_guard.nouveau(tmp_path, NEW)["nouveau_blacklisted"] is False
    _write(tmp_path, {"proc/cmdline": "BOOT_IMAGE=/x quiet modprobe.blacklist=floppy,nouveau\n"})
    assert boot_guard.nouveau(tmp_path, NEW)["nouveau_blacklisted"] is True


def test_secure_boot_and_its_keys(tmp_path: Path) -> None:
    """The fifth byte of the variable; shim's own switch; the certificate inside MokListRT."""
    efi = "sys/firmware/efi/efivars"
    shim = "605dab50-e046-4300-abb6-3dd810dd8b23"
    _write(tmp_path, {f"{efi}/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c": b"\6\0\0\0\1"})
    assert boot_guard.secure_boot(tmp_path) is True
    assert boot_guard.mok_enrolled(tmp_path) is None
    _write(tmp_path, {"var/lib/dkms/mok.pub": b"CERT", f"{efi}/MokListRT-{shim}": b"\7\0\0\0OTHER"})
    assert boot_guard.mok_enrolled(tmp_path) is False
    _write(tmp_path, {f"{efi}/MokListRT1-{shim}": b"\7\0\0\0xxCERTyy"})
    assert (boot_guard.mok_enrolled(tmp_path), boot_guard.mok_key(tmp_path)) == (
        True,
        "/var/lib/dkms/mok.pub",
    )
    _write(tmp_path, {f"{efi}/MokSBStateRT-{shim}": b"\6\0\0\0\1"})
    assert boot_guard.secure_boot(tmp_path) is False


CDI = """\
---
cdiVersion: 0.5.0
kind: nvidia.com/gpu
devices:
- name: "0"
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
- name: GPU-11111111-1111-4111-8111-111111111111
  containerEdits:
    deviceNodes:
    - path: /dev/nvidia0
containerEdits:
  deviceNodes:
  - path: /dev/nvidiactl
  mounts:
  - hostPath: /usr/lib64/libcuda.so.575.57.08
    containerPath: /usr/lib64/libcuda.so.575.57.08
"""


def test_a_cdi_specification(tmp_path: Path) -> None:
    """Names, the driver it is for, and what it names that is gone; that in /run wins."""
    _write(tmp_path, {"etc/cdi/nvidia.yaml": CDI, "dev/nvidia0": "", "run/cdi/other.yaml": "kind: a.b/c\n"})
    found = _read(tmp_path)
    assert (found.cdi_path, found.cdi_driver) == ("/etc/cdi/nvidia.yaml", "575.57.08")
    assert found.cdi_devices == ("0", "GPU-11111111-1111-4111-8111-111111111111")
    assert found.cdi_missing == ("/dev/nvidiactl", "/usr/lib64/libcuda.so.575.57.08")
    _write(tmp_path, {"run/cdi/nvidia.yaml": CDI.replace("575.57.08", "580.95.05")})
    found = _read(tmp_path)
    assert (found.cdi_path, found.cdi_driver) == ("/run/cdi/nvidia.yaml", "580.95.05")
    (tmp_path / "run/cdi/nvidia.yaml").unlink()
    nodes = {"deviceNodes": [{"path": "/dev/nvidia7"}]}
    mounts = {"mounts": [{"hostPath": "/usr/lib64/libcuda.so.590.1", "containerPath": "/x"}]}
    devices = [{"name": "7", "containerEdits": nodes}]
    spec = {"kind": "nvidia.com/gpu", "devices": devices, "containerEdits": mounts}
    _write(tmp_path, {"run/cdi/nvidia.json": json.dumps(spec)})
    found = _read(tmp_path)
    assert (found.cdi_driver, found.cdi_devices) == ("590.1", ("7",))
    assert found.cdi_missing == ("/dev/nvidia7", "/usr/lib64/libcuda.so.590.1")


def _space(kind: int, control: int) -> bytes:
    """Configuration space of a bridge of that port type, with an ACS capability behind another."""
    space = bytearray(4096)
    space[0x34] = 0x40
    space[0x40:0x44] = bytes((0x10, 0, kind << 4 | 2, 0))
    space[0x100:0x104] = (0x0001 | 1 << 16 | 0x148 << 20).to_bytes(4, "little")
    space[0x148:0x14C] = (0x000D | 1 << 16).to_bytes(4, "little")
    space[0x14E:0x150] = control.to_bytes(2, "little")
    return bytes(space)


@pytest.mark.parametrize(
    ("kind", "control", "redirects"), [(6, 0x1D, True), (6, 0x11, False), (4, 0x1D, False), (6, 0, False)]
)
def test_access_control_on_switches(tmp_path: Path, kind: int, control: int, *, redirects: bool) -> None:
    """Downstream ports that redirect; a root port does not matter."""
    place = "sys/devices/pci0000:00/0000:00:01.0/0000:02:04.0/0000:03:00.0"
    _write(
        tmp_path,
        {f"{place}/config": bytes(64), f"{place}/vendor": "0x10de\n", f"{place}/class": "0x030200\n"},
    )
    _write(tmp_path, {"sys/devices/pci0000:00/0000:00:01.0/config": _space(4, 0x1D)})
    _write(tmp_path, {"sys/devices/pci0000:00/0000:00:01.0/0000:02:04.0/config": _space(kind, control)})
    bus = tmp_path / "sys/bus/pci/devices"
    bus.mkdir(parents=True)
    (bus / "0000:03:00.0").symlink_to(tmp_path / place)
    expected = ("0000:02:04.0",) if redirects else ()
    assert pci_paths.acs_redirect(tmp_path, ("0000:03:00.0",)) == expected
    _write(tmp_path, {"sys/bus/pci/devices/0000:05:00.0/vendor": "0x10de"})
    _write(tmp_path, {"sys/bus/pci/devices/0000:05:00.0/class": "0x068000"})
    assert pci_paths.count_nvswitches(tmp_path) == 1


def test_memory(tmp_path: Path) -> None:
    """Kibibytes become bytes, controllers are summed, and no /proc/meminfo is a reason."""
    _write(tmp_path, {"proc/meminfo": "MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable:  1024 kB\n"})
    assert memory.read_memory(tmp_path) == Memory(2 * 2**20, 2**20, None, None)
    for number, count in ((0, "3"), (1, "4")):
        _write(tmp_path, {f"sys/devices/system/edac/mc/mc{number}/ce_count": count})
        _write(tmp_path, {f"sys/devices/system/edac/mc/mc{number}/ue_count": "0"})
    assert memory.read_memory(tmp_path) == Memory(2 * 2**20, 2**20, 7, 0)
    assert isinstance(memory.read_memory(tmp_path / "nowhere"), Unavailable)
