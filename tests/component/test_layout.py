"""The hardware as NVML and the kernel's files tell it, and ``runnerctl slots`` on a host."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hardware import read_hardware
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout, SlotSpec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_gpus import refuse_shared, waits_for
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

from runnerctl.core.hardware import Hardware
from tests.component.cli_support import call, host_json
from tests.fakes.nvml import build, environment

H100 = (
    "gpu.*.name NVIDIA H100 80GB HBM3\ngpu.*.memory_total 85520809984\ngpu.*.cc_major 9\ngpu.*.cc_minor 0\n"
)
# Two pairs with NVLink between the GPUs of each, one of them cut; three digits of a link's other end.
FOUR = f"""count 4
{H100}
gpu.0.nvlink 11
gpu.0.nvlink_remote 00000000:03:00.0 00000000:03:00.0
gpu.2.nvlink 11
gpu.2.nvlink_remote 00000000:01:00.0 00000000:01:00.0
gpu.1.nvlink_p2p 0 0 1 0
gpu.1.topology 50 0 50 10
gpu.3.mig 1
gpu.3.mig_pending 1
gpu.3.mig_devices 2
gpu.3.mig.0.profile 1g.10gb
gpu.3.mig.1.profile 2g.20gb
"""
SCENARIOS = {
    "four": FOUR,
    "lost": "count 2\nfault nvmlDeviceGetHandleByIndex_v2@1 return 15\n",
    "not loaded": "fault nvmlInit_v2 return 9\n",
    "hang": "fault nvmlDeviceGetCount_v2 hang\n",
    "crash": "fault nvmlDeviceGetUUID abort\n",
    "old": "fault nvmlDeviceGetMigMode return 13\nfault nvmlDeviceGetPciInfo_v3 return 13\n",
}
_READ = """
import json, os, sys
from pathlib import Path
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hardware import read_hardware
for line in sys.stdin:
    Path(os.environ["NVML_SCENARIO"]).write_text(json.loads(line))
    print(json.dumps(read_hardware(seconds=1.5)), flush=True)
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Hardware]:
    """What the reader makes of each scenario; only its children load the library."""
    folder = tmp_path_factory.mktemp("nvml")
    done = subprocess.run(
        [sys.executable, "-c", _READ],
        input="".join(f"{json.dumps(scenario)}\n" for scenario in SCENARIOS.values()),
        env=environment(build(folder), folder / "scenario"),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [msgspec.json.decode(line, type=Hardware) for line in done.stdout.splitlines()]
    return dict(zip(SCENARIOS, found, strict=True))


def test_gpus_with_everything_a_layout_needs(read: dict[str, Hardware]) -> None:
    """Identity, size, MIG devices with their profiles, and how GPUs are connected."""
    found = read["four"]
    assert found.readable
    assert (found.driver_version, found.cuda_version) == ("575.57.08", "12.9")
    first, second, third, cut = found.gpus
    assert (first.index, first.minor, first.pci_bus_id) == (0, 0, "0000:01:00.0")
    assert (first.memory_bytes, first.compute_capability, first.mig) == (85520809984, "9.0", None)
    assert first.links == {third.pci_bus_id: 2}
    assert second.nvlink_peers == (first.uuid, cut.uuid)
    assert second.levels == {first.uuid: 50, third.uuid: 50, cut.uuid: 10}
    assert cut.mig
    assert [(part.profile, part.memory_bytes) for part in cut.mig_devices] == [
        ("1g.10gb", 4864 << 20),
        ("2g.20gb", 4864 << 20),
    ]
    assert cut.mig_devices[0].uuid.startswith("MIG-")


def test_a_lost_gpu_is_told_and_the_others_are_read(read: dict[str, Hardware]) -> None:
    """It is counted, and is no GPU that is not there."""
    found = read["lost"]
    assert len(found.gpus) == 1
    assert [each.index for each in found.unread] == [1]
    assert found.incomplete


@pytest.mark.parametrize(
    ("scenario", "reason"),
    [("not loaded", "not loaded"), ("hang", "nvmlDeviceGetCount_v2 did not return"), ("crash", "UUID")],
)
def test_what_cannot_be_read_is_said(read: dict[str, Hardware], scenario: str, reason: str) -> None:
    """Never as "no GPUs": the reason and what to do come instead."""
    found = read[scenario]
    assert not found.readable
    assert reason in (found.unavailable or "")
    assert found.remedy


def test_an_older_driver_leaves_gaps_only(read: dict[str, Hardware]) -> None:
    """A call that it does not have costs its own answer and no other."""
    (gpu,) = read["old"].gpus
    assert (gpu.mig, gpu.pci_bus_id, gpu.name) == (None, None, "NVIDIA L4")


def test_without_a_library_there_is_an_answer() -> None:
    """On a host that has no driver."""
    found = msgspec.convert(read_hardware(seconds=5.0), Hardware)
    assert found.unavailable is None or "missing" in found.unavailable


def _files(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_nodes_cores_and_memory_come_from_the_kernels_files(tmp_path: Path) -> None:
    """Threads of a core stay together; a node without CPUs is one; GPUs know their node."""
    system = "sys/devices/system"
    _files(
        tmp_path,
        {
            f"{system}/node/node0/cpulist": "0-1,4-5",
            f"{system}/node/node0/meminfo": "Node 0 MemTotal:       1024 kB\n",
            f"{system}/node/node1/cpulist": "2-3,6-7",
            f"{system}/node/node10/cpulist": "",
            "proc/meminfo": "MemTotal:        4096 kB\nMemFree: 1 kB\n",
            "sys/bus/pci/devices/0000:01:00.0/numa_node": "1",
            **{
                f"{system}/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 4},{cpu % 4 + 4}"
                for cpu in range(8)
            },
        },
    )
    gpu: dict[str, Any] = {"uuid": "GPU-1", "pci_bus_id": "0000:01:00.0"}
    lonely: dict[str, Any] = {"uuid": "GPU-2", "pci_bus_id": "0000:02:00.0"}
    answer = {"gpus": [gpu, lonely], "unread": []}
    found = msgspec.convert(read_hardware(root=str(tmp_path), ask=lambda _: answer), Hardware)
    assert [(node.id, node.cores) for node in found.numa] == [
        (0, ((0, 4), (1, 5))),
        (1, ((2, 6), (3, 7))),
        (10, ()),
    ]
    assert (found.memory_bytes, found.numa[0].memory_bytes) == (4096 << 10, 1024 << 10)
    assert [each.numa_node for each in found.gpus] == [1, None]


# -- the command -----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path, read: dict[str, Hardware]) -> Path:
    """Hardware in a file, and a host.json beside it."""
    host_json(
        tmp_path, url="https://github.com/acme", slots=[{"name": "main"}], github_runner_gpus_per_slot=1
    )
    path = tmp_path / "hardware.json"
    path.write_bytes(msgspec.json.encode(read["four"]))
    return path


def test_plan_shows_who_gets_what(tmp_path: Path, saved: Path) -> None:
    """In 80 columns; as JSON it can be given to --from again, with the same answer."""
    shown = call("slots", "plan", "--rootfs", str(tmp_path), "--from", str(saved))
    assert shown.code == 0, shown.err
    assert max(map(len, shown.out.splitlines())) <= 80
    assert "gpu2  2    " in shown.out
    assert "gpu-model-h100-80gb-hbm3" in shown.out
    assert "gpu-count-1" in shown.out
    answer = call("slots", "plan", "--rootfs", str(tmp_path), "--from", str(saved), "-o", "json")
    assert [slot["name"] for slot in answer.json["slots"]] == ["gpu0", "gpu1", "gpu2"]
    assert answer.json["slots"][0]["changes"] == ["new"]
    again = tmp_path / "answer.json"
    again.write_text(answer.out)
    assert (
        call("slots", "plan", "--rootfs", str(tmp_path), "--from", str(again), "-o", "json").out == answer.out
    )


def test_plan_of_pairs_follows_nvlink(tmp_path: Path, saved: Path) -> None:
    """GPU 0 and 2 have the links; the one in MIG mode is nobody's."""
    options = ("--rootfs", str(tmp_path), "--from", str(saved), "--gpus-per-slot", "2", "-o", "json")
    answer = call("slots", "plan", *options).json
    uuids = [gpu["uuid"] for gpu in answer["hardware"]["gpus"]]
    assert [slot["gpus"] for slot in answer["slots"]] == [[uuids[0], uuids[2]]]
    assert "1 GPU stays without a slot" in answer["notes"][0]


def test_a_plan_that_cannot_be_is_refused_with_what_was_found(tmp_path: Path, saved: Path) -> None:
    """Exit code 78, a line for each reason, and the GPUs."""
    ran = call("slots", "plan", "--rootfs", str(tmp_path), "--from", str(saved), "--gpus-per-slot", "4")
    assert ran.code == 78
    assert "github_runner_gpus_per_slot: is 4, and 3 GPUs of this host are free" in ran.err
    assert "in MIG mode" in ran.err
    assert "0    -     H100 80GB HBM3" in ran.out


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--from", "/nowhere"), 64),
        (("--gpus-per-slot", "many"), 64),
        (("--limit", "x"), 64),
        (("--rootfs", "/nowhere"), 78),
    ],
)
def test_bad_calls_end_with_one_line(tmp_path: Path, options: tuple[str, ...], code: int) -> None:
    """What is wrong, and what to do."""
    host_json(tmp_path, url="https://github.com/acme", slots=[])
    ran = call("slots", "plan", *(() if "--rootfs" in options else ("--rootfs", str(tmp_path))), *options)
    assert ran.code == code, ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_file_that_is_no_hardware_is_refused(tmp_path: Path, saved: Path) -> None:
    """Broken JSON, and JSON of something else."""
    for text in ("{", "[]", '{"gpus": 3}'):
        saved.write_text(text)
        ran = call("slots", "plan", "--rootfs", str(tmp_path), "--from", str(saved))
        assert ran.code == 65, ran.err


