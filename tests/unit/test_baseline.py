"""The baseline: what is saved, how it is kept, and that each thing saved is compared."""

from __future__ import annotations

import os
import stat
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from runnerctl.core.baseline import baseline_of, decode, differences, encode
from runnerctl.core.driver_readings import BaselineGpu
from runnerctl.core.gpu_readings import EccCounts, Gpu, MigDevice, NvLink, NvmlFailure, RemappedRows
from runnerctl.core.snapshot import Snapshot, Unavailable
from runnerctl.core.snapshot import decode as decode_snapshot
from runnerctl.errors import DataError, UnavailableError
from runnerctl.probes.baseline import BASELINE_FILE, read_baseline, write_baseline

HEALTHY = Path(__file__).parent / "cases" / "healthy.json"
GPU = Gpu(
    index=0,
    uuid="GPU-1",
    name="NVIDIA H100",
    pci_bus_id="00000000:01:00.0",
    vbios="96.00",
    pcie_generation_max=5,
    pcie_width=16,
    power_limit_watts=700.0,
    ecc=True,
    mig_current=0,
    nvlinks=(NvLink(0, True), NvLink(1, True)),
    compute_mode=0,
    ecc_counts=EccCounts(aggregate_uncorrected=0),
    remapped_rows=RemappedRows(0, 0, pending=False, failure=False),
    clock_application_mhz=1980,
)
# One change for every field that a baseline keeps; the name may change with a driver.
CHANGES: dict[str, dict[str, Any]] = {
    "uuid": {"uuid": "GPU-2"},
    "pci_bus_id": {"pci_bus_id": "00000000:02:00.0"},
    "vbios": {"vbios": "96.01"},
    "pcie_generation_max": {"pcie_generation_max": 4},
    "pcie_width": {"pcie_width": 8},
    "power_limit_watts": {"power_limit_watts": 500.0},
    "ecc": {"ecc": False},
    "mig_current": {"mig_current": 1},
    "mig_profiles": {"mig_devices": (MigDevice("MIG-1", "1g.10gb"),)},
    "nvlinks_active": {"nvlinks": (NvLink(0, True), NvLink(1, False))},
    "compute_mode": {"compute_mode": 3},
    "aggregate_uncorrected": {"ecc_counts": EccCounts(aggregate_uncorrected=1)},
    "remapped_uncorrected": {"remapped_rows": RemappedRows(0, 1, pending=False, failure=False)},
    "clock_application_mhz": {"clock_application_mhz": 900},
}


def snapshot(*gpus: Gpu, **nvml: Any) -> Snapshot:
    """The healthy host with these GPUs."""
    healthy = decode_snapshot(HEALTHY.read_bytes())
    return replace(healthy, nvml=replace(healthy.nvml, gpus=gpus, **nvml))


def test_a_gpu_does_not_differ_from_its_own_baseline() -> None:
    """Saved, kept, read back, compared: nothing."""
    saved = decode(encode(baseline_of(snapshot(GPU))), where="here")
    assert saved == baseline_of(snapshot(GPU))
    assert saved.saved_at == datetime(2026, 11, 22, 9, tzinfo=timezone.utc)
    assert differences(saved, (GPU,), driver_version=saved.driver_version) == ()


def test_every_field_that_is_saved_is_compared() -> None:
    """A field that nobody compares would be kept for nothing."""
    saved = baseline_of(snapshot(GPU))
    assert set(CHANGES) == set(BaselineGpu.__struct_fields__) - {"name"}
    for field, change in CHANGES.items():
        assert differences(saved, (replace(GPU, **change),)), field


def test_what_a_side_does_not_know_is_no_difference() -> None:
    """An older driver, an older baseline, a GPU that does not support it."""
    bare = Gpu(index=0, uuid="GPU-1")
    assert differences(baseline_of(snapshot(GPU)), (bare,)) == ()
    assert differences(baseline_of(snapshot(bare)), (GPU,)) == ()


def test_uuids_are_compared_without_case() -> None:
    """People type them into inventories, and drivers print them."""
    assert differences(baseline_of(snapshot(GPU)), (replace(GPU, uuid="gpu-1"),)) == ()


