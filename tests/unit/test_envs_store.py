"""The store on disk: locks, files, names, and what a host says of itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.envs.bytecode import missing_bytecode
from runnerctl.envs.facts import check_cuda, cuda_version, host_facts
from runnerctl.envs.leases import Holder, Lease, holder, is_alive, job_holder, leases, take
from runnerctl.envs.model import Event
from runnerctl.envs.store import Store, boot_id
from runnerctl.envs.store_build import scripts_of
from runnerctl.envs.store_files import harden, measure, remove_tree, write_file
from runnerctl.envs.store_locks import locked
from runnerctl.errors import DataError, TryAgainError, UnavailableError, UsageError


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "store")
    store.prepare()
    yield store
    remove_tree(store.root)


def test_a_lock_has_one_holder_and_its_waiter_says_so(tmp_path: Path) -> None:
    """Told once, given up at the deadline, free when the holder lets go."""
    events: list[Event] = []
    times = iter(range(100))
    path = tmp_path / "lock"
    with (
        locked(path, seconds=1, what="building"),
        pytest.raises(TryAgainError, match="building: another run took more than 3 s"),
        locked(
            path,
            seconds=3,
            what="building",
            tell=events.append,
            clock=lambda: float(next(times)),
            sleep=lambda _: None,
        ),
    ):
        pass
    assert [event.step for event in events] == ["wait"]
    with locked(path, seconds=0, what="again"):
        path.unlink()
        with locked(path, seconds=0, what="an old lock that was removed holds nobody up"):
            pass


def test_a_file_is_whole_or_not_there(tmp_path: Path) -> None:
    """No temporary file is left, also when it cannot be written."""
    write_file(tmp_path / "a", b"one")
    write_file(tmp_path / "a", b"two")
    assert (tmp_path / "a").read_bytes() == b"two"
    (tmp_path / "d").mkdir()
    with pytest.raises(OSError):
        write_file(tmp_path / "d", b"x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "d"]


def test_trees_are_hardened_measured_and_removed(tmp_path: Path) -> None:
    """Each inode once; links are not followed; read-only directories go too."""
    tree = tmp_path / "tree"
    (tree / "deep").mkdir(parents=True)
    (tree / "deep/one").write_bytes(b"x" * 100)
    os.link(tree / "deep/one", tree / "two")
    outside = tmp_path / "outside"
    outside.write_text("mine")
    outside.chmod(0o644)
    (tree / "link").symlink_to(outside)
    assert harden(tree) == measure(tree) == (3, 100)
    assert outside.stat().st_mode & 0o777 == 0o644
    assert (tree / "deep").stat().st_mode & 0o777 == 0o555
    remove_tree(tree)
    remove_tree(tree)
    assert outside.read_text() == "mine"
    assert not tree.exists()


def test_modes_of_a_store_whatever_the_umask(tmp_path: Path) -> None:
    """Everybody reads environments, nobody the caches, nor what belongs to owners."""
    before = os.umask(0o077)
    try:
        store = Store(tmp_path / "store")
        store.prepare()
        store.owned("Acme").prepare()
    finally:
        os.umask(before)
    modes = {
        name: (store.root / name).stat().st_mode & 0o777
        for name in ("envs", "cache", "owners", "owners/acme")
    }
    assert modes == {"envs": 0o755, "cache": 0o700, "owners": 0o700, "owners/acme": 0o755}
    assert [each.owner for each in store.all()] == [None, "acme"]


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b", ".hidden", "a" * 101])
def test_no_other_directory_by_an_owners_name(store: Store, name: str) -> None:
    """A name from outside never leaves the store."""
    with pytest.raises(DataError):
        store.owned(name)


@pytest.mark.parametrize("digest", ["", "..", "../../etc", "0" * 19, "G" * 20])
def test_no_other_file_by_a_digest(store: Store, digest: str) -> None:
    """Only what an environment may be called."""
    with pytest.raises(DataError):
        store.published(digest)


def test_a_lease_lives_as_long_as_its_process(store: Store) -> None:
    """Not into another boot, not past its end, not for another process of the same number."""
    me = holder(os.getpid())
    assert me is not None
    take(store, "0" * 20, me, now=100.0, seconds=50.0)
    (_, lease), *_ = leases(store)
    assert lease == Lease("0" * 20, me.pid, me.began, boot_id(), 150.0)
    assert is_alive(lease, 149.0)
    assert not is_alive(lease, 150.0)
    assert not is_alive(lease, 149.0, boot="another")
    take(store, "0" * 20, Holder(me.pid, me.began + 1), now=100.0)
    assert sum(is_alive(each, 149.0) for _, each in leases(store)) == 1
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert holder(child.pid) is None
    for path in (store.root / "leases").iterdir():
        path.write_bytes(b"{")
    assert list(leases(store)) == []


def test_in_a_job_its_worker_holds_the_lease(tmp_path: Path) -> None:
    """The nearest ancestor called Runner.Worker; elsewhere the shell that asked."""

    def process(pid: int, parent: int, command: bytes) -> None:
        (tmp_path / str(pid)).mkdir()
        fields = ["S", str(parent)] + ["0"] * 17 + [str(pid * 10)]
        (tmp_path / str(pid) / "stat").write_text(f"{pid} (a b) c) {' '.join(fields)}\n")
        (tmp_path / str(pid) / "cmdline").write_bytes(command)

    process(1, 0, b"/sbin/init\0")
    process(20, 1, b"/home/x/bin/Runner.Worker\0spawnclient\0")
    process(30, 20, b"bash\0-e\0")
    process(40, 30, b"runnerctl\0env\0ensure\0")
    process(50, 1, b"bash\0")
    process(60, 50, b"runnerctl\0")
    assert job_holder(40, tmp_path) == Holder(20, 200)
    assert job_holder(60, tmp_path) == Holder(50, 500)
    assert job_holder(99, tmp_path) is None


def test_modules_without_bytecode_and_scripts(tmp_path: Path) -> None:
    """Only what has none is compiled; only Python scripts are named."""
    package = tmp_path / "lib/python3.12/site-packages/p"
    (package / "__pycache__").mkdir(parents=True)
    for name in ("a.py", "b.py", "data.txt", "__pycache__/a.cpython-312.pyc"):
        (package / name).write_text("")
    assert [Path(path).name for path in missing_bytecode(tmp_path)] == ["b.py"]
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/one").write_text(f"#!{tmp_path}/bin/python\n")
    long = f'#!/bin/sh\n\'\'\'exec\' "{tmp_path}/bin/python3.12" "$0" "$@"\n'
    (tmp_path / "bin/two").write_text(long)
    (tmp_path / "bin/three").write_text("#!/bin/sh\n")
    (tmp_path / "bin/python").write_bytes(b"\x7fELF")
    assert scripts_of(tmp_path) == ("one", "two")


def test_facts_of_a_host() -> None:
    """What conda calls virtual packages; CUDA as asked for, or as conda's own variable says."""
    facts = host_facts("none")
    names = {each.name: each for each in facts.virtual}
    assert set(names) >= {"__unix", "__linux", "__glibc", "__archspec"}
    assert "__cuda" not in names
    by_option = host_facts("12.8").virtual
    by_variable = host_facts("auto", environ={"CONDA_OVERRIDE_CUDA": "12.8"}).virtual
    assert by_option == by_variable
    assert [each.version for each in by_option if each.name == "__cuda"] == ["12.8"]
    assert host_facts("auto", environ={"CONDA_OVERRIDE_CUDA": ""}) == facts
    for wrong in ("12.8.1", "latest", "-1", ""):
        with pytest.raises(UsageError):
            check_cuda(wrong)


