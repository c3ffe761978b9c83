"""What a job may try so as to be there when the next one comes, tried on this machine by a lesser user."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.guard import residue_tree
from runnerctl.guard.ports import SlotPlace
from tests.component.residue_support import PYTHON, UID, Slot, await_, new_slot

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/usr/bin/python3"),
    reason="removing what other users left behind is root's, and they need a Python",
)
UNSHARE = shutil.which("unshare")


@pytest.fixture
def slot() -> Iterator[Slot]:
    """One."""
    with new_slot() as made:
        yield made


EVERYTHING = (
    """
ipcmk -Q; ipcmk -M 1000; ipcmk -S 2
echo > /dev/shm/gha-t; mkdir -p /tmp/gha-t-61234/a; ln -s /etc /var/tmp/gha-t-61234
mkdir -p w/w _tool _actions _temp; echo poison > _tool/node; echo '[alias]' > ../home/.gitconfig
echo secret > ../_diag/Worker_20260101-000000-utc.log; mkdir ../_diag/pages; echo step > ../_diag/pages/1.log
ln -s /etc/passwd ../_diag/Worker_20260101-000001-utc.log
(unset RUNNER_TRACKING_ID; setsid sleep 9 & ); (setsid sh -c 'sleep 9 & exec sleep 9' &)
"""
    + f"""{PYTHON} -c '
import ctypes, platform
libc = ctypes.CDLL(None)
number = dict(x86_64=248, aarch64=217)[platform.machine()]
libc.syscall(number, b"user", b"name", b"value", 5, -4)
libc.mq_open(b"/gha-t", 66, 0o600, None)
'
"""
)


def test_nothing_of_a_job_is_there_for_the_next_one(slot: Slot) -> None:
    """Processes, memory, queues, keys and files go, fast; the log stays, for root alone."""
    slot.job(EVERYTHING)
    assert len(slot.processes()) >= 3
    started = time.monotonic()
    done = slot.cleaner.after(slot.place, listener=0, before=time.time())
    assert time.monotonic() - started < 2.0  # 0.07 s on a quiet machine
    assert done.remains == ()
    assert len(done.processes) >= 3
    for kind in (
        "shared memory",
        "semaphores",
        "POSIX",
        "user keyring",
        "/dev/shm",
        "/tmp",
        "/var/tmp",
        "home",
    ):
        assert any(kind in line for line in done.removed), kind
    assert slot.processes() == []
    assert [name for name in slot.left() if name != "_diag/pages"] == []
    kept = sorted(path.name for path in (slot.base / "logs/t").iterdir())
    assert kept == ["Worker_20260101-000000-utc.log", "step-1.log"]
    assert (slot.base / "logs/t").stat().st_mode & 0o777 == 0o700
    again = slot.cleaner.after(slot.place, listener=0, before=time.time())
    assert set(again.removed) <= {"_diag: 1"}  # the empty directory, which was changed a moment ago


def test_links_lead_nowhere(slot: Slot) -> None:
    """Symbolic links to, and hard links of, what is not the job's: they go, what they name stays."""
    precious = slot.base / "precious"
    precious.mkdir(mode=0o777)
    (precious / "file").write_text("keep")
    (precious / "file").chmod(0o666)
    before = os.stat(precious / "file")
    os.link(precious / "file", slot.root / "home/hard")  # where protected_hardlinks is off a job can do this
    script = (
        f"ln -s {precious} dir; ln -s {precious}/file file; ln -s / ../home/root; mkdir a; ln -s ../.. a/up"
    )
    slot.job(f"{script}; rm -rf _temp; ln -s {precious} _temp; ln -s {precious} ../_diag/pages")
    done = slot.cleaner.after(slot.place, listener=0, before=time.time())
    assert done.remains == ()
    assert slot.left() == []
    after = os.stat(precious / "file")
    assert (after.st_uid, after.st_mode, after.st_size) == (before.st_uid, before.st_mode, before.st_size)
    assert [path.name for path in precious.iterdir()] == ["file"]


