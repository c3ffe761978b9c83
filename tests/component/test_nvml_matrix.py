"""Every call of the NVML probe goes wrong in every way, and each time there is a verdict that names it.

The list of calls comes from the probe itself: a new call is covered as soon as it is made.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.snapshot import Nvml, NvmlFailure, Unavailable
from tests.component.nvml_support import EVERYTHING, Asked, asked, read_all
from tests.fakes.nvml import build, environment

pytestmark = pytest.mark.exhaustive
DEADLINE_SECONDS = 2.5
SLACK_SECONDS = 0.5
AT_A_TIME = 6
FLASH = "nvmlDeviceValidateInforom"  # asked by deep probes only
NECESSARY = {"nvmlInitWithFlags", "nvmlDeviceGetCount_v2", "nvmlDeviceGetHandleByIndex_v2"}
IDENTITY = {"nvmlDeviceGetPciInfo_v3", "nvmlDeviceGetUUID", "nvmlDeviceGetName", "nvmlDeviceGetMinorNumber"}
# Asked of a GPU before it is known that MIG is on.
MODES = {f"nvmlDeviceGet{mode}Mode" for mode in ("Ecc", "Mig", "Persistence", "Compute")}
BEFORE_MIG = NECESSARY | IDENTITY | MODES
PROCESS_LISTS = {
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetGraphicsRunningProcesses_v3",
    "nvmlDeviceGetMPSComputeRunningProcesses_v3",
}


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stand-in, built once."""
    return build(tmp_path_factory.mktemp("nvml"))


@pytest.fixture(scope="module")
def calls(library: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Asked]:
    """All calls of the probe."""
    return asked(library, tmp_path_factory.mktemp("trace"))


def _failure(found: Nvml | Unavailable, call: Asked) -> NvmlFailure | None:
    """What is said of the host, or of the GPU that the call was made on."""
    assert isinstance(found, Nvml), found
    return found.failure if call.gpu is None else found.gpus[call.gpu].failure


def test_the_probe_asks_for_everything(calls: list[Asked]) -> None:
    """The list that the other tests go through is the whole list."""
    symbols = {call.symbol for call in calls}
    assert len(symbols) >= 60
    assert symbols >= NECESSARY | IDENTITY | PROCESS_LISTS
    assert symbols >= {
        "nvmlDeviceGetRetiredPages",
        "nvmlDeviceGetGpuFabricInfo",
        "nvmlDeviceGetAttributes_v2",
    }
    assert {call.gpu for call in calls} == {None, 0, 1}


def _health(library: Path, folder: Path, call: Asked) -> dict[str, Any]:
    """The verdict of the command itself while one call hangs."""
    root = folder / call.symbol
    root.mkdir(exist_ok=True)
    scenario = folder / f"{call.symbol}.scenario"
    scenario.write_text(EVERYTHING + call.fault("hang"))
    options = ["--rootfs", str(root), "--deadline", str(DEADLINE_SECONDS), "--no-network", "-o", "json"]
    done = subprocess.run(
        [sys.executable, "-m", "runnerctl", "health", *options],
        env=environment(library, scenario),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stdout + done.stderr
    verdict: dict[str, Any] = json.loads(done.stdout)
    return verdict


def _complaints(verdict: dict[str, Any], call: Asked) -> list[str]:
    """What the verdict on a hang leaves to be desired."""
    found = []
    if verdict["duration_seconds"] > DEADLINE_SECONDS + SLACK_SECONDS:
        found.append(f"took {verdict['duration_seconds']} s")
    check, subject = ("driver.nvml", "host") if call.gpu is None else ("gpu.answers", f"GPU {call.gpu}")
    named = [each for each in verdict["findings"] if (each["id"], each["subject"]) == (check, subject)]
    if not named or named[0]["status"] != "CRITICAL" or named[0]["data"]["kind"] != "hang":
        found.append(f"said {named}")
    elif named[0]["data"]["call"] != call.call or call.call not in named[0]["summary"]:
        found.append(f"named {named[0]['data']['call']}: {named[0]['summary']}")
    return found


@pytest.mark.timeout(300)  # seventy processes
def test_a_hang_anywhere_gives_a_verdict_in_time(library: Path, calls: list[Asked], tmp_path: Path) -> None:
    """The command ends within its deadline and half a second, and names the call and the GPU."""
    daily = [call for call in calls if call.symbol != FLASH]
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        verdicts = list(pool.map(partial(_health, library, tmp_path), daily))
    said = {call.symbol: _complaints(verdict, call) for call, verdict in zip(daily, verdicts, strict=True)}
    doubtful = [call for call in daily if said[call.symbol]]
    assert len(doubtful) <= len(daily) // 4, said
    # Six at a time, with hosts converging beside them, is no fair race: what was late is asked again, alone.
    wrong = {call.symbol: _complaints(_health(library, tmp_path, call), call) for call in doubtful}
    assert not any(wrong.values()), wrong


def test_an_abort_anywhere_is_survived_and_named(library: Path, calls: list[Asked], tmp_path: Path) -> None:
    """A GPU behind the one that crashed is read all the same."""
    found = read_all(library, tmp_path, [EVERYTHING + call.fault("abort") for call in calls])
    for call, answer in zip(calls, found, strict=True):
        failure = _failure(answer, call)
        assert failure is not None, call
        assert (failure.kind, failure.call) == ("crash", call.call)
        assert "SIGABRT" in failure.message
        if call.gpu == 0:
            assert isinstance(answer, Nvml)
            assert answer.gpus[1].failure is None, call


@pytest.mark.parametrize(("code", "kind"), [(999, "unknown"), (15, "gpu_lost"), (16, "reset_required")])
def test_no_grave_error_looks_healthy(
    library: Path, calls: list[Asked], tmp_path: Path, code: int, kind: str
) -> None:
    """Whichever call returns it, the first or the last."""
    found = read_all(library, tmp_path, [EVERYTHING + call.fault(f"return {code}") for call in calls])
    for call, answer in zip(calls, found, strict=True):
        failure = _failure(answer, call)
        assert failure is not None, call
        assert (failure.kind, failure.code) == (kind, code), call
        assert failure.call == call.call


@pytest.mark.parametrize("code", [3, 13, 25])
def test_what_is_not_supported_is_no_fault(
    library: Path, calls: list[Asked], tmp_path: Path, code: int
) -> None:
    """Only that there is a GPU, and how many, is a question every driver must answer."""
    found = read_all(library, tmp_path, [EVERYTHING + call.fault(f"return {code}") for call in calls])
    for call, answer in zip(calls, found, strict=True):
        failure = _failure(answer, call)
        assert (failure is not None) == (call.symbol in NECESSARY), call
        assert isinstance(answer, Nvml)
        assert answer.failure or answer.gpus[1].temperature_celsius is not None or call.gpu is not None


def test_a_permission_that_is_missing_is_told_apart(
    library: Path, calls: list[Asked], tmp_path: Path
) -> None:
    """With MIG on some questions are for the administrator only: that is no fault of the GPU."""
    found = read_all(library, tmp_path, [EVERYTHING + call.fault("return 4") for call in calls])
    for call, answer in zip(calls, found, strict=True):
        failure = _failure(answer, call)
        if call.gpu == 0 and call.symbol not in BEFORE_MIG and call.symbol != FLASH:
            assert failure is None, call
        else:
            assert failure is not None
            assert failure.kind == "no_permission"
