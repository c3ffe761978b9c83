"""What a job leaves behind: found by its user and its control group, removed, and looked for again.

Runs as root. Nothing a job says or names is trusted: processes are ended before files are touched, and files
are only reached through descriptors of directories (`residue_tree`). They are renamed into a place of root's
on the same file system and deleted later, so that no listener waits for it.

What cannot be cleaned while a listener stays: docs/explanation/between-jobs.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Sequence
from itertools import islice
from pathlib import Path

from runnerctl.guard import residue_logs as logs
from runnerctl.guard import residue_processes as processes
from runnerctl.guard.ports import Residue, SlotPlace
from runnerctl.guard.procs import Kernel, Process
from runnerctl.guard.residue_trash import Trash
from runnerctl.guard.residue_tree import Keep, directory, entries, move_all, nothing
from runnerctl.guard.residue_user import clean_services, clean_shared
from runnerctl.guard.residue_work import put_back, workspaces

__all__ = ["HostCleaner"]

PROCESS_SECONDS = 10.0
FILES_SECONDS = 20.0
INSIDE_SECONDS = 15.0
_EVER = float("inf")
_DISK_TEMPORARY = ("tmp", "var-tmp")
_MOST_LINES = 40
_LONGEST_NAME = 80
_KEPT_TO_THE_END = ("_temp",)  # the runner still reads the hook's command files there


class _Tally:
    """A `Residue` in the making; every line bounded and printable."""

    def __init__(self) -> None:
        self.processes: list[str] = []
        self.removed: list[str] = []
        self.remains: list[str] = []

    def add(self, removed: Collection[str], remains: Collection[str]) -> None:
        """Note lines."""
        self.removed += removed
        self.remains += remains

    def residue(self) -> Residue:
        """The whole."""
        return Residue(_lines(self.processes), _lines(self.removed), _lines(self.remains))


class HostCleaner:
    """Cleans up behind the jobs of one host; see `guard.ports.Cleaner`. ``root`` is ``/`` on a host."""

    def __init__(
        self,
        root: Path = Path("/"),
        *,
        kernel: Kernel | None = None,
        clock: Callable[[], float] = time.time,
        logs_folder: Path | None = None,
    ) -> None:
        self.root = root
        self.kernel = kernel or Kernel()
        self.clock = clock
        self.logs = logs_folder or root / "var/lib/runnerctl/logs"
        self.trash = Trash()

    # -- the three occasions

    def during(self, place: SlotPlace, *, spare: Collection[int]) -> Residue:
        """At a job's end, before its worker ends: all processes but ``spare``, all files but its logs.

        ``spare`` must name the listener, the worker, and the hook with all between it and the worker.
        """
        if refused := _refused(place):
            return refused
        tally, kept = _Tally(), frozenset(spare)
        processes.resume(self.kernel, place, kept)
        self._processes(place, tally, lambda found: _spared(found, kept))
        found = processes.find(self.kernel, place)
        running = [each for each in found if each.pid in _spared(found, kept) - kept]
        first = min((processes.started_at(each) for each in running), default=_EVER)
        cut = first - processes.CLOCK_SLACK_SECONDS

        def keep(_name: str, status: os.stat_result) -> bool:
            return status.st_ctime >= cut

        self._inside(place, tally, kept, before=cut, keys=not running)
        work = place.root / "_work"
        self._folder(place, work, tally, lambda name, status: name in _KEPT_TO_THE_END or keep(name, status))
        self._folder(place, place.root / "home", tally, keep)
        self._temporary(place, tally, keep)
        self._services(place, tally)
        return tally.residue()

    def after(self, place: SlotPlace, *, listener: int, before: float, alone: bool = False) -> Residue:
        """When the worker has ended: what is left, as far as it is older than the next job.

        ``listener``: the process of the runner's that stays; 0 for none. A job that it has begun meanwhile
        is left alone: its processes, and whatever was made since it began. Without a listener systemd has
        ended all of the unit's, so that what runs there is of its next start, and left alone as well; it may
        start at any moment. ``alone``: the next job waits for us, so that a young process that does not
        descend from its worker is one that the last job's keep starting. ``before``, when the end of the
        last one was noticed, can be later than that and decides nothing.
        """
        del before
        if refused := _refused(place):
            return refused
        tally, stays = _Tally(), {listener} - {0}
        processes.resume(self.kernel, place, stays)
        self._processes(place, tally, lambda found: self._staying(place, found, listener, alone=alone))
        cut, running = self._cut(place, listener)
        self._inside(place, tally, stays, before=cut, keys=not running)
        self._archive(place, tally, [*stays, *running], cut)

        def newer(_name: str, status: os.stat_result) -> bool:
            return status.st_ctime >= cut

        work = place.root / "_work"
        found = workspaces(work)
        for name in ("_work", "_work/_temp", "home"):
            self._folder(place, place.root / name, tally, newer)
        if self._cut(place, listener)[1]:
            put_back(work, found, uid=place.uid, gid=place.gid)
        self._temporary(place, tally, newer)
        self._services(place, tally)
        return tally.residue()

    def fresh(self, place: SlotPlace) -> Residue:
        """Before an ephemeral slot starts, when nothing of it runs: make everything of it new."""
        if refused := _refused(place):
            return refused
        tally = _Tally()
        self._processes(place, tally, None)
        self._inside(place, tally, (), before=_EVER)
        self._archive(place, tally, (), _EVER)
        for name in ("_work", "_diag", "home", *_DISK_TEMPORARY):
            self._renew(place, name, tally)
        self._temporary(place, tally, nothing)
        self._services(place, tally)
        return tally.residue()

    # -- processes and what is in the kernel

    def _processes(self, place: SlotPlace, tally: _Tally, spare: processes.Spare | None) -> None:
        ended, left = processes.end_all(self.kernel, place, spare=spare, seconds=PROCESS_SECONDS)
        tally.processes += [f"{process.pid} {process.comm}" for process in ended]
        tally.remains += [f"process {each.pid} {each.comm} (state {each.state}) stays" for each in left]

    def _staying(
        self, place: SlotPlace, found: Sequence[Process], listener: int, *, alone: bool
    ) -> Collection[int]:
        """The listener and the job that it began meanwhile, with all that was started since."""
        if not listener:
            return {each.pid for each in processes.of_unit(self.kernel, place, found)}
        if alone:
            lines = (self.kernel.ancestors(each.pid) for each in found)
            return {listener, *(line[0].pid for line in lines if listener in {each.pid for each in line[1:]})}
        first = min((each.started for each in processes.begun(found, listener)), default=None)
        return {listener, *(each.pid for each in found if first is not None and each.started >= first)}

    def _cut(self, place: SlotPlace, listener: int) -> tuple[float, list[int]]:
        """Until when (epoch) whatever happened was the ended job's doing; and the jobs begun since."""
        time.sleep(2 * processes.CLOCK_SLACK_SECONDS)  # what was made until now is older than the cut
        now = self.clock()
        found = processes.find(self.kernel, place)
        if listener:
            running = processes.begun(found, listener)
        else:
            running = processes.of_unit(self.kernel, place, found)
        first = min([now, *(processes.started_at(each) for each in running)])
        return first - processes.CLOCK_SLACK_SECONDS, [each.pid for each in running]

    def _inside(
        self, place: SlotPlace, tally: _Tally, pids: Collection[int], *, before: float, keys: bool = True
    ) -> None:
        """Objects in memory, private file systems and keys, by a child that enters the slot's namespaces."""
        words = [place.uid, before, int(keys), *pids]
        argv = [sys.executable, "-I", "-m", "runnerctl.guard.residue_inside", *map(str, words)]
        try:
            out = _output(argv)
            found = json.loads(out)
            tally.add(found["removed"], found["remains"])
        except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
            tally.remains.append(f"memory and keys were not looked at: {type(error).__name__}")

    # -- files

    def _folder(self, place: SlotPlace, path: Path, tally: _Tally, keep: Keep) -> None:
        """Clear one directory of the slot's, if it is there; its parents are root's."""
        name = str(path.relative_to(place.root)) if path.is_relative_to(place.root) else f"/{path.parts[-3]}"
        try:
            with directory(path) as folder:
                self._clear(place, folder, name, tally, keep)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            tally.remains.append(f"{name}: {error.strerror}")

    def _clear(self, place: SlotPlace, folder: int, name: str, tally: _Tally, keep: Keep) -> None:
        with self.trash.opened(place.root) as trash:
            swept = move_all(folder, trash, keep=keep, deadline=time.monotonic() + FILES_SECONDS)
        tally.removed += [f"{name}: {swept.gone}"] if swept.gone else []
        left = [each for each, _ in islice(entries(folder, keep), _MOST_LINES + 1)]
        tally.remains += [f"{name}/{each}: {swept.stayed.get(each, 'came back')}" for each in left]
        if swept.gone:
            self.trash.empty_later(place.root)

    def _renew(self, place: SlotPlace, name: str, tally: _Tally) -> None:
        """Put a new directory of the job's user where the old one was; the old one goes to the trash."""
        if not os.path.lexists(place.root / name):
            return
        try:
            self.trash.replace(place.root, name, uid=place.uid, gid=place.gid)
            tally.removed.append(name)
            self.trash.empty_later(place.root)
        except OSError as error:
            tally.remains.append(f"{name}: {error.strerror}")

    def _archive(self, place: SlotPlace, tally: _Tally, pids: Collection[int], cut: float) -> None:
        """Keep the ended job's logs where only root reads them; what else is in `_diag` goes."""
        stay = {file for pid in pids for file in logs.open_files(pid)}

        def keep(_name: str, status: os.stat_result) -> bool:
            return (status.st_dev, status.st_ino) in stay or status.st_ctime >= cut

        try:
            with directory(place.root / "_diag") as diag:
                moved = logs.archive(diag, self.logs / place.name, stay=stay, before=cut)
                tally.removed += [f"logs put aside: {moved}"] if moved else []
                for name in logs.STEPS:  # what is taken out of them makes them look new
                    self._folder(place, place.root / "_diag" / name, tally, keep)
                self._clear(place, diag, "_diag", tally, keep)
        except FileNotFoundError:
            return
        except OSError as error:
            tally.remains.append(f"_diag: {error.strerror}")

    def _temporary(self, place: SlotPlace, tally: _Tally, keep: Keep) -> None:
        """The unit's own /tmp and /var/tmp: systemd keeps them below a directory that is root's alone.

        Those of a slot with a disk of its own stand in the slot's root.
        """
        for base in ("tmp", "var/tmp"):
            for parent in (self.root / base).glob(f"systemd-private-*-{place.unit}-*"):
                status = parent.lstat()
                if status.st_uid == 0 and not status.st_mode & 0o077:
                    self._folder(place, parent / "tmp", tally, keep)
        for name in _DISK_TEMPORARY:
            self._folder(place, place.root / name, tally, keep)

    def _services(self, place: SlotPlace, tally: _Tally) -> None:
        tally.add(*clean_services(self.root, place))
        tally.add(*clean_shared(self.root, place, deadline=time.monotonic() + FILES_SECONDS))


