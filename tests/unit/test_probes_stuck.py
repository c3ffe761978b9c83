"""Markers of processes that could not be killed, on a /proc of files."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from runnerctl.probes.stuck import Guard, Stuck, start_ticks, state_of, wchan_of

PID, TICKS = 4711, 987654
# The name of a process may hold anything.
STAT = "{pid} (a ) name (x) {state} 1 " + " ".join(str(number) for number in range(17)) + " {ticks} 0 0\n"


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """One process, in uninterruptible sleep."""
    folder = tmp_path / "proc"
    (folder / "sys/kernel/random").mkdir(parents=True)
    (folder / "sys/kernel/random/boot_id").write_text("boot-1\n")
    (folder / str(PID)).mkdir()
    (folder / str(PID) / "wchan").write_text("nvidia_ioctl")
    _process(folder)
    return folder


def _process(proc: Path, *, state: str = "D", ticks: int = TICKS) -> None:
    (proc / str(PID) / "stat").write_text(STAT.format(pid=PID, state=state, ticks=ticks))


@pytest.fixture
def guard(tmp_path: Path, proc: Path) -> Guard:
    """A guard that looks there, and knows of the process."""
    made = Guard(tmp_path / "run", proc)
    assert made.record("nvml", PID, call="nvmlInit", parts=[{"system": {}}]) == ""
    return made


def test_fields_of_a_process(proc: Path) -> None:
    """The second field may hold blanks and brackets."""
    assert (start_ticks(PID, proc), state_of(PID, proc), wchan_of(PID, proc)) == (TICKS, "D", "nvidia_ioctl")
    assert (start_ticks(1, proc), state_of(1, proc), wchan_of(1, proc)) == (None, "", "")


def test_the_marker_says_everything(guard: Guard) -> None:
    """For whoever looks at it, too."""
    marker = msgspec.json.decode((guard.directory / "nvml-stuck.json").read_bytes())
    assert marker["schema"] == "runnerctl.stuck/1"
    assert (marker["pid"], marker["start_ticks"], marker["boot_id"]) == (PID, TICKS, "boot-1")
    assert (marker["call"], marker["gpu"], marker["wchan"]) == ("nvmlInit", None, "nvidia_ioctl")
    assert [file.name for file in guard.directory.iterdir()] == ["nvml-stuck.json"]


def test_it_stands_while_the_very_process_lives(guard: Guard) -> None:
    """Of this probe only."""
    stuck = guard.standing("nvml")
    assert isinstance(stuck, Stuck)
    assert stuck.again().reason.startswith(f"process {PID} has been stuck in nvmlInit since ")
    assert stuck.again().reason.endswith("(in nvidia_ioctl)")
    assert guard.standing("docker") is None


@pytest.mark.parametrize("change", ["gone", "another", "zombie", "boot", "damaged", "schema"])
def test_it_goes_when_the_process_is_another_one(guard: Guard, proc: Path, change: str) -> None:
    """A process id is given to others sooner or later."""
    marker = guard.directory / "nvml-stuck.json"
    if change == "gone":
        (proc / str(PID) / "stat").unlink()
    elif change == "another":
        _process(proc, ticks=TICKS + 1)
    elif change == "zombie":
        _process(proc, state="Z")
    elif change == "boot":
        (proc / "sys/kernel/random/boot_id").write_text("boot-2\n")
    elif change == "damaged":
        marker.write_bytes(marker.read_bytes()[:20])
    else:
        marker.write_bytes(marker.read_bytes().replace(b"stuck/1", b"stuck/9"))
    assert guard.standing("nvml") is None
    assert not marker.exists()


def test_a_process_that_ended_after_all_is_not_written_down(guard: Guard) -> None:
    """Nothing would ever take the marker away in time."""
    assert guard.record("docker", 1, call="ping") == ""
    assert not (guard.directory / "docker-stuck.json").exists()
