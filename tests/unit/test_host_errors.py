"""What a module says when the host does not let it."""

from __future__ import annotations

import errno
import os

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError, one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (HostError("is gone", where="/x", remedy="run\nagain"), "/x: is gone; run again"),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "/opt"), "/opt: Read-only file system"),
        (OSError("no name\nno number"), "the host: no name no number"),
    ],
)
def test_an_expected_error_is_one_line(error: Exception, line: str) -> None:
    assert one_line(error) == line
