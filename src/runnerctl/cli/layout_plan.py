"""Plans of layouts: of this host, of saved hardware, of an inventory's hosts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from runnerctl.cli.context import Context, Paths
from runnerctl.core.hardware import Hardware
from runnerctl.core.layout import Layout
from runnerctl.core.sections import HostSpec, Problem
from runnerctl.core.slot_layout import Planned, lay_out, undo_layout, wants_gpus
from runnerctl.errors import ConfigError, DataError, UnavailableError, UsageError
from runnerctl.hostfile import load_host_spec

__all__ = ["Seen", "of_host", "of_inventory", "planned"]

PLAYBOOK = "slots"
SECONDS = 900.0
LARGEST_BYTES = 16 << 20
PROVISION = "provision it first: ansible-playbook provision.yml; or give -i INVENTORY"


@dataclass(frozen=True)
class Seen:
    """One host: its spec up to now, the hardware, and the plan, or what stands in its way."""

    before: HostSpec
    hardware: Hardware
    after: HostSpec | None = None
    problems: tuple[Problem, ...] = ()
    notes: tuple[str, ...] = ()


def planned(before: HostSpec, wished: HostSpec, hardware: Hardware, current: Layout | None = None) -> Seen:
    """The plan for ``wished``, a spec as inventory gives it; ``before`` is what it is compared with."""
    result = lay_out(wished, hardware, current)
    if isinstance(result, list):
        return Seen(before, hardware, problems=tuple(result))
    if isinstance(result, Planned) and result.undecided is not None:
        return Seen(before, hardware, problems=(result.undecided,), notes=result.notes)
    return Seen(before, hardware, result.spec, notes=result.notes)


def of_host(paths: Paths, *, saved: str | None, per_slot: int | None) -> Seen:
    """The plan of the host whose file system ``paths`` is. Raises RunnerctlError without a spec."""
    spec = load_host_spec(paths.host_file)
    if spec is None:
        raise ConfigError("there is no spec to lay out", where=str(paths.host_file), remedy=PROVISION)
    wished = _wished(undo_layout(spec), per_slot)
    hardware = read_saved(saved) if saved else read_here(paths, gpus=wants_gpus(wished))
    return planned(spec, wished, hardware, spec.layout)


def read_here(paths: Paths, *, gpus: bool) -> Hardware:
    """This host's hardware; of another root no driver can be asked."""
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.hardware import read_hardware

    found = read_hardware(gpus=gpus and paths.is_this_host(), root=str(paths.root))
    return msgspec.convert(found, Hardware)


def read_saved(name: str) -> Hardware:
    """Hardware from a file: alone, or in an answer of ``slots plan``. Raises UsageError or DataError."""
    path = Path(name)
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise DataError("is too large to be saved hardware", where=name, remedy="check the path")
        data = json.loads(path.read_text(encoding="utf-8"))
        inner = data.get("hardware", data) if isinstance(data, dict) else data
        return msgspec.convert(inner, Hardware)
    except OSError as error:
        remedy = "give a file that `runnerctl slots plan -o json` wrote"
        raise UsageError(f"cannot be read: {error.strerror}", where=name, remedy=remedy) from None
    except (ValueError, RecursionError, msgspec.ValidationError) as error:
        reason = str(error).splitlines()[0]
        remedy = "give a file that `runnerctl slots plan -o json` wrote"
        raise DataError(f"is no saved hardware: {reason}", where=name, remedy=remedy) from None


def _wished(spec: HostSpec, per_slot: int | None) -> HostSpec:
    if per_slot is None:
        return spec
    runner = msgspec.structs.replace(spec.github_runner, gpus_per_slot=per_slot)
    return msgspec.structs.replace(spec, github_runner=runner)


# -- an inventory ----------------------------------------------------------------------------------------


def of_inventory(
    context: Context, inventory: str, *, limit: str | None, saved: str | None, per_slot: int | None
) -> list[Seen]:
    """The plan of every host; with ``saved`` hardware of the only one. Raises RunnerctlError."""
    if saved:
        return [_with_saved(context, inventory, limit, saved, per_slot)]
    from runnerctl.cli.playbook import no_hosts, play

    played = play(
        context,
        PLAYBOOK,
        inventory=inventory,
        limit=limit,
        output_variable="slots_output_dir",
        seconds=SECONDS,
    )
    if played.is_empty:
        raise no_hosts(inventory, limit)
    if not played.answers:
        raise UnavailableError(
            f"ansible-playbook runnerctl.gpu_runner.{PLAYBOOK} failed: {played.reason}",
            remedy="run it by hand to see all of its output",
        )
    if played.status:
        context.note(f"runnerctl: not every host answered: {played.reason}")
    return [_answered(answer, per_slot) for answer in played.answers.values()]


def _with_saved(
    context: Context, inventory: str, limit: str | None, saved: str, per_slot: int | None
) -> Seen:
    from runnerctl.cli.inventory import resolve
    from runnerctl.cli.label_sync import inventory_specs

    specs = inventory_specs(resolve(context, inventory, limit=limit), inventory)
    if len(specs) != 1:
        names = ", ".join(spec.host for spec in specs)
        raise UsageError(
            "is the hardware of one host", where="--from", remedy=f"add --limit, one of: {names}"
        )
    return planned(specs[0], _wished(specs[0], per_slot), read_saved(saved))


def _answered(answer: dict[str, Any], per_slot: int | None) -> Seen:
    try:
        spec = msgspec.convert(answer["spec"], HostSpec)
        before = msgspec.convert(answer["before"] or answer["spec"], HostSpec)
        hardware = msgspec.convert(answer["hardware"], Hardware)
    except (KeyError, msgspec.ValidationError):
        remedy = "use the collection that came with this runnerctl"
        raise DataError("gave an answer of another form", where=PLAYBOOK, remedy=remedy) from None
    return planned(before, _wished(spec, per_slot), hardware, before.layout)
