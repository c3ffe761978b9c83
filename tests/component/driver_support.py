"""A host of our own for tests of the driver's target half: a root directory, programs, systemd in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.driver_work import Work
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System, UnitState

__all__ = ["KERNEL", "NAMES", "OLDER", "A", "B", "Machine", "Systemd"]

KERNEL = "6.1.0-50-amd64"
OLDER = "6.1.0-49-amd64"
NAMES = ("nvidia-current", "nvidia")
A, B = "GPU-6f1a0c3e-2d4b-4c5a-9e8f-0a1b2c3d4e5f", "GPU-4b1d2c6e-0f3a-4c58-9d27-6f1a8e5b3c90"


class Systemd(System):
    """systemd and slots in memory."""

    def __init__(self) -> None:
        self.states: dict[str, UnitState] = {}
        self.calls: list[str] = []
        self.working: set[str] = set()

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        return {unit: self.states.get(unit, UnitState()) for unit in units}

    def systemctl(self, *words: str, seconds: float = 60.0) -> None:
        assert seconds > 0
        self.calls.append(" ".join(words))

    def forget_failure(self, unit: str) -> None:
        self.calls.append(f"reset-failed {unit}")

    def busy(self, unit: str) -> bool:
        return unit in self.working


class Machine:
    """A root of our own, and programs first on PATH that log how they were called."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.bin, self.log = directory / "root", directory / "bin", directory / "log"
        self.root.mkdir()
        self.bin.mkdir()
        self.system = Systemd()
        monkeypatch.setenv("PATH", f"{self.bin}:/usr/bin:/bin")

    def work(self, *, check: bool = False) -> Work:
        receipt = Receipt(self.root / "var/lib/runnerctl/receipt.json")
        return Work(Layout(self.root), self.system, receipt, check)

    def put(self, path: str, text: str = "") -> Path:
        place = self.root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        return place

    def program(self, name: str, script: str = "") -> None:
        path = self.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.log}\n{script}\n')
        path.chmod(0o755)

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def kernel(self, release: str, *, module: bool = False, headers: bool = True) -> None:
        """An installed kernel, with its headers, with the driver's module."""
        self.put(f"/boot/vmlinuz-{release}")
        self.put(f"/lib/modules/{release}/kernel/fs/ext4.ko")
        if headers:
            self.put(f"/usr/src/linux-headers-{release}/Makefile")
            (self.root / f"lib/modules/{release}/build").symlink_to(f"/usr/src/linux-headers-{release}")
        if module:
            self.put(f"/lib/modules/{release}/updates/dkms/nvidia-current.ko.xz", "module")

    def tree(self) -> dict[str, str]:
        files = (path for path in self.root.rglob("*") if path.is_file())
        return {str(path): path.read_text() for path in files}
