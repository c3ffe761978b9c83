"""Bring the container engines of a host's slots to what their specs say. Standard library only."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from .slot_containers import (
    NETWORKS,
    engine_drop_in_text,
    engine_service,
    engine_slice,
    engine_socket,
    engine_templates,
    free_range,
    settings,
    slice_text,
    storage,
)
from .slot_engine import range_of
from .slot_files import Layout, SlotSpec
from .slot_system import System, remove_tree, run

__all__ = ["Engines"]

Act = Callable[[str, Callable[[], object]], None]
Write = Callable[..., bool]


@dataclass
class Engines:
    """Bring the engines of a host's slots to their specs.

    ``act`` notes an action and does it unless this is check mode; ``write`` is the converger's file writer
    (action, path, text, mode=); it returns whether the file differed.
    """

    layout: Layout
    system: System
    act: Act
    write: Write

    def host(self, slots: Iterable[SlotSpec]) -> bool:
        """What all engines of the host share; True when systemd must read its units again."""
        if all(slot.containers != "rootless" for slot in slots):
            return False
        for path, (text, mode) in settings().items():
            self.write(f"{Path(path).name} of container engines", self.layout.path(path), text, mode=mode)
        folder = self.layout.path(NETWORKS)
        if not folder.is_dir():
            self.act(f"directory {NETWORKS}", lambda: folder.mkdir(parents=True, mode=0o755))
        units = {self.layout.units / name: text for name, text in engine_templates().items()}
        changed = [self.write(f"unit {path.name}", path, text) for path, text in units.items()]
        return any(changed)

    def converge(self, slot: SlotSpec, limits: Iterable[str], *, busy: bool = False) -> bool:
        """One slot's engine, when its user and directories are there; True as `host`.

        One that is to go stays while the slot is ``busy``: its job may have containers.
        """
        if slot.containers != "rootless":
            return not busy and self.remove(slot.name)
        self._ids(slot)
        self._storage(slot)
        texts = {
            self._drop_in(slot.name): engine_drop_in_text(slot),
            self.layout.units / engine_slice(slot.name): slice_text(slot, limits),
        }
        what = f"of slot {slot.name}'s container engine"
        changed = [self.write(f"{path.name} {what}", path, text) for path, text in texts.items()]
        return any(changed)

    def remove(self, name: str) -> bool:
        """Take a slot's engine away; True as `host`. Its range of ids goes with its user (userdel)."""
        drop_in = self._drop_in(name)
        if not drop_in.exists():
            return False

        def do() -> None:
            self.system.systemctl("stop", engine_socket(name), engine_service(name), seconds=360)
            remove_tree(self.layout.path(storage(name)))
            remove_tree(self.layout.path(f"/run/gha-containers/{name}"))
            (self.layout.units / engine_slice(name)).unlink(missing_ok=True)
            drop_in.unlink()  # last: until then the engine is known
            drop_in.parent.rmdir()

        self.act(f"removal of slot {name}'s container engine", do)
        return True

    def _drop_in(self, name: str) -> Path:
        return self.layout.units / f"{engine_service(name)}.d" / "10-slot.conf"

    def _texts(self) -> tuple[str, str]:
        paths = (self.layout.path("/etc/subuid"), self.layout.path("/etc/subgid"))
        uids, gids = (path.read_text() if path.is_file() else "" for path in paths)
        return uids, gids

    def _ids(self, slot: SlotSpec) -> None:
        """A range of user and group ids that nobody else has, as the system's own tools note it."""
        uids, gids = self._texts()
        if range_of(uids, slot.user) and range_of(gids, slot.user):
            return
        first, count = free_range(uids, gids)
        span = f"{first}-{first + count - 1}"
        argv = ["usermod", "--add-subuids", span, "--add-subgids", span, "--", slot.user]
        self.act(f"ids {span} for containers of slot {slot.name}", lambda: run(argv))

    def _storage(self, slot: SlotSpec) -> None:
        path = self.layout.path(storage(slot.name))
        if path.is_dir() and not path.is_symlink():
            return

        def make() -> None:
            path.mkdir(mode=0o700)
            os.chown(path, *self.system.ids(slot.user), follow_symlinks=False)

        self.act(f"storage of slot {slot.name}'s container engine", make)