def _spared(found: Sequence[Process], kept: frozenset[int]) -> frozenset[int]:
    """Those that are to stay, and the next job, should the listener have begun it while this took its time.

    The listener is the one whose parent is not to stay itself.
    """
    tops = [each.pid for each in found if each.pid in kept and each.parent not in kept]
    begun = [each for top in tops for each in processes.begun(found, top) if each.pid not in kept]
    first = min((each.started for each in begun), default=None)
    return kept if first is None else kept | {each.pid for each in found if each.started >= first}


def _output(argv: Sequence[str]) -> bytes:
    done = subprocess.run(
        argv, env={}, stdin=subprocess.DEVNULL, capture_output=True, timeout=INSIDE_SECONDS, check=True
    )
    return done.stdout


def _refused(place: SlotPlace) -> Residue | None:
    """Nobody cleans up behind root, whatever a caller says: it would end the host."""
    return Residue(remains=(f"slot {place.name} has no user of its own",)) if place.uid <= 0 else None


def _lines(lines: list[str]) -> tuple[str, ...]:
    """Bounded, printable, and not too many."""
    shown = ["".join(char if char.isprintable() else "?" for char in line)[:_LONGEST_NAME] for line in lines]
    more = len(shown) - _MOST_LINES
    return (*shown[:_MOST_LINES], f"and {more} more") if more > 0 else tuple(shown)
