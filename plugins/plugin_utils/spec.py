"""The spec of the host a task runs for, read from the task's variables on the controller."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase

try:
    import msgspec

    from runnerctl.core.layout import Layout
    from runnerctl.core.slot_layout import apply_layout
    from runnerctl.core.spec import SECTIONS, HostSpec, Problem, Slot, host_spec
    from runnerctl.errors import RunnerctlError
except ImportError as error:
    raise AnsibleActionFail(
        f"the controller's Python lacks {error.name}: run `pip install 'runnerctl[controller]'` "
        "in the environment that holds ansible-playbook"
    ) from error

__all__ = [
    "RunnerctlError",
    "forget_layout",
    "layout_fact",
    "part_of_spec",
    "plain",
    "read_spec",
    "spec_from_task",
]

LAYOUT = "__github_runner_layout"


def plain(value: Any) -> Any:
    """Turn Ansible's lazy, tagged containers (ansible-core 2.19) into plain Python data."""
    if isinstance(value, Mapping):
        return {plain(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, str):
        return "".join((value, ""))  # an exact str: `str(value)` would keep the tagged subclass
    if isinstance(value, int) and not isinstance(value, bool):
        return int(value)
    return value


def read_spec(
    action: ActionBase, task_vars: Mapping[str, Any], *, part: str | None = None
) -> tuple[HostSpec | None, list[Problem]]:
    """The spec, or None and every problem with it. ``part``: of one section, for a host without slots."""
    prefixes = (f"{part}_",) if part else tuple(f"{section}_" for section in SECTIONS)
    values: dict[str, Any] = {"github_runner_slots": []} if part else {}
    problems = []
    for name in map(plain, sorted(task_vars)):
        if not name.startswith(prefixes):
            continue
        try:
            values[name] = plain(action._templar.template(task_vars[name]))
        except AnsibleError as error:
            reason = str(error).splitlines()[0]
            problems.append(Problem(name, f"cannot be templated: {reason}", "define what it refers to"))
    spec, found = host_spec(str(task_vars["inventory_hostname"]), values)
    problems += found
    return (None, problems) if problems else (spec, [])


def spec_from_task(action: ActionBase, task_vars: Mapping[str, Any]) -> HostSpec:
    """The spec of the task's host, its slots as an earlier task of the play has laid them out.

    Raises AnsibleActionFail with one line a problem: the variable, what is wrong, what to do.
    """
    return _with_layout(_sound(task_vars, *read_spec(action, task_vars)), task_vars)


def layout_fact(spec: HostSpec) -> dict[str, Any]:
    """The slots and their layout as a fact of this run of ansible-playbook, whose workers have one parent."""
    slots = msgspec.to_builtins(spec.github_runner.slots)
    return {LAYOUT: {"slots": slots, "layout": msgspec.to_builtins(spec.layout), "run": os.getppid()}}


def forget_layout() -> dict[str, Any]:
    """A fact that takes `layout_fact` back: the hardware, or its driver, has changed since."""
    return {LAYOUT: {}}


def _with_layout(spec: HostSpec, task_vars: Mapping[str, Any]) -> HostSpec:
    known = plain(task_vars.get("ansible_facts", {}).get(LAYOUT) or {})
    if known.get("run") != os.getppid():
        return spec
    slots = msgspec.convert(known["slots"], tuple[Slot, ...])
    return apply_layout(spec, slots, msgspec.convert(known["layout"], Layout))


def part_of_spec(action: ActionBase, task_vars: Mapping[str, Any], part: str) -> HostSpec:
    """The same from one section, for modules that are used without roles and so without a runner."""
    return _sound(task_vars, *read_spec(action, task_vars, part=part))


def _sound(task_vars: Mapping[str, Any], spec: HostSpec | None, problems: list[Problem]) -> HostSpec:
    if spec is None:
        host = str(task_vars["inventory_hostname"])
        raise AnsibleActionFail("\n".join(problem.line(host) for problem in problems))
    return spec