def test_links_are_not_counted_while_mig_is_on() -> None:
    """They are off then, and would look lost, or save a 0 that hides a loss later."""
    sliced = replace(GPU, mig_current=1, nvlinks=(NvLink(0, False), NvLink(1, False)))
    assert baseline_of(snapshot(sliced)).gpus[0].nvlinks_active is None


@pytest.mark.parametrize(
    ("gpus", "words"),
    [
        ((), "no GPU"),
        (
            (GPU, Gpu(index=1, failure=NvmlFailure("gpu_lost", "f", "GPU 1 is lost", 15, 1))),
            "GPU 1: does not answer",
        ),
        ((Gpu(index=0, failure=NvmlFailure("no_permission", "f", "not ours", 4, 0)),), "outside a slot"),
        ((Gpu(index=0),), "no UUID"),
    ],
)
def test_nothing_is_saved_of_a_host_that_does_not_answer(gpus: tuple[Gpu, ...], words: str) -> None:
    """A baseline without the GPU that is lost would call its loss normal."""
    with pytest.raises(UnavailableError, match=words):
        baseline_of(snapshot(*gpus))


def test_nothing_is_saved_without_a_driver() -> None:
    """NVML failed as a whole, or did not answer at all."""
    failed = NvmlFailure("mismatch", "nvmlInit", "library and module differ", 18)
    with pytest.raises(UnavailableError, match="differ"):
        baseline_of(snapshot(failure=failed))
    with pytest.raises(UnavailableError, match="did not return"):
        baseline_of(replace(snapshot(), nvml=Unavailable("nvmlInit did not return", kind="timeout")))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"[]", "is damaged"),
        (b'{"gpus": []}', "has schema 'None'"),
        (b'{"schema": "runnerctl.baseline/2"}', "runnerctl.baseline/2"),
        (b'{"schema": "runnerctl.baseline/1"}', "saved_at"),
        (
            b'{"schema": "runnerctl.baseline/1", "saved_at": "2026-11-22T09:00:00Z", "gpus": [{}]}',
            "uuid",
        ),
    ],
)
def test_a_damaged_baseline_is_one_line_with_a_remedy(content: bytes, words: str, tmp_path: Path) -> None:
    """Cut off, of another schema, or edited by hand; as an error and as a reading."""
    with pytest.raises(DataError, match=words) as caught:
        decode(content, where="here")
    assert "\n" not in str(caught.value)
    assert "save --force" in caught.value.remedy
    path = tmp_path / BASELINE_FILE.lstrip("/")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    found = read_baseline(tmp_path)
    assert isinstance(found, Unavailable)
    assert words in found.reason and str(path) in found.reason and found.remedy


def test_unknown_fields_of_a_newer_runnerctl_are_ignored() -> None:
    """Adding a field is no new schema."""
    tree = msgspec.json.decode(encode(baseline_of(snapshot(GPU))))
    tree["gpus"][0]["colour"] = "green"
    assert decode(msgspec.json.encode(tree), where="here") == baseline_of(snapshot(GPU))


def test_a_host_without_a_baseline(tmp_path: Path) -> None:
    """None is not a fault."""
    assert read_baseline(tmp_path) is None


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    """A link to a device, or a log put there by mistake."""
    path = tmp_path / BASELINE_FILE.lstrip("/")
    path.parent.mkdir(parents=True)
    path.symlink_to("/dev/zero")
    found = read_baseline(tmp_path)
    assert isinstance(found, Unavailable)
    assert "no regular file" in found.reason
    path.unlink()
    with path.open("wb") as file:
        file.truncate(1 << 40)  # takes no space, and more memory than there is
    found = read_baseline(tmp_path)
    assert isinstance(found, Unavailable)
    assert "too large" in found.reason


def test_it_is_written_whole_and_readable(tmp_path: Path) -> None:
    """Mode 0644 whatever the umask; the folder is made; the old content is replaced; nothing else is left."""
    path = tmp_path / "state" / "baseline.json"
    before = os.umask(0o077)
    try:
        write_baseline(path, b"one")
        write_baseline(path, b"two")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert os.listdir(path.parent) == ["baseline.json"]


def test_a_write_that_fails_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk, or a machine that stops."""
    path = tmp_path / "baseline.json"
    write_baseline(path, b"old")

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_baseline(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["baseline.json"]
