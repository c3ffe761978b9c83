"""The store's units: who builds, what a slot sees, who gets the credentials, and nothing left without it."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.atomic import Change
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.env_store import EnvStore
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.env_units import (
    ENV_GC_SERVICE,
    ENV_GC_TIMER,
    ENV_SERVICE,
    ENV_SOCKET,
    USER,
    env_units,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.removal import OUR_USER, OURS
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import SlotSpec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System, UnitState
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_units import slot_unit_text

SECRET = '{"h": {"BearerToken": "t0p-secret"}}\n'
UNITS = (ENV_SOCKET, ENV_SERVICE, ENV_GC_TIMER, ENV_GC_SERVICE)


@dataclass
class Systemd(System):
    """Remembers what it was told; its one user is the one that runs the test."""

    told: list[str] = field(default_factory=list)
    users: set[str] = field(default_factory=set)
    running: bool = False

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        active = "active" if self.running else "inactive"
        return dict.fromkeys(units, UnitState(active=active, load="loaded"))

    def systemctl(self, *words: str, seconds: float = 60.0) -> None:
        del seconds
        self.told.append(" ".join(words))
        self.running = words[0] == "restart" or self.running

    def forget_failure(self, unit: str) -> None:
        del unit

    def user_exists(self, name: str) -> bool:
        return name in self.users

    def add_user(self, name: str, home: str, *, comment: str = "") -> None:
        del home, comment
        self.users.add(name)

    def remove_user(self, name: str) -> None:
        self.users.discard(name)

    def kill_all_of(self, user: str, *, seconds: float = 10.0) -> int:
        del user, seconds
        return 0

    def ids(self, name: str) -> tuple[int, int]:
        del name
        return os.geteuid(), os.getegid()


@dataclass
class Host:
    """A directory that stands for a host's root."""

    root: Path
    system: Systemd = field(default_factory=Systemd)
    changes: list[Change] = field(default_factory=list)
    warned: list[str] = field(default_factory=list)

    @property
    def receipt(self) -> Receipt:
        return Receipt(self.root / "var/lib/runnerctl/receipt.json")

    @property
    def store(self) -> Path:
        return self.root / "var/lib/runnerctl/env"

    def converge(
        self,
        *,
        store: bool = True,
        check: bool = False,
        credentials: str | None = None,
        renewed: bool = False,
        owners: tuple[str, ...] = ("acme",),
    ) -> list[str]:
        """What is done."""
        actions: list[str] = []

        def done(action: str, change: Change) -> None:
            actions.append(action)
            self.changes.append(change)

        made = EnvStore(str(self.root), self.receipt, self.system, check, done, warn=self.warned.append)
        spec = json.dumps({"conda": {"store": store}, "runnerctl": {}})
        made.converge(spec, owners=owners, credentials=credentials, renewed=renewed)
        return actions


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_the_store_is_made_predicted_and_taken_away(host: Host) -> None:
    """Also where no systemd runs, as in an image that is built."""
    predicted = host.converge(check=True, credentials=SECRET)
    assert list(host.root.iterdir()) == []
    assert host.converge(credentials=SECRET) == predicted
    assert host.converge(credentials=SECRET) == []
    assert [_mode(host.store / name) for name in (".", "owners", "owners/acme")] == [0o755, 0o700, 0o755]
    noted = {kind: [entry.name for entry in host.receipt.entries(kind)] for kind in ("unit", "path")}
    assert noted["unit"] == [f"/etc/systemd/system/{unit}" for unit in UNITS]
    assert all(OURS.fullmatch(name) for name in (*noted["unit"], *noted["path"]))
    assert OUR_USER.fullmatch(USER)
    assert f"removed user {USER}" in host.converge(store=False)
    assert host.converge(store=False) == []
    assert host.receipt.entries() == []
    assert not host.system.users
    assert not host.store.exists()
    assert not list(host.root.rglob("runnerctl-env*"))


