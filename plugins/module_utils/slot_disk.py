"""A file system of limited size for all that a slot's jobs can write. Standard library only.

The slot's root is the mount point of an image file of that size, sparse, ext4, without set-user-ID files and
device nodes: work, home, logs, trash and, by a drop-in, /tmp and /var/tmp are on it, so a job that fills its
disk fills nobody else's. An image works on every file system and needs no mount option of the host's, which a
quota does. Root has a reserve on it, so that a full one can be cleaned up.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .atomic import atomic_write, sync_directory
from .errors import HostError
from .process import Result
from .slot_files import MANAGED, MODES, Layout, SlotSpec, unit_name
from .slot_system import System, remove_tree, run

__all__ = ["DISKS", "SlotDisk", "disk_drop_in_text", "mount_unit", "mount_unit_text"]

DISKS = "/var/lib/runnerctl/disks"
STOP_SECONDS = 360.0  # above the unit's TimeoutStopSec
MAKE_SECONDS = 600.0
UNMOUNT_SECONDS = 10.0
GIB = 2**30
_TEMPORARY = ("tmp", "var-tmp")
_WHOLE = 0.8  # less than this of an image is no whole file system of it
_SPARE = 0.05  # what ext4 itself needs of an image
# Made anew by whoever needs it: not taken along when a slot moves onto its disk or off it.
_NOT_MOVED = ("_work", "_diag", "home", "bin", "externals", ".trash", "lost+found", *_TEMPORARY)

_MOUNT = """\
{managed}
[Unit]
Description=Disk of slot {slot}

[Mount]
What={image}
Where={root}
Type=ext4
Options=loop,nosuid,nodev,noatime,discard
TimeoutSec=60

[Install]
WantedBy=multi-user.target
"""

_DROP_IN = """\
{managed}
[Unit]
RequiresMountsFor={root}

[Service]
PrivateTmp=no
BindPaths={root}/tmp:/tmp {root}/var-tmp:/var/tmp
"""


def mount_unit(slot: str) -> str:
    """The systemd unit that mounts a slot's disk: its name is the path (systemd.unit, string escaping)."""
    return f"var-lib-gha\\x2drunner-{slot.replace('-', chr(92) + 'x2d')}.mount"


def mount_unit_text(slot: str) -> str:
    """The mount unit. What it mounts is root's alone."""
    root, image = f"/var/lib/gha-runner/{slot}", f"{DISKS}/{slot}.img"
    return _MOUNT.format(managed=MANAGED, slot=slot, root=root, image=image)


def disk_drop_in_text(slot: str) -> str:
    """What a unit that runs the slot's jobs needs: the disk, and /tmp and /var/tmp on it."""
    return _DROP_IN.format(managed=MANAGED, root=f"/var/lib/gha-runner/{slot}")


