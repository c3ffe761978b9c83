"""The guard's units: written once, restarted when what they run is new, and gone without a trace."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.guard_units import (
    GUARD_SERVICE,
    GUARD_SOCKET,
    GuardService,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.removal import OURS
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System, UnitState


@dataclass
class Systemd(System):
    """Remembers what it was told; units run from then on."""

    told: list[str] = field(default_factory=list)
    running: bool = False

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        return dict.fromkeys(units, UnitState(active="active" if self.running else "inactive"))

    def systemctl(self, *words: str, seconds: float = 60.0) -> None:
        del seconds
        self.told.append(" ".join(words))
        self.running = words[0] in ("restart", "start") or self.running

    def forget_failure(self, unit: str) -> None:
        del unit


def converge(
    root: Path, system: Systemd, *, check: bool = False, guard: bool = True, renewed: bool = False
) -> list[str]:
    """What is done."""
    actions: list[str] = []
    receipt = Receipt(root / "var/lib/runnerctl/receipt.json")
    service = GuardService(str(root), receipt, system, check, lambda action, _: actions.append(action))
    service.converge(json.dumps({"runnerctl": {"guard": guard}}), renewed=renewed)
    return actions


def test_the_guard_is_installed_predicted_and_taken_away(tmp_path: Path) -> None:
    """Also where no systemd runs, as in an image that is built."""
    system, units = Systemd(), tmp_path / "etc/systemd/system"
    predicted = converge(tmp_path, system, check=True)
    assert not units.exists()
    assert converge(tmp_path, system) == predicted
    assert converge(tmp_path, system) == []
    for unit, target in ((GUARD_SOCKET, "sockets"), (GUARD_SERVICE, "multi-user")):
        assert (units / f"{target}.target.wants" / unit).resolve() == units / unit
        assert OURS.fullmatch(f"/etc/systemd/system/{unit}"), "deprovision may remove it"
    noted = Receipt(tmp_path / "var/lib/runnerctl/receipt.json")
    assert len(noted.entries("unit")) == 2
    (tmp_path / "var/lib/runnerctl/guard.json").touch()
    assert converge(tmp_path, system, guard=False) == [f"removed {GUARD_SERVICE}"]
    assert converge(tmp_path, system, guard=False) == []
    assert not list(units.rglob("runnerctl-guard*"))
    assert not (tmp_path / "var/lib/runnerctl/guard.json").exists()
    assert noted.entries("unit") == []
    assert system.told == []


def test_the_guard_restarts_when_its_wheel_or_text_is_new(tmp_path: Path) -> None:
    """And a guard that runs as it should is left alone."""
    system = Systemd()
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert converge(tmp_path, system)[-1] == f"started {GUARD_SERVICE}"
    assert system.told[-2:] == [f"restart {GUARD_SOCKET}", f"restart {GUARD_SERVICE}"]
    for target, unit in (("sockets", GUARD_SOCKET), ("multi-user", GUARD_SERVICE)):
        link = tmp_path / "etc/systemd/system" / f"{target}.target.wants" / unit
        link.parent.mkdir()
        link.symlink_to(f"../{unit}")
    system.told.clear()
    assert converge(tmp_path, system) == []
    assert system.told == []
    assert converge(tmp_path, system, renewed=True) == [f"started {GUARD_SERVICE}"]
    assert f"restart {GUARD_SOCKET}" not in system.told, "who asks meanwhile waits in the socket's queue"
    system.told.clear()
    (tmp_path / "etc/systemd/system" / GUARD_SOCKET).write_text("[Socket]\nListenStream=/elsewhere\n")
    converge(tmp_path, system)
    assert f"restart {GUARD_SOCKET}" in system.told
    system.told.clear()
    assert converge(tmp_path, system, guard=False) == [f"removed {GUARD_SERVICE}"]
    assert [words.split()[0] for words in system.told] == ["disable", "stop", "daemon-reload"]
