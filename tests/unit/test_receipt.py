"""The receipt says what the toolkit put on a host: no more, and never less."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import (
    SCHEMA,
    Receipt,
    ReceiptError,
)


@pytest.fixture()
def receipt(tmp_path: Path) -> Receipt:
    return Receipt(tmp_path / "state" / "receipt.json")


def test_no_receipt_means_nothing_was_installed(receipt: Receipt) -> None:
    assert receipt.entries() == []
    assert not os.path.exists(os.path.dirname(receipt.path)), "reading writes nothing"


def test_record_notes_each_thing_once_and_forget_drops_it(receipt: Receipt) -> None:
    assert receipt.record("package", ["git", "tar", "git"], role="github_runner") == ["git", "tar"]
    assert receipt.record("package", ["tar", "curl"], role="conda") == ["curl"]
    assert [entry.name for entry in receipt.entries("package")] == ["git", "tar", "curl"]
    assert [entry.name for entry in receipt.entries(role="conda")] == ["curl"]
    assert receipt.forget("package", ["tar", "never"]) == ["tar"]
    assert receipt.forget("package", "tar") == []
    assert [entry.name for entry in receipt.entries()] == ["git", "curl"]


def test_what_was_there_before_is_not_ours(receipt: Receipt, tmp_path: Path) -> None:
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    assert receipt.record("path", [str(theirs), str(ours)], role="conda") == [str(ours)]
    assert receipt.record("user", "root", role="github_runner") == []
    assert receipt.record("group", "root", role="github_runner") == []


def test_the_file_is_roots_and_has_a_schema(receipt: Receipt) -> None:
    receipt.record("unit", "gha-runner@.service", role="github_runner")
    assert os.stat(receipt.path).st_mode & 0o777 == 0o600
    data = json.loads(Path(receipt.path).read_text())
    assert data["schema"] == SCHEMA
    assert data["entries"][0]["at"].endswith("Z")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"schema": "runnerctl.receipt/1", "entr', "is no JSON"),
        ('{"schema": "runnerctl.receipt/9", "entries": []}', "upgrade runnerctl on the controller"),
        ("[]", "has schema None"),
        ('{"schema": "runnerctl.receipt/1", "entries": [{"name": "x"}]}', "cannot be understood"),
    ],
)
def test_an_unreadable_receipt_is_one_line(receipt: Receipt, text: str, expected: str) -> None:
    path = Path(receipt.path)
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ReceiptError) as error:
        receipt.record("package", "git", role="github_runner")
    line = str(error.value)
    assert expected in line
    assert str(path) in line
    assert "\n" not in line
    assert path.read_text() == text, "nothing is written over what cannot be read"


def test_an_unknown_kind_is_refused(receipt: Receipt) -> None:
    with pytest.raises(ReceiptError, match="no kind of thing"):
        receipt.record("snap", "git", role="x")
