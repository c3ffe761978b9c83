"""The engine by rattler against a real channel: what it installs, and what it says when it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runnerctl.envs.activation import find_activation
from runnerctl.envs.engine_rattler import Rattler
from runnerctl.envs.model import Channel
from runnerctl.envs.ports import Installed
from runnerctl.envs.store_files import remove_tree
from runnerctl.envs.verify import verify
from runnerctl.errors import DataError, RunnerctlError, UnavailableError
from tests.component.envs_engine_support import Heard, facts, order, yml
from tests.fakes.conda_channel import Served, build_channel, serve


@pytest.fixture(scope="module")
def channel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_channel(tmp_path_factory.mktemp("channel") / "main", ())


@pytest.fixture(scope="module")
def served(channel: Path) -> Iterator[Served]:
    with serve(channel) as one:
        yield one


@pytest.fixture(scope="module")
def made(channel: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Installed, Heard]:
    """One environment with everything; tests only look at it."""
    store, heard = tmp_path_factory.mktemp("store"), Heard()
    text = yml(channel.as_uri(), ["python >=3", "tiny >=1.0,<2", "torchlike", "activated", "post-linked"])
    engine, asked = Rattler(), order(store, text)
    solution = engine.solve(asked, heard)
    return store, engine.install(asked, solution.packages, store / "envs" / "one", heard), heard


def test_an_environment_with_a_python_that_runs(made: tuple[Path, Installed, Heard]) -> None:
    store, installed, heard = made
    prefix = store / "envs" / "one"
    code = "import ctypes, json, ssl, sqlite3, sys; print(json.dumps([sys.prefix, sys.version.split()[0]]))"
    run = subprocess.run(
        [prefix / "bin/python", "-c", code], capture_output=True, text=True, timeout=30, check=True
    )
    assert json.loads(run.stdout) == [str(prefix), installed.python_version]
    assert installed.python == "bin/python"
    assert (prefix / "share/tiny").read_text() == "1.1\n"
    assert (prefix / "share/torchlike/flavour").read_text() == "cpu_1\n"
    assert (prefix / "etc/torchlike.conf").read_text() == f"home = {prefix}/share\n"
    assert not (prefix / "post-link-ran").exists(), "no script of a package may run"
    assert {file.stat().st_mode & 0o777 for file in (prefix / "conda-meta").glob("*.json")} == {0o644}
    assert [event.step for event in heard[:2]] == ["solve", "solve"]
    assert [(event.done, event.total) for event in heard if event.step == "link"][-1] == (5, 5)


def test_what_is_on_disk_is_what_was_installed(made: tuple[Path, Installed, Heard], tmp_path: Path) -> None:
    prefix = tmp_path / "copy"
    shutil.copytree(made[0] / "envs" / "one", prefix, symlinks=True)
    assert list(verify(prefix, full=True, published=False)) == []
    assert "can be written to" in {each.what for each in verify(prefix)}
    (prefix / "share/tiny").write_text("9.9\n")
    (prefix / "share/torchlike/flavour").unlink()
    (prefix / "bin/python").unlink()
    (prefix / "bin/python").write_text("no link any more")
    quick = {each.path: each.what for each in verify(prefix, published=False)}
    full = {each.path: each.what for each in verify(prefix, full=True, published=False)}
    assert quick == {"share/torchlike/flavour": "is missing", "bin/python": "is no symbolic link"}
    assert full == {**quick, "share/tiny": "has another content (sha256)"}


def test_activation_is_found_out_once(made: tuple[Path, Installed, Heard]) -> None:
    prefix = made[0] / "envs" / "one"
    found = find_activation(prefix)
    assert found.path == (f"{prefix}/sbin", f"{prefix}/bin")
    assert found.variables == {
        "CONDA_PREFIX": str(prefix),
        "CONDA_DEFAULT_ENV": str(prefix),
        "PYTHONNOUSERSITE": "1",
        "SAMPLE_FROM_JSON": "yes",
        "SAMPLE_HOME": f"{prefix}/share/activated",
        "SAMPLE_LITERAL": f"{prefix}/share",
        "SAMPLE_TEXT": "two\nlines",
    }
    assert [note.partition(":")[0] for note in found.notes] == ["sample_function", "LD_LIBRARY_PATH"]


def test_the_cuda_build_for_a_host_with_cuda(channel: Path, tmp_path: Path) -> None:
    asked = order(tmp_path, yml(channel.as_uri(), ["torchlike"]), facts=facts(cuda="12.8"))
    (package,) = Rattler().solve(asked, Heard()).packages
    assert (package.build, package.noarch, len(package.sha256 or "")) == ("cuda_1", False, 64)


CANNOT = [
    (["nope"], 3, "no channel has a package nope"),
    (["tiny", "python=3.99"], 4, "no python fits 3.99.*; the channels have 3."),
    (["tiny >=3"], 3, "no tiny fits >=3; the channels have 2.0, 1.1, 1.0"),
    (["needs-tiny-1", "needs-tiny-2"], 3, "needs-tiny-1 (line 3) and needs-tiny-2 (line 4) cannot be had"),
    (["needs-nothing-known"], 3, "no-such-package >=1, for which no candidates were found"),
    (["torchlike=2.9.*=*cuda*"], 3, "needs __cuda >=12.0, which this host does not have"),
    (["tiny >>1"], 3, "cannot be read as a dependency"),
]


@pytest.mark.parametrize(("specs", "line", "what"), CANNOT, ids=[case[2][:24] for case in CANNOT])
def test_what_cannot_be_had_is_one_line(
    channel: Path, tmp_path: Path, specs: list[str], line: int, what: str
) -> None:
    with pytest.raises(DataError) as caught:
        Rattler().solve(order(tmp_path, yml(channel.as_uri(), specs)), Heard())
    assert caught.value.where == f"environment.yml:{line}"
    assert what in str(caught.value)
    assert len(str(caught.value)) < 600


def test_no_channel_and_no_network(tmp_path: Path, served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runnerctl.envs.engine_rattler.RETRIES", 0)  # they take seconds
    with pytest.raises(DataError, match=r"environment.yml:1: there is no channel file:///nowhere"):
        Rattler().solve(order(tmp_path, yml("file:///nowhere", ["tiny"])), Heard())
    with pytest.raises(DataError, match="there is no channel http"):
        Rattler().solve(order(tmp_path, yml(f"{served.url}/other", ["tiny"])), Heard())
    with pytest.raises(
        UnavailableError, match=r"environment.yml:1: the channel http://127.0.0.1:9/x did not"
    ):
        Rattler().solve(order(tmp_path, yml("http://127.0.0.1:9/x", ["tiny"])), Heard())


@pytest.mark.parametrize("by", ["file", "http"])
def test_an_archive_that_is_not_the_index_s(channel: Path, served: Served, tmp_path: Path, by: str) -> None:
    engine, asked = Rattler(), order(
        tmp_path, yml(served.url if by == "http" else channel.as_uri(), ["broken"])
    )
    solution = engine.solve(asked, Heard())
    with pytest.raises(UnavailableError, match=r"broken-1.0-0.conda is not the file .* \(sha256\)"):
        engine.install(asked, solution.packages, tmp_path / "prefix", Heard())
    assert not (tmp_path / "pkgs" / "broken-1.0-0").exists()


def test_a_poisoned_cache_is_noticed(served: Served, tmp_path: Path) -> None:
    engine, asked = Rattler(), order(tmp_path, yml(served.url, ["tiny=1.0"]))
    packages = engine.solve(asked, Heard()).packages
    engine.install(asked, packages, tmp_path / "one", Heard())
    kept = tmp_path / "pkgs" / "tiny-1.0-0" / "share" / "tiny"
    kept.write_text("6.6\n")  # same size, same inode as in the first prefix
    engine.install(asked, packages, tmp_path / "two", Heard())
    assert (tmp_path / "two/share/tiny").read_text() == "1.0\n"


def test_a_file_that_is_gone_and_a_server_that_fails(served: Served, tmp_path: Path) -> None:
    engine, asked = Rattler(), order(tmp_path, yml(served.url, ["tiny=1.1"]))
    packages = engine.solve(asked, Heard()).packages
    served.faults["*/tiny-1.1*"] = 404
    with pytest.raises(UnavailableError, match=r"tiny-1.1-0.conda could not be fetched: .*404"):
        engine.install(asked, packages, tmp_path / "one", Heard())
    served.faults.clear()
    engine.install(asked, packages, tmp_path / "two", Heard())


def test_another_process_installs_what_one_solved(served: Served, tmp_path: Path) -> None:
    asked = order(tmp_path, yml(served.url, ["tiny", "torchlike"]))
    packages = Rattler().solve(asked, Heard()).packages
    Rattler().install(asked, packages, tmp_path / "one", Heard())
    assert (tmp_path / "one/share/tiny").exists()


class Once(dict[str, int]):
    """Faults that strike one request."""

    def items(self) -> Any:
        """What is there, and nothing from then on."""
        left = dict(super().items())
        self.clear()
        return left.items()


@pytest.mark.parametrize("do", ["solve", "install"])
def test_an_index_that_is_said_to_be_unchanged_is_fetched_anew(
    served: Served, tmp_path: Path, do: str
) -> None:
    """What is kept may belong to another time; rattler takes "not modified" for an error."""
    asked = order(tmp_path, yml(served.url, ["tiny"]))
    packages = Rattler().solve(asked, Heard()).packages
    if do == "install":
        remove_tree(asked.caches.repodata)
    before, served.faults = served.faults, Once({"*repodata*": 304})
    try:
        if do == "solve":
            remove_tree(asked.caches.repodata)
            assert Rattler().solve(asked, Heard()).packages == packages
        else:
            Rattler().install(asked, packages, tmp_path / "one", Heard())
            assert (tmp_path / "one/share/tiny").exists()
        assert not served.faults
    finally:
        served.faults = before


@pytest.mark.parametrize("kind", ["token", "basic"])
def test_a_private_channel(channel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    secret = "sesame-83b1"
    entry = {"token": {"BearerToken": secret}, "basic": {"BasicHTTP": {"username": "ci", "password": secret}}}
    credentials = tmp_path / "credentials.json"
    credentials.write_text(json.dumps({"127.0.0.1": entry[kind]}))
    given: dict[str, Any] = {"token": secret} if kind == "token" else {"basic": ("ci", secret)}
    with serve(channel, **given) as private:
        text = yml(private.url, ["tiny"])
        # those of whoever runs this are nobody's
        monkeypatch.setenv("RATTLER_AUTH_FILE", str(credentials))
        with pytest.raises(UnavailableError, match=r"environment.yml:1: the channel .* wants a credential"):
            Rattler().solve(order(tmp_path / "none", text), Heard())
        assert os.environ["RATTLER_AUTH_FILE"] == str(credentials)
        engine, asked = Rattler(), order(tmp_path / "store", text, credentials=credentials)
        solution = engine.solve(asked, Heard())
        engine.install(asked, solution.packages, tmp_path / "store" / "prefix", Heard())
    assert (tmp_path / "store/prefix/share/tiny").exists()
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert files and not [path for path in files if secret.encode() in path.read_bytes()]
    assert secret not in solution.lock


def test_a_lock_holds_every_package(channel: Path, tmp_path: Path) -> None:
    text = yml(channel.as_uri(), ["tiny", "torchlike"])
    before = Rattler().solve(order(tmp_path, text, facts=facts(cuda="12.8")), Heard())
    again = Rattler().solve(order(tmp_path, text, facts=facts(cuda="13.0"), lock=before.lock), Heard())
    assert again == before
    with pytest.raises(DataError, match=r"environment.yml: the lock has torchlike.*needs __cuda >=12.0"):
        Rattler().solve(order(tmp_path, text, lock=before.lock), Heard())
    with pytest.raises(DataError, match=r"environment.yml: has changed since its lock was written"):
        changed = yml(channel.as_uri(), ["tiny <2", "torchlike"])
        Rattler().solve(order(tmp_path, changed, lock=before.lock), Heard())


def test_a_lock_from_elsewhere(channel: Path, served: Served, tmp_path: Path) -> None:
    text = yml(channel.as_uri(), ["tiny"])
    lock = Rattler().solve(order(tmp_path, text), Heard()).lock
    mirrored = order(tmp_path, text, lock=lock, channels=(Channel(served.url),))
    (package,) = Rattler().solve(mirrored, Heard()).packages
    assert package.url == f"{served.url}/noarch/tiny-2.0-0.conda"
    for wrong, what in (
        (lock.replace(f"{channel}/noarch", "/tmp/other/noarch"), "comes from no channel of the file"),
        (lock.replace("  sha256:", "  sha256_of_old:"), "has no sha256|cannot be read"),
        (lock.replace("linux-64", "linux-aarch64"), "the lock has nothing for linux-64"),
        (lock.replace("version: 7", "version: 99"), "the lock cannot be read"),
        (lock.partition("\n")[2], "is no lock of an environment"),
    ):
        with pytest.raises(RunnerctlError, match=what):
            Rattler().solve(order(tmp_path, text, lock=wrong), Heard())


@pytest.mark.parametrize("kept", [0, 10, 200])
def test_an_index_that_was_cut_short_is_fetched_anew(served: Served, tmp_path: Path, kept: int) -> None:
    """By a kill or a full disk; the library would fail on it for ever."""
    asked = order(tmp_path, yml(served.url, ["tiny"]))
    first = Rattler().solve(asked, Heard())
    files = list((tmp_path / "repodata").rglob("*.shards-cache-v1"))
    assert files
    for file in files:
        os.truncate(file, kept)
    assert Rattler().solve(asked, Heard()).packages == first.packages
    assert Rattler().solve(asked, Heard()).packages == first.packages
