"""A host's slots as they are laid out over its hardware: read, planned, and remembered for the play."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.utils.display import Display
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.spec import layout_fact, plain

from runnerctl.core.hardware import Hardware
from runnerctl.core.layout import Layout, layout_of
from runnerctl.core.sections import HostSpec, Problem
from runnerctl.core.slot_layout import Planned, after_cut, lay_out, wants_gpus
from runnerctl.errors import UnavailableError

if TYPE_CHECKING:
    from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.remote import TargetAction

__all__ = ["hardware_query", "judge_layout", "laid_out", "spec_of_host"]

display = Display()


def hardware_query(spec: HostSpec) -> str:
    """What module ``preflight`` is to read of the hardware for this spec."""
    return "gpus" if wants_gpus(spec) else "host"


def judge_layout(
    spec: HostSpec, report: Mapping[str, Any], *, driver_comes: bool
) -> tuple[HostSpec, list[Problem]]:
    """The spec laid out by what the host reports, before anything is changed; or what stands in the way.

    ``driver_comes``: whether role nvidia_driver will run, which may bring the driver and cut GPUs; then what
    is not known yet is left to the tasks behind it, and the spec comes back as it was.
    """
    hardware = _hardware(report)
    spec_then, cut = after_cut(spec, hardware) if driver_comes else (hardware, False)
    planned = lay_out(spec, spec_then, layout_of(report.get("host_json")))
    if isinstance(planned, list):
        return spec, planned
    if planned.undecided is not None and not driver_comes:
        return spec, [planned.undecided]
    if planned.undecided is not None or cut:
        return spec, []
    _warn(planned)
    return planned.spec, []


def laid_out(
    action: TargetAction, spec: HostSpec, variables: Mapping[str, Any]
) -> tuple[HostSpec, dict[str, Any]]:
    """The spec with its slots laid out, and the fact that tells the tasks behind this one.

    Known from preflight, as a rule; the host is asked where the driver came only in this play. Raises
    AnsibleActionFail with one line a problem.
    """
    if spec.layout is not None:
        return spec, {}
    report = _ask(action, variables, hardware_query(spec))
    planned = lay_out(spec, _hardware(report), layout_of(report.get("host_json")))
    problems = planned if isinstance(planned, list) else []
    if isinstance(planned, Planned) and planned.undecided is not None and not action._task.check_mode:
        problems = [planned.undecided]
    if problems or isinstance(planned, list):
        raise AnsibleActionFail("\n".join(problem.line(spec.host) for problem in problems))
    _warn(planned)
    if planned.undecided is not None:  # check mode on a host whose driver is not there yet
        display.warning(planned.undecided.line(spec.host))
        return planned.spec, {}
    return planned.spec, layout_fact(planned.spec)


def spec_of_host(action: TargetAction, spec: HostSpec, variables: Mapping[str, Any]) -> HostSpec:
    """For plays that change no layout: the slots as the host has them by its last converge.

    A host with one slot and no GPU has nothing to share, and is not asked. Raises UnavailableError when the
    host does not answer.
    """
    if spec.layout is not None or not (wants_gpus(spec) or len(spec.github_runner.slots) > 1):
        return spec
    try:
        current = layout_of(_ask(action, variables, "never").get("host_json"))
    except AnsibleConnectionFailure as error:
        reason = next(iter(str(error).strip().splitlines()), "no answer")
        raise UnavailableError(reason, where=spec.host, remedy="see that SSH works") from None
    planned = lay_out(spec, Hardware(asked=False), current) if current else None
    if current is None or not isinstance(planned, Planned) or planned.spec.layout is None:
        return spec
    # The hardware was not read: CPUs and memory are what the last converge found.
    shares = tuple(current.share(share.name) or share for share in planned.spec.layout.slots)
    return msgspec.structs.replace(planned.spec, layout=Layout(shares))


def _ask(action: TargetAction, variables: Mapping[str, Any], hardware: str) -> dict[str, Any]:
    return action.execute("preflight", {"hardware": hardware}, dict(variables))


def _hardware(report: Mapping[str, Any]) -> Hardware:
    return msgspec.convert(plain(report.get("hardware") or {"asked": False}), Hardware)


def _warn(planned: Planned) -> None:
    for note in planned.notes:
        display.warning(f"{planned.spec.host}: {note}")
