"""A sample of the fault matrix of benchmarks/github_faults.py: nothing lost, nothing registered twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.component.fault_runs import World, run_fleet
from tests.fakes.github_api import GithubApi


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with GithubApi() as github:
        yield World(github, Path(tmp_path_factory.mktemp("faults")))


@pytest.mark.exhaustive
@pytest.mark.parametrize("seed", range(8))
def test_a_fleet_registers_through_a_bad_day(world: World, seed: int) -> None:
    """Random faults, lost answers, kills, others' mischief: in the end each slot has its one record."""
    outcome = run_fleet(world, seed, crowds=(0, 3), rounds=3)
    assert outcome.sound, outcome