def _driver(root: Path, boot: str = "b1") -> None:
    for name, text in (
        ("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX x86_64  580.1\n"),
        ("proc/sys/kernel/random/boot_id", f"{boot}\n"),
    ):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def test_a_driver_that_cannot_be_asked_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never silently no CUDA; and without a driver there simply is none."""
    answers = {"cuda": 0, "library": True, "error": "NVML answers with error 18"}
    monkeypatch.setattr("runnerctl.envs.facts._ask", lambda *_: answers)
    cache = tmp_path / "cache.json"
    assert cuda_version(cache=None, rootfs=tmp_path / "none", environ={}) is None
    _driver(tmp_path)
    with pytest.raises(UnavailableError, match=r"cannot say its CUDA version: NVML answers with error 18"):
        cuda_version(cache=cache, rootfs=tmp_path, environ={})
    assert not cache.exists()
    answers["cuda"] = 12080
    assert cuda_version(cache=cache, rootfs=tmp_path, environ={}) == "12.8"
    answers["cuda"] = 13000
    assert cuda_version(cache=cache, rootfs=tmp_path, environ={}) == "12.8"  # of this boot and driver
    _driver(tmp_path, "b2")
    assert cuda_version(cache=cache, rootfs=tmp_path, environ={}) == "13.0"
    cache.write_bytes(b"\xff")
    assert cuda_version(cache=cache, rootfs=tmp_path, environ={}) == "13.0"


def test_a_driver_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child that asked is ended; a child that died is told of."""
    _driver(tmp_path)
    monkeypatch.setattr("runnerctl.envs.facts._ASK", "import time; time.sleep(60)")
    with pytest.raises(UnavailableError, match="no answer within 0 s"):
        cuda_version(cache=None, rootfs=tmp_path, environ={}, seconds=0.05)
    monkeypatch.setattr("runnerctl.envs.facts._ASK", "import os; os.abort()")
    with pytest.raises(UnavailableError, match="ended the process"):
        cuda_version(cache=None, rootfs=tmp_path, environ={})
