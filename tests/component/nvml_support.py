"""Ways to ask the NVML probe about scenarios of the stand-in, for the tests beside this file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.core.snapshot import Nvml, Unavailable
from tests.fakes.nvml import environment

__all__ = ["EVERYTHING", "Asked", "asked", "read", "read_all"]

# GPU 0 has whatever a GPU can have, and MIG on; GPU 1 is old, and so is its driver.
EVERYTHING = """
count 2
gpu.*.serial 1320000000000
gpu.*.field.230 0
gpu.*.field.82 55
gpu.*.sram_exceeded 0
gpu.*.gsp_enabled 1
gpu.*.gsp_version 575.57.08
gpu.*.nvlink 11
gpu.*.nvlink_errors 0
gpu.*.clock_reasons 0x8
gpu.0.fabric_state 3
gpu.0.margin 30
gpu.0.mig 1
gpu.0.mig_pending 1
gpu.0.mig_devices 1
gpu.0.compute_processes 4711:1073741824
gpu.1.architecture 5
gpu.1.remap_corr !3
gpu.1.retired_single 2
gpu.1.retired_double 1
fault nvmlDeviceGetMemoryInfo_v2@1 return 13
fault nvmlDeviceGetTemperatureV@1 return 13
fault nvmlDeviceGetCurrentClocksEventReasons@1 return 13
fault nvmlDeviceGetGpuFabricInfoV@1 return 13
"""

# The library reads its scenario once in a process, and only the children load it.
_READ = """
import json, os, sys
from pathlib import Path
import msgspec
from runnerctl.probes import nvml
from runnerctl.probes.bounded import run_all
for line in sys.stdin:
    Path(os.environ["NVML_SCENARIO"]).write_text(json.loads(line))
    task = nvml.task(float(sys.argv[1]), deep=True)
    answer = nvml.parse(run_all({"nvml": task})["nvml"])
    print(msgspec.json.encode(answer).decode(), flush=True)
"""
# Which symbols are looked up while which call on which GPU is announced.
_TRACE = """
import json, pynvml
from runnerctl.probes import nvml
class Stages:
    at = ("", None)
    def stage(self, call, gpu=None): self.at = (call, gpu)
    def part(self, value): pass
stages, seen, looked_up = Stages(), {}, pynvml._nvmlGetFunctionPointer
def look_up(name):
    seen.setdefault(name, stages.at)
    return looked_up(name)
pynvml._nvmlGetFunctionPointer = look_up
nvml.read(stages, deep=True)
print(json.dumps(seen))
"""


@dataclass(frozen=True)
class Asked:
    """A symbol of the library that the probe calls: what it is announced as, and on which GPU first."""

    symbol: str
    call: str
    gpu: int | None

    def fault(self, what: str) -> str:
        """A line that lets this call go wrong."""
        return f"fault {self.symbol}{'' if self.gpu is None else f'@{self.gpu}'} {what}\n"


def _python(library: Path, folder: Path, *argv: str, stdin: str = "") -> str:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", *argv],
        input=stdin,
        env=environment(library, folder / "scenario"),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def asked(library: Path, folder: Path) -> list[Asked]:
    """Every symbol that the probe calls on a host that has everything."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "scenario").write_text(EVERYTHING)
    seen: dict[str, Any] = json.loads(_python(library, folder, _TRACE))
    return [Asked(symbol, call, gpu) for symbol, (call, gpu) in seen.items()]


def read_all(
    library: Path, folder: Path, scenarios: Iterable[str], *, deadline_seconds: float = 20.0
) -> list[Nvml | Unavailable]:
    """What the probe makes of each scenario, one after the other."""
    stdin = "".join(f"{json.dumps(scenario)}\n" for scenario in scenarios)
    lines = _python(library, folder, _READ, str(deadline_seconds), stdin=stdin).splitlines()
    return [msgspec.json.decode(line, type=Nvml | Unavailable) for line in lines]


def read(library: Path, folder: Path, scenario: str, *, deadline_seconds: float = 20.0) -> Nvml:
    """What the probe makes of one scenario."""
    (found,) = read_all(library, folder, [scenario], deadline_seconds=deadline_seconds)
    assert isinstance(found, Nvml), found
    return found
