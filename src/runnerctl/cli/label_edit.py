"""Change the labels of runners one by one: read, compare, write, read back.

GitHub has no lock on labels. What one request can do is done in one that leaves other labels alone, and
whatever somebody else changed meanwhile is said.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from runnerctl.core.labels import DRAINED
from runnerctl.errors import ConfigError, RunnerctlError
from runnerctl.github.models import Runner
from runnerctl.github.registry import Registry

__all__ = ["MOST", "Edit", "Result", "change"]

MOST = 100  # GitHub's limit of labels in one request (REST reference, "Set custom labels")
TRY_AGAIN, UNAVAILABLE = 75, 69
_EXIT_CODES = {"drained": TRY_AGAIN, "conflict": TRY_AGAIN, "absent": UNAVAILABLE}


@dataclass(frozen=True)
class Edit:
    """What to do with a runner's custom labels. ``verb``: add, remove or set; ``labels`` are lower-cased."""

    verb: str
    labels: frozenset[str]
    spelt: tuple[str, ...] = ()
    lenient: bool = False  # a drained runner is expected and no failure: a sync over a fleet

    def wanted(self, have: frozenset[str]) -> frozenset[str]:
        """The custom labels afterwards."""
        if self.verb == "set":
            return self.labels
        return have | self.labels if self.verb == "add" else have - self.labels

    def holds(self, have: frozenset[str]) -> bool:
        """Whether these labels are what was asked for."""
        return self.wanted(have) == have


@dataclass(frozen=True)
class Result:
    """What became of one runner.

    ``outcome``: ``changed``, ``would_change``, ``unchanged``, ``drained`` (left out), ``absent`` (GitHub has
    no such record) or ``conflict`` (somebody else undid it). ``others`` is what changed beside it meanwhile.
    """

    name: str
    outcome: str
    id: int | None = None
    before: frozenset[str] = frozenset()
    after: frozenset[str] = frozenset()
    others: tuple[str, ...] = ()
    scope: str = ""
    lenient: bool = False

    @property
    def exit_code(self) -> int:
        """0 when the labels are as asked, or were left as they are on purpose."""
        if self.outcome == "drained" and self.lenient:
            return 0
        return _EXIT_CODES.get(self.outcome, 0)

    @property
    def text(self) -> str:
        """The difference for people."""
        if self.outcome == "drained":
            return "is cut from routing: resume it first"
        if self.outcome == "absent":
            return f"GitHub has no such runner at {self.scope}"
        signs = [f"+{name}" for name in sorted(self.after - self.before)]
        signs += [f"-{name}" for name in sorted(self.before - self.after)]
        text = " ".join(signs)
        if self.outcome == "conflict":
            text = "somebody else changed them meanwhile: try again"
        elif self.others:
            text += f" (somebody else meanwhile: {' '.join(self.others)})"
        return text

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "name": self.name,
            "id": self.id,
            "url": self.scope,
            "outcome": self.outcome,
            "before": sorted(self.before),
            "after": sorted(self.after),
            "changed_by_others": list(self.others),
        }


def change(
    registry: Registry, edits: Iterable[tuple[Runner, Edit]], *, dry_run: bool
) -> tuple[list[Result], RunnerctlError | None]:
    """Edit each runner as it was listed. The first failure ends it; what was done before is returned with it.

    Raises ConfigError, before anything is written, for more labels than GitHub takes.
    """
    pairs = list(edits)
    for runner, edit in pairs:
        _refuse_too_many(runner.name, edit.wanted(runner.custom_labels()))
    results: list[Result] = []
    for runner, edit in pairs:
        try:
            results.append(_one(registry, runner, edit, dry_run=dry_run))
        except RunnerctlError as error:
            return results, error
    return results, None


def _refuse_too_many(name: str, labels: frozenset[str]) -> None:
    if len(labels) > MOST:
        raise ConfigError(
            f"would have {len(labels)} labels, and GitHub takes {MOST}", where=name, remedy="remove some"
        )


def _one(registry: Registry, runner: Runner, edit: Edit, *, dry_run: bool) -> Result:
    if settled := _settled(registry, runner, edit):
        return settled
    before = runner.custom_labels()
    if dry_run:
        return _result(registry, runner, edit, "would_change", before, edit.wanted(before))
    fresh = registry.runner(runner.id)
    if fresh is None:
        return _result(registry, runner, edit, "absent", before, before)
    if settled := _settled(registry, fresh, edit):
        return settled
    before = fresh.custom_labels()
    _write(registry, fresh, edit)
    now = registry.runner(runner.id)
    if now is None:
        return _result(registry, runner, edit, "absent", before, before)
    after = now.custom_labels()
    if not edit.holds(after):
        return _result(registry, fresh, edit, "conflict", before, after)
    return _result(registry, fresh, edit, "changed", before, after)


def _settled(registry: Registry, runner: Runner, edit: Edit) -> Result | None:
    """The result where nothing is to be written."""
    have = runner.custom_labels()
    if DRAINED in have:
        return _result(registry, runner, edit, "drained", have, have)
    if edit.holds(have):
        return _result(registry, runner, edit, "unchanged", have, have)
    return None


def _write(registry: Registry, runner: Runner, edit: Edit) -> None:
    _refuse_too_many(runner.name, edit.wanted(runner.custom_labels()))
    if edit.verb == "add":
        registry.add_labels(runner.id, edit.spelt or edit.labels)
    elif edit.verb == "set":
        registry.set_labels(runner.id, edit.spelt or edit.labels)
    else:
        for name in sorted(edit.labels & runner.custom_labels()):
            registry.remove_label(runner.id, name)


def _result(
    registry: Registry,
    runner: Runner,
    edit: Edit,
    outcome: str,
    before: frozenset[str],
    after: frozenset[str],
) -> Result:
    expected = edit.wanted(before)
    others: tuple[str, ...] = ()
    if outcome in ("changed", "conflict"):
        others = tuple(f"+{name}" for name in sorted(after - expected))
        others += tuple(f"-{name}" for name in sorted(expected - after))
    return Result(
        runner.name,
        outcome,
        id=runner.id,
        before=before,
        after=after,
        others=others,
        scope=registry.scope.url,
        lenient=edit.lenient,
    )
