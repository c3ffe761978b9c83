"""From a request to an environment: once built, never half, the same for everybody who asks."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import pytest

from runnerctl.envs.ensure import Needed, ensure, hit, peek
from runnerctl.envs.leases import Holder, holder
from runnerctl.envs.model import Event, Ready, Solution
from runnerctl.envs.policy import Policy, Private
from runnerctl.envs.ports import Order, Tell
from runnerctl.envs.store import Store
from runnerctl.envs.store_files import remove_tree
from runnerctl.errors import AccessError, DataError, TryAgainError, UnavailableError
from tests.component.envs_support import TEXT, Directories, asked, clock

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store that pytest can remove again."""
    yield Store(tmp_path / "store")
    remove_tree(tmp_path / "store")


@pytest.fixture
def engine(tmp_path: Path) -> Directories:
    return Directories(tmp_path / "journal")


def test_built_once_then_found(store: Store, engine: Directories) -> None:
    """The second request with the same text asks no engine; a comment or another name parses, and finds."""
    events: list[Event] = []
    first = ensure(store, asked(), engine, tell=events.append, clock=clock())
    again = ensure(store, asked(), engine, clock=clock())
    other = ensure(store, asked("# hello\n" + TEXT.replace("demo", "second")), engine, clock=clock())
    assert [first.status, again.status, other.status] == ["built", "hit", "hit"]
    assert first.digest == again.digest == other.digest
    assert (engine.count("solve"), engine.count("build")) == (1, 1)
    assert again.activation.variables["CONDA_DEFAULT_ENV"] == "demo"
    assert other.activation.variables["CONDA_DEFAULT_ENV"] == "second"
    assert first.scripts == ("tool",)
    assert [event.step for event in events if event.step != "link"] == ["solve", "solve", "publish"]
    assert os.listdir(store.root / "trash") == []


def test_a_published_environment_is_read_only_for_all_and_readable_for_all(
    store: Store, engine: Directories
) -> None:
    """No write bit, no set-uid, everybody may read and run what its owner may."""
    prefix = Path(ensure(store, asked(), engine).prefix)
    modes = {path.name: stat.S_IMODE(path.lstat().st_mode) for path in (prefix, *prefix.rglob("*"))}
    assert all(mode & 0o7222 == 0 and mode & 0o444 == 0o444 for mode in modes.values())
    assert modes["tool"] == 0o555
    assert modes["numpy.json"] == 0o444
    assert modes["bin"] == 0o555
    manifest = store.manifest(prefix.name)
    assert manifest is not None
    assert manifest.files == 6
    assert manifest.size_bytes > 25_000


def test_the_same_solution_is_linked_not_built_again(store: Store, engine: Directories) -> None:
    """Another key with the same packages: a solve, no build."""
    ensure(store, asked(), engine)
    ready = ensure(store, asked(TEXT.replace("numpy]", "numpy, numpy=1]") + "variables: {A: b}\n"), engine)
    assert ready.status == "linked"
    assert ready.activation.variables["A"] == "b"
    assert (engine.count("solve"), engine.count("build")) == (2, 1)


def test_an_old_solve_is_made_anew_when_asked(store: Store, engine: Directories) -> None:
    """``refresh_seconds`` bounds the age of a solve, not of an environment."""
    ensure(store, asked(), engine, clock=clock(1000.0))
    assert ensure(store, asked(refresh_seconds=60), engine, clock=clock(1050.0)).status == "hit"
    assert ensure(store, asked(refresh_seconds=60), engine, clock=clock(1100.0)).status == "linked"
    assert ensure(store, asked(refresh_seconds=60), engine, clock=clock(1150.0)).status == "hit"


def test_peek_builds_nothing(store: Store, engine: Directories) -> None:
    """It says what would be built, for whom; afterwards it finds it."""
    needed = peek(store, asked())
    assert isinstance(needed, Needed)
    assert not store.root.exists()
    assert hit(store, asked()) is None
    ready = ensure(store, asked(), engine)
    assert ready.key == needed.key
    assert isinstance(peek(store, asked("#\n" + TEXT)), Ready)


