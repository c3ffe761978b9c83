"""The parts of container_toolkit on a host: settings merged, devices described, an Engine asked."""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import toolkit_devices
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import Result
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System, UnitState
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.toolkit_config import (
    merged_daemon,
    merged_toml,
    needs_restart,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.toolkit_devices import RULE_PATH, Devices
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.toolkit_engine import (
    Engine,
    parse_version,
)

NVIDIA = {"args": [], "path": "nvidia-container-runtime"}


# -- settings --------------------------------------------------------------------------------------------


def _daemon(
    text: str, *, runtime: bool = True, cdi: bool = False, wishes: dict[str, Any] | None = None
) -> tuple[str, set[str]]:
    after, changed = merged_daemon(text, wishes=wishes or {}, runtime=runtime, cdi=cdi, where="daemon.json")
    return after, set(changed)


def test_settings_of_others_stay_in_their_order() -> None:
    """New keys come last; objects are merged; a right file is not even reformatted."""
    text = '{\n\t"log-driver": "local",\n\t"runtimes": {"kata": {"path": "kata"}},\n\t"debug": false\n}'
    after, changed = _daemon(text, wishes={"debug": True, "log-opts": {"tag": "x"}})
    assert changed == {"runtimes", "debug", "log-opts"}
    data = json.loads(after)
    assert list(data) == ["log-driver", "runtimes", "debug", "log-opts"]
    assert data["runtimes"] == {"kata": {"path": "kata"}, "nvidia": NVIDIA}
    assert after.startswith('{\n\t"log-driver"')
    assert _daemon(after, wishes={"debug": True}) == (after, set())
    own = '{ "runtimes": {"nvidia": {"path": "/opt/nvidia-container-runtime"}} }'
    assert _daemon(own) == (own, set()), "a runtime that somebody else has set up stays"


def test_nothing_is_written_for_nothing() -> None:
    """No file stays no file when nothing is wished for."""
    assert _daemon("", runtime=False) == ("", set())
    assert json.loads(_daemon("")[0]) == {"runtimes": {"nvidia": NVIDIA}}
    assert json.loads(_daemon("\n", runtime=False, cdi=True)[0]) == {"features": {"cdi": True}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1,}', r"line 1, column 9"),
        ('{\n"a": 1\n"b": 2}', r"line 3, column 1"),
        ("[1]", "no JSON object"),
        ('{"a": 1, "a": 2}', "'a' twice"),
        ('{"runtimes": []}', "'runtimes' is no JSON object"),
        ("{{ template }}", "no JSON"),
    ],
)
def test_what_is_no_json_is_never_overwritten(text: str, message: str) -> None:
    """One line: the file, the place, what to do."""
    with pytest.raises(HostError, match=message) as error:
        _daemon(text)
    assert str(error.value).startswith("daemon.json: ")
    assert str(error.value).endswith("never overwritten")


@pytest.mark.parametrize(
    ("before", "after", "restart"),
    [
        ({}, {"runtimes": {"nvidia": NVIDIA}}, False),
        ({"debug": True}, {"live-restore": True}, False),
        ({}, {"features": {"buildkit": True}}, False),
        ({}, {"features": {"cdi": True}}, True),
        ({"features": {"cdi": True}}, {"features": {"cdi": True}, "debug": True}, False),
        ({}, {"data-root": "/srv/docker"}, True),
        ({"bip": "10.0.0.1/24"}, {}, True),
    ],
)
def test_only_what_no_reload_brings_needs_a_restart(
    before: dict[str, Any], after: dict[str, Any], restart: bool
) -> None:
    """By dockerd's own list; CDI's driver is registered at its start."""
    assert needs_restart(before, after) is restart


TOML = """#accept-env = true
disable-require = false

[nvidia-container-cli]
#no-cgroups = false
load-kmods = true # keep

[nvidia-container-runtime]
mode = "auto"
"""


