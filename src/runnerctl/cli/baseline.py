"""``runnerctl baseline``: write down what this host's GPUs are like, so that later differences are seen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, Group, new_app
from runnerctl.cli.options import OutputOption, RootfsOption
from runnerctl.errors import AccessError, DataError, UnavailableError, UsageError

if TYPE_CHECKING:
    from runnerctl.core.baseline import Difference
    from runnerctl.core.driver_readings import Baseline
    from runnerctl.core.snapshot import Snapshot, Unavailable

__all__ = ["app", "clear", "save", "show"]

SCHEMA = "runnerctl.baseline-saved/1"
SAVE_EXAMPLE = """
runnerctl baseline save
runnerctl baseline save --force
"""
SHOW_EXAMPLE = """
runnerctl baseline show
runnerctl baseline show -o json
"""
CLEAR_EXAMPLE = """
runnerctl baseline clear
"""
app = new_app(
    cls=Group,
    name="baseline",
    help="Save what this host's GPUs are like; health reports what differs later.",
    epilog="runnerctl baseline save\nrunnerctl baseline show",
)


@app.command("save", cls=Command, epilog=SAVE_EXAMPLE)
def save(
    context: typer.Context,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a baseline from which the GPUs differ.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be saved, and what is odd about it.")
    ] = False,
    rootfs: RootfsOption = None,
    output: OutputOption = None,
) -> int:
    """Save what the GPUs are like now: UUIDs, VBIOS, PCIe, NVLinks, limits, modes, MIG, error counters.

    It refuses when a GPU does not answer, and when there is a baseline from which the GPUs differ: it then
    lists the differences, and --force accepts them. Run it once all is well. It needs root.
    """
    from runnerctl.core.baseline import baseline_of, encode

    command: Context = context.obj
    found = _taken(command, rootfs)
    baseline = baseline_of(found)
    before = _read(command, rootfs)
    changes = [] if force else _changes(before, found)
    if changes:
        return _refuse(command, changes, output)
    odd = _oddities(found)
    changed = force or not _same(before, baseline)
    if changed and not dry_run:
        _write(_path(command, rootfs), encode(baseline))
    _say_saved(command, odd, dry_run=dry_run, changed=changed, gpus=len(baseline.gpus), output=output)
    return 0


def _say_saved(
    context: Context, odd: list[str], *, dry_run: bool, changed: bool, gpus: int, output: str | None
) -> None:
    """What was saved, or would be."""
    would = "would be " if dry_run else ""
    for line in odd:
        context.note(f"runnerctl: {would}saved as it is: {line}")
    if context.wants_json(output):
        saved = changed and not dry_run
        context.say_json({"schema": SCHEMA, "saved": saved, "gpus": gpus, "differences": [], "oddities": odd})
        return
    number = f"{gpus} GPU{'' if gpus == 1 else 's'}"
    context.say(f"{would}saved: {number}" if changed else f"nothing to do: {number} as in the baseline")


@app.command("show", cls=Command, epilog=SHOW_EXAMPLE)
def show(context: typer.Context, rootfs: RootfsOption = None, output: OutputOption = None) -> int:
    """Show the saved baseline.

    As JSON it is the file itself. `runnerctl health` compares the GPUs with it (gpu.baseline).
    """
    from runnerctl.core.baseline import encode
    from runnerctl.core.snapshot import Unavailable

    command: Context = context.obj
    path, found = _path(command, rootfs), _read(command, rootfs)
    if isinstance(found, Unavailable):
        raise DataError(found.reason, remedy=found.remedy or "run it as root")
    if found is None:
        raise UsageError("no baseline was saved", where=str(path), remedy="`runnerctl baseline save`")
    if command.wants_json(output):
        from runnerctl.cli.output import ascii_json

        command.say(ascii_json(encode(found).decode()).rstrip("\n"))
    else:
        command.say(_text(found, width=command.width))
    return 0


@app.command("clear", cls=Command, epilog=CLEAR_EXAMPLE)
def clear(context: typer.Context, rootfs: RootfsOption = None, output: OutputOption = None) -> int:
    """Remove the saved baseline: nothing is compared until the next one is saved. It needs root."""
    command: Context = context.obj
    path = _path(command, rootfs)
    try:
        path.unlink()
        removed = True
    except FileNotFoundError:
        removed = False
    except OSError as error:
        raise _no_access(path, error) from None
    if command.wants_json(output):
        command.say_json({"schema": SCHEMA, "removed": removed})
    else:
        command.say("removed" if removed else "there is none")
    return 0


def _path(context: Context, rootfs: str | None) -> Path:
    from runnerctl.probes.baseline import BASELINE_FILE

    return context.at(rootfs) / BASELINE_FILE


def _read(context: Context, rootfs: str | None) -> Baseline | Unavailable | None:
    from runnerctl.probes.baseline import read_baseline

    return read_baseline(context.at(rootfs).root)


def _taken(context: Context, rootfs: str | None) -> Snapshot:
    from runnerctl.probes.collect import collect

    root = context.at(rootfs).root
    if not root.is_dir():
        raise UsageError("no such directory", where=str(root), remedy="give the root of a host's file system")
    return collect(root, api_urls=(), environ=context.env, clock=context.clock)


def _changes(before: Baseline | Unavailable | None, found: Snapshot) -> list[Difference]:
    """What the new baseline would hide. Raises DataError when the old one cannot be read."""
    from runnerctl.core.baseline import differences
    from runnerctl.core.snapshot import Unavailable

    if isinstance(before, Unavailable):
        raise DataError(before.reason, remedy=before.remedy or "run it as root")
    gpus = found.gpus
    if before is None or isinstance(gpus, Unavailable):
        return []
    return [each for each in differences(before, gpus) if each.status != "OK"]


def _refuse(context: Context, changes: list[Difference], output: str | None) -> int:
    """List the differences; the exit code is that of data that does not fit."""
    from runnerctl.cli.output import escape

    lines = [f"{'host' if each.gpu is None else f'GPU {each.gpu}'}: {each.summary}" for each in changes]
    if context.wants_json(output):
        context.say_json({"schema": SCHEMA, "saved": False, "differences": lines})
    else:
        context.say("\n".join(map(escape, lines)))
    context.note("runnerctl: the GPUs differ from the saved baseline; --force accepts what they are now")
    return DataError.exit_code


def _same(before: Baseline | Unavailable | None, now: Baseline) -> bool:
    from runnerctl.core.driver_readings import Baseline

    return isinstance(before, Baseline) and (before.driver_version, before.gpus) == (
        now.driver_version,
        now.gpus,
    )


def _oddities(found: Snapshot) -> list[str]:
    """What is odd by itself and would be taken for normal from now on."""
    from msgspec.structs import replace

    from runnerctl.core.checks.links import NVLINK, PCIE
    from runnerctl.core.checks.state import CLOCKS, POWER_LIMIT
    from runnerctl.core.health import judge

    verdict = judge(replace(found, baseline=None), (PCIE, NVLINK, POWER_LIMIT, CLOCKS))
    return [f"{each.subject}: {each.summary}" for each in verdict.findings if each.status != "OK"]


def _write(path: Path, data: bytes) -> None:
    from runnerctl.probes.baseline import write_baseline

    try:
        write_baseline(path, data)
    except OSError as error:
        raise _no_access(path, error) from None


def _no_access(path: Path, error: OSError) -> AccessError | UnavailableError:
    reason = (error.strerror or str(error)).lower()
    if isinstance(error, PermissionError):
        return AccessError(f"cannot be changed: {reason}", where=str(path), remedy="run it as root")
    return UnavailableError(f"cannot be changed: {reason}", where=str(path))


def _text(baseline: Baseline, *, width: int) -> str:
    """A table of the GPUs under a line that says when and with which driver."""
    from runnerctl.cli.output import table

    head = ("GPU", "PCI", "VBIOS", "PCIe", "limit", "ECC", "NVLinks", "MIG", "UUID")
    rows: list[list[Any]] = [
        [
            gpu.name,
            gpu.pci_bus_id,
            gpu.vbios,
            f"x{gpu.pcie_width}" if gpu.pcie_width else None,
            None if gpu.power_limit_watts is None else f"{gpu.power_limit_watts:.0f} W",
            gpu.ecc,
            gpu.nvlinks_active,
            gpu.mig_profiles or (None if gpu.mig_current is None else bool(gpu.mig_current)),
            gpu.uuid,
        ]
        for gpu in baseline.gpus
    ]
    saved = f"saved {baseline.saved_at:%Y-%m-%d %H:%M:%SZ}, driver {baseline.driver_version or 'not known'}"
    return f"{saved}\n\n{table(head, rows, width=width)}"
