"""How the release that preflight found reaches the tasks after it."""

from __future__ import annotations

import os

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.release import (
    recall_release,
    release_fact,
)

RELEASE = {"version": "2.336.0", "needs_token": False}


def test_a_fact_is_found_where_facts_are_no_variables() -> None:
    """With inject_facts_as_vars off it stands in ansible_facts only."""
    assert recall_release({"ansible_facts": release_fact(RELEASE)}) == RELEASE
    assert recall_release({"ansible_facts": {}}) == {}
    assert recall_release({}) == {}


def test_a_fact_of_an_earlier_run_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache of facts brings it back: the release it names may have expired since."""
    cached = {"ansible_facts": release_fact(RELEASE)}
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert recall_release(cached) == {}
