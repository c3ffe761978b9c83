"""UUIDs to device nodes, and a unit's rules held against them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.core.device_nodes import (
    DeviceTable,
    Differences,
    Node,
    Place,
    compare,
    parse_majors,
    parse_mig_minors,
    parse_rules,
    places_of,
    resolve,
)
from runnerctl.core.gpu_readings import Gpu, MigDevice
from runnerctl.errors import UnavailableError
from runnerctl.probes import device_nodes

PROC_DEVICES = """Character devices:
  1 mem
195 nvidia
195 nvidiactl
234 nvidia-caps
511 nvidia-uvm

Block devices:
  7 loop
"""
MIG_MINORS = """config 1
monitor 2
gpu1/gi1/access 12
gpu1/gi1/ci0/access 13
gpu1/gi2/access 21
gpu1/gi2/ci0/access 22
"""
TABLE = DeviceTable(majors=parse_majors(PROC_DEVICES), mig_minors=parse_mig_minors(MIG_MINORS))
PLACES = {
    "GPU-a": Place(0),
    "GPU-b": Place(1),
    "GPU-c": Place(2),
    "MIG-1": Place(1, 1, 0),
    "MIG-2": Place(1, 2, 0),
    "MIG-3": Place(1, 7, 0),
}
SHARED = ["/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidiactl"]


def paths(*claims: str, table: DeviceTable = TABLE) -> list[str]:
    """The nodes of a slot with these GPUs."""
    return sorted(node.path for node in resolve(claims, PLACES, table=table))


def test_a_slot_has_its_gpus_and_what_all_share_and_nothing_else() -> None:
    """The number in the node's name is the minor, not the place in any list; letters' case does not count."""
    assert paths("GPU-c") == [*SHARED[:2], "/dev/nvidia2", "/dev/nvidiactl"]
    assert paths("gpu-A", "GPU-c")[2:4] == ["/dev/nvidia0", "/dev/nvidia2"]
    assert paths() == []
    assert "/dev/nvidia-uvm" not in paths("GPU-a", table=DeviceTable())


def test_a_mig_device_is_its_gpu_and_the_capabilities_of_its_two_instances() -> None:
    """Not those of its neighbours on the same GPU."""
    assert [path for path in paths("MIG-2") if "caps" in path] == [
        "/dev/nvidia-caps/nvidia-cap21",
        "/dev/nvidia-caps/nvidia-cap22",
    ]
    assert "/dev/nvidia1" in paths("MIG-2")
    assert len([path for path in paths("GPU-b") if "caps" in path]) == 4, "a whole GPU has all of its own"


@pytest.mark.parametrize(
    ("claim", "said"),
    [("GPU-d", r"not on this host \(there: GPU-a, GPU-b, GPU-c\)"), ("MIG-3", "gpu1/gi7/access")],
)
def test_what_cannot_be_found_is_refused_with_what_is_there(claim: str, said: str) -> None:
    """A slot must not start with less than it claims."""
    with pytest.raises(UnavailableError, match=said):
        resolve([claim], PLACES, table=TABLE)


def test_places_come_from_nvml_and_a_gpu_without_a_minor_is_left_out() -> None:
    """One that fails keeps the slot that claims it from starting, and no other."""
    mig = MigDevice(uuid="MIG-1", gpu_instance=1, compute_instance=0)
    gpus = (Gpu(index=0, uuid="GPU-b", minor=1, mig_devices=(mig,)), Gpu(index=1, uuid="GPU-x"))
    assert places_of(gpus) == {"GPU-b": Place(1), "MIG-1": Place(1, 1, 0)}


ALLOW = ["char-rtc r", "/dev/char/195:2 rw", "/dev/nvidiactl rw", "/dev/char/511:0 rw", "/dev/char/511:1 rwm"]


@pytest.mark.parametrize(
    ("allow", "expected"),
    [
        (ALLOW, Differences()),
        (ALLOW[:3], Differences(missing=("/dev/nvidia-uvm", "/dev/nvidia-uvm-tools"))),
        ([*ALLOW, "/dev/char/195:1 rw"], Differences(foreign=("/dev/char/195:1",))),
        ([*ALLOW, "/dev/nvidia0 r"], Differences(foreign=("/dev/nvidia0",))),
        ([*ALLOW, "char-nvidia rw"], Differences(foreign=("char-nvidia",))),
        ([*ALLOW, "char-nvidia-frontend rw"], Differences(foreign=("char-nvidia-frontend",))),
        ([*ALLOW, "char-* rw"], Differences(foreign=("char-*",))),
        ([*ALLOW, "/dev/char/234:12 r"], Differences(foreign=("/dev/char/234:12",))),
        ([*ALLOW, "/dev/kvm rw"], Differences(other=("/dev/kvm",))),
        ([*ALLOW[:1], "/dev/char/195:2 r", *ALLOW[2:]], Differences(missing=("/dev/nvidia2",))),
    ],
)
def test_a_units_rules_are_held_against_the_nodes(allow: list[str], expected: Differences) -> None:
    """However systemd names them: by number, by path, or by the name of a driver, which opens every GPU."""
    assert compare(allow, resolve(["GPU-c"], PLACES, table=TABLE), table=TABLE) == expected


def test_the_rules_of_a_unit_are_what_systemctl_prints_and_its_drop_in_claims() -> None:
    """DeviceAllow stands there once for each entry; -1 is no GPU."""
    shown = "DevicePolicy=closed\nDeviceAllow=char-rtc r\nDeviceAllow=/dev/char/195:0 rw\nPrivateTmp=yes\n"
    text = "[Service]\nEnvironment=CUDA_VISIBLE_DEVICES=GPU-a,MIG-1\n"
    rules = parse_rules(shown, text, settings=("PrivateTmp", "NotKnown"))
    assert rules.policy == "closed"
    assert rules.allow == ("char-rtc r", "/dev/char/195:0 rw")
    assert rules.gpus == ("GPU-a", "MIG-1")
    assert rules.settings == {"PrivateTmp": "yes"}
    assert parse_rules("DeviceAllow=\n", "Environment=CUDA_VISIBLE_DEVICES=-1\n").gpus == ()


def test_a_driver_that_is_on_its_way_is_waited_for_in_the_first_minute_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After that a GPU that is not there is not there."""
    first = UnavailableError("not yet")
    answers: Iterator[dict[str, Place] | UnavailableError]
    answers = iter([first, {"GPU-x": Place(1)}, {"GPU-a": Place(0)}])

    def find(_claims: object, *, rootfs: Path) -> dict[str, Place]:
        del rootfs
        answer = next(answers)
        if isinstance(answer, UnavailableError):
            raise answer
        return answer

    monkeypatch.setattr(device_nodes, "find_places", find)
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/uptime").write_text("12.5 20.0\n")
    slept: list[float] = []
    found = device_nodes.wait_for_places(["GPU-a"], rootfs=tmp_path, sleep=slept.append)
    assert (found, len(slept)) == ({"GPU-a": Place(0)}, 2)
    answers = iter([UnavailableError("not yet")])
    (tmp_path / "proc/uptime").write_text("90.0 20.0\n")
    with pytest.raises(UnavailableError, match="not yet"):
        device_nodes.wait_for_places(["GPU-a"], rootfs=tmp_path, sleep=slept.append)


