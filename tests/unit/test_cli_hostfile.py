"""Reading host.json: every way in which it can be unusable is one clear line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from runnerctl.core.spec import host_spec
from runnerctl.errors import DataError
from runnerctl.hostfile import check_host_file, load_host_spec, parse_host_spec


@pytest.fixture
def content() -> bytes:
    """A valid file."""
    values = {
        "github_runner_url": "https://github.com/acme",
        "github_runner_slots": [{"name": "a"}, {"name": "b"}],
    }
    spec, _ = host_spec("gpu-1", values)
    return msgspec.json.format(msgspec.json.encode(spec), indent=2)


def test_absent_is_none(tmp_path: Path) -> None:
    """A host that was never provisioned is no error."""
    assert load_host_spec(tmp_path / "host.json") is None
    assert load_host_spec(tmp_path / "host.json" / "below") is None


def test_a_directory_is_an_error(tmp_path: Path) -> None:
    """Named as what it is."""
    with pytest.raises(DataError, match="cannot be read"):
        load_host_spec(tmp_path)


def test_what_was_written_is_read(tmp_path: Path, content: bytes) -> None:
    """Round trip."""
    path = tmp_path / "host.json"
    path.write_bytes(content)
    spec = load_host_spec(path)
    assert spec is not None and [slot.name for slot in spec.github_runner.slots] == ["a", "b"]
    assert check_host_file(content) == (spec, [])


def test_every_truncation_is_named(content: bytes) -> None:
    """Cut anywhere, it is one line with a remedy, never another exception."""
    for length in range(0, len(content) - 1, 7):
        with pytest.raises(DataError) as caught:
            parse_host_spec(content[:length], where="host.json")
        assert "ansible-playbook provision.yml" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "rule", "text"),
    [
        (b"host/1", b"host/2", "spec.schema", "newer schema runnerctl.host/2"),
        (b"host/1", b"host/0", "spec.schema", "older schema"),
        (b"runnerctl.host/1", b"other/1", "spec.schema", "has the schema 'other/1'"),
        (b'"replace"', b'"replac"', "spec.field", "unknown field 'github_runner.replac'"),
        (b'"never"', b'"always"', "spec.value", "github_runner.replace: invalid enum value 'always'"),
        (b'"name": "a"', b'"name": 7', "spec.value", "github_runner.slots[0].name: expected"),
        (b'"name": "b"', b'"name": "a"', "spec.rule", "is given twice"),
        (b'"gpu-1"', b'"\xff"', "spec.json", "is no JSON"),
        (b"\n}", b"\n]", "spec.json", "is no JSON"),
    ],
)
def test_problems_name_rule_line_and_field(
    content: bytes, old: bytes, new: bytes, rule: str, text: str
) -> None:
    """What a user or a later version may have made of the file."""
    changed = content.replace(old, new, 1)
    _, problems = check_host_file(changed)
    assert [problem.id for problem in problems] == [rule]
    assert text in problems[0].message
    line = changed.splitlines()[problems[0].line - 1]
    assert new.strip(b'{}]"').split(b":")[0] in line or rule in ("spec.rule", "spec.json")


def test_json_that_is_no_spec() -> None:
    """Valid JSON of another kind."""
    for content in (b"[]", b"{}", b"1", b'"text"', b"null"):
        _, (problem,) = check_host_file(content)
        assert "no host spec" in problem.message


def test_a_rule_does_not_keep_a_host_from_being_read(content: bytes) -> None:
    """Rules are for `spec validate`: a newer runnerctl must still read an older spec."""
    changed = content.replace(b'"name": "b"', b'"name": "a"')
    assert parse_host_spec(changed, where="host.json").host == "gpu-1"
