"""``runnerctl adopt``: make a slot of a runner that ``svc.sh`` installed, with the registration it has."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import OutputOption, seconds_given
from runnerctl.errors import ConfigError, TryAgainError

if TYPE_CHECKING:
    from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.adoption import Claim, Stock

    from runnerctl.cli.host import Slots
    from runnerctl.core.spec import Slot

__all__ = ["adopt", "app"]

SCHEMA = "runnerctl.adopt/1"
POLL_SECONDS = 2.0
UPDATES = (
    "runnerctl: it was registered with updates on, which a slot cannot take: when GitHub sends one, the slot "
    "stops, and the next provision registers it again"
)
NAME = (
    "runnerctl: say `runner_name: {name}` for slot {slot} in the inventory as well: `list`, `doctor` and "
    "`drain` on the controller look for the record by its name"
)
EXAMPLE = """
runnerctl adopt
runnerctl adopt build-box --slot main --wait
runnerctl adopt --forget main
"""
app = new_app()


@app.command("adopt", cls=Command, epilog=EXAMPLE)
def adopt(
    context: typer.Context,
    runner: Annotated[
        str | None,
        typer.Argument(metavar="RUNNER", help="The runner's name, or its unit's.", show_default=False),
    ] = None,
    slot: Annotated[
        str | None,
        typer.Option(
            "--slot",
            metavar="SLOT",
            help="The slot it becomes. Default: the only one that fits.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the running job has ended.")] = False,
    timeout: Annotated[
        str | None,
        typer.Option("--timeout", metavar="SECONDS", help="How long to wait.", show_default=False),
    ] = None,
    forget: Annotated[
        str | None,
        typer.Option(
            "--forget",
            metavar="SLOT",
            help="Take back an adoption that was not carried out.",
            show_default=False,
        ),
    ] = None,
    output: OutputOption = None,
) -> int:
    """Take over a runner that svc.sh installed, without registering.

    Alone it lists the installations of this host. With RUNNER the stock service is stopped as soon as no job
    runs, its registration moves into a slot of /etc/runnerctl/host.json, and the slot starts: same record,
    same name, no credential. Work directory and tool cache stay where they are. Where no runner release is
    installed yet, the next provision carries it out. It needs root.
    """
    from runnerctl.cli.host import Slots

    command: Context = context.obj
    desk = Desk(Slots(command))
    if forget is not None:
        return desk.forget(forget, output)
    if runner is None:
        return desk.show(output)
    return desk.adopt(
        runner, slot, seconds=seconds_given(timeout, "--timeout") if wait else 0.0, output=output
    )


@dataclass(frozen=True)
class Desk:
    """The stock installations of this host, and the slots they may become."""

    slots: Slots

    @property
    def context(self) -> Context:
        """Where answers go."""
        return self.slots.context

    def show(self, output: str | None) -> int:
        """List the installations."""
        found = self._stock()
        rows = [{**asdict(stock), "slot": self._claimed(stock)} for stock in found]
        if self.context.wants_json(output):
            self.context.say_json({"schema": SCHEMA, "installations": rows, "actions": []})
        elif not found:
            self.context.say("no runner that svc.sh installed is on this host")
        else:
            self.context.say(_table([(stock, self._claimed(stock)) for stock in found], self.context.width))
        return 0

    def forget(self, slot: str, output: str | None) -> int:
        """Take a claim back."""
        from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import adoption

        claim = adoption.claim_of(self.slots.layout, slot)
        if claim and adoption.is_begun(self.slots.layout, claim):
            remedy = "ansible-playbook provision.yml carries it out to the end"
            raise ConfigError("has the registration already", where=f"slot {slot}", remedy=remedy)
        gone = adoption.forget_claim(self.slots.layout, slot)
        return self._tell([f"slot {slot} claims no installation any more"] if gone else [], output)

    def adopt(self, name: str, slot: str | None, *, seconds: float | None, output: str | None) -> int:
        """Claim the installation and carry it out where that is possible now."""
        from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import adoption

        from runnerctl.cli.host import host_errors
        from runnerctl.cli.output import escape

        stock = self._find(name)
        wanted = self._slot_for(stock, slot)
        claim = adoption.Claim(
            slot=wanted.name,
            unit=stock.unit,
            directory=stock.directory,
            user=stock.user,
            agent_id=stock.agent_id or 0,
            agent_name=stock.agent_name or "",
            url=stock.url or "",
        )
        with host_errors():
            self._refuse_second(claim)
            adoption.write_claim(self.slots.layout, claim)
            if not self.slots.has_release():
                action = f"{claim.agent_name} is claimed for slot {claim.slot}: provision.yml carries it out"
                return self._tell([action], output)
            if stock.updates_itself:
                self.context.note(UPDATES)
            if self.slots.spec.runner_name(wanted).casefold() != claim.agent_name.casefold():
                self.context.note(NAME.format(name=escape(claim.agent_name), slot=wanted.name))
            self._await_idle(claim, seconds)
            outcome = self.slots.converge(wanted)
        if adoption.claim_of(self.slots.layout, wanted.name):
            raise _still_busy(claim.unit)
        return self._tell(list(outcome.actions), output)

    def _refuse_second(self, claim: Claim) -> None:
        """One installation becomes one slot, and a slot one runner. Raises ConfigError."""
        from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.adoption import claims

        for other in claims(self.slots.layout):
            if (other.slot == claim.slot) != (other.unit == claim.unit):
                remedy = f"take that back first: runnerctl adopt --forget {other.slot}"
                raise ConfigError(f"slot {other.slot} claims it", where=other.unit, remedy=remedy)

    def _await_idle(self, claim: Claim, seconds: float | None) -> None:
        """Raises TryAgainError when its job has not ended after ``seconds``."""
        from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.adoption import stock_busy

        ends = None if seconds is None else time.monotonic() + seconds
        while stock_busy(self.slots.system, claim.unit):
            if ends is not None and time.monotonic() >= ends:
                raise _still_busy(claim.unit)
            self.context.sleep(POLL_SECONDS)

    def _stock(self) -> list[Stock]:
        from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.adoption import stock_runners

        from runnerctl.cli.host import host_errors

        with host_errors():
            return stock_runners(self.slots.layout, self.slots.system)

    def _find(self, name: str) -> Stock:
        stock = self._stock()
        found = [each for each in stock if _is_called(each, name)]
        if len(found) != 1:
            known = ", ".join(sorted(each.unit for each in stock)) or "none"
            what = "more than one installation has this name" if found else "no such installation"
            raise ConfigError(what, where=name, remedy=f"name its unit; here: {known}")
        if found[0].problem:
            raise ConfigError(f"cannot be adopted: {found[0].problem}", where=found[0].unit)
        return found[0]

    def _slot_for(self, stock: Stock, name: str | None) -> Slot:
        """The slot it becomes. Raises ConfigError when none fits, or more than one does."""
        spec = self.slots.spec
        slots = [slot for slot in spec.github_runner.slots if name in (None, slot.name)]
        if name is not None and not slots:
            raise ConfigError("no such slot in host.json", where=name, remedy="add it to github_runner_slots")
        fitting = [slot for slot in slots if _same(spec.slot_url(slot), stock.url or "")]
        if not fitting:
            where = f"slot {name}" if name else stock.unit
            remedy = f"give the slot the URL {stock.url} in inventory, and provision the spec"
            raise ConfigError(f"no slot belongs at {stock.url}", where=where, remedy=remedy)
        free = [slot for slot in fitting if not self._registered(slot.name)]
        if len(free) != 1:
            what = "several slots fit" if free else "is registered already"
            where = stock.unit if free else ", ".join(f"slot {slot.name}" for slot in fitting)
            remedy = "name one with --slot" if free else "add a slot for it to github_runner_slots"
            raise ConfigError(what, where=where, remedy=remedy)
        return free[0]

    def _registered(self, slot: str) -> bool:
        return (self.slots.layout.slot_root(slot) / ".runner").exists()

    def _claimed(self, stock: Stock) -> str | None:
        from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.adoption import claim_of

        names = [slot.name for slot in self.slots.spec.github_runner.slots]
        claims = [claim_of(self.slots.layout, name) for name in names]
        return next((claim.slot for claim in claims if claim and claim.unit == stock.unit), None)

    def _tell(self, actions: list[str], output: str | None) -> int:
        from runnerctl.cli.output import escape

        if self.context.wants_json(output):
            rows: list[dict[str, Any]] = [asdict(stock) for stock in self._stock()]
            self.context.say_json({"schema": SCHEMA, "installations": rows, "actions": actions})
        else:
            self.context.say("\n".join(escape(action) for action in actions) or "nothing to do")
        return 0


def _still_busy(unit: str) -> TryAgainError:
    remedy = "wait for it with --wait; the next provision adopts it as well"
    return TryAgainError("runs a job", where=unit, remedy=remedy)


def _is_called(stock: Stock, name: str) -> bool:
    """By the runner's name, the unit's, or the end of the unit's where the runner's cannot be read."""
    unit = stock.unit.removesuffix(".service")
    known = name in (stock.agent_name, stock.unit, unit)
    return known or (stock.agent_name is None and unit.endswith(f".{name}"))


def _same(one: str, other: str) -> bool:
    return one.rstrip("/").lower() == other.rstrip("/").lower()


def _table(rows: list[tuple[Stock, str | None]], width: int) -> str:
    from runnerctl.cli.output import table

    cells = []
    for stock, slot in rows:
        state = "busy" if stock.busy else "active" if stock.active else "stopped"
        verdict = stock.problem or (f"claimed for slot {slot}" if slot else "can be adopted")
        cells.append((stock.agent_name or stock.unit, state, stock.user, stock.url or "-", verdict))
    return table(("RUNNER", "STATE", "USER", "URL", "ADOPTION"), cells, width=width)