def test_what_nvml_said_is_kept_while_the_driver_stays_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked once for each load of the driver; never kept where one load looks like another."""
    asked: list[int] = []

    def ask(_rootfs: Path, _seconds: float) -> dict[str, Place]:
        asked.append(1)
        return {"GPU-a": Place(len(asked))}

    monkeypatch.setattr(device_nodes, "_ask", ask)
    for _ in range(2):
        device_nodes.find_places(["GPU-a"], rootfs=tmp_path)
    assert len(asked) == 2, "no module: a container, whose driver may be another one at any time"
    (tmp_path / "sys/module/nvidia").mkdir(parents=True)
    for _ in range(3):
        found = device_nodes.find_places(["GPU-a"], rootfs=tmp_path)
    assert (found, len(asked)) == ({"GPU-a": Place(3)}, 3)
    device_nodes.find_places(["GPU-b"], rootfs=tmp_path)
    assert len(asked) == 4, "a UUID that was not there may be there now"
    (tmp_path / "sys/module/nvidia").rename(tmp_path / "sys/module/old")
    (tmp_path / "sys/module/nvidia").mkdir()
    device_nodes.find_places(["GPU-a"], rootfs=tmp_path)
    assert len(asked) == 5, "the driver was loaded again"
    (tmp_path / device_nodes.CACHE.lstrip("/")).write_text("{")
    device_nodes.find_places(["GPU-a"], rootfs=tmp_path)
    assert len(asked) == 6, "a file that was cut off is no answer"


def test_a_node_is_allowed_by_number() -> None:
    """So the rule holds before the node is made, and whatever is made in its place."""
    assert Node(195, 3, "/dev/nvidia3").allow == "/dev/char/195:3"