RENAMES = """
import os, time
end = time.monotonic() + 8
while time.monotonic() < end:
    for act in (lambda: os.mkdir("d"), lambda: os.rename("d", "x"), lambda: os.symlink(TARGET, "d"),
                lambda: os.unlink("d"), lambda: os.rmdir("x"), lambda: open("f", "w").close()):
        try:
            act()
        except OSError:
            pass
"""


@pytest.mark.exhaustive
def test_renames_under_way_lead_nowhere(slot: Slot) -> None:
    """A directory that turns into a link, and back, while root removes it: nothing outside is touched."""
    precious = slot.base / "precious"
    precious.mkdir(mode=0o777)
    (precious / "file").write_text("keep")
    with slot.start(RENAMES.replace("TARGET", repr(str(precious)))) as racing:
        until = time.monotonic() + 0.5
        while time.monotonic() < until:
            with residue_tree.directory(slot.root / "_work") as folder:
                residue_tree.empty(folder, deadline=until)
        racing.kill()
    assert [path.name for path in precious.iterdir()] == ["file"]
    assert slot.cleaner.after(slot.place, listener=0, before=time.time()).remains == ()
    assert slot.left() == []


DEEP = """
import os
for _ in range(3000):
    os.mkdir("d" * 100)
    os.chdir("d" * 100)
open("f", "w").close()
"""


@pytest.mark.exhaustive
def test_no_tree_is_too_deep_and_no_mode_too_strict(slot: Slot) -> None:
    """Paths far beyond the kernel's limit, directories that nobody may read; they go, and the trash, too."""
    slot.job(DEEP, program=PYTHON)
    slot.job("mkdir -p ../home/a/b; touch ../home/a/b/c; chmod 0 ../home/a/b ../home/a; mkfifo ../home/pipe")
    assert slot.cleaner.after(slot.place, listener=0, before=time.time()).remains == ()
    assert slot.left() == []
    slot.cleaner.trash._running[slot.root].wait(timeout=20)
    assert list((slot.root / ".trash").iterdir()) == []


@pytest.mark.skipif(shutil.which("chattr") is None, reason="there is no chattr here")
def test_flags_of_the_file_system_keep_nothing(slot: Slot) -> None:
    """Immutable and append-only files, should a job ever get to set them."""
    folder = slot.root / "home/locked"
    folder.mkdir()
    (folder / "file").write_text("x")
    if subprocess.run(["chattr", "+i", folder / "file", folder], check=False, capture_output=True).returncode:
        pytest.skip("this file system has no such flags")
    assert slot.cleaner.after(slot.place, listener=0, before=time.time()).remains == ()
    assert slot.left() == []
    slot.cleaner.trash._running[slot.root].wait(timeout=20)
    assert list((slot.root / ".trash").iterdir()) == []


def test_another_file_system_is_not_entered(slot: Slot) -> None:
    """A mount point below the job's directory is said to remain; what is in it stays."""
    (slot.root / "_work/m").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", slot.root / "_work/m"], check=True)
    try:
        (slot.root / "_work/m/file").write_text("keep")
        done = slot.cleaner.after(slot.place, listener=0, before=time.time() + 1)
        assert any("_work/m" in line for line in done.remains)
        assert (slot.root / "_work/m/file").read_text() == "keep"
    finally:
        subprocess.run(["umount", slot.root / "_work/m"], check=True)


HOPPER = """
import os, signal, time
end = time.monotonic() + 8  # should nobody stop it
for number in range(1, 32):
    if number not in (9, 19):
        signal.signal(number, signal.SIG_IGN)
for _ in range(4):
    os.fork()
open("ready", "a").close()
while time.monotonic() < end:
    try:
        if os.fork():
            os._exit(0)
        os.setsid()
        os.kill(-1, signal.SIGCONT)
    except OSError:
        pass
"""


@pytest.mark.exhaustive
def test_what_forks_faster_than_it_is_killed_is_stopped_first(slot: Slot) -> None:
    """Processes that hop from id to id and wake each other up are gone at once; the listener goes on."""
    with slot.start("import time; time.sleep(9)") as listener, slot.start(HOPPER):
        await_(slot.root / "_work/ready")
        done = slot.cleaner.during(slot.place, spare=[listener.pid])
        assert done.remains == ()
        assert slot.processes() == [listener.pid]
        state = Path(f"/proc/{listener.pid}/stat").read_text().rpartition(")")[2].split()[0]
        assert state != "T"
        listener.kill()


