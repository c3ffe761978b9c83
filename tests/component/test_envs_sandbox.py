"""Packages that attack the store while they are built into an environment, and what becomes of it."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from runnerctl.envs import _confine, _query, sandbox
from runnerctl.envs.activation import find_activation
from runnerctl.envs.engine_rattler import Rattler
from runnerctl.envs.ensure import Asked, ensure
from runnerctl.envs.model import Ready, Request
from runnerctl.envs.policy import Policy
from runnerctl.envs.store import Store
from runnerctl.errors import ConfigError, DataError, UnavailableError
from tests.component.envs_engine_support import Heard, facts, wheel, yml
from tests.fakes.conda_channel import CondaPackage, Served, add_packages, build_channel, serve

pytest.importorskip("rattler")
CONFINED = pytest.mark.skipif(not sandbox.is_available(), reason="this kernel has no Landlock")

LIB = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}"
SITE = f"{LIB}/site-packages"
ZIP = f"lib/python{sys.version_info[0]}{sys.version_info[1]}.zip"  # comes before the library itself
TAG = f"cpython-{sys.version_info[0]}{sys.version_info[1]}"
SCRIPT = "etc/conda/activate.d/a.sh"
SECRET = "sesame-55d0"
# Tries everything, and tells: {attempt: "done" or how it failed}
ATTACK = """
import os, socket, signal, shutil
PLACES = {places!r}
def tell(victim, cached, marker, secret, target, port):
    def tcp():
        socket.create_connection(("127.0.0.1", port), 5).close()
    def datagram():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.sendto(b"x", ("127.0.0.1", port))
    def local():
        with socket.socket(socket.AF_UNIX) as one:
            one.connect(target)
    def write(path):
        with open(path, "a") as file:
            file.write("harm")
    yield "environment", lambda: write(victim)
    yield "removed", lambda: os.unlink(victim)
    yield "replaced", lambda: (open("mine", "w").close(), os.rename("mine", victim))
    yield "mode", lambda: os.chmod(victim, 0o666)
    yield "length", lambda: os.truncate(victim, 0)
    yield "times", lambda: os.utime(victim, (1, 1))
    yield "new", lambda: write(os.path.join(os.path.dirname(victim), "new"))
    yield "listed", lambda: os.listdir(os.path.dirname(victim))
    yield "cache", lambda: write(cached)
    yield "cache mode", lambda: os.chmod(cached, 0o666)
    yield "linked", lambda: os.link(cached, "linked")
    yield "marker", lambda: write(marker)
    yield "second marker", lambda: os.symlink("/nowhere", marker + ".json")
    yield "credentials", lambda: open(secret).read()
    yield "parent's memory", lambda: open("/proc/%d/environ" % PLACES["pid"], "rb").read()
    yield "its own module", lambda: write(__file__)
    yield "its own mode", lambda: os.chmod(__file__, 0o777)
    yield "tcp", tcp
    yield "udp", datagram
    yield "unix socket", local
    yield "signal", lambda: os.kill(PLACES["pid"], 0)
    yield "continued", lambda: os.kill(PLACES["pid"], signal.SIGCONT)
    yield "session", os.setsid
def run():
    found = {{}}
    for name, attempt in tell(*(PLACES[each] for each in
                                ("victim", "cached", "marker", "secret", "target", "port"))):
        try:
            attempt()
            found[name] = "done"
        except BaseException as error:
            found[name] = type(error).__name__
    return found
"""
# Runs in place of the compiler, and leaves what it found where bytecode is expected
COMPILER = """
import importlib.util, json, os, sys
sys.path.append(os.path.join(sys.prefix, {site!r}))
import attack
found = attack.run()
for name in [line.strip() for line in open(sys.argv[-1])]:
    place = importlib.util.cache_from_source(name)
    os.makedirs(os.path.dirname(place), exist_ok=True)
    if name.endswith("attack.py"):
        open(place, "w").write(json.dumps(found))
    elif name.endswith("harm.py"):
        os.symlink({secret!r}, place)
    else:
        open(os.path.join(os.path.dirname(place), "unasked.{tag}.pyc"), "w").write("x")
