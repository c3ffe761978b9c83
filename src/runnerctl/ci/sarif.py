"""Findings as SARIF 2.1.0 (OASIS), which GitHub's code scanning takes, and as annotations of a workflow."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

from runnerctl import __version__
from runnerctl.ci.findings import LintFinding
from runnerctl.ci.rules import Rule

__all__ = ["annotation", "sarif"]

_LEVELS = {"error": "error", "warning": "warning", "note": "note"}
_COMMANDS = {"error": "error", "warning": "warning", "note": "notice"}


def sarif(findings: Iterable[LintFinding], rules: Iterable[Rule]) -> dict[str, Any]:
    """One run of one tool; every rule is described, also those that found nothing."""
    known = list(rules)
    index = {rule.id: number for number, rule in enumerate(known)}
    driver = {
        "name": "runnerctl",
        "version": __version__,
        "informationUri": "https://github.com/runnerctl/runnerctl",
        "rules": [_rule(rule) for rule in known],
    }
    seen: dict[str, int] = {}
    return {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [
            {
                "tool": {"driver": driver},
                "columnKind": "unicodeCodePoints",
                "originalUriBaseIds": {"SRCROOT": {"description": {"text": "The root of the repository."}}},
                "results": [_result(finding, index, seen) for finding in findings],
            }
        ],
    }


def _rule(rule: Rule) -> dict[str, Any]:
    name = "".join(part.capitalize() for part in rule.id.removeprefix("ci.").split("_"))
    return {
        "id": rule.id,
        "name": name,
        "shortDescription": {"text": rule.title},
        "fullDescription": {"text": rule.why},
        "help": {"text": f"{rule.why}\n\nRemedy: {rule.remedy}."},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(finding: LintFinding, index: Mapping[str, int], seen: dict[str, int]) -> dict[str, Any]:
    """The print of a finding holds no line, so that it stays the same when lines move."""
    base = hashlib.sha256(f"{finding.id}\0{finding.file}\0{finding.message}".encode()).hexdigest()[:20]
    seen[base] = seen.get(base, 0) + 1
    place = {
        "artifactLocation": {"uri": _uri(finding.file), "uriBaseId": "SRCROOT"},
        "region": {"startLine": max(finding.line, 1)},
    }
    return {
        "ruleId": finding.id,
        "ruleIndex": index[finding.id],
        "level": _LEVELS[finding.severity],
        "message": {"text": f"{finding.message}; {finding.remedy}"},
        "locations": [{"physicalLocation": place}],
        "partialFingerprints": {"runnerctl/1": f"{base}:{seen[base]}"},
    }


def _uri(file: str) -> str:
    from urllib.parse import quote

    return quote(file)


def annotation(finding: LintFinding) -> str:
    """A workflow command that marks the line (GitHub, "Workflow commands"): values and text are escaped."""
    values = {"file": finding.file, "line": str(finding.line), "title": finding.id}
    pairs = ",".join(f"{name}={_escaped(value, value=True)}" for name, value in values.items())
    text = _escaped(f"{finding.message}; {finding.remedy}", value=False)
    return f"::{_COMMANDS[finding.severity]} {pairs}::{text}"


def _escaped(text: str, *, value: bool) -> str:
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if value else text
