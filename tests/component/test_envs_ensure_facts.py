"""The driver's CUDA version, asked through NVML in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runnerctl.envs.facts import cuda_version
from runnerctl.errors import UnavailableError
from tests.fakes.nvml import build, environment


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("nvml"))


def _gpu(root: Path) -> Path:
    device = root / "sys/bus/pci/devices/0000:01:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x10de\n")
    (device / "class").write_text("0x030200\n")
    return root


def _ask(library: Path, folder: Path, scenario: str, **rest: float) -> str | None:
    file = folder / "scenario"
    file.write_text(f"count 1\n{scenario}\n")
    environ = environment(library, file, os.environ)
    return cuda_version(cache=None, rootfs=_gpu(folder / "root"), environ=environ, **rest)


def test_the_version_of_a_driver_that_answers(library: Path, tmp_path: Path) -> None:
    """Also where only its library is seen, as in a container."""
    assert _ask(library, tmp_path, "") == "12.9"


@pytest.mark.parametrize(
    ("scenario", "says"),
    [("return 18", "error 18"), ("hang", "no answer"), ("abort", "ended the process")],
)
def test_a_sick_driver_is_not_no_driver(library: Path, tmp_path: Path, scenario: str, says: str) -> None:
    """A failure, a hang and a crash are each said, and what to do."""
    with pytest.raises(UnavailableError, match=says) as caught:
        _ask(library, tmp_path, f"fault nvmlInit_v2 {scenario}", seconds=0.5 if scenario == "hang" else 10.0)
    assert "--cuda none" in caught.value.remedy