def test_a_hit_is_quick_and_loads_no_parser(store: Store, engine: Directories) -> None:
    """Milliseconds, in a process that has neither yaml nor rattler."""
    ensure(store, asked(), engine)
    wanted = asked()

    def look(pipe: Connection) -> None:
        for name in [name for name in sys.modules if name.split(".")[0] in ("yaml", "rattler")]:
            del sys.modules[name]
        spent = []
        for _ in range(20):
            began = time.perf_counter()
            found = hit(store, wanted)
            spent.append(time.perf_counter() - began)
        loaded = [name for name in sys.modules if name in ("yaml", "rattler")]
        pipe.send((found is not None, min(spent), loaded))

    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=look, args=(theirs,))
    child.start()
    found, seconds, loaded = ours.recv()
    child.join(10)
    assert found
    assert seconds < 0.003
    assert not loaded


def test_eight_at_once_build_once(store: Store, engine: Directories, tmp_path: Path) -> None:
    """All get the same environment; one of them built it."""
    slow = Directories(tmp_path / "journal", seconds=0.2)

    def work() -> None:
        os._exit(0 if ensure(store, asked(), slow).status in ("built", "hit") else 1)

    children = [FORK.Process(target=work) for _ in range(8)]
    for child in children:
        child.start()
    for child in children:
        child.join(30)
    assert [child.exitcode for child in children] == [0] * 8
    assert (engine.count("solve"), engine.count("build")) == (1, 1)


