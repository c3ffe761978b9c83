"""``runnerctl baseline`` as a process, with NVML's stand-in and a host in a directory."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from runnerctl.probes.baseline import BASELINE_FILE
from tests.component.cli_support import Ran, call, spawn
from tests.fakes.nvml import build, environment

pytestmark = pytest.mark.exhaustive  # one thing in each of its ways

TWO = """count 2
driver 575.57.08
gpu.*.name NVIDIA H100
gpu.*.pcie_width 16
gpu.*.pcie_width_max 16
gpu.0.uuid GPU-11111111-1111-4111-8111-111111111111
gpu.1.uuid GPU-22222222-2222-4222-8222-222222222222
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, built once."""
    return build(tmp_path_factory.mktemp("nvml"))


@dataclass(frozen=True)
class Bench:
    """A host in a directory; NVML's scenario is given with each call."""

    library: Path
    folder: Path

    @property
    def file(self) -> Path:
        """Where the baseline stands."""
        return self.folder / "root" / BASELINE_FILE.lstrip("/")

    def run(self, *words: str, scenario: str = TWO) -> Ran:
        """``runnerctl baseline WORDS --rootfs ...``."""
        (self.folder / "scenario").write_text(scenario)
        env = environment(self.library, self.folder / "scenario")
        return spawn("baseline", *words, "--rootfs", str(self.folder / "root"), env=env)


@pytest.fixture
def bench(library: Path, tmp_path: Path) -> Bench:
    """A host with a driver."""
    (tmp_path / "root/sys/module/nvidia").mkdir(parents=True)
    (tmp_path / "root/sys/module/nvidia/version").write_text("575.57.08\n")
    return Bench(library, tmp_path)


@pytest.mark.exhaustive
def test_save_show_and_clear(bench: Bench) -> None:
    """The whole life of a baseline; doing it twice does nothing."""
    saved = bench.run("save")
    assert (saved.code, saved.out, saved.err) == (0, "saved: 2 GPUs\n", "")
    before = bench.file.stat()
    again = bench.run("save")
    assert again.out == "nothing to do: 2 GPUs as in the baseline\n"
    assert bench.file.stat().st_mtime_ns == before.st_mtime_ns
    shown = bench.run("show")
    assert "driver 575.57.08" in shown.out and "GPU-22222222-2222-4222-8222-222222222222" in shown.out
    as_json = bench.run("show", "-o", "json").json
    assert as_json["schema"] == "runnerctl.baseline/1"
    assert [gpu["pcie_width"] for gpu in as_json["gpus"]] == [16, 16]
    assert bench.run("clear").out == "removed\n"
    assert bench.run("clear", "-o", "json").json == {"schema": "runnerctl.baseline-saved/1", "removed": False}
    gone = bench.run("show")
    assert gone.code == 64 and "no baseline was saved" in gone.err


@pytest.mark.exhaustive
def test_a_dry_run_saves_nothing(bench: Bench) -> None:
    """It says what would be saved, and what is odd about it."""
    dry = bench.run("save", "--dry-run")
    assert (dry.code, dry.out) == (0, "would be saved: 2 GPUs\n")
    narrow = TWO.replace("gpu.*.pcie_width 16", "gpu.*.pcie_width 4")
    told = bench.run("save", "--dry-run", "-o", "json", scenario=narrow)
    assert told.json["saved"] is False
    assert told.json["gpus"] == 2
    assert "x4" in told.json["oddities"][0]
    assert "would be saved as it is: GPU 0" in told.err
    assert not bench.file.exists()


@pytest.mark.exhaustive
def test_differences_are_listed_and_need_force(bench: Bench) -> None:
    """What the new baseline would hide has to be accepted."""
    bench.run("save")
    before = bench.file.read_bytes()
    narrow = TWO + "gpu.1.pcie_width 8\n"
    refused = bench.run("save", scenario=narrow)
    assert refused.code == 65
    assert refused.out == "GPU 1: PCIe x8; it was 16\n"
    assert "--force" in refused.err and refused.err.count("\n") == 1
    assert bench.file.read_bytes() == before
    as_json = bench.run("save", "-o", "json", scenario=narrow).json
    assert as_json["saved"] is False and as_json["differences"] == ["GPU 1: PCIe x8; it was 16"]
    forced = bench.run("save", "--force", "-o", "json", scenario=narrow)
    assert forced.json["saved"] is True
    assert "GPU 1: PCIe x8, and x16 is possible" in forced.err  # taken for normal from now on: say so
    assert bench.run("save", scenario=narrow).out.startswith("nothing to do")


