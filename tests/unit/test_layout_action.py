"""The controller's half of a layout: when it is final, when it waits for the driver, when it is read anew."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from ansible.errors import AnsibleActionFail
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.layout import (
    judge_layout,
    laid_out,
    spec_of_host,
)
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import (
    _with_layout,
    forget_layout,
    layout_fact,
)

from runnerctl.core.hardware import Gpu, Hardware
from runnerctl.core.sections import HostSpec
from runnerctl.core.spec import host_spec

TWO = Hardware(gpus=(Gpu("GPU-0000aaaa", 0, mig=False), Gpu("GPU-0000bbbb", 1, mig=False)))
NO_DRIVER = Hardware(unavailable="the driver's library is missing", remedy="install the driver")


def spec(**values: Any) -> HostSpec:
    """A spec that wishes one GPU a slot."""
    given = {"github_runner_url": "https://github.com/acme", "github_runner_gpus_per_slot": 1, **values}
    found, problems = host_spec("h1", given)
    assert found is not None, problems
    return found


def report(hardware: Hardware, before: HostSpec | None = None) -> dict[str, Any]:
    """What module ``preflight`` answers."""
    known = msgspec.json.encode(before).decode() if before is not None else None
    return {"hardware": msgspec.to_builtins(hardware), "host_json": known}


class Host:
    """A task's action, with a host at the other end that counts how often it is asked."""

    def __init__(self, answer: dict[str, Any], *, check: bool = False) -> None:
        self.answer, self.asked = answer, 0
        self._task = SimpleNamespace(check_mode=check)

    def execute(self, *_: Any, **__: Any) -> dict[str, Any]:
        """As `TargetAction.execute`."""
        self.asked += 1
        return self.answer


def ask(host: Host, wanted: HostSpec) -> tuple[HostSpec, dict[str, Any]]:
    """`laid_out` for that host."""
    return laid_out(cast(TargetAction, host), wanted, {})


def names(found: HostSpec) -> list[str]:
    """Its slots."""
    return [slot.name for slot in found.github_runner.slots]


def test_preflight_decides_where_the_driver_answers() -> None:
    """Later tasks have the layout from its fact, in this run only, until the driver changes."""
    found, problems = judge_layout(spec(), report(TWO), driver_comes=True)
    assert problems == []
    assert names(found) == ["gpu0", "gpu1"]
    fact = {"ansible_facts": layout_fact(found)}
    assert _with_layout(spec(), fact) == found
    assert _with_layout(spec(), {"ansible_facts": forget_layout()}) == spec()
    fact["ansible_facts"]["__github_runner_layout"]["run"] = os.getppid() + 1
    assert _with_layout(spec(), fact) == spec()


def test_a_bare_host_is_laid_out_behind_its_driver() -> None:
    """Preflight refuses only where no driver will come; the next task that needs it asks once."""
    assert judge_layout(spec(), report(NO_DRIVER), driver_comes=True) == (spec(), [])
    (problem,) = judge_layout(spec(), report(NO_DRIVER), driver_comes=False)[1]
    assert "library is missing; install the driver" in problem.line("h1")
    host = Host(report(TWO))
    found, fact = ask(host, spec())
    assert names(found) == ["gpu0", "gpu1"]
    assert _with_layout(spec(), {"ansible_facts": fact}) == found
    assert ask(host, found) == (found, {})
    assert host.asked == 1


def test_a_cut_that_is_to_come_is_judged_and_then_asked_again() -> None:
    """What role nvidia_driver will cut is no fact yet; what it will not cut is refused at once."""
    cuts = {"nvidia_driver_mig": [{"profiles": ["1g.10gb"]}], "github_runner_gpus_per_slot": None}
    wanted = spec(**cuts, github_runner_mig_profile="1g.10gb")
    assert judge_layout(wanted, report(TWO), driver_comes=True) == (wanted, [])
    other = spec(**cuts, github_runner_mig_profile="2g.20gb")
    assert "2g.20gb: 1g.10gb" in judge_layout(other, report(TWO), driver_comes=True)[1][0].message


def test_without_a_driver_behind_its_role_the_play_ends() -> None:
    """No slot is made up; check mode on a bare host says what it cannot know and goes on."""
    with pytest.raises(AnsibleActionFail, match="the GPUs cannot be read: the driver's library is missing"):
        ask(Host(report(NO_DRIVER)), spec())
    found, fact = ask(Host(report(NO_DRIVER), check=True), spec())
    assert (names(found), fact) == ([], {})


def test_plays_that_change_no_layout_take_the_hosts_own() -> None:
    """Drain and upgrade must know the slots that there are; a host without GPUs is not asked."""
    before, _ = judge_layout(spec(), report(TWO), driver_comes=False)
    host = Host(report(NO_DRIVER, before))
    found = spec_of_host(cast(TargetAction, host), spec(), {})
    assert found.github_runner.slots == before.github_runner.slots
    assert found.layout == before.layout, "with labels, CPUs and memory"
    plain = spec(github_runner_gpus_per_slot=None)
    assert spec_of_host(cast(TargetAction, host), plain, {}) == plain
    assert host.asked == 1
