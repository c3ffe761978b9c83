"""How the findings of ``ci check`` are printed."""

from __future__ import annotations

import textwrap
from itertools import groupby
from typing import Any

import msgspec

from runnerctl.ci.check import Report
from runnerctl.ci.findings import SCHEMA, LintFinding
from runnerctl.ci.fix import Mended
from runnerctl.ci.rules import all_rules, rules_by_id
from runnerctl.ci.sarif import annotation, sarif
from runnerctl.cli.context import Context
from runnerctl.cli.output import escape

__all__ = ["render"]


def render(context: Context, report: Report, form: str, *, mended: Mended | None, dry_run: bool) -> None:
    """Print a report in one of the forms text, json, sarif and github."""
    if form == "json":
        context.say_json(_json(report, mended, dry_run=dry_run))
    elif form == "sarif":
        context.say_json(sarif(report.findings, all_rules()))
    else:
        if form == "github":
            for finding in report.findings:
                context.say(escape(annotation(finding)))
        context.say(_text(context, report, mended, dry_run=dry_run))


def _json(report: Report, mended: Mended | None, *, dry_run: bool) -> dict[str, Any]:
    findings = [_finding(each) for each in report.findings]
    found: dict[str, Any] = {"schema": SCHEMA, "findings": findings}
    found["not_judged"] = list(report.not_judged)
    found |= {"ignored": report.ignored, "files": list(report.files)}
    if mended is not None:
        found["fixed"] = [
            {"id": hit.rule, "file": hit.file, "line": hit.line, "message": hit.message}
            for hit in mended.hits
        ]
        found["written"] = [] if dry_run else sorted(mended.after)
    return found


def _finding(finding: LintFinding) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(finding)
    return {**shown, "why": rules_by_id()[finding.id].why}


def _text(context: Context, report: Report, mended: Mended | None, *, dry_run: bool) -> str:
    width = min(max(context.width, 40), 100)
    lines: list[str] = []
    for file, group in groupby(report.findings, key=lambda each: each.file):
        lines.append(escape(file))
        told: set[str] = set()
        for finding in group:
            lines += _lines(finding, width, remedy=finding.id not in told)
            told.add(finding.id)
        lines.append("")
    lines += [escape(f"not judged: {each}") for each in report.not_judged]
    if mended is not None:
        verb = "would be mended" if dry_run else "mended"
        lines.append(f"{verb}: {len(mended.hits)}, in {len(mended.after)} files")
    return "\n".join([*lines, _summary(report)])


def _lines(finding: LintFinding, width: int, *, remedy: bool) -> list[str]:
    """A finding; its remedy only the first time in a file."""
    head = f"  {finding.line}: {finding.severity}: "
    fixable = " (--fix)" if finding.fixable else ""
    text = f"{escape(finding.message)} [{finding.id}]{fixable}"
    lines = textwrap.wrap(
        head + text, width, subsequent_indent="      ", break_long_words=False, break_on_hyphens=False
    )
    if remedy:
        start = "      -> "
        lines += textwrap.wrap(
            start + escape(finding.remedy),
            width,
            subsequent_indent="         ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return lines


def _summary(report: Report) -> str:
    if not report.findings:
        return f"no problem found in {len(report.files)} files" + _ignored(report)
    counts = dict.fromkeys(("error", "warning", "note"), 0)
    for finding in report.findings:
        counts[finding.severity] += 1
    told = ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items() if count)
    fixable = sum(finding.fixable for finding in report.findings)
    return told + (f"; --fix mends {fixable}" if fixable else "") + _ignored(report)


def _ignored(report: Report) -> str:
    return f"; {report.ignored} ignored by comments" if report.ignored else ""