@pytest.mark.parametrize("point", ["solve", "install", "harden", "publish", "after"])
def test_a_kill_leaves_nothing_half(
    store: Store, engine: Directories, tmp_path: Path, point: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL at any point: what is there afterwards is whole, or not there and built by the next."""

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def tell(event: Event) -> None:
        if event.step == point:
            die()

    if point == "harden":
        monkeypatch.setattr("runnerctl.envs.store_build.harden", die)
    if point == "after":
        monkeypatch.setattr(Store, "remember_solved", die)
    doomed = Directories(tmp_path / "journal", during=die if point == "install" else None)
    child = FORK.Process(target=lambda: ensure(store, asked(), doomed, tell=tell))
    child.start()
    child.join(20)
    monkeypatch.undo()
    assert child.exitcode == -signal.SIGKILL
    published = store.digests()
    assert bool(published) == (point == "after")
    assert hit(store, asked()) is None
    ready = ensure(store, asked(), engine)
    assert ready.status == ("linked" if point == "after" else "built")
    assert sorted(path.name for path in Path(ready.prefix).iterdir()) == [
        "bin",
        "conda-meta",
        "numpy.bin",
        "python.bin",
    ]
    assert os.listdir(store.root / "trash") == []


def test_a_failed_build_leaves_the_store_as_it_was(store: Store, tmp_path: Path) -> None:
    """An engine that fails, a full disk: one error, nothing published, the next try builds."""

    def full(_: Path) -> None:
        raise OSError(28, "No space left on device")

    def broken(_: Path) -> None:
        raise DataError("cannot be had", where="environment.yml:3", remedy="name another")

    for during, kind in ((full, TryAgainError), (broken, DataError)):
        with pytest.raises(kind):
            ensure(store, asked(), Directories(tmp_path / "journal", during=during))
        assert os.listdir(store.envs) == []
        assert os.listdir(store.root / "trash") == []
    assert ensure(store, asked(), Directories(tmp_path / "journal")).status == "built"


@pytest.mark.parametrize("name", ["envs", "specs", "texts"])
@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'{"schema":"x"}', b"[]"])
def test_a_spoilt_file_is_as_if_it_were_not_there(
    store: Store, engine: Directories, name: str, content: bytes
) -> None:
    """Built, solved or read again; never a traceback."""
    ensure(store, asked(), engine)
    for path in (store.root / name).glob("*.json"):
        path.write_bytes(content)
    ready = ensure(store, asked(), engine)
    assert ready.status == {"envs": "built", "specs": "linked", "texts": "hit"}[name]
    assert hit(store, asked()) is not None


def test_after_an_unclean_restart_what_lost_files_is_put_aside(store: Store, engine: Directories) -> None:
    """Looked at once a boot; what is whole stays, what is not is quarantined and built again."""
    first = ensure(store, asked(), engine, clock=clock(boot="a"))
    assert ensure(store, asked(), engine, clock=clock(boot="b")).status == "hit"
    lost = Path(first.prefix) / "conda-meta/numpy.json"
    lost.chmod(0o600)
    lost.write_text("")
    assert ensure(store, asked(), engine, clock=clock(boot="b")).status == "hit"  # looked at in this boot
    assert ensure(store, asked(), engine, clock=clock(boot="c")).status == "built"
    assert len(os.listdir(store.root / "quarantine")) == 3
    lost.chmod(0o600)
    lost.write_text("")
    other = asked(TEXT.replace("numpy]", "numpy, numpy=1]"))
    assert ensure(store, other, engine, clock=clock(boot="d")).status == "built"
    assert len(os.listdir(store.root / "quarantine")) == 6


def test_private_channels_make_environments_of_their_owner(store: Store, engine: Directories) -> None:
    """In a store of his own; nobody else is told more than that it is another owner's."""
    text = TEXT.replace("[conda-forge]", "[conda-forge, 'https://conda.example.org/acme']")
    private = (
        Private("https://conda.example.org/acme/", "Acme"),
        Private("https://conda.example.org/other", "other"),
    )
    policy = Policy(private=private, reserve_bytes=0, credentials="/etc/secret")
    ready = ensure(store, asked(text, policy=policy, owner="acme"), engine)
    assert Path(ready.prefix).parent == store.root / "owners/acme/envs"
    assert hit(store, asked(text, policy=policy, owner="acme")) is not None
    assert str(engine.orders[-1].credentials) == "/etc/secret"
    for owner in (None, "other"):
        assert hit(store, asked(text, policy=policy, owner=owner)) is None
        with pytest.raises(AccessError, match=r"environment.yml:2: .*belongs to another owner"):
            ensure(store, asked(text, policy=policy, owner=owner), engine)
    for spelling in ("http://CONDA.example.org:80/acme", "https://conda.example.org//%61cme/"):
        with pytest.raises(AccessError):
            ensure(
                store, asked(text.replace("https://conda.example.org/acme", spelling), policy=policy), engine
            )
    both = text.replace("acme'", "acme', 'https://conda.example.org/other'")
    with pytest.raises(DataError, match="two owners"):
        ensure(store, asked(both, policy=policy, owner="acme"), engine)
    assert ensure(store, asked(policy=policy, owner="acme"), engine).prefix.startswith(str(store.envs))
    assert engine.orders[-1].credentials is None


def test_what_the_host_allows(store: Store, engine: Directories) -> None:
    """Listed channels only; a name may stand for a mirror; directories of the host have to be listed."""
    policy = Policy(
        channels=("conda-forge",), aliases={"conda-forge": "https://mirror.example/cf"}, reserve_bytes=0
    )
    ensure(store, asked(policy=policy), engine)
    assert [channel.url for channel in engine.orders[-1].channels] == ["https://mirror.example/cf"]
    long = TEXT.replace("conda-forge", "https://conda.anaconda.org/conda-forge/")
    assert ensure(store, asked(long, policy=policy), engine).status == "hit"
    with pytest.raises(DataError, match=r"environment.yml:2: the channel 'bioconda' is not one"):
        ensure(store, asked(TEXT.replace("conda-forge", "bioconda"), policy=policy), engine)
    with pytest.raises(DataError, match="a directory of this host"):
        closed = Policy(local=False, reserve_bytes=0)
        ensure(store, asked(TEXT.replace("conda-forge", "file:///tmp/x"), policy=closed), engine)
    with pytest.raises(DataError, match="this host is linux-64"):
        ensure(store, asked(TEXT + "platforms: [osx-arm64]\n"), engine)


def test_no_room_is_said_with_figures(store: Store, tmp_path: Path) -> None:
    """Before anything is fetched, and before anybody's environment goes for what an index merely says."""
    first = ensure(store, asked(), Directories(tmp_path / "journal"))

    class Huge(Directories):
        def solve(self, order: Order, tell: Tell) -> Solution:
            found = super().solve(order, tell)
            packages = (msgspec.structs.replace(each, size_bytes=1 << 50) for each in found.packages)
            return msgspec.structs.replace(found, packages=tuple(packages))

    with pytest.raises(TryAgainError, match=r"needs about [0-9.]+ GiB, and [0-9.]+ GiB could be free"):
        ensure(store, asked(TEXT.replace("numpy", "scipy")), Huge(tmp_path / "journal"))
    assert store.published(first.digest) is not None


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path, engine: Directories) -> None:
    """No traceback for a path that is no directory."""
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="the store cannot be written"):
        ensure(Store(tmp_path / "file/store"), asked(), engine)


def test_a_hit_takes_a_lease(store: Store, engine: Directories) -> None:
    """For the process that was named."""
    me = holder(os.getpid())
    assert isinstance(me, Holder)
    ready = ensure(store, asked(), engine, holder=me)
    assert [path.name for path in (store.root / "leases").iterdir()] == [
        f"{ready.digest}-{me.pid}-{me.began}.json"
    ]
