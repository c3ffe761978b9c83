"""The controller's half of ``nvidia_driver``: what it asks of the host, when it reboots or stops the play."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.runnerctl.gpu_runner.plugins.action import nvidia_driver
from ansible_collections.runnerctl.gpu_runner.plugins.action.nvidia_driver import ActionModule
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.driver import (
    driver_fact,
    driver_query,
    recall_driver,
)

from runnerctl.core.sections import NvidiaDriver
from runnerctl.core.spec import HostSpec

H100 = {"pci": ["2330"], "nvswitches": 0, "container": False}
NONE = {"pci": [], "nvswitches": 0, "container": False}
GOOD = {"loaded": True, "driver_version": "535.261.03", "gpu_count": 1, "problem": "", "remedy": ""}
BAD = {**GOOD, "loaded": False, "gpu_count": 0, "problem": "the driver is not loaded", "remedy": "load it"}
DONE = {"changed": True, "actions": ["installed nvidia-kernel-dkms"], "notes": [], "reboot_required": False}
NEEDS_REBOOT = {**DONE, "reboot_required": True, "reboot_reasons": ["535.183.01 is loaded"]}


def report(gpus: dict[str, Any]) -> dict[str, Any]:
    """What module ``preflight`` says of a Debian 12 host."""
    return {"os_id": "debian", "os_version": "12", "machine": "x86_64", "gpus": gpus}


class Host:
    """Answers in place of the host: a phase of the module -> its result. Remembers what was asked."""

    def __init__(self, gpus: dict[str, Any], **phases: dict[str, Any]) -> None:
        self.gpus, self.phases = gpus, phases
        self.asked: list[str] = []

    def answer(self, question: str) -> dict[str, Any]:
        """What it says, and a note that it was asked."""
        self.asked.append(question)
        return report(self.gpus) if question == "preflight" else dict(self.phases[question])

    def run(self, **_: Any) -> dict[str, Any]:
        """As the action ``ansible.builtin.reboot``."""
        return self.answer("reboot")


class Action(ActionModule):
    """The action with ``host`` at the other end."""

    host: Host

    def execute(self, module: str, args: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        """As `TargetAction.execute`."""
        return self.host.answer(module if module == "preflight" else args.get("phase", "install"))

    def _builtin_reboot(self) -> Any:
        return self.host


Play = Callable[..., dict[str, Any]]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Run the action for a host, with facts of preflight unless ``alone``."""

    def run(host: Host, *, check: bool = False, alone: bool = False, **driver: Any) -> dict[str, Any]:
        spec = HostSpec("h1", nvidia_driver=NvidiaDriver(**driver))
        monkeypatch.setattr(nvidia_driver, "spec_from_task", lambda *_: spec)
        monkeypatch.setattr(ActionBase, "run", lambda *_: {})
        action = object.__new__(Action)
        action.host = host
        vars(action)["_task"] = SimpleNamespace(check_mode=check)
        facts = {} if alone else {"ansible_facts": driver_fact(report(host.gpus))}
        return action.run(task_vars=facts)

    return run


def test_a_host_without_gpus_is_not_asked(play: Play) -> None:
    """The second converge of a CPU host costs nothing here."""
    host = Host(NONE)
    assert play(host) == {
        "changed": False,
        "actions": [],
        "reboot_required": False,
        "plan": {
            "action": "none",
            "reason": "the host has no NVIDIA GPU",
            **dict.fromkeys(("source", "branch", "version", "flavour")),
            "generations": (),
        },
        "msg": "the host has no NVIDIA GPU",
    }
    assert host.asked == []


def test_the_role_alone_asks_itself(play: Play) -> None:
    """Without preflight's facts of this very run."""
    host = Host(NONE)
    play(host, alone=True)
    assert host.asked == ["preflight"]


def test_install_and_prove(play: Play) -> None:
    """The proof is part of the result."""
    host = Host(H100, install=DONE, prove=GOOD)
    result = play(host)
    assert host.asked == ["install", "prove"]
    assert (result["changed"], result["loaded"], result["gpu_count"]) == (True, True, 1)
    assert result["plan"]["branch"] == "535"


