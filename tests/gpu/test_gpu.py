"""On real hardware: what the driver says and what runnerctl says are the same.

Nothing here skips itself: a GPU job on a machine without a GPU must be red, not green for want of a GPU.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = pytest.mark.gpu
pynvml: Any = importlib.import_module("pynvml")  # it has no types

SECONDS = 60


def _run(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=SECONDS, stdin=subprocess.DEVNULL)


def _runnerctl(*argv: str) -> dict[str, Any]:
    """The JSON that a command prints; a verdict's exit code is no failure."""
    done = _run(sys.executable, "-m", "runnerctl", *argv, "-o", "json")
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.fixture(scope="module")
def listed() -> list[str]:
    """The UUIDs that ``nvidia-smi`` lists, those of MIG devices left out."""
    done = _run("nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader")
    assert done.returncode == 0, done.stdout + done.stderr
    uuids = done.stdout.split()
    assert uuids, "nvidia-smi lists no GPU"
    return uuids


def test_nvml_answers(listed: list[str]) -> None:
    """The library loads, and shows the GPUs that nvidia-smi shows."""
    pynvml.nvmlInit()
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        assert [pynvml.nvmlDeviceGetUUID(handle) for handle in handles] == listed
    finally:
        pynvml.nvmlShutdown()


def test_a_snapshot_has_every_gpu(listed: list[str]) -> None:
    """The snapshot names each GPU that nvidia-smi lists, and each of them answers."""
    gpus = _runnerctl("snapshot", "--no-redact")["gpus"]
    assert [gpu["uuid"] for gpu in gpus] == listed
    assert not [gpu["failure"] for gpu in gpus if gpu.get("failure")]


def test_health_counts_and_asks_every_gpu(listed: list[str]) -> None:
    """Health has a verdict for the count and one for each GPU, and none of them is CRITICAL."""
    findings = _runnerctl("health")["findings"]
    about_gpus = [finding for finding in findings if finding["id"] in ("driver.nvml", "gpu.count")]
    assert {finding["status"] for finding in about_gpus} <= {"OK", "WARNING"}, about_gpus
    counted = next(finding for finding in findings if finding["id"] == "gpu.count")
    assert counted["data"]["listed"] == len(listed)
    answers = [finding for finding in findings if finding["id"] == "gpu.answers"]
    assert [finding["status"] for finding in answers] == ["OK"] * len(listed), answers
