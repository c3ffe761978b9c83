"""A slot's container engine: its texts, its ids, and what a converge does with them."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest

from plugins.module_utils import slot_containers_host
from plugins.module_utils.errors import HostError
from plugins.module_utils.slot_containers import (
    COUNT,
    engine_drop_in_text,
    engine_slice,
    engine_templates,
    free_range,
    settings,
    slice_text,
    slot_engine_lines,
    storage,
)
from plugins.module_utils.slot_containers_host import Engines
from plugins.module_utils.slot_engine import EngineError, map_ids, range_of
from plugins.module_utils.slot_files import Layout, SlotSpec
from plugins.module_utils.slot_system import System
from runnerctl.core.rules import broken_rules
from runnerctl.core.sections import GithubRunner, HostSpec, Runnerctl, Slot

PLAIN = SlotSpec(name="a-1", runner_name="h-a-1", url="https://github.com/acme", version="2.336.0")
ROOTLESS = SlotSpec(
    name="a-1",
    runner_name="h-a-1",
    url="https://github.com/acme",
    version="2.336.0",
    gpus=("GPU-1234",),
    containers="rootless",
)


@dataclass
class Bench:
    """A root directory and what was done to it."""

    root: Path
    check: bool = False
    actions: list[str] = field(default_factory=list)

    def act(self, action: str, do: Callable[[], object]) -> None:
        """Note; and do, unless it is check mode."""
        self.actions.append(action)
        if not self.check:
            do()

    def write(self, action: str, path: Path, text: str, *, mode: int = 0o644) -> bool:
        """As the converger's: only what differs."""
        if path.is_file() and path.read_text() == text:
            return False

        def do() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(mode)

        self.act(action, do)
        return True

    def engines(self) -> Engines:
        """For this root."""
        return Engines(Layout(self.root), _System(), self.act, self.write)


class _System(System):
    def ids(self, name: str) -> tuple[int, int]:
        assert name == "gha-a-1"
        return os.getuid(), os.getgid()

    def systemctl(self, *words: str, seconds: float = 60) -> None:
        assert words[0] == "stop"
        assert seconds > 300, "its storage may be large"


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A host with the slot's directory; usermod writes the files that it would write."""
    (tmp_path / storage("a-1").lstrip("/")).parent.mkdir(parents=True)
    (tmp_path / "etc").mkdir()

    def run(argv: list[str], **_: float) -> None:
        first, last = (int(number) for number in argv[2].split("-"))
        for name in ("subuid", "subgid"):
            (tmp_path / "etc" / name).write_text(f"{argv[-1]}:{first}:{last - first + 1}\n")

    monkeypatch.setattr(slot_containers_host, "run", run)
    return Bench(tmp_path)


def test_a_slot_without_an_engine_has_nothing_of_it() -> None:
    assert slot_engine_lines(PLAIN) == ([], [])


def test_the_engine_has_the_slots_gpus_and_slice_and_no_privilege() -> None:
    text = engine_drop_in_text(ROOTLESS)
    assert "Requires=gha-devices@a-1.service" in text
    assert "CUDA_VISIBLE_DEVICES=GPU-1234" in text
    assert engine_slice("a-1") == "ghaslot-a\\x2d1.slice"
    assert f"Slice={engine_slice('a-1')}" in text
    assert f"Slice={engine_slice('a-1')}" in slot_engine_lines(ROOTLESS)[1]
    service = engine_templates()["gha-containers@.service"].splitlines()
    for line in (
        "DevicePolicy=closed",
        "NoNewPrivileges=yes",
        "CapabilityBoundingSet=",
        "ProtectSystem=strict",
    ):
        assert line in service


def test_a_slice_has_limits_but_no_affinity() -> None:
    text = slice_text(ROOTLESS, ["MemoryMax=1", "CPUAffinity=0-3"])
    assert "[Slice]\nMemoryMax=1\n" in text
    assert "CPUAffinity" not in text


def test_ranges_of_ids_never_overlap() -> None:
    text = ""
    for number in range(20):
        first, count = free_range(text, f"x:{524288 + 7 * COUNT + 5}:1\n")
        text += f"u{number}:{first}:{count}\n"
    spans = sorted(tuple(map(int, line.split(":")[1:])) for line in text.splitlines())
    assert all(one + count <= two for (one, count), (two, _) in pairwise(spans))
    assert 524288 + 7 * COUNT not in {first for first, _ in spans}
    with pytest.raises(HostError, match="no range"):
        free_range("x:1:1999999999\n")


def test_a_range_is_read_and_rubbish_is_not() -> None:
    assert range_of("b:1:2\na:x:1\na:5:6\n", "a") == (5, 6)
    assert range_of("a:5\n\na:5:-6\n", "a") is None


def test_ids_are_written_for_the_slots_own_process_alone(tmp_path: Path) -> None:
    """Root's half of a start, on a /proc of files."""
    me = pwd.getpwuid(os.getuid()).pw_name
    for pid, namespace in (("self", "user:[1]"), ("7", "user:[2]"), ("8", "user:[1]")):
        (tmp_path / pid / "ns").mkdir(parents=True)
        (tmp_path / pid / "ns" / "user").symlink_to(namespace)
    for name in ("subuid", "subgid"):
        (tmp_path / name).write_text(f"{me}:700000:65536\n")
    map_ids(7, me, etc=tmp_path, proc=tmp_path)
    assert (tmp_path / "7/uid_map").read_text() == f"0 {os.getuid()} 1\n1 700000 65536\n"
    with pytest.raises(EngineError, match="made no namespace"):
        map_ids(8, me, etc=tmp_path, proc=tmp_path, seconds=0.0)


def test_an_engine_is_made_once_and_removed_with_all_it_has(bench: Bench) -> None:
    engines = bench.engines()
    assert engines.host([ROOTLESS])
    assert engines.converge(ROOTLESS, ["MemoryMax=1"])
    assert bench.actions
    bench.actions.clear()
    assert not engines.host([ROOTLESS])
    assert not engines.converge(ROOTLESS, ["MemoryMax=1"])
    assert bench.actions == []
    assert not engines.converge(PLAIN, [], busy=True), "a job may have containers"
    assert engines.converge(PLAIN, [])
    assert bench.actions == ["removal of slot a-1's container engine"]
    assert not (bench.root / storage("a-1").lstrip("/")).exists()
    assert not list((bench.root / "etc/systemd/system").glob("*a-1*"))


def test_check_mode_writes_nothing(bench: Bench) -> None:
    bench.check = True
    before = sorted(bench.root.rglob("*"))
    engines = bench.engines()
    assert engines.host([ROOTLESS])
    assert engines.converge(ROOTLESS, [])
    assert sorted(bench.root.rglob("*")) == before


def test_an_engine_of_a_persistent_slot_needs_the_guard() -> None:
    """Ephemeral slots end theirs with the unit."""
    runner = GithubRunner(url="https://github.com/acme", slots=(Slot("a"),), containers="rootless")
    spec = HostSpec(host="h", github_runner=runner)
    assert not [each for each in broken_rules(spec) if each.variable == "github_runner_containers"]
    unguarded = HostSpec(host="h", github_runner=runner, runnerctl=Runnerctl(guard=False))
    assert [each for each in broken_rules(unguarded) if each.variable == "github_runner_containers"]


def test_the_engines_start_is_put_there_whole() -> None:
    text, mode = settings()["/opt/runnerctl/containers/engine.py"]
    compile(text, "engine.py", "exec")
    assert "from ." not in text
    assert mode == 0o644
