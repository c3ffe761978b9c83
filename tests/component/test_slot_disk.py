"""A slot's disk: made, grown, refused, taken away; what root keeps in the slot's root stays."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import slot_disk
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_disk import SlotDisk
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_files import Layout, SlotSpec
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import System

MIB = 2**20
pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(
        os.geteuid() != 0 or not os.path.exists("/dev/loop0"), reason="mounting an image needs root and loops"
    ),
]


class Host(System):
    """A host without a systemd of its own: starting a mount unit mounts."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout

    def systemctl(self, *words: str, seconds: float = 60.0) -> None:
        """What the mount unit does when it starts."""
        del seconds
        if words[0] == "start":
            image = self.layout.path(f"{slot_disk.DISKS}/t.img")
            subprocess.run(["mount", "-o", "loop", image, self.layout.slot_root("t")], check=True)

    def kill_all_of(self, user: str, *, seconds: float = 10.0) -> int:
        """There is no such user here."""
        del user, seconds
        return 0


class Disk:
    """A slot's disk and what was done to it."""

    def __init__(self, root: Path, *, check: bool = False) -> None:
        self.layout = Layout(root)
        self.root = self.layout.slot_root("t")
        self.actions: list[str] = []
        self.waiting: list[str] = []
        self.check = check
        self.disk = SlotDisk(self.layout, Host(self.layout), "t", self.act, self.waiting.append)

    def act(self, action: str, do: Callable[[], object]) -> None:
        """As a converge does it."""
        self.actions.append(action)
        if not self.check:
            do()

    def converge(self, mib: int | None, *, busy: bool = False) -> list[str]:
        """Converge; what was done."""
        self.actions.clear()
        size = None if mib is None else mib * MIB
        self.disk.converge(SlotSpec("t", "h-t", "u", "1", disk_bytes=size), running=False, busy=busy)
        return list(self.actions)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A slot that is registered, with a job's files."""
    made = Disk(tmp_path)
    (made.root / "_work").mkdir(parents=True)
    (made.root / "_work/file").write_text("x")
    (made.root / ".runner").write_text("registration")
    os.chown(made.root / ".runner", 0, 61234)
    (made.root / ".runner").chmod(0o640)
    yield made
    while os.path.ismount(made.root):
        subprocess.run(["umount", made.root], check=True)


def test_a_disk_is_made_grows_and_goes(disk: Disk) -> None:
    """The registration stays all the way; the second run changes nothing; check mode writes nothing."""
    predicted = Disk(disk.layout.root, check=True).converge(64)
    assert not disk.layout.path(slot_disk.DISKS).exists()
    assert disk.converge(64) == predicted
    assert os.path.ismount(disk.root)
    assert disk.converge(64) == []
    assert (disk.root / ".runner").read_text() == "registration"
    status = (disk.root / ".runner").stat()
    assert (status.st_gid, status.st_mode & 0o777) == (61234, 0o640)
    assert (disk.root / "tmp").stat().st_mode & 0o7777 == 0o1777
    total = os.statvfs(disk.root).f_blocks
    assert disk.converge(128)[0] == "disk of slot t grows to 0.1 GiB"
    assert os.statvfs(disk.root).f_blocks > 1.8 * total
    assert disk.converge(None) == ["slot t has no disk of its own any more"]
    assert not os.path.ismount(disk.root)
    assert (disk.root / ".runner").read_text() == "registration"
    assert not disk.layout.path(f"{slot_disk.DISKS}/t.img").exists()
    assert disk.converge(None) == []


def test_a_disk_is_full_for_the_job_alone_and_shrinks_no_further_than_its_use(disk: Disk) -> None:
    """ENOSPC on the disk; a smaller one is refused while it is in use, and made when there is room."""
    disk.converge(64)
    with pytest.raises(OSError, match="No space left"), (disk.root / "big").open("wb", buffering=0) as file:
        for _ in range(80):
            file.write(b"x" * MIB)
    with pytest.raises(HostError, match=r"are in use; run `runnerctl clean t`"):
        disk.converge(32)
    (disk.root / "big").unlink()
    assert disk.converge(32, busy=True) == []
    assert disk.waiting == ["t: it runs a job, and its disk changes with a later run"]
    disk.converge(32)
    assert os.path.ismount(disk.root)
    assert disk.layout.path(f"{slot_disk.DISKS}/t.img").stat().st_size == 32 * MIB
    assert (disk.root / ".runner").read_text() == "registration"


def test_a_disk_larger_than_the_host_is_refused(disk: Disk) -> None:
    """Before anything is made."""
    with pytest.raises(HostError, match="more than the host"):
        disk.converge(2**30)
    assert disk.actions == []
