"""The pip section by uv, from an index made here, into an environment with a real Python."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runnerctl.envs import lockfile
from runnerctl.envs.model import Line
from runnerctl.envs.pip_section import distributions, explain, install_pip
from runnerctl.envs.ports import Order
from runnerctl.envs.verify import verify
from runnerctl.errors import DataError, TryAgainError, UnavailableError
from tests.component.envs_engine_support import Heard, order, wheel, yml
from tests.fakes.conda_channel import Served, serve

CREATE_RULESET, VERSION_FLAG = 444, 1  # asks the kernel for its version of Landlock
_ASKED = (CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(VERSION_FLAG))
LANDLOCK = ctypes.CDLL(None).syscall(*_ASKED) > 0
SECRET = "sesame-55d0"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("index")
    wheel(folder, "one", "1.0")
    wheel(folder, "one", "2.0", requires=["two>=1", "fromconda"])
    wheel(folder, "two", "1.5")
    wheel(folder, "pinned", "3.0", requires=["fromconda>=2"])
    wheel(folder, "fromconda", "2.0")
    source = folder / "simple" / "sourceonly" / "sourceonly-1.0.tar.gz"
    source.parent.mkdir()
    source.write_bytes(b"nobody opens this")
    with serve(folder) as served:
        yield served


@pytest.fixture
def prefix(tmp_path: Path) -> Path:
    """What conda would leave: an interpreter, and one distribution of its own."""
    place = tmp_path / "prefix"
    command = [sys.executable, "-m", "venv", "--without-pip", str(place)]
    subprocess.run(command, check=True, timeout=60)
    (site,) = place.glob("lib/python3*/site-packages")
    info = site / "fromconda-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fromconda\nVersion: 1.0\n")
    (info / "INSTALLER").write_text("conda\n")
    (info / "RECORD").write_text("fromconda.py,,\n")
    (site / "fromconda.py").write_text("version = 'of conda'\n")
    return place


def asked(prefix: Path, index: Served, *lines: str, **more: object) -> Order:
    text = yml("file:///unused", ["python"], lines)
    return order(prefix.parent / "store", text, pip_index=f"{index.url}/simple", **more)


def test_wheels_are_added_and_conda_s_stay(prefix: Path, index: Served) -> None:
    added = install_pip(asked(prefix, index, "one"), prefix, Heard())
    assert added == ("one==2.0", "two==1.5")
    assert distributions(prefix)["fromconda"] == "1.0"
    assert (prefix / "bin/one-tool").read_text().startswith(f"#!{prefix}/bin/python")
    assert not list(verify(prefix, full=True, published=False))[1:], "all but conda-meta is there"
    (module,) = prefix.glob("lib/python3*/site-packages/one.py")
    module.write_text("changed = 1\n")
    damage = [each for each in verify(prefix, full=True, published=False) if each.path.endswith("one.py")]
    assert [each.package for each in damage] == ["one-2.0"]


def test_the_environment_s_own_code_cannot_write(prefix: Path, index: Served) -> None:
    (site,) = prefix.glob("lib/python3*/site-packages")
    code = f"open('{site}/fromconda.py', 'w').write('changed')"
    (site / "harm.pth").write_text(f"import sys; sys.modules.setdefault('x_ran', sys); {code}\n")
    assert install_pip(asked(prefix, index, "two"), prefix, Heard()) == ("two==1.5",)
    if LANDLOCK:
        assert (site / "fromconda.py").read_text() == "version = 'of conda'\n"


def test_files_options_and_pins_of_a_lock(prefix: Path, index: Served) -> None:
    lines = ("--pre", "--prefer-binary", "-r sub/more.txt", "-c limits.txt")
    files = {"sub/more.txt": "one\n", "limits.txt": "two<2\n"}
    plain = asked(prefix, index, *lines, files=files)
    lock = lockfile.write("version: 7\n", plain.file, files=files, pip=("one==1.0",))
    assert install_pip(asked(prefix, index, *lines, files=files, lock=lock), prefix, Heard()) == ("one==1.0",)


CANNOT = [
    (["two", "missing-one"], 6, "missing-one was not found", DataError),
    (["two", "pinned"], 6, "fromconda", DataError),
    (["one==7"], 5, "one==7", DataError),
    (["sourceonly"], 5, "the store takes wheels only", DataError),
]


@pytest.mark.parametrize(("lines", "line", "what", "kind"), CANNOT, ids=[case[2][:16] for case in CANNOT])
def test_what_cannot_be_had_is_one_line(
    prefix: Path, index: Served, lines: list[str], line: int, what: str, kind: type[Exception]
) -> None:
    before = distributions(prefix)
    with pytest.raises(kind) as caught:
        install_pip(asked(prefix, index, *lines), prefix, Heard())
    text = str(caught.value)
    assert text.startswith(f"environment.yml:{line}: ") and what in text and len(text) < 600
    assert ".section.txt" not in text and str(prefix) not in text
    assert distributions(prefix) == before


@pytest.mark.exhaustive
def test_no_index_no_python_no_time(prefix: Path, index: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    monkeypatch.setattr("runnerctl.envs.pip_section.KEPT", {"PATH", "UV_HTTP_RETRIES"})
    gone = order(prefix.parent, yml("file:///unused", ["python"], ["one"]), pip_index="http://127.0.0.1:9/s")
    with pytest.raises(UnavailableError, match=r"environment.yml:5: the package index did not answer"):
        install_pip(gone, prefix, Heard())
    with pytest.raises(TryAgainError, match="took longer than 0 s"):
        install_pip(asked(prefix, index, "one"), prefix, Heard(), seconds=0.001)
    shutil.rmtree(prefix / "bin")
    with pytest.raises(DataError, match=r"environment.yml:5: has a pip section but no python"):
        install_pip(asked(prefix, index, "one"), prefix, Heard())


def test_settings_and_secrets_of_the_builder_stay_out(
    prefix: Path, index: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}

    def call(command: list[str], environment: dict[str, str], **_: object) -> tuple[str, int]:
        seen.update(command=command, environment=environment)
        return "", 0

    monkeypatch.setattr("runnerctl.envs.pip_section._call", call)
    for name in ("UV_INDEX_URL", "PIP_INDEX_URL", "GH_TOKEN", "UV_CONFIG_FILE", "PYTHONPATH"):
        monkeypatch.setenv(name, SECRET)
    install_pip(asked(prefix, index, "one"), prefix, Heard())
    assert SECRET not in str(seen)
    assert index.url not in str(seen["command"]), "an address may hold a credential, and others see arguments"
    assert "--only-binary" in str(seen["command"])


def test_the_line_of_a_message(prefix: Path, index: Served) -> None:
    file = asked(prefix, index, "one", "two-things", "three").file
    for text, line in (
        ("error: Couldn't parse requirement\n at /tmp/x/.section.txt:3:1", 7),
        ("No solution found\n Because there is no such version and you require two_things", 6),
        ("something else about three", 7),
        ("who knows", 5),
    ):
        assert explain(text, file).where == f"environment.yml:{line}"
    assert file.pip[0] == Line("one", 5)
    assert isinstance(explain("No space left on device (os error 28)", file), TryAgainError)
