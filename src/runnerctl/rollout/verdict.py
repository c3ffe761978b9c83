"""What of a drain or a resume is not as it should be, as one error: it fails the host, and so its batch."""

from __future__ import annotations

from collections.abc import Sequence

from runnerctl.errors import RunnerctlError, TryAgainError, UnavailableError
from runnerctl.rollout.drain import Drained
from runnerctl.rollout.resume import Resumed

__all__ = ["refuse"]

# state -> what follows the slot's name, the error, what to do next
BACK: dict[str, tuple[str, type[RunnerctlError], str]] = {
    "offline": ("is not back:", UnavailableError, "its routing stays cut; resume it again when it runs"),
    "held": ("is held", TryAgainError, "resume it again when that has ended: until then it gets no jobs"),
    "unregistered": ("cannot come back:", TryAgainError, "ansible-playbook provision.yml registers it again"),
}


def refuse(
    host: str, states: Sequence[Drained | Resumed], *, seconds: float | None = None, routing: bool = True
) -> None:
    """Raise TryAgainError or UnavailableError for the worst state; a job that nobody waits for is fine.

    ``seconds`` is how long running jobs were waited for, None when they were not; ``routing`` whether the
    slots were cut from routing.
    """
    found: dict[str, list[Drained | Resumed]] = {}
    for each in states:
        found.setdefault(each.state, []).append(each)
    if "busy" in found and seconds is not None:
        cut = "it is cut from routing and on hold" if routing else "it is on hold"
        raise TryAgainError(
            f"still runs a job after {seconds:g} s; {cut}",
            where=_where(host, found["busy"]),
            remedy="it stops when its job has ended",
        )
    if "resumed" in found:
        remedy = "drain it again if that was wrong"
        raise TryAgainError("was resumed meanwhile", where=_where(host, found["resumed"]), remedy=remedy)
    for state, (what, error, remedy) in BACK.items():
        if state in found:
            reason = found[state][0].reason or ""
            raise error(f"{what} {reason}", where=_where(host, found[state]), remedy=remedy)


def _where(host: str, slots: Sequence[Drained | Resumed]) -> str:
    return f"{host}: slot {', '.join(each.slot for each in slots)}"
