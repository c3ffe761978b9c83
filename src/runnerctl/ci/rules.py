"""What a rule is, and the list of all rules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from runnerctl.ci.workflow_model import Repository

__all__ = ["IGNORE", "INVALID", "Edit", "Hit", "Rule", "Severity", "all_rules", "rule", "rules_by_id"]

Severity = Literal["error", "warning", "note"]
INVALID = "ci.invalid_file"
IGNORE = "ci.ignore_comment"


class Edit(msgspec.Struct, frozen=True, order=True):
    """A change of one file: from ``line`` (from one) on ``remove`` lines go, and ``insert`` comes there."""

    file: str
    line: int
    remove: int = 0
    insert: tuple[str, ...] = ()


class Hit(msgspec.Struct, frozen=True):
    """A rule met something. ``edits`` mend it; ``severity`` differs from the rule's where a case is graver.

    ``remedy`` replaces the rule's. ``settings``: (section, key, value) to set for coverage or pytest.
    """

    rule: str
    file: str
    line: int
    message: str
    edits: tuple[Edit, ...] = ()
    severity: Severity | None = None
    remedy: str = ""
    settings: tuple[tuple[str, str, str], ...] = ()

    @property
    def fixable(self) -> bool:
        """Whether ``--fix`` can mend it."""
        return bool(self.edits or self.settings)


Check = Callable[["Repository"], Iterator[Hit]]


class Rule(msgspec.Struct, frozen=True):
    """One rule. ``title`` states what it finds; ``example`` is a piece of a file that it finds.

    ``fixable``: ``--fix`` mends at least its plain cases.
    """

    id: str
    severity: Severity
    title: str
    why: str
    remedy: str
    example: str
    check: Check
    fixable: bool = False


def _nothing(_repository: Repository) -> Iterator[Hit]:
    """Found while reading, not by a rule."""
    return iter(())


def rule(
    name: str,
    severity: Severity,
    *,
    title: str,
    why: str,
    remedy: str,
    example: str,
    fixable: bool = False,
) -> Callable[[Check], Rule]:
    """Make a rule of the function that looks for it."""

    def made(check: Check) -> Rule:
        return Rule(name, severity, title, why, remedy, example.strip("\n"), check, fixable)

    return made


_READING = (
    Rule(
        INVALID,
        "error",
        title="A file that GitHub or a tool cannot read",
        why="GitHub does not start a workflow that it cannot read, and says so on a page that few visit.",
        remedy="correct the file at this line",
        example="jobs:\n  test\n    runs-on: ubuntu-latest",
        check=_nothing,
    ),
    Rule(
        IGNORE,
        "warning",
        title="An ignore comment without a reason, or one that ignores nothing",
        why="A finding that is set aside without a reason is a trap for whoever comes next.",
        remedy="write '# runnerctl: ignore[ID] why it is right here', or remove the comment",
        example="runs-on: ubuntu-latest # runnerctl: ignore[ci.timeout_missing]",
        check=_nothing,
    ),
)


@cache
def all_rules() -> tuple[Rule, ...]:
    """Every rule, in the order of the documentation."""
    from runnerctl.ci import (
        rules_activation,
        rules_cache,
        rules_coverage,
        rules_environment,
        rules_machine,
        rules_runs,
        rules_tests,
        rules_trust,
    )

    modules = (
        rules_machine,
        rules_environment,
        rules_activation,
        rules_cache,
        rules_tests,
        rules_coverage,
        rules_trust,
        rules_runs,
    )
    return _READING + tuple(each for module in modules for each in module.RULES)


@cache
def rules_by_id() -> dict[str, Rule]:
    """Every rule by its id."""
    return {each.id: each for each in all_rules()}
