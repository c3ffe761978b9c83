"""Every check, on data: a healthy host, one thing changed, the findings it must give."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.checks import CHECKS
from runnerctl.core.health import Health, judge
from runnerctl.core.redaction import redacted
from runnerctl.core.snapshot import Snapshot, decode, encode

CASES = Path(__file__).parent / "cases"
HEALTHY = "healthy"


@cache
def _cases() -> dict[str, dict[str, Any]]:
    files = (file for file in sorted(CASES.glob("*.json")) if file.stem != HEALTHY)
    return {f"{file.stem}: {case['case']}": case for file in files for case in json.loads(file.read_text())}


def _changed(changes: dict[str, Any]) -> Snapshot:
    """The healthy host with changes: dotted path -> value; numbers count the items of a list."""
    tree = json.loads((CASES / f"{HEALTHY}.json").read_text())
    for path, value in changes.items():
        *parents, last = path.split(".")
        node = tree
        for name in parents:
            node = node[int(name)] if isinstance(node, list) else node[name]
        node[last] = value
    return decode(json.dumps(tree).encode())


def _gives(health: Health, wanted: dict[str, Any]) -> bool:
    """Whether a finding has that id, status, subject and those words."""
    return any(
        (finding.id, finding.status) == (wanted["id"], wanted["status"])
        and wanted.get("subject", finding.subject) == finding.subject
        and wanted.get("says", "") in finding.summary
        and all(finding.data[key] == value for key, value in wanted.get("data", {}).items())
        for finding in health.findings
    )


@pytest.mark.parametrize("name", _cases())
def test_a_case_gives_its_findings(name: str) -> None:
    """The status, the subject and the telling words, and no finding where none belongs."""
    case = _cases()[name]
    health = judge(_changed(case["set"]))
    for wanted in case["expect"]:
        assert _gives(health, wanted), [each for each in health.findings if each.id == wanted["id"]]
    absent = set(case.get("absent", ()))
    assert not absent & {finding.id for finding in health.findings}
    assert all(finding.remedy for finding in health.findings if finding.status != "OK")
    assert not any("the check itself failed" in finding.summary for finding in health.findings)


@pytest.mark.parametrize("name", _cases())
def test_a_redacted_snapshot_gives_the_same_verdict(name: str) -> None:
    """A bug report is a fixture: pseudonyms must not change what the checks say."""
    snapshot = _changed(_cases()[name]["set"])
    hidden = redacted(snapshot)
    before = [(finding.id, finding.status) for finding in judge(snapshot).findings]
    assert [(finding.id, finding.status) for finding in judge(hidden).findings] == before
    text = encode(hidden).decode().lower()
    for secret in ("gpu-box", "acme", "widgets", "gpu-1111", "gpu-2222", "mig-4444", "old-box", "cuda12"):
        assert secret not in text
    assert decode(encode(hidden)) == hidden


def test_every_check_has_a_good_and_a_bad_case() -> None:
    """A new check comes with data in both directions."""
    statuses: dict[str, set[str]] = {check.id: set() for check in CHECKS}
    for case in _cases().values():
        for wanted in case["expect"]:
            statuses[wanted["id"]].add(wanted["status"])
    lacking = {name: found for name, found in statuses.items() if "OK" not in found or not found - {"OK"}}
    assert not lacking
