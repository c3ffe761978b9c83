"""Hosts with one thing broken, in a directory each: NVML's scenario, the kernel log, /sys and /proc."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

__all__ = ["Case", "FaultHost", "cases", "healthy"]

DATA = Path(__file__).with_name("faults.toml")
BOOT, EARLIER_BOOT = "b" * 32, "a" * 32
# Print what the case prepared: the kernel log in the order that is asked for, and a `sudo` of no use.
PROGRAMS = {
    "journalctl": '#!/bin/sh\ncase "$*" in *--reverse*) p=tac ;; *) p=cat ;; esac\n$p "$FAULT_LOG.json"\n',
    "dmesg": '#!/bin/sh\ncat "$FAULT_LOG.txt"\n',
    "sudo": '#!/bin/sh\nexec "$@"\n',
}


@dataclass(frozen=True)
class Case:
    """See faults.toml."""

    id: str
    status: str
    checks: tuple[str, ...] = ()
    words: str = ""
    scenario: str = ""
    kernel: tuple[str, ...] = ()
    earlier: tuple[str, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    library: bool = True
    module: str = ""
    bus: int = 2

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong: every alarm would be a false one."""
        return self.status == "OK"


def cases() -> list[Case]:
    """All of them, each with the host's own scenario before what it changes."""
    data = msgspec.toml.decode(DATA.read_text())
    return [_case(given, host=data["host"], version=data["version"]) for given in data["case"]]


def healthy(gpus: int) -> Case:
    """A host with so many GPUs and nothing wrong; with none, it has no driver either."""
    data = msgspec.toml.decode(DATA.read_text())
    given = {"id": f"healthy, {gpus} GPUs", "status": "OK", "bus": gpus, "scenario": f"count {gpus}"}
    if not gpus:
        given |= {"library": False, "module": ""}
    return _case(given, host=data["host"], version=data["version"])


def _case(given: Mapping[str, Any], *, host: str, version: str) -> Case:
    fields: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in given.items()
    }
    scenario = f"{host}{fields.pop('scenario', '')}\n"
    fields.setdefault("module", version)
    return Case(**fields, scenario=scenario)


@dataclass(frozen=True)
class FaultHost:
    """One case, laid out below ``folder``."""

    case: Case
    folder: Path

    @property
    def root(self) -> Path:
        """The host's file system."""
        return self.folder / "root"

    def lay_out(self) -> None:
        """Write everything."""
        case = self.case
        files = {
            "etc/os-release": 'ID=debian\nVERSION_ID="12"\n',
            "etc/hostname": "gpu-1\n",
            "run/systemd/timesync/synchronized": "",
            "var/log/journal/.keep": "",
            "proc/meminfo": "MemTotal: 65536000 kB\nMemAvailable: 60000000 kB\n",
            "proc/sys/kernel/random/boot_id": f"{uuid.UUID(BOOT)}\n",
            **case.files,
        }
        for number in range(1, case.bus + 1):
            device = f"sys/bus/pci/devices/0000:{number:02x}:00.0"
            files |= {f"{device}/vendor": "0x10de\n", f"{device}/class": "0x030200\n"}
            files[f"{device}/device"] = "0x20b2\n"
        if case.module:
            files["sys/module/nvidia/version"] = f"{case.module}\n"
        for name, text in files.items():
            _write(self.root / name, text)
        for name, target in case.links.items():
            (self.root / target).mkdir(parents=True, exist_ok=True)
            (self.root / name).symlink_to(self.root / target)
        _write(self.folder / "scenario", case.scenario)
        self._write_log()
        for name, text in PROGRAMS.items():
            _write(self.folder / "bin" / name, text)
            (self.folder / "bin" / name).chmod(0o755)
        # Some tools test peer-to-peer copies through the CUDA runtime: there must be none.
        _write(self.folder / "bin" / "libcudart.so", "")

    def _write_log(self) -> None:
        """This boot's lines a minute ago, those of the boot before two hours ago."""
        now = time.time()
        lines = [(now - 7200, EARLIER_BOOT, line) for line in self.case.earlier]
        lines += [(now - 60, BOOT, line) for line in self.case.kernel]
        records = [
            json.dumps(
                {
                    "__REALTIME_TIMESTAMP": str(int(when * 1e6) + number),
                    "__CURSOR": f"s={boot};i={number}",
                    "_BOOT_ID": boot,
                    "SYSLOG_IDENTIFIER": "kernel",
                    "PRIORITY": "3",
                    "MESSAGE": line,
                }
            )
            for number, (when, boot, line) in enumerate(lines)
        ]
        _write(self.folder / "log.json", "".join(f"{record}\n" for record in records))
        _write(self.folder / "log.txt", "".join(f"[ 100.0] {line}\n" for line in self.case.kernel))

    def environment(self, library: Path) -> dict[str, str]:
        """The environment of a tool that looks at this host."""
        folder = str(self.folder / "bin")
        environ = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("GH_", "GITHUB_", "PYTHON"))
        }
        environ |= {"PATH": f"{folder}:{os.environ['PATH']}", "FAULT_LOG": str(self.folder / "log")}
        environ |= {"NVML_SCENARIO": str(self.folder / "scenario"), "COLUMNS": "160", "TERM": "dumb"}
        environ["LD_LIBRARY_PATH"] = f"{folder}:{library.parent}" if self.case.library else folder
        return environ


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
