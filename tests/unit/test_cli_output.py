"""How answers look."""

from __future__ import annotations

import json

import pytest

from runnerctl.cli.output import ascii_json, cell, escape, fields, rfc3339, table, to_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("gpu-1", "gpu-1"),
        ("größe 日本", "größe 日本"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("abc\u202edef\u2066", "abc\\u202edef\\u2066"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("\u2028\u00a0", "\\u2028\\xa0"),
        ("\U000e0041", "\\U000e0041"),
        ("\udc80", "\\udc80"),
    ],
)
def test_escape_shows_what_a_terminal_would_act_on(text: str, shown: str) -> None:
    """Controls, ANSI, C1, bidi, zero width, line separators and lone surrogates; letters stay."""
    assert escape(text) == shown
    assert escape(text).isprintable()


def test_escape_keeps_what_it_is_told_to() -> None:
    """A log line keeps its tabs and nothing else."""
    assert escape("a\tb\x07", keep="\t") == "a\tb\\x07"


def test_cells() -> None:
    """Nothing is a dash, a list is joined, a name in a list is escaped."""
    assert [cell(value) for value in (None, "", (), True, False, 0)] == ["-", "-", "-", "yes", "no", "0"]
    assert cell(["a", "b\x1b"]) == "a,b\\x1b"


def test_table_folds_its_last_column_only() -> None:
    """80 columns when possible; labels go on below their column, and nothing is lost."""
    labels = [f"label-number-{number}" for number in range(8)]
    lines = table(["RUNNER", "LABELS"], [["gpu-1-main", labels], ["x", ["one"]]]).splitlines()
    assert all(len(line) <= 80 for line in lines)
    column = lines[0].index("LABELS")
    folded = "".join(line[column:] for line in lines[1:-1])
    assert folded == ",".join(labels)
    assert lines[-1].split() == ["x", "one"]


def test_table_never_cuts_a_value() -> None:
    """What does not fit makes the line longer."""
    name = "n" * 90
    assert name in table(["A", "B"], [[name, "b"]])


def test_table_counts_wide_characters_twice() -> None:
    """Columns stay in line beside East Asian text."""
    first, second = table(["A", "B"], [["日本", "x"], ["abcd", "x"]]).splitlines()[1:]
    assert first == "日本  x" and second == "abcd  x"


def test_json_is_ascii_and_round_trips() -> None:
    """No character of a name reaches a terminal as it is, and none is lost."""
    value = {"name": "ü\x1b\x7f\u202e\U0001f600"}
    text = to_json(value)
    assert text.isascii() and "\x7f" not in text and "\x1b" not in text
    assert json.loads(text) == value
    raw = json.dumps(value, ensure_ascii=False)
    assert ascii_json(raw).isascii() and json.loads(ascii_json(raw)) == value


def test_fields_stand_in_a_column() -> None:
    """Names left, values in line."""
    assert fields({"a": 1, "long name": None}) == "a:         1\nlong name: -"


def test_times_are_rfc_3339_in_utc() -> None:
    """To the second."""
    assert rfc3339(1795348800.9) == "2026-11-22T12:00:00Z"
