"""Each rule of ``ci check`` on its cases: what it must find, and what only looks like it.

A file of ``cases/ci`` belongs to the rule of its name. ``== bad: NAME`` or ``== good: NAME`` begins a case
and ``-- PATH`` a file of it. The rule must hit the lines that say ``# HERE`` (``# HERE 2``: twice,
``# HERE-1``: one line above), and no other. ``LABELS`` holds a line of labels for each runner of the fleet.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.ci.check import Checker
from runnerctl.ci.fix import Mended, diff, mend, write
from runnerctl.ci.rules import Hit, all_rules, rules_by_id

CASES = Path(__file__).parent / "cases" / "ci"
_HERE = re.compile(r"# HERE(?:-(?P<above>\d))?(?: (?P<times>\d))?")


def cases() -> Iterator[tuple[str, str, dict[str, str]]]:
    """Rule, ``bad: name`` or ``good: name``, and the files."""
    for path in sorted(CASES.glob("*.txt")):
        for text in re.split(r"^== ", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
            head, *rest = re.split(r"^-- (.+)\n", text, flags=re.MULTILINE)
            yield f"ci.{path.stem}", head.strip(), dict(zip(rest[::2], rest[1::2], strict=True))


ALL = [pytest.param(*case, id=f"{case[0]}-{case[1]}") for case in cases()]


def lay(root: Path, files: dict[str, str]) -> Checker:
    """Write a case; returns what judges it."""
    fleet = None
    for name, text in files.items():
        if name == "LABELS":
            fleet = tuple(frozenset(line.split()) for line in text.split("\n") if line)
            continue
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return Checker(root, fleet=fleet)


def expected(files: dict[str, str]) -> Counter[tuple[str, int]]:
    """File and line of each hit that the comments ask for."""
    found: Counter[tuple[str, int]] = Counter()
    for name, text in files.items():
        for number, line in enumerate(text.split("\n"), 1):
            for match in _HERE.finditer(line):
                found[name, number - int(match["above"] or 0)] += int(match["times"] or 1)
    return found


def hits(checker: Checker, rule: str) -> tuple[Hit, ...]:
    """What one rule met."""
    return tuple(hit for hit in checker.report().hits if hit.rule == rule)


@pytest.mark.parametrize(("rule", "name", "files"), ALL)
def test_a_rule_hits_its_cases_and_nothing_else(
    rule: str, name: str, files: dict[str, str], tmp_path: Path
) -> None:
    """Lines and numbers; where all can be mended, mending once is enough and keeps every comment."""
    checker = lay(tmp_path, files)
    found = hits(checker, rule)
    assert Counter((hit.file, hit.line) for hit in found) == expected(files), [hit.message for hit in found]
    assert bool(found) == name.startswith("bad")
    assert rules_by_id()[rule].fixable or not any(hit.fixable for hit in found)
    if found and all(hit.fixable for hit in found):
        mended = only(checker, rule)
        assert comments(mended.before) <= comments(mended.after), diff(mended)
        write(tmp_path, mended)
        assert hits(checker, rule) == ()
        assert only(checker, rule).after == {}


def only(checker: Checker, rule: str) -> Mended:
    """Mend what one rule found."""
    return mend(checker.root, lambda changed: [h for h in checker.report(changed).hits if h.rule == rule])


def comments(files: object) -> set[str]:
    """The comments of the texts, but for those that say where a hit is expected."""
    assert isinstance(files, dict)
    return {part.strip() for text in files.values() for part in re.findall(r"# (?!HERE)[^\n]*", text)}


def test_every_rule_has_cases_and_texts() -> None:
    """A rule without a bad and a good case proves nothing."""
    seen = {(rule, name.split(":")[0]) for rule, name, _ in cases()}
    for rule in all_rules():
        assert {(rule.id, "bad"), (rule.id, "good")} <= seen, rule.id
        assert (
            rule.title and rule.why.endswith(".") and rule.remedy and not rule.remedy.endswith(".")
        ), rule.id
        assert rule.example, rule.id
    assert {rule for rule, _ in seen} == {rule.id for rule in all_rules()}
