"""Configurations for one job, minted where answers get lost."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from runnerctl.core.scope import parse_scope
from runnerctl.errors import DataError, UnavailableError
from runnerctl.github.auth import TokenCredential
from runnerctl.github.client import GitHubClient
from runnerctl.github.registry import Registry
from runnerctl.redact import redact
from tests.fakes.github_api import GithubApi

TOKEN = "ghp_" + "j" * 36
SCOPE = "/orgs/acme"
MINT = "/generate-jitconfig$"


@pytest.fixture
def github() -> Iterator[GithubApi]:
    with GithubApi() as made:
        made.control.add_token(TOKEN)
        yield made
        assert made.control.violations() == []


def _registry(github: GithubApi) -> Registry:
    client = GitHubClient(github.url, TokenCredential(TOKEN, source="GH_TOKEN"), sleep=lambda _: None)
    return Registry(client, parse_scope(f"{github.url}/acme"))


def _mint(github: GithubApi, name: str = "box-a") -> str:
    made = _registry(github).jit_config(name, group_id=1, labels=["self-hosted", "gpu"])
    assert made.runner.name == name
    assert made.encoded_jit_config not in repr(made)
    return made.encoded_jit_config


def test_a_configuration_is_minted_and_is_a_secret(github: GithubApi) -> None:
    """One record; the blob shows in no log."""
    blob = _mint(github)
    assert len(github.control.runners(SCOPE)) == 1
    assert blob not in redact(f"started with {blob}")


@pytest.mark.parametrize("fault", ["lost_answer", "server_error"])
def test_a_lost_answer_leaves_no_record_behind(github: GithubApi, fault: str) -> None:
    """GitHub did it and the answer never came: the record without a key is removed, and minted anew."""
    github.control.fault(fault, path=MINT, count=2)
    _mint(github)
    assert [runner["name"] for runner in github.control.runners(SCOPE)] == ["box-a"]
    github.control.fault(fault, path=MINT, count=None)
    with pytest.raises(UnavailableError):
        _mint(github, "box-b")
    assert [runner["name"] for runner in github.control.runners(SCOPE)] == ["box-a"]


def test_a_name_that_is_taken_is_nobodys_to_take(github: GithubApi) -> None:
    """Neither a runner that was there before, nor one that is faster than the look-up."""
    github.control.add_runner(SCOPE, "box-a", status="offline")
    with pytest.raises(DataError, match="a runner named box-a exists already"):
        _mint(github)
    github.control.fault("name_conflict", count=1)
    with pytest.raises(DataError, match="a runner named box-b exists already"):
        _mint(github, "box-b")
    assert [runner["name"] for runner in github.control.runners(SCOPE)] == ["box-a"]
