"""One GitHub stand-in for each module, emptied before each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fakes.github_api import Control, GithubApi
from tests.fakes.github_api.clients import Caller


@pytest.fixture(scope="module")
def server() -> Iterator[GithubApi]:
    with GithubApi() as running:
        yield running


@pytest.fixture
def control(server: GithubApi) -> Control:
    control = server.control
    control.reset()
    control.add_token("ghp_all")
    return control


@pytest.fixture
def api(control: Control) -> Caller:
    return Caller(control.url, "ghp_all")
