"""``runnerctl keepalive``: when GitHub removes the records of parked runners, and how to prevent it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from runnerctl.cli.context import Context
from runnerctl.cli.lazy import Command, new_app
from runnerctl.cli.options import ApiUrlOption, InventoryOption, LimitOption, MaxWaitOption, OutputOption
from runnerctl.errors import UnavailableError, UsageError

if TYPE_CHECKING:
    from runnerctl.core.parked import Sighting, Window
    from runnerctl.github.models import Runner

__all__ = ["app", "keepalive"]

SCHEMA = "runnerctl.keepalive/1"
SECONDS = 3600.0  # of the playbook: hosts go one by one in each of Ansible's forks, slots one after the other
TRY_AGAIN = 75
EXAMPLE = """
runnerctl keepalive -i inventory
runnerctl keepalive -i inventory --start
runnerctl keepalive -i inventory --fail-under-days 3 -o json
"""
app = new_app()
StartOption = Annotated[
    bool, typer.Option("--start", help="Bring parked slots online for a moment, out of routing.")
]
DaysOption = Annotated[
    str | None,
    typer.Option(
        "--fail-under-days",
        metavar="DAYS",
        help="Exit code 75 when a record may be gone sooner, or is gone.",
        show_default=False,
    ),
]


@app.command("keepalive", cls=Command, epilog=EXAMPLE)
def keepalive(
    context: typer.Context,
    inventory: InventoryOption = None,
    limit: LimitOption = None,
    start: StartOption = False,
    fail_under_days: DaysOption = None,
    api_url: ApiUrlOption = None,
    max_wait: MaxWaitOption = None,
    output: OutputOption = None,
) -> int:
    """Keep the records of parked hosts from running out.

    GitHub removes a runner that has not connected for 14 days, and does not tell since when it has not. So
    every run notes what it sees, in runnerctl/keepalive.json below XDG_STATE_HOME or ~/.local/state: run it
    daily. With --start, Ansible starts the offline slots of hosts that can be reached for a moment: out of
    routing, their holds stay, no job is ended. A job that asks only for GitHub's own labels may still come,
    unless github_runner_drain_group is set. A host that is off must be powered on by its owner.
    """
    if not inventory:
        raise UsageError("keepalive needs an inventory", remedy="give one with -i")
    asked = _Asked(context.obj, inventory, limit, api_url, _days(fail_under_days), max_wait)
    return asked.run(start=start, output=output)


def _days(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        days = float(text)
    except ValueError:
        days = -1.0
    if not 0 <= days <= 3650:
        raise UsageError(f"{text!r} is no number of days", where="--fail-under-days")
    return days


@dataclass
class Parked:
    """One runner of the inventory: GitHub's record, and when that goes."""

    host: str
    name: str
    url: str
    runner: Runner | None
    seen: Sighting | None = None
    window: Window | None = None
    outcome: str = ""
    reason: str = ""

    @property
    def status(self) -> str:
        """``online``, ``offline``, or ``absent`` where GitHub has no record."""
        return self.runner.status if self.runner else "absent"


