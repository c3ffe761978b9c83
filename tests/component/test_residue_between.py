"""The next job may be there while the last one is cleaned up behind: neither is taken for the other."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator, Sequence

import pytest

from runnerctl.guard import residue_logs, residue_processes, residue_trash
from runnerctl.guard.procs import Kernel, Process
from tests.component.residue_support import UID, Slot, await_, new_slot

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"),
    reason="removing what other users left behind is root's, and they need a Python",
)

_TOUCHES = "import pathlib, time; time.sleep(0.3); pathlib.Path('../home/new').touch(); time.sleep(60)"


class UnitKernel(Kernel):
    """The real one; some processes stand in the slot's unit."""

    inside: tuple[int, ...] = ()

    def group(self, pid: int) -> str:
        """The unit's, or none of the slot's."""
        return "/system.slice/gha-runner@t.service" if pid in self.inside else "/user.slice"


@pytest.fixture
def slot() -> Iterator[Slot]:
    """One."""
    with new_slot() as made:
        yield made


@pytest.mark.exhaustive
def test_logs_of_many_jobs_do_not_fill_the_hosts_disk(slot: Slot, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a job writes is kept on the host's own disk: the oldest goes, and root owns what stays."""
    monkeypatch.setattr(residue_logs, "STORE_BYTES", residue_logs.MOST_BYTES + 25)
    for number in range(4):
        slot.job(f"echo 1234567890 > ../_diag/Worker_2026010{4 - number}-000000-utc.log")
        slot.cleaner.after(slot.place, listener=0, before=time.time())
    kept = sorted((slot.base / "logs/t").iterdir())
    assert [path.name[:15] for path in kept] == ["Worker_20260101", "Worker_20260102", "Worker_20260103"]
    assert {path.stat().st_uid for path in kept} == {0}


def test_a_new_directory_is_not_taken_for_trash(slot: Slot) -> None:
    """Whoever empties the trash sees it there for a moment, and might clear it when it is in its place."""
    trash = slot.root / residue_trash.TRASH
    for name in ("new-1", "0123"):
        (trash / name).mkdir(parents=True)
    residue_trash.main([str(slot.root)])
    assert [path.name for path in trash.iterdir()] == ["new-1"]


@pytest.mark.exhaustive
def test_the_next_jobs_workspace_is_empty_and_there(slot: Slot) -> None:
    """Its set-up found the last job's directories, and goes on in them when it is admitted."""
    slot.job("mkdir -p app/app/.git other; touch app/app/file; ln -s / link; chmod 0 app/app/.git")
    time.sleep(0.1)
    with slot.start("import subprocess, time; subprocess.run(['sleep', '60'])") as listener:
        time.sleep(0.3)
        slot.cleaner.after(slot.place, listener=listener.pid, before=time.time(), alone=True)
        listener.kill()
    assert slot.left() == ["_work/app", "_work/app/app"]
    assert {(slot.root / name).stat().st_uid for name in slot.left()} == {UID}


@pytest.mark.exhaustive
def test_what_keeps_starting_itself_is_not_taken_for_the_next_job(slot: Slot) -> None:
    """The next job waits for us: what does not descend from its worker is the last one's."""
    with slot.start("import subprocess, time; subprocess.run(['sleep', '60'])") as listener:
        time.sleep(0.3)
        with slot.start("import time; time.sleep(60)") as younger:
            time.sleep(0.1)
            slot.cleaner.after(slot.place, listener=listener.pid, before=time.time(), alone=True)
            assert younger.wait(timeout=5) == -9
        assert len(slot.processes()) == 2
        slot.cleaner.fresh(slot.place)


@pytest.mark.exhaustive
def test_a_unit_that_starts_again_meanwhile_is_left_alone(slot: Slot) -> None:
    """Its listener has ended with its job, and the next one may be there before anybody looks."""
    kernel = UnitKernel()
    slot.cleaner.kernel = kernel
    (slot.root / "_work/old").touch()
    time.sleep(0.1)
    with slot.start("import time; time.sleep(60)") as left, slot.start(_TOUCHES) as listener:
        kernel.inside = (listener.pid,)
        await_(slot.root / "home/new")
        residue = slot.cleaner.after(slot.place, listener=0, before=time.time())
        state = kernel.process(listener.pid)
        assert left.wait(timeout=5) == -9
        assert state is not None
        assert state.state in "RS"
        listener.kill()
    assert not residue.remains
    assert slot.left() == ["home/new"]


def test_what_is_spared_at_the_last_moment_is_not_left_stopped(slot: Slot) -> None:
    """The listener begins the next job just when everything is stopped."""
    with slot.start("import time; time.sleep(60)") as listener, slot.start(_TOUCHES) as job:
        await_(slot.root / "home/new")
        looks = [{listener.pid, job.pid}, {listener.pid}]

        def spare(_found: Sequence[Process]) -> Collection[int]:
            return looks.pop(0) if looks else {listener.pid, job.pid}

        residue_processes.end_all(Kernel(), slot.place, spare=spare, seconds=5)
        states = [process.state for each in (listener, job) if (process := Kernel().process(each.pid))]
        assert len(states) == 2
        assert "T" not in states
        listener.kill()
        job.kill()