def test_expectations_of_others_drivers_are_proved(play: Play) -> None:
    """Nothing is installed for that."""
    host = Host(NONE, prove=GOOD)
    play(host, manage=False, gpu_count=1)
    assert host.asked == ["prove"]


def test_a_reboot_comes_after_the_slots_ran_dry_and_before_the_proof(play: Play) -> None:
    """And is reported as done."""
    ready = {"ready": True, "busy": [], "actions": ["stopped gha-runner@main.service for the reboot"]}
    phases: dict[str, dict[str, Any]] = {"prepare_reboot": ready, "reboot": {"rebooted": True}}
    host = Host(H100, install=NEEDS_REBOOT, prove=GOOD, **phases)
    result = play(host)
    assert host.asked == ["install", "prepare_reboot", "reboot", "prove"]
    assert result["actions"][-1] == "rebooted"
    assert result["reboot_required"] is False


def test_no_reboot_under_a_running_job(play: Play) -> None:
    """The play stops and says which slots."""
    host = Host(H100, install=NEEDS_REBOOT, prepare_reboot={"ready": False, "busy": ["a", "b"]})
    with pytest.raises(
        AnsibleActionFail, match=r"slots a, b still run a job after 3600 s; run the play again"
    ):
        play(host)
    assert "reboot" not in host.asked


def test_a_reboot_that_fails_is_one_line(play: Play) -> None:
    """With what to do."""
    phases: dict[str, Any] = {
        "prepare_reboot": {"ready": True},
        "reboot": {"failed": True, "msg": "timed out"},
    }
    host = Host(H100, install=NEEDS_REBOOT, **phases)
    with pytest.raises(AnsibleActionFail, match=r"could not be rebooted: timed out; reboot it by hand"):
        play(host)


def test_never_reboot(play: Play) -> None:
    """The old driver answers: that is no proof of the new one."""
    host = Host(H100, install=NEEDS_REBOOT, prove=GOOD)
    with pytest.raises(
        AnsibleActionFail, match=r"535.183.01 is loaded; reboot the host, or set nvidia_driver_reboot"
    ):
        play(host, reboot="never")
    result = play(host, reboot="never", require_loaded=False)
    assert result["reboot_required"] is True
    assert "reboot" not in host.asked


def test_without_a_proof_the_play_stops(play: Play) -> None:
    """One line: what, and what to do; or it is said and the play goes on."""
    host = Host(H100, install=DONE, prove=BAD)
    with pytest.raises(AnsibleActionFail, match=r"^h1: nvidia_driver: the driver is not loaded; load it \("):
        play(host)
    assert play(host, require_loaded=False)["msg"] == "h1: nvidia_driver: the driver is not loaded; load it"


@pytest.mark.parametrize("installed", [DONE, NEEDS_REBOOT])
def test_check_mode_neither_reboots_nor_wants_a_proof(play: Play, installed: dict[str, Any]) -> None:
    """What would be installed cannot answer yet."""
    host = Host(H100, install=installed)
    assert play(host, check=True)["changed"] is True
    assert host.asked == ["install"]


def test_an_impossible_driver_is_refused_before_the_host_is_asked(play: Play) -> None:
    """Where the role is used without preflight as well."""
    host = Host({**H100, "pci": ["2901"]})
    with pytest.raises(AnsibleActionFail, match=r"^h1: nvidia_driver_source: GPU 2901 \(Blackwell\)"):
        play(host, source="distribution")
    assert host.asked == []


def test_what_preflight_is_asked_for() -> None:
    """No package database is read for a host whose driver others manage."""
    assert driver_query(NvidiaDriver(manage=False)) == "never"
    assert driver_query(NvidiaDriver()) == "gpus"
    assert driver_query(NvidiaDriver(device_ids=("2330",))) == "always"


def test_facts_of_another_run_do_not_count() -> None:
    """A cache of facts would bring them back."""
    known = driver_fact(report(H100))
    assert recall_driver({"ansible_facts": known}) is not None
    for fact in known.values():
        fact["run"] = -1
    assert recall_driver({"ansible_facts": known}) is None
    assert recall_driver({}) is None