def test_a_job_that_has_begun_meanwhile_is_left_alone(slot: Slot) -> None:
    """The listener took the next job before we came: its processes and files stay, the older ones go."""
    slot.job("echo > old; mkdir -p _temp; echo > _temp/old; (setsid sleep 9 &)")
    before = time.time()
    time.sleep(0.1)
    script = (
        "import subprocess, time; subprocess.run(['sh', '-c', 'echo > new; echo > _temp/new; exec sleep 9'])"
    )
    with slot.start(script) as listener:
        await_(slot.root / "_work/_temp/new")
        done = slot.cleaner.after(slot.place, listener=listener.pid, before=before)
        assert len(done.processes) == 1
        assert slot.left() == ["_work/_temp", "_work/_temp/new", "_work/new"]
        assert len(slot.processes()) == 2
        slot.cleaner.during(slot.place, spare=[])


@pytest.mark.skipif(UNSHARE is None, reason="there is no unshare here")
def test_the_listeners_own_namespaces_are_cleaned_too(slot: Slot) -> None:
    """Objects of a private IPC namespace, files of a private /dev/shm; a root that deceives leads nowhere."""
    precious = slot.base / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep")
    inner = (
        "mount -t tmpfs none /dev/shm; echo > /dev/shm/x; mkdir /dev/shm/etc; ipcmk -M 100 >/dev/null;"
        f" mount --bind {precious} /dev/shm/etc; mount --bind {precious} /tmp;"
        f" touch {slot.base}/ready; exec setpriv --reuid={UID} --regid={UID} --clear-groups sleep 9"
    )
    with subprocess.Popen([str(UNSHARE), "-m", "-i", "sh", "-c", inner]) as listener:
        await_(slot.base / "ready")
        done = slot.cleaner.during(slot.place, spare=[listener.pid])
        listener.kill()
    assert "System V shared memory: 1" in done.removed
    assert any("/dev/shm" in line for line in done.removed)
    assert any("/dev/shm" in line for line in done.remains)  # the mount, which is said
    assert (precious / "file").read_text() == "keep"


def test_nobody_cleans_up_behind_root(slot: Slot) -> None:
    """Whatever asks for it: it would end every process of the host."""
    place = SlotPlace("t", "root", 0, 0, slot.root, "gha-runner@t.service")
    for done in (slot.cleaner.during(place, spare=[]), slot.cleaner.fresh(place)):
        assert done.removed == ()
        assert "no user of its own" in done.remains[0]


def test_fresh_directories_are_new_and_the_jobs_own(slot: Slot) -> None:
    """Nothing of the old ones shows: not the content, not modes or access lists."""
    slot.job("echo > x; chmod 0777 . ../home; setfacl -m u:1:rwx . 2>/dev/null || true")
    old = (slot.root / "_work").stat().st_ino
    done = slot.cleaner.fresh(slot.place)
    assert done.remains == ()
    for name in ("_work", "home", "_diag"):
        status = (slot.root / name).stat()
        assert (status.st_uid, status.st_mode & 0o7777) == (UID, 0o700)
    assert (slot.root / "_work").stat().st_ino != old


def test_a_job_that_begins_while_the_last_one_is_cleaned_up_is_left_alone(slot: Slot) -> None:
    """The hook asked, its job ended without waiting, and the listener has another one."""
    slot.job("echo > old")
    time.sleep(0.1)
    script = "import subprocess; subprocess.run(['sh', '-c', 'echo > new; exec sleep 9'])"
    with slot.start(script) as listener:
        await_(slot.root / "_work/new")
        assert slot.cleaner.during(slot.place, spare=[listener.pid]).remains == ()
        assert len(slot.processes()) == 2
        assert slot.left() == ["_work/new"]
        slot.cleaner.fresh(slot.place)