def test_a_toml_file_is_merged_line_by_line() -> None:
    """Beside the hint where there is one, in its own table, once; comments and other tables stay."""
    wanted = {"accept-env": "false", "nvidia-container-cli.no-cgroups": "true", "new.key": '"x"'}
    text = merged_toml(TOML, wanted)
    assert text.startswith("#accept-env = true\naccept-env = false\ndisable-require = false\n")
    assert (
        "[nvidia-container-cli]\n#no-cgroups = false\nno-cgroups = true\nload-kmods = true # keep\n" in text
    )
    assert text.endswith('mode = "auto"\n\n[new]\nkey = "x"\n')
    assert merged_toml(text, wanted) == text
    back = merged_toml(text, {"nvidia-container-cli.no-cgroups": "false"})
    assert "no-cgroups = true" not in back
    commented = 'a = "x" # why\n'
    assert merged_toml(commented, {"a": '"x"'}) == commented
    assert merged_toml("", {"a": "1", "t.b": "2"}) == "a = 1\n\n[t]\nb = 2\n"


def test_versions_are_read_from_what_programs_print() -> None:
    """Distributions add to it."""
    assert parse_version("Docker version 26.1.5+dfsg1, build a72d7cd") == (26, 1, 5)
    assert parse_version("Docker version 20.10.24+dfsg1") == (20, 10, 24)
    assert parse_version("") is None


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


# -- devices ---------------------------------------------------------------------------------------------


class Units(System):
    """systemd in memory; a refresh writes what a driver's toolkit would."""

    def __init__(self, root: Path) -> None:
        self.root, self.states, self.said = root, dict[str, UnitState](), list[str]()
        self.driver = "580.95.05"

    def unit_states(self, units: list[str]) -> dict[str, UnitState]:
        return {unit: self.states.get(unit, UnitState()) for unit in units}

    def systemctl(self, *words: str, seconds: float = 60.0) -> None:
        assert seconds > 0
        self.said.append(" ".join(words))
        if words[0] == "enable":
            self.states |= {unit: UnitState("active", "enabled") for unit in words[1:]}
        if words[0] == "restart":
            theirs = words[1].startswith("nvidia")
            spec = self.root / ("run" if theirs else "etc") / "cdi/nvidia.yaml"
            spec.parent.mkdir(parents=True, exist_ok=True)
            spec.write_text(f"hostPath: /usr/lib/libcuda.so.{self.driver}\n")


def _devices(root: Path, units: Units, *, version: tuple[int, ...], check: bool = False) -> Devices:
    made = Devices(str(root), units, Receipt(root / "receipt.json"), check)
    made.apply(cdi=True, version=version)
    return made


def _load(root: Path, version: str) -> None:
    path = root / "sys/module/nvidia/version"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{version}\n")


def test_their_own_units_describe_the_gpus(root: Path) -> None:
    """Enabled once; a description of another driver is written anew, a right one is left alone."""
    units = Units(root)
    unit = root / "usr/lib/systemd/system/nvidia-cdi-refresh.path"
    unit.parent.mkdir(parents=True)
    unit.write_text("")
    first = _devices(root, units, version=(1, 19, 1))
    assert f"{RULE_PATH} written" in first.actions
    assert "nvidia-cdi-refresh.path enabled" in first.actions
    assert not any(word.startswith("restart") for word in units.said), "no driver, nothing to describe"
    _load(root, "580.95.05")
    assert _devices(root, units, version=(1, 19, 1)).actions == [
        "/run/cdi/nvidia.yaml written for driver 580.95.05"
    ]
    assert _devices(root, units, version=(1, 19, 1)).actions == []
    _load(root, "590.44.01")
    waiting = _devices(root, units, version=(1, 19, 1))
    assert waiting.actions == []
    assert "another one is installed" in waiting.pending[0]
    units.driver = "590.44.01"
    assert _devices(root, units, version=(1, 19, 1)).actions != []


