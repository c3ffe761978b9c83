"""Fixtures of the system tests: real systemd hosts, and the stand-ins they talk to."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fakes.github_api import Control
from tests.fakes.mirror import Mirror
from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World

TEST_SECONDS = 600


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here is a system test, and may take longer than a unit test."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.system)
            if item.get_closest_marker("timeout") is None:
                item.add_marker(pytest.mark.timeout(TEST_SECONDS))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """Engine, network, images and keys. Fails, never skips, where they cannot be had."""
    directory = Path(tempfile.mkdtemp(prefix="rh-"))
    opened = Lab.open(directory)
    try:
        yield opened
    finally:
        opened.close()
        shutil.rmtree(directory, ignore_errors=True)


HostFactory = Callable[..., Host]


@pytest.fixture(scope="module")
def module_hosts(lab: Lab) -> Iterator[HostFactory]:
    """Makes hosts (see `Lab.host`) that live as long as the test file."""
    yield from _factory(lab)


@pytest.fixture
def hosts(lab: Lab) -> Iterator[HostFactory]:
    """Makes hosts (see `Lab.host`) that live as long as the test."""
    yield from _factory(lab)


def _factory(lab: Lab) -> Iterator[HostFactory]:
    inner = Lab(lab.engine, lab.network, lab.keys)
    inner.numbers = lab.numbers
    try:
        yield inner.host
    finally:
        inner.close()


@pytest.fixture
def host(hosts: HostFactory) -> Host:
    """A fresh Debian 12 host."""
    return hosts()


@pytest.fixture(scope="session")
def mirror(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirror]:
    """Runner releases and Miniforge, at this machine's address in the hosts' network."""
    with Mirror(tmp_path_factory.mktemp("mirror"), host=lab.network.gateway) as server:
        server.add_miniforge()
        yield server


@pytest.fixture(scope="module")
def module_world(lab: Lab, mirror: Mirror) -> Iterator[World]:
    """GitHub's stand-in and the mirror, for the hosts of one test file. The mirror starts afresh."""
    mirror.faults.clear()
    mirror.forget_downloads()
    with World.build(lab.network.gateway, mirror) as built:
        yield built


@pytest.fixture
def world(lab: Lab, mirror: Mirror) -> Iterator[World]:
    """GitHub's stand-in and the mirror, for one test. The mirror's faults and counts start afresh."""
    mirror.faults.clear()
    mirror.forget_downloads()
    with World.build(lab.network.gateway, mirror) as built:
        yield built
    mirror.faults.clear()


@pytest.fixture
def github(world: World) -> Control:
    """The control desk of GitHub's stand-in."""
    return world.control


@pytest.fixture
def controller(lab: Lab, tmp_path: Path) -> Controller:
    """Runs playbooks."""
    return Controller(tmp_path / "controller", lab.keys)