"""


@dataclass
class Site:
    """A store with one published environment, a channel with packages that attack it, and an index."""

    place: Path
    channel: Path
    index: Served
    store: Store
    good: Ready = field(init=False)

    def ask(self, *specs: str, pip: tuple[str, ...] = (), anyway: bool = False) -> Ready:
        """What the store makes of an environment."""
        text = yml(self.channel.as_uri(), ["python", *specs], pip)
        policy = Policy(pip_index=f"{self.index.url}/simple", reserve_bytes=0, anyway=anyway)
        asked = Asked(Request(text), facts(), policy)
        return ensure(self.store, asked, Rattler(), tell=Heard())

    def state(self) -> dict[str, tuple[int, str]]:
        """Mode and content of everything that was there: the environment, its marker, the package cache."""
        root = self.store.root
        tops = [root / "envs" / self.good.digest]
        tops += [top for name in ("tiny", "python") for top in root.glob(f"cache/pkgs/{name}-*")]
        files = [file for top in tops for file in top.rglob("*") if file.is_file() and not file.is_symlink()]
        files += [root / "envs" / f"{self.good.digest}.json", self.place / "secret"]
        return {
            str(file): (file.stat().st_mode & 0o111, hashlib.sha256(file.read_bytes()).hexdigest())
            for file in files
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    place = tmp_path_factory.mktemp("site")
    channel = build_channel(place / "channel", ())
    (place / "secret").write_text(SECRET)
    wheel(place, "fine", "1.0")
    wheel(place, "library", "1.0", more={f"library-1.0.data/data/{LIB}/os.py": "raise SystemExit(3)\n"})
    wheel(place, "program", "1.0", commands=["tiny-tool"])
    wheel(place, "leaving", "1.0", commands=[f"../{LIB}/os.py"])
    wheel(place, "record", "1.0", more={"record-1.0.data/data/conda-meta/history": "nothing\n"})
    wheel(place, "shared", "1.0", more={"common/__init__.py": "same = 1\n"})
    local = socket.socket(socket.AF_UNIX)
    local.bind(str(place / "s"))
    local.listen()
    with serve(place) as index, socket.create_server(("127.0.0.1", 0)) as tcp, local:
        found = Site(place, channel, index, Store(place / "store"))
        found.good = found.ask("tiny=1.0")
        add_packages(channel, *_packages(found, tcp.getsockname()[1]))
        yield found


def _packages(site: Site, port: int) -> Iterator[CondaPackage]:
    victim, secret = Path(site.good.prefix, "share/tiny"), site.place / "secret"
    places = {
        "victim": str(victim),
        "cached": str(next(site.store.root.glob("cache/pkgs/tiny-1.0*/share/tiny"))),
        "marker": f"{site.good.prefix}.json",
        "secret": str(secret),
        "target": str(site.place / "s"),
        "port": port,
        "pid": os.getpid(),
    }
    attack = {f"{SITE}/attack.py": ATTACK.format(places=places)}
    told = '"$CONDA_PREFIX/bin/python" -c "import attack, json; print(json.dumps(attack.run()))"'
    script = (
        f"export FOUND=$({told})\nexport GOT=$(cat {secret})\n(echo harm >>{victim}) 2>/dev/null\n"
        "export FINE=yes\n"
    )
    yield _package("activates", {**attack, SCRIPT: script})
    link = f'ln -sf {secret} "$HOME/after"'
    yield _package("leaks", {SCRIPT: f"{link}; trap '{link}' EXIT\n"})
    starts = {
        "attack.pth": "import attack; attack.run()\n",
        "sitecustomize.py": "import attack\nattack.run()\n",
    }
    yield _package("starts", {**attack, **{f"{SITE}/{name}": text for name, text in starts.items()}})
    compiler = _zip(COMPILER.format(site=SITE, secret=str(secret), tag=TAG))
    modules = {f"{SITE}/{name}.py": "x = 1\n" for name in ("harm", "other")}
    yield _package("compiles", {**attack, **modules, ZIP: compiler})
    yield _package("common", {f"{SITE}/common/__init__.py": "same = 1\n", "bin/tiny-tool": "#!/bin/sh\n"})
    plain = "# says\nexport PLAIN=one\nexport QUOTED='two words'\nexport RUN=$(id)\n"
    yield _package("benign", {SCRIPT: plain, f"{SITE}/benign.py": "x = 1\n"})


def _package(name: str, files: dict[str, str | bytes]) -> CondaPackage:
    return CondaPackage(name, "1.0", files=files, noarch="generic")


def _zip(compiler: str) -> bytes:
    import io
    import zipfile

    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        archive.writestr("compileall.py", compiler)
    return held.getvalue()


def _nothing_was_done(found: dict[str, str]) -> None:
    assert len(found) == 23
    assert {name for name, how in found.items() if how == "done"} == set()


def test_the_attack_works_on_what_is_not_confined(tmp_path: Path) -> None:
    """Else the tests below would show nothing."""
    names = ("victim", "cached", "marker", "secret", "target")
    for name in names:
        (tmp_path / name).write_text("as it was")
    with socket.create_server(("127.0.0.1", 0)) as tcp:
        places = {name: str(tmp_path / name) for name in names} | {"port": tcp.getsockname()[1]}
        (tmp_path / "attack.py").write_text(ATTACK.format(places={**places, "pid": os.getpid()}))
        code = "import sys, json; sys.path.insert(0, ''); import attack; print(json.dumps(attack.run()))"
        said = subprocess.run(
            [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, timeout=30, check=True
        )
    failed = {name for name, how in json.loads(said.stdout).items() if how != "done"}
    assert failed <= {"unix socket"}, "nobody listens there"


@CONFINED
def test_an_activation_script_that_attacks(site: Site) -> None:
    before = site.state()
    ready = site.ask("activates")
    _nothing_was_done(json.loads(ready.activation.variables["FOUND"]))
    assert ready.activation.variables["FINE"] == "yes"
    assert ready.activation.variables["GOT"] == ""
    assert site.state() == before
    compiled = Path(ready.prefix, SITE, "__pycache__", f"attack.{TAG}.pyc")
    assert compiled.is_file(), "what is not compiled now never is"


@CONFINED
@pytest.mark.exhaustive
def test_an_answer_that_is_a_link_is_none(site: Site) -> None:
    with pytest.raises(DataError):
        site.ask("leaks")


@CONFINED
def test_a_compiler_that_attacks(site: Site) -> None:
    before = site.state()
    made = Path(site.ask("compiles").prefix, SITE, "__pycache__")
    _nothing_was_done(json.loads((made / f"attack.{TAG}.pyc").read_text()))
    names = {file.name for file in made.iterdir()}
    assert f"harm.{TAG}.pyc" not in names, "a link is no bytecode"
    assert not any(name.startswith("unasked") for name in names)
    assert site.state() == before


@CONFINED
@pytest.mark.exhaustive
def test_code_that_every_python_starts_with(site: Site) -> None:
    """uv asks the environment's Python; its answer is right all the same."""
    before = site.state()
    assert "fine" in str(site.store.manifest(site.ask("starts", pip=("fine",)).digest))
    assert site.state() == before