@dataclass(frozen=True)
class SlotDisk:
    """The disk of one slot. ``act`` does or predicts a step, ``wait`` tells what has to wait for a job."""

    layout: Layout
    system: System
    slot: str
    act: Callable[..., None]
    wait: Callable[[str], None]

    def converge(self, slot: SlotSpec, *, running: bool, busy: bool) -> bool:
        """Give the slot a disk of ``slot.disk_bytes``, or none; whether systemd must read its units again.

        An idle listener is stopped where its root has to change; behind a job that waits for a later run.
        Raises HostError.
        """
        wanted, size = slot.disk_bytes, self._size()
        if wanted is None and size is None:
            return False
        if wanted is not None and size == wanted:
            if self._cut_short(wanted):
                self.act(
                    f"disk of slot {self.slot} grows to {_gib(wanted)}",
                    partial(self._grow, wanted, running, busy),
                )
            return self._present(running=running, busy=busy)
        if wanted is not None and size is not None and wanted > size:
            self._refuse_larger_than_host(wanted)
            self.act(
                f"disk of slot {self.slot} grows to {_gib(wanted)}",
                partial(self._grow, wanted, running, busy),
            )
            return self._present(running=running, busy=busy)
        if busy:
            self.wait(f"{self.slot}: it runs a job, and its disk changes with a later run")
            return False
        if wanted is None:
            self.act(f"slot {self.slot} has no disk of its own any more", partial(self._dissolve, running))
            return True
        if size is not None:
            self._refuse_smaller_than_use(wanted)
            self.act(
                f"disk of slot {self.slot} shrinks to {_gib(wanted)}", partial(self._shrink, wanted, running)
            )
            return self._present(running=False, busy=False)
        self._refuse_larger_than_host(wanted)
        self.act(f"disk of slot {self.slot}: {_gib(wanted)}", partial(self._make, wanted, running))
        return self._present(running=False, busy=False)

    def remove(self) -> None:
        """Unmount and delete the disk of a slot that goes; nothing of it runs. Raises HostError."""
        self._unmount()
        for path in [*self._links(), *self._texts()]:
            path.unlink(missing_ok=True)
        self._image.unlink(missing_ok=True)  # last: until then there is a disk

    # -- what is there

    @property
    def _root(self) -> Path:
        return self.layout.slot_root(self.slot)

    @property
    def _image(self) -> Path:
        return self.layout.path(f"{DISKS}/{self.slot}.img")

    def _size(self) -> int | None:
        try:
            return self._image.stat().st_size
        except FileNotFoundError:
            return None

    def _mounted(self) -> bool:
        return self._root.is_dir() and os.path.ismount(self._root)

    def _cut_short(self, size: int) -> bool:
        """Whether an earlier run was killed between growing the image and the file system on it."""
        if not self._mounted():
            return False
        status = os.statvfs(self._root)
        return status.f_blocks * status.f_frsize < size * _WHOLE

    def _texts(self) -> dict[Path, str]:
        units = [unit_name(self.slot, mode) for mode in MODES] + [f"gha-containers@{self.slot}.service"]
        drop_ins = {
            self.layout.units / f"{unit}.d" / "20-disk.conf": disk_drop_in_text(self.slot) for unit in units
        }
        return {self.layout.units / mount_unit(self.slot): mount_unit_text(self.slot), **drop_ins}

    def _units(self) -> list[str]:
        """Every unit whose processes may write to the disk."""
        return [*(unit_name(self.slot, mode) for mode in MODES), f"gha-containers@{self.slot}.service"]

    def _links(self) -> list[Path]:
        return [self.layout.units / "multi-user.target.wants" / mount_unit(self.slot)]

    # -- what is done

    def _present(self, *, running: bool, busy: bool) -> bool:
        """Units that mount an image that is there, the mount itself, and its directories."""
        changed = False
        for path, text in self._texts().items():
            if not path.is_file() or path.read_text() != text:
                self.act(f"{path.name} of slot {self.slot}", partial(_write, path, text))
                changed = True
        for link in self._links():
            if not link.is_symlink():
                self.act(f"enable {link.name}", partial(_link, link))
                changed = True
        if not self._mounted() and busy:
            self.wait(f"{self.slot}: it runs a job, and its disk is mounted by a later run")
        elif not self._mounted():
            self.act(f"mount the disk of slot {self.slot}", partial(self._mount, running))
        return changed

    def _make(self, size: int, running: bool) -> None:
        """The image is whole before it gets its name: a killed run leaves nothing that counts."""
        if shutil.which("mkfs.ext4") is None:
            remedy = "add e2fsprogs to github_runner_packages"
            raise HostError("mkfs.ext4 is missing", where=f"disk of slot {self.slot}", remedy=remedy)
        self._stop(running)
        part, place = self._image.with_suffix(".part"), self.layout.path(f"/run/runnerctl/disk-{self.slot}")
        part.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        place.mkdir(parents=True, exist_ok=True)
        _unmount(place)
        part.unlink(missing_ok=True)
        with open(part, "xb", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.truncate(size)
        self._run(["mkfs.ext4", "-q", "-F", "-m", "1", str(part)])
        self._run(["mount", "-o", "loop,nosuid,nodev", "--", str(part), str(place)])
        try:
            if self._root.is_dir():
                shutil.copystat(self._root, place)
                os.chown(place, self._root.stat().st_uid, self._root.stat().st_gid)
                _copy(self._root, place)
        finally:
            _unmount(place)
        place.rmdir()
        os.rename(part, self._image)
        sync_directory(str(self._image.parent))

    def _mount(self, running: bool) -> None:
        self._stop(running)
        if self._root.is_dir():  # what stands below the mount point is on the image already
            for name in os.listdir(self._root):
                remove_tree(self._root / name)
        self._root.mkdir(parents=True, exist_ok=True)
        self.system.systemctl("daemon-reload")
        self.system.systemctl("start", mount_unit(self.slot))
        for name in _TEMPORARY:
            path = self._root / name
            path.mkdir(exist_ok=True)
            path.chmod(0o1777)

    def _grow(self, size: int, running: bool, busy: bool) -> None:
        """Where it is mounted, under a job too; where the kernel refuses that, when the slot is idle."""
        os.truncate(self._image, size)
        try:
            for device in self._devices() if self._mounted() else ():
                self._run(["losetup", "--set-capacity", device])
                self._run(["resize2fs", device])
                return
        except HostError:
            if busy:
                self.wait(f"{self.slot}: it runs a job, and its disk grows with a later run")
                return
            self._stop(running)
            self._unmount()
        self._resize()

    def _shrink(self, size: int, running: bool) -> None:
        """The file system first, then the file below it: a kill in between loses nothing."""
        self._stop(running)
        self._unmount()
        self._resize(f"{size // 1024}K")
        os.truncate(self._image, size)

    def _resize(self, *size: str) -> None:
        done = run(["e2fsck", "-f", "-p", str(self._image)], seconds=MAKE_SECONDS, check=False)
        if done.rc not in (0, 1):
            raise HostError("its file system is damaged", where=str(self._image), remedy="run e2fsck on it")
        self._run(["resize2fs", str(self._image), *size])

    def _dissolve(self, running: bool) -> None:
        """What the slot needs goes back to the host's own disk; what jobs left goes with the image."""
        self._stop(running)
        aside = self._root.parent / f".{self.slot}.moving"
        if self._mounted():
            if aside.exists():
                remove_tree(aside)
            aside.mkdir(mode=0o700)
            _copy(self._root, aside)
            self._unmount()
        if aside.is_dir():
            _copy(aside, self._root)
            remove_tree(aside)
        self.remove()

    def _unmount(self) -> None:
        """What still deletes trash there needs a moment to see that it has to end. Raises HostError."""
        deadline = time.monotonic() + UNMOUNT_SECONDS
        while self._mounted():
            done = run(["umount", "--", str(self._root)], check=False)
            if done.rc and time.monotonic() > deadline:
                remedy = "see who uses it: fuser -vm"
                raise HostError("cannot be unmounted", where=str(self._root), remedy=remedy)
            if done.rc:
                time.sleep(0.2)

    def _stop(self, running: bool) -> None:
        if running:  # those of the other mode, or of no engine, are not there
            run(["systemctl", "stop", "--", *self._units()], seconds=STOP_SECONDS, check=False)
        self.system.kill_all_of(f"gha-{self.slot}")

    def _devices(self) -> list[str]:
        lines = self._run(["losetup", "--associated", str(self._image)]).out.splitlines()
        return [line.partition(":")[0] for line in lines]

    def _run(self, argv: list[str]) -> Result:
        return run(argv, seconds=MAKE_SECONDS)

    # -- what cannot be

    def _refuse_larger_than_host(self, wanted: int) -> None:
        """A disk that the host could never give."""
        there = self._image.parent
        while not there.exists():
            there = there.parent
        status = os.statvfs(there)
        if wanted > status.f_blocks * status.f_frsize:
            what = f"{_gib(wanted)} are more than the host's file system has"
            raise HostError(
                what, where=f"disk of slot {self.slot}", remedy="lower github_runner_disk_per_slot_gib"
            )

    def _refuse_smaller_than_use(self, wanted: int) -> None:
        if not self._mounted():
            return  # resize2fs refuses by itself
        status = os.statvfs(self._root)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        if used > wanted * (1 - _SPARE):
            remedy = f"run `runnerctl clean {self.slot}`, or raise github_runner_disk_per_slot_gib"
            raise HostError(
                f"{_gib(used)} of it are in use", where=f"disk of slot {self.slot}", remedy=remedy
            )


def _copy(source: Path, target: Path) -> None:
    """Take along what root keeps in a slot's root: plain files, with owners and modes."""
    for entry in os.scandir(source):
        if entry.name not in _NOT_MOVED and entry.is_file(follow_symlinks=False):
            shutil.copy2(entry.path, target / entry.name, follow_symlinks=False)
            status = entry.stat(follow_symlinks=False)
            os.chown(target / entry.name, status.st_uid, status.st_gid, follow_symlinks=False)
    os.sync()


def _unmount(place: Path) -> None:
    if os.path.ismount(place):
        run(["umount", "--", str(place)])


def _write(path: Path, text: str) -> Any:
    path.parent.mkdir(parents=True, exist_ok=True)
    return atomic_write(str(path), text.encode())


def _link(link: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(f"../{link.name}")


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size % GIB else f"{size // GIB} GiB"