def test_credentials_are_roots_alone_and_shown_to_nobody(host: Host) -> None:
    """The service gets them, by systemd; another text starts it anew."""
    (host.root / "run/systemd/system").mkdir(parents=True)
    host.converge(credentials=SECRET)
    file = host.root / "etc/runnerctl/env/channels.json"
    assert file.read_text() == SECRET
    assert (_mode(file), _mode(file.parent)) == (0o600, 0o700)
    assert not any("t0p" in repr(change.diff()) for change in host.changes)
    service = (host.root / "etc/systemd/system" / ENV_SERVICE).read_text()
    assert "LoadCredential=channels:/etc/runnerctl/env/channels.json\n" in service
    _enable(host)
    host.system.told.clear()
    assert host.converge(credentials=SECRET) == []
    host.converge(credentials=SECRET.replace("t0p", "new"))
    assert host.system.told[-1] == f"try-restart {ENV_SERVICE}", "the socket stays, and who asks waits there"
    assert host.converge()[0] == f"removed {file}"
    assert not file.parent.exists()
    assert "LoadCredential" not in (host.root / "etc/systemd/system" / ENV_SERVICE).read_text()


def _enable(host: Host) -> None:
    for target, unit in (("sockets", ENV_SOCKET), ("timers", ENV_GC_TIMER)):
        link = host.root / "etc/systemd/system" / f"{target}.target.wants" / unit
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(f"../{unit}")


def test_a_new_wheel_restarts_the_service_alone(host: Host) -> None:
    """And a new text everything, the socket while the service does not have it."""
    (host.root / "run/systemd/system").mkdir(parents=True)
    host.converge()
    _enable(host)
    host.system.told.clear()
    host.converge(renewed=True)
    assert host.system.told[-1] == f"try-restart {ENV_SERVICE}"
    (host.root / "etc/systemd/system" / ENV_SOCKET).write_text("[Socket]\n")
    host.system.told.clear()
    host.converge()
    assert host.system.told[-2:] == [
        f"stop {ENV_SOCKET} {ENV_GC_TIMER} {ENV_SERVICE}",
        f"restart {ENV_SOCKET} {ENV_GC_TIMER}",
    ]


@pytest.mark.parametrize("place", ["leases", "owners/acme/leases"])
def test_what_a_job_uses_stays_until_it_has_ended(host: Host, place: str) -> None:
    """The units go at once, the environments with the last job."""
    host.converge()
    folder = host.store / place
    folder.mkdir(parents=True)
    began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    lease: dict[str, Any] = {"digest": "d", "pid": os.getpid(), "began": began, "expires_at": 1e12}
    (folder / "d.json").write_text(json.dumps(lease))
    (folder / "bad.json").write_text("{")
    assert host.converge(store=False) == [f"removed {ENV_SERVICE}"]
    assert host.store.is_dir()
    assert host.warned == [f"{host.store} stays while jobs use environments in it: run again later"]
    (folder / "d.json").write_text(json.dumps({**lease, "began": began + 1}))
    assert host.converge(store=False) == [f"removed {host.store}", f"removed user {USER}"]


def test_a_link_in_the_store_leads_root_nowhere(host: Host, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is below the store's directory is its user's to write."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    elsewhere.chmod(0o711)
    host.store.mkdir(parents=True)
    (host.store / "owners").symlink_to(elsewhere)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        host.converge()
    assert _mode(elsewhere) == 0o711


def test_a_user_that_was_there_before_stays(host: Host) -> None:
    """Somebody else made it."""
    host.system.users.add(USER)
    host.converge()
    host.converge(store=False)
    assert host.system.users == {USER}


def test_the_service_reaches_channels_as_the_site_does() -> None:
    """Proxies, and the site's own authorities."""
    network = {"https_proxy": "http://proxy:3128", "no_proxy": ["mirror"], "ca_bundle": "ca.pem"}
    service = env_units(network, credentials=False)[ENV_SERVICE]
    assert 'Environment="https_proxy=http://proxy:3128"\n' in service
    assert 'Environment="no_proxy=mirror,localhost,127.0.0.1,::1"\n' in service
    assert 'Environment="SSL_CERT_FILE=/etc/runnerctl/ca.pem"\n' in service


def test_a_slot_sees_its_own_owners_part() -> None:
    """One of an enterprise sees no owner's; one of a host without a store knows nothing of it."""
    slot = SlotSpec(name="a", runner_name="h-a", url="https://github.com/acme", version="1.2.3", store=True)
    text = slot_unit_text(replace(slot, store_owner="acme"))
    assert "\nTemporaryFileSystem=/var/lib/runnerctl/env/owners:ro,mode=0755,size=1M\n" in text
    assert "\nBindReadOnlyPaths=-/var/lib/runnerctl/env/owners/acme\n" in text
    assert "env/owners/" not in slot_unit_text(slot)
    assert "env/owners" in slot_unit_text(slot)
    assert "runnerctl/env" not in slot_unit_text(replace(slot, store=False))