def test_links_are_made_once_and_for_what_nvidia_ctk_knows(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An NVSwitch has no link, whatever is run: it is not tried again and again."""
    _load(root, "580.95.05")
    (root / "dev/char").mkdir(parents=True)
    (root / "dev/nvidia-nvswitch0").symlink_to("/dev/null")
    calls: list[list[str]] = []

    def run(argv: list[str], *, timeout: float) -> Result:
        calls.append(argv)
        assert timeout > 0
        if len(calls) == 2:
            (root / "dev/char/1:3").symlink_to("../nvidia0")
        return Result(0, "", "")

    monkeypatch.setattr(toolkit_devices, "run", run)

    def links(*, check: bool = False) -> list[str]:
        made = _devices(root, Units(root), version=(1, 19, 1), check=check).actions
        return [action for action in made if "/dev/char" in action]

    assert links() == []
    (root / "dev/nvidia0").symlink_to("/dev/null")
    assert links(check=True) == ["links in /dev/char made"]
    assert (links(), len(calls)) == ([], 1), "it made none"
    assert links() == ["links in /dev/char made"]
    assert (links(), len(calls)) == ([], 2)


def test_older_toolkits_get_units_of_ours_until_they_bring_their_own(root: Path) -> None:
    """Two descriptions of one device would contradict each other: ours goes with its file."""
    units = Units(root)
    _load(root, "580.95.05")
    first = _devices(root, units, version=(1, 17, 8))
    assert "/etc/systemd/system/runnerctl-cdi.service written" in first.actions
    assert (root / "etc/cdi/nvidia.yaml").exists()
    assert _devices(root, units, version=(1, 17, 8)).actions == []
    unit = root / "usr/lib/systemd/system/nvidia-cdi-refresh.path"
    unit.parent.mkdir(parents=True)
    unit.write_text("")
    _devices(root, units, version=(1, 19, 1))
    assert not (root / "etc/cdi/nvidia.yaml").exists()
    assert not (root / "etc/systemd/system/runnerctl-cdi.path").exists()
    assert (root / "run/cdi/nvidia.yaml").exists()


def test_units_that_somebody_has_masked_stay_so(root: Path) -> None:
    """An administrator's decision is no drift."""
    units = Units(root)
    names = ("nvidia-cdi-refresh.path", "nvidia-cdi-refresh.service")
    units.states = {name: UnitState("inactive", "masked") for name in names}
    (root / "etc/systemd/system").mkdir(parents=True)
    (root / "etc/systemd/system" / names[0]).symlink_to(root / "usr")
    (root / "usr").mkdir()
    assert _devices(root, units, version=(1, 19, 1)).actions == [f"{RULE_PATH} written"]
    assert units.said == []


def test_check_mode_writes_nothing(root: Path) -> None:
    """It tells the same actions."""
    units = Units(root)
    _load(root, "580.95.05")
    before = sorted(root.rglob("*"))
    predicted = _devices(root, units, version=(1, 17, 8), check=True).actions
    assert sorted(root.rglob("*")) == before
    assert units.said == []
    assert "/etc/cdi/nvidia.yaml written for driver 580.95.05" in predicted


# -- asking a real socket --------------------------------------------------------------------------------


class _Info(BaseHTTPRequestHandler):
    answer: Any = None

    def do_GET(self) -> None:
        body = json.dumps(self.answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def address_string(self) -> str:
        return "socket"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
        """Quiet."""


@pytest.fixture
def api(root: Path) -> Iterator[type[_Info]]:
    """``GET /info`` on the Engine's socket beneath ``root``."""
    (root / "run").mkdir()
    handler = type("Handler", (_Info,), {})
    with socketserver.UnixStreamServer(str(root / "run/docker.sock"), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield handler
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("info", "reason"),
    [
        ({"ContainersRunning": 0, "LiveRestoreEnabled": False}, ""),
        ({"ContainersRunning": 2, "LiveRestoreEnabled": True}, ""),
        ({"ContainersRunning": 2, "LiveRestoreEnabled": False}, "2 containers run"),
        ({}, "it does not say which containers run"),
        ([], "it does not say which containers run"),
    ],
)
def test_who_would_suffer_from_a_restart(root: Path, api: type[_Info], info: Any, reason: str) -> None:
    """Containers stop with the Engine unless it keeps them; what it does not say counts as yes."""
    api.answer = info
    assert Engine(Layout(root)).disturbed_by_restart() == reason


def test_an_engine_that_does_not_answer_is_not_restarted(root: Path) -> None:
    """It may be busy with what a job waits for."""
    assert "does not answer" in Engine(Layout(root)).disturbed_by_restart()
