"""Judge a repository's workflows and settings by every rule."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from runnerctl.ci.findings import LintFinding
from runnerctl.ci.rules import IGNORE, Hit, all_rules, rules_by_id
from runnerctl.ci.workflow_model import Repository
from runnerctl.ci.workflow_read import read_repository
from runnerctl.ci.workflow_tests import TestFacts

__all__ = ["SEVERITIES", "Checker", "Report", "at_least", "check_repository"]

SEVERITIES = ("note", "warning", "error")
_Comment = tuple[str, int, int, tuple[str, ...], str]
_IGNORE = re.compile(r"#\s*runnerctl:\s*ignore\[([^\]]*)\]\s*(.*)$")


class Report(msgspec.Struct, frozen=True):
    """What was found, and what could not be judged. ``hits`` and ``findings`` go together, in order."""

    findings: tuple[LintFinding, ...]
    hits: tuple[Hit, ...]
    not_judged: tuple[str, ...]
    files: tuple[str, ...]
    ignored: int = 0


class Checker:
    """Judges the repository at ``root``, as it is or with some texts replaced.

    ``fleet`` holds the labels of each runner; None when nobody told. Raises UsageError without such a folder,
    ConfigError without the extra ``ci``.
    """

    def __init__(self, root: Path, *, fleet: tuple[frozenset[str], ...] | None = None) -> None:
        self.root = root
        self.fleet = fleet
        self._tests: TestFacts | None = None

    def report(self, changed: Mapping[str, str] | None = None) -> Report:
        """Judge by every rule; ``changed`` holds texts that take the place of files."""
        repository, hits = read_repository(self.root, fleet=self.fleet, changed=changed, tests=self._tests)
        self._tests = repository.tests
        found = hits + [hit for each in all_rules() for hit in each.check(repository)]
        kept, ignored = _without_ignored(repository, _once(found))
        ordered = sorted(kept, key=lambda hit: (hit.file, hit.line, hit.rule, hit.message))
        return Report(
            tuple(map(_finding, ordered)),
            tuple(ordered),
            tuple(_not_judged(repository)),
            tuple(name for name in repository.lines if name.startswith(".github/")),
            ignored,
        )


def check_repository(root: Path, *, fleet: tuple[frozenset[str], ...] | None = None) -> Report:
    """Judge the repository at ``root`` once; see `Checker`."""
    return Checker(root, fleet=fleet).report()


def at_least(report: Report, severity: str) -> Report:
    """Only what is as grave as ``severity``, or graver."""
    floor = SEVERITIES.index(severity)
    both = [
        pair
        for pair in zip(report.findings, report.hits, strict=True)
        if SEVERITIES.index(pair[0].severity) >= floor
    ]
    return msgspec.structs.replace(report, findings=tuple(a for a, _ in both), hits=tuple(b for _, b in both))


def _once(hits: Iterable[Hit]) -> list[Hit]:
    """A step of a shared action is met once for each job that uses it."""
    found: dict[tuple[str, str, int, str], Hit] = {}
    for hit in hits:
        key = (
            hit.rule,
            hit.file,
            hit.line,
            "" if hit.file.endswith(("action.yml", "action.yaml")) else hit.message,
        )
        found.setdefault(key, hit)
    return list(found.values())


def _finding(hit: Hit) -> LintFinding:
    rule = rules_by_id()[hit.rule]
    return LintFinding(
        file=hit.file,
        line=hit.line,
        id=hit.rule,
        severity=hit.severity or rule.severity,
        message=hit.message,
        remedy=hit.remedy or rule.remedy,
        fixable=hit.fixable,
    )


def _not_judged(repository: Repository) -> list[str]:
    found = []
    asks = any(job.self_hosted for job in repository.jobs)
    if repository.fleet is None and asks:
        found.append("labels of the fleet (give --inventory, --url or --labels-from)")
    unknown = sorted(
        {
            f"{job.file}: job {job.id!r}"
            for flow in repository.workflows
            for job in flow.jobs
            if _untold(job.alternatives, job.calls)
        }
    )
    found += [f"{each} takes its runner from an expression" for each in unknown]
    return found


def _untold(alternatives: object, calls: str) -> bool:
    return alternatives is None and not calls


def _without_ignored(repository: Repository, hits: Sequence[Hit]) -> tuple[list[Hit], int]:
    """Take away what a comment on its line, or alone on the line before, sets aside with a reason."""
    comments = [each for file in repository.lines for each in _comments(file, repository.lines[file])]
    used: set[tuple[str, int, str]] = set()
    kept = []
    for hit in hits:
        own = [
            each
            for each in comments
            if each[0] == hit.file and each[2] == hit.line and hit.rule in each[3] and each[4]
        ]
        used |= {(file, line, hit.rule) for file, line, *_ in own}
        kept += [] if own else [hit]
    faults = []
    for file, line, _target, names, reason in comments:
        for name in names:
            if not reason:
                faults.append(Hit(IGNORE, file, line, f"ignore[{name}] gives no reason"))
            elif name not in rules_by_id():
                faults.append(Hit(IGNORE, file, line, f"there is no rule {name!r}"))
            elif (file, line, name) not in used and not _conditional(repository, name):
                faults.append(Hit(IGNORE, file, line, f"ignore[{name}] ignores nothing", severity="note"))
    return kept + faults, len(hits) - len(kept)


def _speaks_of(comment: _Comment, hit: Hit) -> bool:
    file, _line, target, names, reason = comment
    return file == hit.file and target == hit.line and hit.rule in names and bool(reason)


def _conditional(repository: Repository, name: str) -> bool:
    """Rules that are judged only when something is told on the command line."""
    return name == "ci.label_unknown" and repository.fleet is None


def _comments(file: str, lines: Sequence[str]) -> list[_Comment]:
    """(file, line, line it speaks of, ids, reason) of each comment."""
    found = []
    for number, line in enumerate(lines, 1):
        match = _IGNORE.search(line)
        if match:
            names = tuple(name.strip() for name in match[1].split(",") if name.strip())
            alone = line.strip().startswith("#")
            found.append((file, number, number + 1 if alone else number, names, match[2].strip()))
    return found
