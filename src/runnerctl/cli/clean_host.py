"""The host's half of ``runnerctl clean``: measure what slots have on the disk, remove what is to go."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.lock import exclusive
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot import LOCK, LOCK_SECONDS, known_slots
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_modes import unit_of
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.slot_system import run

from runnerctl.cli.clean_images import Images
from runnerctl.cli.context import Context
from runnerctl.cli.host import Slots, host_errors
from runnerctl.cli.local import require_slot
from runnerctl.core.clean import Doomed, Thing, plan
from runnerctl.core.sections import Runnerctl
from runnerctl.guard.residue_trash import TRASH, Trash, unfinished
from runnerctl.guard.residue_tree import directory, empty, move_all
from runnerctl.hostfile import load_host_spec

__all__ = ["CleanHost"]

MEASURE_SECONDS = 1800.0
_BATCH = 200
_OWN = ("_tool", "_temp", "_actions", "_PipelineMapping", "_update")
_LEFT_IN = ("_work", "home", "_diag")


class CleanHost:
    """The slots named, or all. Raises AccessError unless run as root, ConfigError for an unknown slot.

    ``skipped``: slots that run a job, and why that matters; ``failed``: what could not be removed.
    """

    def __init__(self, context: Context, slots: Sequence[str] | None) -> None:
        self.host = Slots(context)
        self.context = context
        spec = load_host_spec(context.paths.host_file)
        for slot in slots or ():
            require_slot(context.paths, spec, slot)
        self.settings = spec.runnerctl if spec else Runnerctl()
        self.slots = list(dict.fromkeys(slots)) if slots else known_slots(self.host.layout)
        self.images = None if slots else Images(context.env)
        self.logs = self.host.layout.path("/var/lib/runnerctl/logs")
        self.skipped: dict[str, str] = {}
        self.failed: list[str] = []

    def plan(self) -> tuple[Doomed, ...]:
        """What is to go now. Raises UnavailableError."""
        with host_errors():
            things = [thing for slot in self.slots for thing in self._things(slot)]
            things += self.images.things() if self.images else []
        return plan(things, self.settings, now=self.context.clock())

    def remove(self, doomed: Sequence[Doomed]) -> list[Doomed]:
        """Remove it; what of it has gone. A slot that has begun a job meanwhile is left alone."""
        gone: list[Doomed] = []
        with host_errors():
            for slot in self.slots:
                mine = [each for each in doomed if each.thing.slot == slot]
                gone += self._remove(slot, mine)
            if self.images:
                gone += self.images.remove(
                    [each for each in doomed if each.thing.kind == "image"], self.failed
                )
        return gone

    # -- measuring

    def _things(self, slot: str) -> Iterator[Thing]:
        root, busy = self.host.layout.slot_root(slot), self._busy(slot)
        if busy:
            self.skipped[slot] = "runs a job"
        yield from _sized(
            "log", slot, self.logs, [self.logs / slot / name for name in _names(self.logs / slot)]
        )
        yield from _sized("trash", slot, root, [root / TRASH / name for name in _names(root / TRASH)])
        if busy:
            return
        work = root / "_work"
        workspaces = [work / name for name in _names(work) if name not in _OWN]
        yield from _sized("work", slot, root, workspaces)
        tools = [work / "_tool" / name for name in _names(work / "_tool")]
        yield from _sized("tool", slot, root, tools)
        yield from _sized("leftover", slot, root, _of_root([root / name for name in _LEFT_IN]))

    def _busy(self, slot: str) -> bool:
        return self.host.system.busy(unit_of(self.host.layout, slot))

    # -- removing

    def _remove(self, slot: str, doomed: Sequence[Doomed]) -> list[Doomed]:
        root, gone = self.host.layout.slot_root(slot), []
        with exclusive(str(self.host.layout.path(LOCK)), seconds=LOCK_SECONDS):
            for each in doomed:
                harmless = each.thing.kind in ("log", "trash")
                # Asked anew each time: a worker takes longer to come to its workspace than one step of ours.
                if not harmless and self._busy(slot):
                    self.skipped[slot] = "runs a job"
                    continue
                if each.thing.kind == "trash" or self._aside(root, each.thing):
                    gone.append(each)
        self._empty_trash(root)
        return gone

    def _aside(self, root: Path, thing: Thing) -> bool:
        """Take one thing out of the way in one step; it is deleted without the lock."""
        base = self.logs if thing.kind == "log" else root
        parent, _, name = thing.name.rpartition("/")
        try:
            with _walk(base, parent) as folder:
                if thing.kind == "log":
                    os.unlink(name, dir_fd=folder)
                    return True
                with Trash().opened(root) as trash:
                    deadline = float("inf")
                    swept = move_all(folder, trash, keep=lambda each, _: each != name, deadline=deadline)
        except FileNotFoundError:
            return False
        except OSError as error:
            self.failed.append(f"{base / thing.name}: {error.strerror}")
            return False
        self.failed += [f"{base / thing.name}: {reason}" for reason in swept.stayed.values()]
        return bool(swept.gone)

    def _empty_trash(self, root: Path) -> None:
        with contextlib.suppress(FileNotFoundError), directory(root / TRASH) as folder:
            stayed = empty(folder, keep=unfinished).stayed
            self.failed += [f"{root / TRASH}/{name}: {reason}" for name, reason in stayed.items()]


@contextlib.contextmanager
def _walk(base: Path, relative: str) -> Iterator[int]:
    """Open a directory below one of root's, following no link on the way: jobs write below it."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(directory(base))
        for part in filter(None, relative.split("/")):
            folder = stack.enter_context(directory(part, within=folder))
        yield folder


def _names(folder: Path) -> list[str]:
    """What a directory holds; nothing where there is none, or a link stands in its place."""
    try:
        with directory(folder) as handle:
            return sorted(os.listdir(handle))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _sized(kind: str, slot: str, base: Path, paths: Sequence[Path]) -> Iterator[Thing]:
    """The things at these paths, named from ``base``, with what each takes on the disk."""
    for start in range(0, len(paths), _BATCH):
        for path, size in _usage(paths[start : start + _BATCH]).items():
            try:
                status = path.lstat()
            except OSError:
                continue
            used = max(status.st_mtime, status.st_ctime if stat.S_ISDIR(status.st_mode) else 0.0)
            yield Thing(kind, slot, str(path.relative_to(base)), size, used)  # type: ignore[arg-type]


def _usage(paths: Sequence[Path]) -> dict[Path, int]:
    """What each takes, in bytes of the disk; du(1) follows no link and goes as deep as a job went."""
    if not paths:
        return {}
    argv = ["du", "-xs0", "--block-size=1", "--", *map(str, paths)]
    out = run(argv, seconds=MEASURE_SECONDS, check=False).out
    lines = (line.partition("\t") for line in out.split("\0") if "\t" in line)
    return {Path(name): int(size) for size, _, name in lines if size.isdigit()}


def _of_root(folders: Sequence[Path]) -> list[Path]:
    """What belongs to root below directories of jobs: the topmost of each."""
    there = [str(folder) for folder in folders if folder.is_dir() and not folder.is_symlink()]
    if not there:
        return []
    argv = ["find", *there, "-xdev", "-mindepth", "1", "-uid", "0", "-prune", "-print0"]
    out = run(argv, seconds=MEASURE_SECONDS, check=False).out
    return [Path(name) for name in out.split("\0") if name]
