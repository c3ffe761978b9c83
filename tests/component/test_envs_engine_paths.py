"""Packages that would lead the linker out of their environment, made by hand: none of them gets anywhere."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rattler import index

from runnerctl.envs.engine_rattler import Rattler
from runnerctl.errors import DataError, RunnerctlError
from tests.component.envs_engine_support import Heard, order, yml
from tests.fakes.conda_channel import CondaPackage, Link
from tests.fakes.conda_channel import archive as archives

SECRET = "of another channel"


@pytest.fixture
def channel(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/credentials").write_text(SECRET)
    return tmp_path / "channel"


def package(
    channel: Path,
    name: str,
    files: Mapping[str, archives.Entry],
    *,
    lists: tuple[str, ...] = (),
    depends: tuple[str, ...] = (),
) -> None:
    """Write a package whose list of paths is ``lists`` (none: the truth)."""
    whole = CondaPackage(name, "1.0", files=files, noarch="generic", depends=depends)
    honest = archives._infos

    def infos(package: CondaPackage, contents: Any) -> Any:
        found = honest(package, contents)
        paths = [{"_path": path, "path_type": "hardlink"} for path in lists]
        text = json.dumps({"paths": paths, "paths_version": 1})
        return {**found, "info/paths.json": (text.encode(), 0o644, None)}

    with pytest.MonkeyPatch.context() as patch:
        if lists:
            patch.setattr(archives, "_infos", infos)
        archives.write_package(whole, channel)


def installed(channel: Path, *names: str) -> Path:
    """Index the channel and install from it; the prefix."""
    asyncio.run(index.index_fs(channel, write_zst=False, write_shards=False, force=True))
    store = channel.parent / "store"
    engine, asked = Rattler(), order(store, yml(channel.as_uri(), names))
    prefix = store / "envs" / "one"
    engine.install(asked, engine.solve(asked, Heard()).packages, prefix, Heard())
    return prefix


def escaped(top: Path) -> list[str]:
    """Everything that is where it should not be."""
    outside = [path.name for path in (top / "outside").iterdir() if path.name != "credentials"]
    outside += [path.name for path in (top / "store/envs").iterdir() if path.name != "one"]
    inside = [path for path in (top / "store/envs").rglob("*") if path.is_file() and not path.is_symlink()]
    return outside + [path.name for path in inside if SECRET in path.read_text(errors="replace")]


@pytest.mark.parametrize(
    ("files", "lists"),
    [
        ({"lib/steal": "OUTSIDE"}, ("lib/steal/credentials",)),
        ({"lib/steal": "OUTSIDE/credentials"}, ("lib/steal",)),
        ({"s": "a/b/c/d", "a/b/c/d/e": "x", "a/b/out": "x"}, ("s/../../out",)),
        ({"lib/a": "x"}, ("../../../../outside/credentials",)),
        ({"lib/a": "x"}, ("/etc/hostname",)),
        ({"lib/a": "x"}, ("lib/../lib/a",)),
        ({"lib/a": "x"}, ("lib/a\n::set-output name=x::y",)),
    ],
)
def test_a_package_stays_in_its_environment(
    channel: Path, files: dict[str, str], lists: tuple[str, ...]
) -> None:
    """Its list of paths leads nowhere else, be it for reading or for writing; and it is not kept."""
    outside = str(channel.parent / "outside")
    entries: dict[str, archives.Entry] = {
        name: Link(text.replace("OUTSIDE", outside)) if name in ("lib/steal", "s") else text
        for name, text in files.items()
    }
    package(channel, "evil", entries, lists=lists)
    for _ in range(2):
        with pytest.raises(DataError, match="the package evil lists") as refused:
            installed(channel, "evil")
        assert "\n" not in str(refused.value)
    assert escaped(channel.parent) == []
    assert not (channel.parent / "store/pkgs/evil-1.0-0").exists()


def test_two_packages_do_not_lead_away_together(channel: Path) -> None:
    """One's link that leads away is no place for the files of another."""
    package(channel, "way", {"lib/way": Link(str(channel.parent / "outside"))})
    package(channel, "goer", {"lib/way/gone": "x"}, depends=("way",))
    with pytest.raises(DataError, match="makes a link that leads away"):
        installed(channel, "goer")
    assert escaped(channel.parent) == []


def test_a_link_within_the_environment_is_as_it_always_was(channel: Path) -> None:
    """Packages have such links: ``lib64 -> lib``, and below it files of others."""
    package(channel, "way", {"lib/here": "x", "lib64": Link("lib")})
    package(channel, "goer", {"share/x": "x", "share/y": Link("../lib/here")}, depends=("way",))
    prefix = installed(channel, "goer")
    assert (prefix / "share/y").read_text() == "x"
    assert (prefix / "lib64/here").read_text() == "x"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"sha256": None}, "has no sha256"),
        ({"build": "0/../../../specs"}, "."),
        ({"version": "1.0/../x"}, "."),
        ({"name": "../x"}, "."),
        ({"python_site_packages_path": "../../texts"}, "wants Python's modules"),
    ],
)
def test_an_index_names_no_paths_and_hashes_everything(
    channel: Path, change: dict[str, Any], what: str
) -> None:
    """What it says of a package is put into paths, and into the environment's own name."""
    package(channel, "plain", {"share/x": "x"})
    asyncio.run(index.index_fs(channel, write_zst=False, write_shards=False, force=True))
    file = channel / "noarch/repodata.json"
    told = json.loads(file.read_text())
    for record in told["packages.conda"].values():
        record.update(change)
    file.write_text(json.dumps(told))
    asked = order(channel.parent / "store", yml(channel.as_uri(), ["plain"]))
    engine = Rattler()
    prefix = channel.parent / "store/envs/one"
    with pytest.raises(RunnerctlError, match=what):
        engine.install(asked, engine.solve(asked, Heard()).packages, prefix, Heard())


def test_an_index_speaks_for_its_own_channel_only(channel: Path) -> None:
    """An environment is known by addresses and hashes: words of another about them would be poison."""
    package(channel, "plain", {"share/x": "x"})
    asyncio.run(index.index_fs(channel, write_zst=False, write_shards=False, force=True))
    other = channel.parent / "other"
    (other / "noarch").mkdir(parents=True)
    told = json.loads((channel / "noarch/repodata.json").read_text())
    told["info"]["base_url"] = f"{channel.as_uri()}/noarch/"
    (other / "noarch/repodata.json").write_text(json.dumps(told))
    asked = order(channel.parent / "store", yml(other.as_uri(), ["plain"]))
    engine = Rattler()
    with pytest.raises(DataError, match="another place than its channel"):
        engine.install(asked, engine.solve(asked, Heard()).packages, channel.parent / "store/envs/x", Heard())
