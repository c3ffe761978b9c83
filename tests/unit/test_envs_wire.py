"""What goes over the service's socket, and the files that go with it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runnerctl.envs import wire
from runnerctl.envs.client_files import named_files, reader
from runnerctl.envs.service_asks import parse_ask
from runnerctl.errors import DataError


def test_a_request_is_one_line_and_reads_back() -> None:
    """Line breaks and every other character of a file stay inside the line."""
    text = "name: x\n# \u2028 \x85 ä\n"
    line = wire.encode_request("ensure", {"request": {"text": text, "refresh_seconds": 60}})
    assert line.count(b"\n") == 1 and line.isascii()
    request = parse_ask(line).payload.request
    assert request is not None and request.text == text and request.refresh_seconds == 60


def test_every_op_is_known_to_the_service() -> None:
    """The table and the parser name the same questions."""
    payload = {"request": {"text": "x"}, "digest": "ab"}
    assert [parse_ask(wire.encode_request(op, payload)).op for op in wire.OPS] == list(wire.OPS)


def test_the_files_of_the_pip_section_go_with_the_first_question(tmp_path: Path) -> None:
    """Also those that they name, from their own directory; nothing from outside, and no pipe hangs us."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "r.txt").write_text("numpy\n-c sub/c.txt\n")
    (tmp_path / "sub/c.txt").write_text("numpy<3\n-r inner.txt\n")
    (tmp_path / "sub/inner.txt").write_text("six\n")
    (tmp_path / "out.txt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe")
    names = ["-r ./r.txt", "'-r../secret'", "-r pipe", "-c /etc/passwd", "--requirement=out.txt", "-r absent"]
    text = "dependencies:\n  - pip:\n" + "".join(f"    - {name}\n" for name in names)
    found = named_files(text, str(tmp_path))
    assert sorted(found) == ["r.txt", "sub/c.txt", "sub/inner.txt"]


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a\0b", "absent", "folder", "large"])
def test_a_service_cannot_have_any_file(name: str, tmp_path: Path) -> None:
    """Only regular files of text below the directory of the environment's file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "large").write_bytes(b"x" * (wire.MOST_FILES + 1))
    with pytest.raises(DataError) as caught:
        reader(str(tmp_path))(name)
    assert json.dumps(str(caught.value)) and "\0" not in str(caught.value)
