"""GPU devices for containers: the CDI specification, and the links in /dev/char.

systemd looks device numbers up in ``/dev/char``; NVIDIA's module makes no links there, so that a reload of
systemd drops the devices of a running container (nvidia-container-toolkit, issue 48).
"""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from .atomic import Change, atomic_write
from .errors import HostError
from .process import run
from .receipt import Receipt
from .slot_system import System, read_text

__all__ = ["Devices"]

ROLE = "container_toolkit"
CTK = "/usr/bin/nvidia-ctk"
CTK_SECONDS = 120.0
RULE_PATH = "/etc/udev/rules.d/71-nvidia-dev-char.rules"
RULE = f"""# Written by runnerctl: links in /dev/char keep GPUs in containers when systemd reloads its units.
ACTION=="add", DEVPATH=="/bus/pci/drivers/nvidia", RUN+="{CTK} system create-dev-char-symlinks --create-all"
"""
# Of these nvidia-ctk makes links, and of capabilities; not of NVSwitches, nor of GPUDirect Storage.
LINKED = re.compile(r"nvidia(?:\d+|ctl|-modeset|-uvm|-uvm-tools)")
THEIR_UNITS = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")
OUR_UNITS = ("runnerctl-cdi.path", "runnerctl-cdi.service")
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
THEIR_SPEC, OUR_SPEC = "/run/cdi/nvidia.yaml", "/etc/cdi/nvidia.yaml"
THEIR_VERSION = (1, 18)  # the first toolkit that brings units of its own
SERVICE = f"""# Written by runnerctl for toolkits before 1.18, which have no such unit of their own.
[Unit]
Description=Describe the GPUs of this host for containers (CDI)
After=systemd-modules-load.service nvidia-persistenced.service
ConditionPathExists=/sys/module/nvidia/version

[Service]
Type=oneshot
ExecStart={CTK} cdi generate --output={OUR_SPEC}
TimeoutStartSec=120

[Install]
WantedBy=multi-user.target
"""
PATH_UNIT = f"""# Written by runnerctl for toolkits before 1.18: another driver needs another description.
[Unit]
Description=Watch for another NVIDIA driver or container toolkit

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged={CTK}

[Install]
WantedBy=multi-user.target
"""


