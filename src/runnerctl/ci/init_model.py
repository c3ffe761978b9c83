"""What ``ci init`` is asked for, and what it would do to each file. Pure."""

from __future__ import annotations

from typing import Literal

import msgspec

__all__ = ["SCHEMA", "Action", "FileChange", "InitPlan", "Options"]

SCHEMA = "runnerctl.ci_init/1"
Action = Literal["create", "update", "unchanged", "keep"]


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What the user said; None where nothing was said: a later run takes what an earlier one had.

    ``threshold``: percent. ``cuda``: ``auto``, ``none`` or a version. ``forks``: whether the gate holds a
    pull request of a fork (``hold``) or lets it pass untested on a GPU (``allow``). ``keep``: files to leave
    alone.
    """

    branch: str | None = None
    gpu_labels: tuple[str, ...] | None = None
    integration: tuple[str, ...] | None = None
    source_packages: tuple[str, ...] | None = None
    threshold: str | None = None
    cuda: str | None = None
    system_packages: tuple[str, ...] | None = None
    environment_file: str | None = None
    forks: str | None = None
    keep: tuple[str, ...] | None = None
    force: bool = False


class FileChange(msgspec.Struct, frozen=True):
    """One file: as it is (None: not there), as it would be, and why.

    ``after`` of a file that is kept is what stands offered; nothing of it is written.
    """

    path: str
    action: Action
    before: str | None
    after: str | None
    notes: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        """Whether the file is to be written."""
        return self.action in ("create", "update")


class InitPlan(msgspec.Struct, frozen=True):
    """Everything that one run would do; ``notes`` belong to no file."""

    changes: tuple[FileChange, ...]
    notes: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    branch: str = "main"
