"""Cut a runner from routing, so that GitHub sends it no job, and bring it back.

A runner is cut when `runnerctl.core.labels.DRAINED` is its only custom label; where a site names a drain
group, it stands in that group as well. GitHub's read-only labels stay: a job that asks for nothing but those
still finds a runner that is cut by labels alone.

The label is the mark: it is set first and taken away last, so that what was killed in between is still seen
as cut and can be done again.
"""

from __future__ import annotations

from collections.abc import Iterable

from runnerctl.core.labels import DRAINED, normalise
from runnerctl.core.plan import Record
from runnerctl.errors import UnavailableError
from runnerctl.github.registry import Registry

__all__ = ["cut", "is_cut", "restore"]


def is_cut(record: Record) -> bool:
    """Whether the record bears the mark of a runner that was cut from routing."""
    return DRAINED in record.labels


def cut(registry: Registry, record: Record, group_id: int | None = None) -> bool:
    """Leave the runner no custom label but DRAINED, and move it to the group of that id; True when changed.

    Raises RunnerctlError; UnavailableError when GitHub's answer shows other labels than those set.
    """
    changed = _labels(registry, record, frozenset({DRAINED}))
    return _group(registry, record, group_id) or changed


def restore(registry: Registry, record: Record, labels: Iterable[str], group_id: int | None = None) -> bool:
    """Give the runner its custom ``labels`` and its group back; True when something changed.

    The group first: from the moment its labels are right a runner takes jobs. Raises as `cut` does.
    """
    changed = _group(registry, record, group_id)
    return _labels(registry, record, normalise(labels)) or changed


def _labels(registry: Registry, record: Record, wanted: frozenset[str]) -> bool:
    if record.labels == wanted:
        return False
    has = registry.set_labels(record.id, sorted(wanted))
    if has != wanted:
        raise UnavailableError(
            f"GitHub answers with the labels {', '.join(sorted(has)) or 'none'} instead of "
            f"{', '.join(sorted(wanted)) or 'none'}",
            where=record.name,
            remedy="somebody else may have changed them at the same time: run it again",
        )
    return True


def _group(registry: Registry, record: Record, group_id: int | None) -> bool:
    if group_id is None or record.group_id is None or record.group_id == group_id:
        return False
    registry.move_to_group(record.id, group_id)
    return True
