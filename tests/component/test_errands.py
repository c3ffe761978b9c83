"""The guard's children: none of them keeps a job waiting."""

from __future__ import annotations

import selectors
import time

from runnerctl.guard.errands import MOST_PATIENT, MOST_WAITING, Errands, Outcome


def test_what_a_job_waits_for_is_not_behind_what_nobody_waits_for() -> None:
    """However slow the journal and the database are, and however many jobs have ended."""
    with selectors.DefaultSelector() as selector:
        errands, outcomes = Errands(selector), list[Outcome]()
        for number in range(MOST_PATIENT + MOST_WAITING + 1):
            errands.start(
                str(number), lambda _: time.sleep(60), seconds=60, then=outcomes.append, patient=True
            )
        assert [each.failure for each in outcomes] == ["the guard has too much else to do"]
        outcomes.clear()
        errands.start("now", lambda _: "done", seconds=60, then=outcomes.append)
        end = time.monotonic() + 10
        while not outcomes and time.monotonic() < end:
            for key, _ in selector.select(0.05):
                errands.heard(key.data)
            errands.turn_all()
        errands.close()
        assert [each.value for each in outcomes] == ["done"]
