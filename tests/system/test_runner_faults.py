"""The twenty faults of runner reality, on one host: each is detected, named by its cause, has a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hosts.controller import Controller
from tests.hosts.host import Host
from tests.hosts.lab import Lab
from tests.hosts.world import World
from tests.system.runner_acts import GROUP, ORGANISATION, online, slots
from tests.system.runner_faults import FAULTS, Fault, ask, baseline, worst
from tests.system.site import Site


@pytest.fixture(scope="module")
def site(
    lab: Lab,
    module_world: World,
    module_hosts: Callable[..., Host],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """One host with three slots, two in a repository and one in an organisation's group."""
    module_world.control.add_group(ORGANISATION, GROUP)
    controller = Controller(Path(tmp_path_factory.mktemp("runner-faults")), lab.keys)
    variables = {
        "conda_manage": False,
        "nvidia_driver_manage": False,
        "runnerctl_health_timer": False,  # it would act on what is made here
        "github_runner_slots": slots(module_world.github.url),
    }
    made = Site([module_hosts()], module_world, controller, variables)
    made.provision()
    yield made
    assert module_world.control.violations() == []


def test_a_sound_host_raises_no_alarm(site: Site) -> None:
    """Without a credential and with one."""
    for slot in "abc":
        online(site, slot)
    for github in (False, True):
        health = ask(site, github=github)
        assert health.status == "OK", worst(health)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.title)
def test_a_fault_is_detected_named_and_has_a_remedy(site: Site, fault: Fault) -> None:
    """Its cause is the first of the worst findings; other slots are not blamed; afterwards all is well."""
    try:
        fault.make(site)
        health = ask(site, github=fault.github, later=fault.later, api=fault.api(site) if fault.api else "")
    finally:
        fault.undo(site)
        if fault.converge:
            site.slots()
        online(site, fault.slot)
    bad = worst(health)
    assert bad, "nothing was found"
    assert fault.named_by(health), bad
    assert fault.remedy in bad[0].remedy
    shared = fault.check in ("slot.release", "host.clock")
    assert shared or {each.subject for each in bad} & ({"a", "b", "c"} - {fault.slot}) == set(), bad
    after = ask(site)
    assert after.status == "OK", worst(after)


def test_a_slot_on_hold_is_no_fault(site: Site) -> None:
    """Held by an operator: said, not alarmed; with GitHub's view as well."""
    site.host.ssh("runnerctl drain b")
    try:
        assert baseline(site, "b").alarm
        for github in (False, True):
            bad = worst(ask(site, github=github))
            assert [(each.id, each.status) for each in bad] == [("slot.unit", "WARNING")], bad
            assert "held" in bad[0].summary
    finally:
        site.host.ssh("runnerctl resume b")
        online(site, "b")
