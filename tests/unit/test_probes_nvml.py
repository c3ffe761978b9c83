"""What the NVML probe makes of its children's words, and how long it may take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.snapshot import Gpu, Nvml, Unavailable
from runnerctl.probes import nvml
from runnerctl.probes.bounded import Outcome

SYSTEM = {"system": {"count": 3, "driver_version": "575.57.08"}}
UUID = "GPU-11111111-1111-4111-8111-111111111111"


def _gpu(index: int, *, done: bool = True, **known: Any) -> dict[str, Any]:
    return {"gpu": index, "known": {"uuid": UUID, "temperature_celsius": 40, **known}, "done": done}


def _parsed(outcome: Outcome) -> tuple[Gpu, ...]:
    found = nvml.parse(outcome)
    assert isinstance(found, Nvml)
    return found.gpus


def _stop(gpu: int | None, kind: Any = "timeout", call: str = "nvmlDeviceGetName") -> Unavailable:
    return Unavailable("it stopped", call=call, gpu=gpu, kind=kind)


def test_what_nobody_read_was_not_reached() -> None:
    """Behind a child that was left behind, for one."""
    stop = _stop(1)
    outcome = Outcome(parts=(SYSTEM, _gpu(0), _gpu(1, done=False)), failure=stop, interruptions=(stop,))
    first, second, third = _parsed(outcome)
    assert first.failure is None
    assert second.failure is not None
    assert (second.failure.kind, second.uuid) == ("hang", UUID)
    assert third.failure is not None
    assert (third.failure.kind, third.failure.message) == ("not_reached", "it stopped")


def test_a_stuck_child_tells_who_the_gpus_are_and_nothing_that_changes() -> None:
    """What it read is old by now."""
    stop = _stop(1)
    parts = (SYSTEM, _gpu(0), _gpu(1, done=False))
    first, second, _ = _parsed(Outcome(parts=parts, failure=stop, interruptions=(stop,), repeated=True))
    assert first.failure is not None
    assert (first.failure.kind, first.uuid, first.temperature_celsius) == ("not_reached", UUID, None)
    assert second.failure is not None
    assert second.failure.kind == "hang"
    found = nvml.parse(Outcome(parts=parts, failure=stop, interruptions=(stop,), repeated=True))
    assert isinstance(found, Nvml)
    assert (found.not_asked, found.count, found.driver_version) == ("it stopped", 3, None)


def test_a_child_that_is_stuck_in_its_end_is_a_hang_of_nvml() -> None:
    """All GPUs had answered, and none can be asked now."""
    stop = _stop(None, call="the end of its process")
    found = nvml.parse(Outcome(parts=(SYSTEM,), failure=stop, interruptions=(stop,), repeated=True))
    assert isinstance(found, Nvml)
    assert found.failure is not None
    assert (found.failure.kind, found.gpus) == ("hang", ())


@pytest.mark.parametrize(("kind", "told"), [("timeout", "hang"), ("slow", "slow"), ("crash", "crash")])
def test_nvml_as_a_whole(kind: str, told: str) -> None:
    """Before there was anything to say of a GPU."""
    found = nvml.parse(Outcome(failure=_stop(None, kind, call="nvmlInit")))
    assert isinstance(found, Nvml)
    assert found.failure is not None
    assert (found.failure.kind, found.failure.call) == (told, "nvmlInit")


def test_no_process_is_no_reading() -> None:
    """That says nothing about the driver."""
    failure = Unavailable("no process could be started: out of memory")
    assert nvml.parse(Outcome(failure=failure)) == failure


def test_only_gpus_behind_the_bad_one_are_read_by_others() -> None:
    """Nothing goes on behind NVML as a whole, or behind the last GPU."""
    assert len(nvml.resume([SYSTEM], _stop(0))) == 2
    assert not nvml.resume([SYSTEM], _stop(2))
    assert not nvml.resume([SYSTEM], _stop(None))
    assert not nvml.resume([], _stop(0))


def _daemon(rootfs: Path, *files: str, command: str | None = None) -> None:
    folder = rootfs / "run/nvidia-persistenced"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).write_text("77\n")
    if command is not None:
        (rootfs / "proc/77").mkdir(parents=True)
        (rootfs / "proc/77/cmdline").write_text(command.replace(" ", "\0"))


@pytest.mark.parametrize(
    ("files", "command", "seconds"),
    [
        ((), None, 5.0 + 4.0 * 8),
        (("socket",), None, 5.0),
        (("nvidia-persistenced.pid", "socket"), "nvidia-persistenced --verbose", 5.0),
        (("nvidia-persistenced.pid",), "nvidia-persistenced --no-persistence-mode", 5.0 + 4.0 * 8),
    ],
)
def test_the_default_deadline(
    tmp_path: Path, files: tuple[str, ...], command: str | None, seconds: float
) -> None:
    """Without persistence mode each GPU is initialised first; a deadline that was given is the limit."""
    _daemon(tmp_path, *files, command=command)
    assert nvml.task(None, rootfs=tmp_path, gpus=8).deadline_seconds == seconds
    assert nvml.task(2.5, rootfs=tmp_path, gpus=8).deadline_seconds == 2.5


def test_behind_a_slow_gpu_it_is_time_that_is_missing() -> None:
    """No GPU has to be mended for it."""
    stop = _stop(0, kind="slow")
    outcome = Outcome(parts=(SYSTEM, _gpu(0, done=False)), failure=stop, interruptions=(stop,))
    assert [gpu.failure and gpu.failure.kind for gpu in _parsed(outcome)] == ["slow", "slow", "slow"]