@dataclass
class _Asked:
    """One run."""

    context: Context
    inventory: str
    limit: str | None
    api: str | None
    fail_under_days: float | None
    max_wait: str | None = None
    parked: list[Parked] = field(default_factory=list)
    apis: dict[str, str | None] = field(default_factory=dict)  # scope -> the API's base, where inventory says

    def run(self, *, start: bool, output: str | None) -> int:
        """Look, touch when asked to, look again, and tell."""
        self.parked = self._records()
        self._note()
        if start and any(each.status == "offline" for each in self.parked):
            self._start()
            known = self._known()
            for each in self.parked:
                each.runner = known.get((each.url, each.name.lower()))
            self._note()
        self._tell(output, start=start)
        return TRY_AGAIN if self._too_late() else 0

    # -- looking -----------------------------------------------------------------------------------------

    def _note(self) -> None:
        """Remember what was seen, and reckon from it when each record goes."""
        from runnerctl.cli.keepalive_state import remembered, state_file
        from runnerctl.core.parked import sight, window

        now = self.context.clock()
        with remembered(state_file(self.context.env), now=now) as memory:
            for each in self.parked:
                key = f"{each.url} {each.name}".lower()
                each.seen = each.window = None
                if each.runner is None:
                    memory.runners.pop(key, None)
                    continue
                seen = memory.runners.get(key)
                if each.outcome in ("touched", "job_taken"):  # it was online a moment ago, whatever is so now
                    seen = sight(seen, each.runner.id, online=True, now=now)
                seen = sight(seen, each.runner.id, online=each.runner.online, now=now)
                memory.runners[key] = each.seen = seen
                each.window = window(seen, ephemeral=bool(each.runner.ephemeral))

    def _records(self) -> list[Parked]:
        from runnerctl.cli.inventory import resolve
        from runnerctl.cli.label_sync import inventory_specs
        from runnerctl.core.scope import parse_scope
        from runnerctl.core.slot_layout_foreseen import foreseen

        hosts = resolve(self.context, self.inventory, limit=self.limit)
        specs = [foreseen(spec) for spec in inventory_specs(hosts, self.inventory)]
        self.apis = {
            parse_scope(spec.slot_url(slot)).url: self.api or spec.github_runner.api_url
            for spec in specs
            for slot in spec.github_runner.slots
        }
        known = self._known()
        found = []
        for spec in specs:
            for slot in spec.github_runner.slots:
                url, name = parse_scope(spec.slot_url(slot)).url, spec.runner_name(slot)
                found.append(Parked(spec.host, name, url, known.get((url, name.lower()))))
        return found

    def _known(self) -> dict[tuple[str, str], Runner]:
        """The records of every scope, by scope and name."""
        from runnerctl.cli.remote import registry
        from runnerctl.core.scope import parse_scope

        known = {}
        for url, api in self.apis.items():
            for runner in registry(self.context, parse_scope(url), api=api, max_wait=self.max_wait).runners():
                known[url, runner.name.lower()] = runner
        return known

    # -- starting ----------------------------------------------------------------------------------------

    def _start(self) -> None:
        from runnerctl.cli.playbook import play

        offline = [each for each in self.parked if each.status == "offline"]
        played = play(
            self.context,
            "keepalive",
            inventory=self.inventory,
            limit=self.limit,
            variables={"keepalive_runners": [each.name for each in offline]},
            output_variable="keepalive_output_dir",
            seconds=SECONDS,
        )
        if played.status and not played.answers:
            raise UnavailableError(
                f"ansible-playbook runnerctl.gpu_runner.keepalive failed: {played.reason}",
                remedy="run it by hand to see all of its output",
            )
        for each in offline:
            each.outcome, each.reason = _answer(played.answers.get(each.host), each.name)

    # -- telling -----------------------------------------------------------------------------------------

    def _too_late(self) -> bool:
        """Whether a record is gone, or may go sooner than asked; without a bound nothing is too late."""
        if self.fail_under_days is None:
            return False
        left = [_left(each.window, self.context.clock()) for each in self.parked if each.window]
        gone = any(each.runner is None for each in self.parked)
        return gone or any((most if least is None else least) < self.fail_under_days for least, most in left)

    def _tell(self, output: str | None, *, start: bool) -> None:
        if self.context.wants_json(output):
            from runnerctl.cli.output import rfc3339

            now = self.context.clock()
            rows = [_json(each, now) for each in self.parked]
            self.context.say_json({"schema": SCHEMA, "checked_at": rfc3339(now), "runners": rows})
        else:
            self._table(start=start)
        counts = {
            status: sum(each.status == status for each in self.parked)
            for status in ("online", "offline", "absent")
        }
        self.context.note(", ".join(f"{count} {status}" for status, count in counts.items() if count))

    def _table(self, *, start: bool) -> None:
        from runnerctl.cli.output import table

        shown = [each for each in self.parked if each.status != "online" or each.outcome]
        if not shown:
            return
        now = self.context.clock()
        head = ["RUNNER", "STATUS", "SEEN SINCE", "DAYS LEFT", "WHAT TO DO"]
        rows = [
            [each.name, each.status, _since(each)[:10], _days_text(each, now), _advice(each, start)]
            for each in shown
        ]
        self.context.say(table(head, rows, width=self.context.width))


def _answer(answer: Mapping[str, Any] | None, name: str) -> tuple[str, str]:
    """What the host's answer says of one runner."""
    if not answer:
        return "unreachable", "gave no answer"
    if answer.get("problem"):
        return "unreachable", str(answer["problem"])
    slots: Sequence[Mapping[str, Any]] = answer.get("slots") or ()
    for slot in slots:
        if str(slot.get("runner_name", "")).lower() == name.lower():
            return str(slot.get("outcome")), str(slot.get("reason") or "")
    return "skipped", "the host has no such slot: the next converge makes it"


def _left(window: Window | None, now: float) -> tuple[float | None, float]:
    return window.days_left(now) if window else (None, 0.0)


def _since(each: Parked) -> str:
    """When the runner was first seen offline; nothing for one that is not."""
    from runnerctl.cli.output import rfc3339

    at = each.seen.offline_at if each.seen else None
    return "" if at is None else rfc3339(at)


def _days_text(each: Parked, now: float) -> str:
    if each.window is None:
        return "-"
    least, most = each.window.days_left(now)
    if least is None:
        return f"at most {most:.1f}"
    return f"{least:.1f}" if most - least < 0.1 else f"{least:.1f} to {most:.1f}"


def _advice(each: Parked, start: bool) -> str:
    from runnerctl.cli.output import rfc3339

    if each.runner is None:
        return "GitHub has no record: converge the host, which registers it again"
    if each.outcome == "touched":
        return each.reason or "nothing: it was online just now"
    if each.outcome and each.outcome != "unreachable":
        return each.reason
    window = each.window
    when = ""
    if window is not None:
        certain = window.latest if window.earliest is None else window.earliest
        when = f" before {rfc3339(certain)[:10]}"
    if each.outcome == "unreachable":
        return f"power on host {each.host}{when}; now: {each.reason}"
    return "see its log on the host" if start else f"start it{when}: --start, or power on host {each.host}"


def _json(each: Parked, now: float) -> dict[str, Any]:
    from runnerctl.cli.output import rfc3339

    least, most = _left(each.window, now)
    earliest = each.window.earliest if each.window else None
    return {
        "name": each.name,
        "host": each.host,
        "url": each.url,
        "id": each.runner.id if each.runner else None,
        "status": each.status,
        "first_seen_offline_at": _since(each) or None,
        "removed_at_earliest": None if earliest is None else rfc3339(earliest),
        "removed_at_latest": rfc3339(each.window.latest) if each.window else None,
        "left_least_days": None if least is None else round(least, 2),
        "left_most_days": round(most, 2) if each.window else None,
        "outcome": each.outcome or None,
        "reason": each.reason or None,
    }
