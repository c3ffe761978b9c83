"""On real hardware: what the driver says and what runnerctl says are the same.

CI runs these with --require-gpu: a GPU job on a machine without a GPU must be red, not green for want of one.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import costs

pytestmark = pytest.mark.gpu
pynvml: Any = importlib.import_module("pynvml")  # it has no types

SECONDS = 60
MIB = 2**20
# Fields of `nvidia-smi --help-query-gpu` that do not change from one moment to the next, and ours of a `Gpu`.
SAME: dict[str, tuple[str, Callable[[str], Any]]] = {
    "uuid": ("uuid", str),
    "name": ("name", str),
    "pci.bus_id": ("pci_bus_id", str.lower),
    "serial": ("serial", str),
    "vbios_version": ("vbios", str),
    "inforom.img": ("inforom", str),
    "compute_cap": ("compute_capability", str),
    "persistence_mode": ("persistence", "Enabled".__eq__),
    "compute_mode": (
        "compute_mode",
        ("Default", "Exclusive_Thread", "Prohibited", "Exclusive_Process").index,
    ),
    "ecc.mode.current": ("ecc", "Enabled".__eq__),
    "ecc.mode.pending": ("ecc_pending", "Enabled".__eq__),
    "mig.mode.current": ("mig_current", ("Disabled", "Enabled").index),
    "mig.mode.pending": ("mig_pending", ("Disabled", "Enabled").index),
    "pcie.link.gen.max": ("pcie_generation_max", int),
    "pcie.link.width.max": ("pcie_width_max", int),
    "pcie.link.width.current": ("pcie_width", int),
    "enforced.power.limit": ("power_limit_watts", float),
    "power.default_limit": ("power_default_watts", float),
    "power.min_limit": ("power_min_watts", float),
    "power.max_limit": ("power_max_watts", float),
    "clocks.max.sm": ("clock_sm_max_mhz", int),
    "memory.total": ("memory_total_bytes", lambda text: int(text) * MIB),
}
NOT_TOLD = ("[N/A]", "N/A", "[Not Supported]", "[Deprecated]", "[Unknown Error]")


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)


def _smi(*fields: str) -> list[list[str]]:
    """What ``nvidia-smi`` says of each GPU; units are left out."""
    done = _run("nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits")
    assert done.returncode == 0, done.stdout + done.stderr
    return [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line.strip()]


def _runnerctl(*argv: str) -> dict[str, Any]:
    """The JSON that a command prints; a verdict's exit code is no failure."""
    done = _run(sys.executable, "-m", "runnerctl", *argv, "-o", "json")
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def listed() -> list[str]:
    """The UUIDs that ``nvidia-smi`` lists, those of MIG devices left out."""
    uuids = [uuid for (uuid,) in _smi("uuid")]
    assert uuids, "nvidia-smi lists no GPU"
    return uuids


@pytest.fixture(scope="module")
def gpus() -> list[dict[str, Any]]:
    """The GPUs of a snapshot."""
    found: list[dict[str, Any]] = _runnerctl("snapshot", "--no-redact")["nvml"]["gpus"]
    return found


def test_nvml_answers(listed: list[str]) -> None:
    """The library loads, and shows the GPUs that nvidia-smi shows."""
    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        assert [pynvml.nvmlDeviceGetUUID(handle) for handle in handles] == listed
    finally:
        pynvml.nvmlShutdown()


def test_a_snapshot_has_every_gpu(listed: list[str], gpus: list[dict[str, Any]]) -> None:
    """The snapshot names each GPU that nvidia-smi lists, and each of them answers."""
    assert [gpu["uuid"] for gpu in gpus] == listed
    assert not [gpu["failure"] for gpu in gpus if gpu.get("failure")]


@pytest.mark.parametrize("field", SAME)
def test_the_snapshot_and_nvidia_smi_agree(field: str, gpus: list[dict[str, Any]]) -> None:
    """Value for value, and neither knows what the other does not."""
    ours, convert = SAME[field]
    said = [cell for (cell,) in _smi(field)]
    assert [gpu[ours] for gpu in gpus] == [None if cell in NOT_TOLD else convert(cell) for cell in said]


def test_changing_values_are_close(gpus: list[dict[str, Any]]) -> None:
    """A moment lies between the two."""
    for gpu, (celsius, watts) in zip(gpus, _smi("temperature.gpu", "power.draw"), strict=True):
        assert abs(gpu["temperature_celsius"] - int(celsius)) <= 15
        assert 0 < gpu["power_watts"] <= 1.2 * gpu["power_max_watts"]
        assert float(watts) > 0
        assert 0 <= gpu["memory_used_bytes"] <= gpu["memory_total_bytes"]


def test_health_counts_and_asks_every_gpu(listed: list[str]) -> None:
    """Health has a verdict for the count and one for each GPU, and none of them is CRITICAL."""
    findings = _runnerctl("health")["findings"]
    about_gpus = [finding for finding in findings if finding["id"] in ("driver.nvml", "gpu.count")]
    assert {finding["status"] for finding in about_gpus} <= {"OK", "WARNING"}, about_gpus
    counted = next(finding for finding in findings if finding["id"] == "gpu.count")
    assert counted["data"]["listed"] == len(listed)
    answers = [finding for finding in findings if finding["id"] == "gpu.answers"]
    assert [finding["status"] for finding in answers] == ["OK"] * len(listed), answers


def test_a_sound_gpu_raises_no_alarm() -> None:
    """No check of a driver that runs and of GPUs that work is CRITICAL or UNKNOWN."""
    findings = _runnerctl("health", "--no-network")["findings"]
    alarms = [
        each for each in findings if each["id"].startswith(("gpu.", "driver.")) and each["status"] != "OK"
    ]
    assert not [each for each in alarms if each["status"] != "WARNING"], alarms


def test_costs_and_a_snapshot_can_be_recorded(tmp_path: Path) -> None:
    """Every call that was made has its cost; the snapshot shows no UUID of this machine."""
    assert costs.main([str(tmp_path)]) == 0
    recorded = json.loads((tmp_path / "costs.json").read_text())
    assert recorded["calls"]["nvmlDeviceGetHandleByIndex"]["calls"] >= 1
    assert recorded["milliseconds"]["nvidia-smi"]["median"] > 0
    snapshot = (tmp_path / "snapshot.json").read_text()
    assert not [uuid for (uuid,) in _smi("uuid") if uuid in snapshot]
