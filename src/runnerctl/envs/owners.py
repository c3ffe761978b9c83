"""Who asks for an environment: the slot of a user id, and the owner at GitHub whose jobs that slot runs."""

from __future__ import annotations

import pwd
from collections.abc import Callable
from typing import Literal

import msgspec

from runnerctl.core.scope import owner_of
from runnerctl.core.spec import HostSpec

__all__ = ["Asker", "Askers", "user_ids"]

_ROOT = 0


class Asker(msgspec.Struct, frozen=True):
    """One who asks. ``owner``: whose private channels and environments it may see, None for nobody's.

    ``name`` is for log lines: the slot's, ``root``, or the user id as text.
    """

    kind: Literal["root", "slot", "other"]
    uid: int
    name: str
    owner: str | None = None


class Askers:
    """The users of one host's spec; all others get what is everybody's."""

    def __init__(self, spec: HostSpec | None, ids: Callable[[str], int | None] | None = None) -> None:
        find = ids or user_ids
        self._slots: dict[int, Asker] = {}
        self.missing = False
        for slot in spec.github_runner.slots if spec else ():
            uid = find(f"gha-{slot.name}")
            if uid is None or uid == _ROOT:
                self.missing = True
                continue
            owner = owner_of(spec.slot_url(slot)) if spec else None
            known = self._slots.get(uid)
            if known is not None and known.owner != owner:  # one user for two owners is nobody's
                owner = None
            self._slots[uid] = Asker("slot", uid, slot.name, owner)

    def who(self, uid: int) -> Asker:
        """Who a user id is."""
        if uid == _ROOT:
            return Asker("root", uid, "root")
        return self._slots.get(uid) or Asker("other", uid, f"uid {uid}")


def user_ids(name: str) -> int | None:
    """The id of a user of this host."""
    try:
        return pwd.getpwnam(name).pw_uid
    except (KeyError, OSError):
        return None