@pytest.mark.exhaustive
def test_a_new_driver_is_written_down_without_force(bench: Bench) -> None:
    """A note is no difference that anybody has to accept."""
    bench.run("save")
    newer = TWO.replace("575.57.08", "580.10.01")
    assert bench.run("save", scenario=newer).out == "saved: 2 GPUs\n"
    assert bench.run("show", "-o", "json").json["driver_version"] == "580.10.01"


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (TWO + "fault nvmlDeviceGetHandleByIndex_v2@1 return 15\n", "GPU 1: does not answer"),
        (TWO + "fault nvmlDeviceGetUUID@1 return 999\n", "GPU 1: does not answer"),
        (TWO + "fault nvmlInitWithFlags return 18\n", "runnerctl health"),
        ("count 0\n", "there is no GPU"),
    ],
)
def test_what_does_not_answer_is_not_saved(bench: Bench, scenario: str, words: str) -> None:
    """One line, and no file: the loss of a GPU must not become normal."""
    ran = bench.run("save", "--force", scenario=scenario)
    assert ran.code == 69
    assert words in ran.err and ran.err.count("\n") == 1 and not ran.out
    assert not bench.file.exists()


@pytest.mark.exhaustive
def test_a_damaged_baseline_is_replaced_only_on_purpose(bench: Bench) -> None:
    """It may be somebody's only record."""
    bench.file.parent.mkdir(parents=True)
    bench.file.write_text("{")
    for words in (("save",), ("show",)):
        ran = bench.run(*words)
        assert ran.code == 65 and "is damaged" in ran.err and "--force" in ran.err
        assert ran.err.count("\n") == 1
    assert bench.run("save", "--force").code == 0
    assert bench.run("show").code == 0


def test_a_place_that_cannot_be_written_is_one_line(bench: Bench) -> None:
    """A file where the folder should be."""
    bench.file.parent.parent.mkdir(parents=True)
    bench.file.parent.write_text("in the way")
    ran = bench.run("save")
    assert ran.code == 69 and ran.err.count("\n") == 1 and str(bench.file) in ran.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_without_root_it_says_so(bench: Bench) -> None:
    """The state is root's."""
    bench.file.parent.mkdir(parents=True)
    bench.file.parent.chmod(0o555)
    ran = bench.run("save")
    assert ran.code == 77 and "as root" in ran.err


def test_a_root_that_is_not_there(tmp_path: Path) -> None:
    """A misspelt path is no host without GPUs."""
    ran = call("baseline", "save", "--rootfs", str(tmp_path / "nowhere"))
    assert ran.code == 64 and "no such directory" in ran.err


def _findings(bench: Bench, check: str, scenario: str) -> list[dict[str, str]]:
    """The findings of one check in ``runnerctl health``."""
    (bench.folder / "scenario").write_text(scenario)
    env = environment(bench.library, bench.folder / "scenario") | {"RUNNERCTL_API_URL": "http://127.0.0.1:9"}
    ran = spawn("health", "--rootfs", str(bench.folder / "root"), "-o", "json", env=env)
    return [each for each in ran.json["findings"] if each["id"] == check]


def test_health_compares_with_the_baseline(bench: Bench) -> None:
    """Nothing without one, OK with it, and a finding for a difference."""
    assert _findings(bench, "gpu.baseline", TWO) == []
    bench.run("save")
    (found,) = _findings(bench, "gpu.baseline", TWO)
    assert (found["status"], found["subject"]) == ("OK", "host")
    (found,) = _findings(bench, "gpu.baseline", TWO + "gpu.1.compute_mode 2\n")
    assert (found["status"], found["subject"]) == ("WARNING", "GPU 1")
    assert found["summary"] == "compute mode was default and is prohibited"


@pytest.mark.exhaustive
def test_health_tells_memory_without_a_process_from_memory_in_use(bench: Bench) -> None:
    """The same 20 GiB, with nobody and with somebody who holds the GPU open."""
    root = bench.folder / "root"
    (root / "dev").mkdir()
    (root / "dev/nvidia1").touch()
    (root / "proc/20/fd").mkdir(parents=True)
    (root / "proc/20/comm").write_text("python3\n")
    full = f"{TWO}gpu.*.minor 1\ngpu.1.memory_total {80 * 2**30}\ngpu.1.memory_used {20 * 2**30}\n"
    statuses = {each["subject"]: each["status"] for each in _findings(bench, "gpu.residue", full)}
    assert statuses == {"GPU 0": "OK", "GPU 1": "CRITICAL"}
    (root / "proc/20/fd/4").symlink_to("/dev/nvidia1")
    found = _findings(bench, "gpu.residue", full)
    assert {each["status"] for each in found} == {"OK"}
    assert "used by 1 process" in found[1]["summary"]