@dataclass
class Devices:
    """One pass over a host under ``root``. ``actions``, ``changes`` and ``pending`` say what happened."""

    root: str = "/"
    system: System = field(default_factory=System)
    receipt: Receipt = field(default_factory=Receipt)
    check: bool = False
    actions: list[str] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)

    def apply(self, *, cdi: bool, version: tuple[int, ...] | None) -> None:
        """Links always; the specification when ``cdi``. ``version`` of the toolkit, None: the newest."""
        self._rule()
        self._links()
        if not cdi:
            return
        # Before the package is there, check mode can only go by its version.
        foreseen = self.check and (version or THEIR_VERSION) >= THEIR_VERSION
        theirs = self._unit_exists(THEIR_UNITS[0]) or foreseen
        if theirs:
            self._retire_our_units()
        else:
            self._our_units()
        self._enable(THEIR_UNITS if theirs else OUR_UNITS)
        self._refresh(THEIR_UNITS[1] if theirs else OUR_UNITS[1], THEIR_SPEC if theirs else OUR_SPEC)

    def driver(self) -> str:
        """The version of the loaded driver; empty when none is."""
        try:
            return read_text(self._path("/sys/module/nvidia/version")).strip()
        except OSError:
            return ""

    def _rule(self) -> None:
        if (
            self._file(RULE_PATH, RULE, kind="path")
            and not self.check
            and self._path("/run/udev/control").exists()
        ):
            run(["udevadm", "control", "--reload"], timeout=30)

    def _links(self) -> None:
        missing = self._missing_links() if self.driver() else set()
        if not missing:
            return
        if not self.check:
            self._ctk("system", "create-dev-char-symlinks", "--create-all")
        if self.check or self._missing_links() < missing:
            self.actions.append("links in /dev/char made")

    def _missing_links(self) -> set[str]:
        """The numbers of NVIDIA's device files that have no link."""
        dev = self._path("/dev")
        nodes = [node for node in dev.glob("nvidia*") if LINKED.fullmatch(node.name)]
        missing = set()
        for node in [*nodes, *dev.glob("nvidia-caps/*")]:
            status = node.stat()
            number = f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"
            if stat.S_ISCHR(status.st_mode) and not os.path.lexists(dev / "char" / number):
                missing.add(number)
        return missing

    def _our_units(self) -> None:
        texts = {OUR_UNITS[0]: PATH_UNIT, OUR_UNITS[1]: SERVICE}
        written = [self._file(f"{UNIT_FOLDERS[0]}/{name}", text, kind="unit") for name, text in texts.items()]
        if any(written) and not self.check:
            self.receipt.record("path", str(self._path(OUR_SPEC)), role=ROLE)
            self.system.systemctl("daemon-reload")

    def _retire_our_units(self) -> None:
        """The toolkit brings its own now: ours, and what it wrote, would only contradict them."""
        paths = [f"{UNIT_FOLDERS[0]}/{name}" for name in OUR_UNITS]
        there = [path for path in paths if self._path(path).exists()]
        if not there:
            return
        self.actions += [f"{path} removed" for path in there]
        if self.check:
            return
        self.system.systemctl("disable", "--now", *OUR_UNITS)
        for path in [*there, OUR_SPEC]:
            self._path(path).unlink(missing_ok=True)
        self.system.systemctl("daemon-reload")
        self.receipt.forget("unit", [str(self._path(path)) for path in there])
        self.receipt.forget("path", str(self._path(OUR_SPEC)))

    def _enable(self, units: tuple[str, ...]) -> None:
        states = self.system.unit_states(list(units))
        units = tuple(unit for unit in units if not states[unit].enabled.startswith("masked"))  # on purpose
        # Enabled is not enough for the watch: it must be on now.
        off = [
            unit
            for unit in units
            if states[unit].enabled in ("", "disabled")
            or (unit.endswith(".path") and states[unit].active != "active")
        ]
        if off:
            self.actions += [f"{unit} enabled" for unit in off]
            if not self.check:
                self.system.systemctl("enable", *off)
                self.system.systemctl("start", *(unit for unit in off if unit.endswith(".path")))

    def _refresh(self, unit: str, spec: str) -> None:
        driver = self.driver()
        if not driver or self._describes(spec, driver):
            return
        if self.check:
            self.actions.append(f"{spec} written for driver {driver}")
            return
        try:
            self.system.systemctl("restart", unit, seconds=CTK_SECONDS)
        except HostError as error:
            self.pending.append(f"{spec} cannot be written for driver {driver}: {error}")
            return
        if self._describes(spec, driver):
            self.actions.append(f"{spec} written for driver {driver}")
        else:
            self.pending.append(
                f"{spec} does not describe the loaded driver {driver}: another one is installed"
            )

    def _describes(self, spec: str, driver: str) -> bool:
        try:
            text = read_text(self._path(spec))
        except OSError:
            return False
        return re.search(rf"\.so\.{re.escape(driver)}\b", text) is not None

    def _ctk(self, *words: str) -> None:
        done = run([CTK, *words], timeout=CTK_SECONDS)
        if done.rc != 0:
            lines = (done.err.strip() or done.out.strip() or f"exit status {done.rc}").splitlines()
            self.pending.append(f"nvidia-ctk {' '.join(words[:2])} failed: {lines[-1]}")

    def _file(self, name: str, text: str, *, kind: str) -> bool:
        path = str(self._path(name))
        change = atomic_write(path, text.encode(), check=True)
        if change.changed:
            self.changes.append(change)
            self.actions.append(f"{name} written")
            if not self.check:
                self.receipt.record(kind, path, role=ROLE)
                atomic_write(path, text.encode())
        return change.changed

    def _unit_exists(self, name: str) -> bool:
        return any(self._path(f"{folder}/{name}").exists() for folder in UNIT_FOLDERS)

    def _path(self, absolute: str) -> Path:
        return Path(self.root) / absolute.lstrip("/")