def test_only_root_applies(tmp_path: Path) -> None:
    """As every command that changes slots."""
    assert call("slots", "apply", root=tmp_path, user_id=1000).code == 77


class _Jobs(System):
    """A host on which one unit runs a job."""

    def main_pid(self, unit: str) -> int:
        return 7 if unit == "gha-runner@old.service" else 0

    def busy(self, unit: str) -> bool:
        return unit == "gha-runner@old.service"


def test_a_slot_waits_for_a_gpu_that_a_job_still_has(tmp_path: Path) -> None:
    """What counts is what the running listener was started with, not what its unit's files say now."""
    _files(tmp_path, {"proc/7/environ": "A=1\0NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2\0"})
    layout, url = Layout(tmp_path), "https://github.com/acme"
    new = SlotSpec("new", runner_name="h-new", url=url, version="1", gpus=("GPU-2",))
    assert "GPU-2 is still in use by a job of slot old" in (waits_for(new, layout, _Jobs(), ["old"]) or "")
    assert waits_for(new, layout, _Jobs(), ["idle"]) is None
    other = SlotSpec("new", runner_name="h-new", url=url, version="1", gpus=("GPU-3",))
    assert waits_for(other, layout, _Jobs(), ["old"]) is None


def test_no_start_takes_a_gpu_that_a_job_still_has(tmp_path: Path) -> None:
    """Whoever starts the slot. Slots whose files are as they run, and claim another GPU, are not asked."""
    _files(tmp_path, {"proc/7/environ": "A=1\0NVIDIA_VISIBLE_DEVICES=GPU-1,GPU-2\0"})
    _files(tmp_path, {f"var/lib/runnerctl/slots/{name}.json": "{}" for name in ("new", "old", "other")})
    layout = Layout(tmp_path)
    refuse_shared("new", ["GPU-2"], layout, _Jobs())  # nothing says that its unit changed
    _files(tmp_path, {"var/lib/runnerctl/pending/old": ""})
    refuse_shared("new", ["GPU-3"], layout, _Jobs())
    refuse_shared("new", [], layout, _Jobs())
    with pytest.raises(HostError, match="GPU-2 is still in use by a job of slot old"):
        refuse_shared("new", ["GPU-2"], layout, _Jobs())
    (tmp_path / "var/lib/runnerctl/pending/old").unlink()
    _files(tmp_path, {"etc/systemd/system/gha-runner@old.service.d/10-slot.conf": "X=GPU-1,GPU-2\n"})
    with pytest.raises(HostError, match="still in use"):  # one that goes, and still claims it
        refuse_shared("new", ["GPU-2"], layout, _Jobs())