REPLACE = [
    ("library", f"the wheel of library replaces {LIB}/os.py, which conda installed"),
    pytest.param("program", "the wheel of program replaces bin/tiny-tool", marks=pytest.mark.exhaustive),
    pytest.param("leaving", "leaving", marks=pytest.mark.exhaustive),
    pytest.param("record", "the wheel of record replaces conda-meta/history", marks=pytest.mark.exhaustive),
]


@CONFINED
@pytest.mark.parametrize(("name", "what"), REPLACE)
def test_a_wheel_that_replaces_files_of_conda(site: Site, name: str, what: str) -> None:
    before = site.state()
    with pytest.raises(DataError, match=what) as caught:
        site.ask("common", pip=("fine", name))
    assert str(caught.value).startswith("environment.yml:7: ") and "\n" not in str(caught.value)
    assert site.state() == before, "files of an environment are names of those in the cache"


@CONFINED
@pytest.mark.exhaustive
def test_a_wheel_may_bring_the_same_file(site: Site) -> None:
    assert site.ask("common", pip=("shared",)).status == "built"


def test_where_an_interpreter_may_send_uv(tmp_path: Path) -> None:
    cache, prefix = tmp_path / "store/cache/uv", tmp_path / "store/envs/one"
    prefix.mkdir(parents=True)
    (prefix / "lib").symlink_to("../../cache/uv")
    for text, steered in (
        (str(prefix / "bin"), False),
        ("bin", False),
        ("/usr", False),
        (str(cache / "archive"), True),
        ("../../cache//uv", True),
        ("lib/python", True),
        (f"/proc/self/root{cache}", True),
        (str(tmp_path / "store"), True),
        ("/", True),
    ):
        answer = {"result": "success", "scheme": {"data": text}}
        assert _query.is_steered(answer, cache=str(cache), prefix=str(prefix)) == steered, text


def test_a_kernel_that_cannot_confine(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a package runs, unless the store is the user's own: it says what is missing."""
    monkeypatch.setattr(_confine, "version", lambda: 0)
    ready = site.ask("benign")
    assert {"PLAIN": "one", "QUOTED": "two words"}.items() <= ready.activation.variables.items()
    assert "RUN" not in ready.activation.variables
    assert [note.partition(":")[0] for note in ready.activation.notes] == ["a.sh", "bytecode"]
    assert not list(Path(ready.prefix, SITE).glob("__pycache__/benign*"))
    with pytest.raises(ConfigError, match=r"environment.yml:6: .*no Landlock"):
        site.ask("benign", pip=("fine",))
    own = find_activation(Path(ready.prefix), anyway=True)
    assert own.variables["RUN"].startswith("uid=")


@CONFINED
def test_no_time_no_output_without_end_no_other_program(tmp_path: Path) -> None:
    rules = sandbox.Rules(write=(tmp_path,), file_bytes=1 << 20)
    loud = sandbox.run(rules, ["sh", "-c", "yes"], environment=sandbox.PLAIN, folder=tmp_path, seconds=20)
    assert loud.code not in (0, None) and len(loud.output) <= 1 << 20
    late = sandbox.run(rules, ["sleep", "60"], environment=sandbox.PLAIN, folder=tmp_path, seconds=0.2)
    assert late.code is None
    with pytest.raises(UnavailableError, match="was not run"):
        sandbox.run(rules, [f"{tmp_path}/none"], environment=sandbox.PLAIN, folder=tmp_path, seconds=20)
