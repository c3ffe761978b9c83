"""What the tests of commands on GitHub's records share: the stand-in, a command in a scope, labels there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.component.cli_support import TOKEN, Ran, call
from tests.fakes.github_api import GithubApi

__all__ = ["ORG", "custom", "emptied", "run"]

ORG = "/orgs/acme"


@contextmanager
def emptied(server: GithubApi, monkeypatch: pytest.MonkeyPatch) -> Iterator[GithubApi]:
    """The stand-in, empty but for a token. Writes are not spaced here: the client's own tests see to that."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    server.control.reset()
    server.control.add_token(TOKEN)
    yield server
    assert server.control.violations() == []


def run(github: GithubApi, *arguments: str, scope: str = "acme", **env: str) -> Ran:
    """A command in that scope."""
    return call(*arguments, env={"GH_TOKEN": TOKEN, "RUNNERCTL_URL": f"{github.url}/{scope}", **env})


def custom(github: GithubApi, name: str, scope: str = ORG) -> set[str]:
    """A runner's custom labels at GitHub."""
    record = github.control.runner(scope, name)
    assert record is not None, name
    return {label["name"] for label in record["labels"] if label["type"] == "custom"}
