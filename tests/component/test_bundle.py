"""A bundle: collected from the stand-ins, verified byte by byte, opened once."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.bundle import (
    bundle_problems,
    with_bundled_keys,
)
from msgspec.structs import replace

from runnerctl.bundle import store
from runnerctl.bundle.archive import unpack
from runnerctl.bundle.collect import Collector, Download, Wanted
from runnerctl.bundle.manifest import Manifest, wrong_files
from runnerctl.bundle.store import open_bundle
from runnerctl.cli import bundle_parts as parts
from runnerctl.cli.bundle_wheels import missing
from runnerctl.core.spec import Conda, GithubRunner, HostSpec, Runnerctl
from runnerctl.errors import ConfigError, DataError, RunnerctlError, UnavailableError, UsageError
from tests.component.cli_support import TOKEN, Ran, call
from tests.fakes.github_api import GithubApi
from tests.fakes.mirror import Mirror

VERSION = "2.336.0"
AT = "2026-11-22T12:00:00Z"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[GithubApi, Mirror]]:
    """GitHub, and a mirror with a runner for two architectures and Miniforge."""
    with Mirror(tmp_path_factory.mktemp("mirror")) as mirror, GithubApi() as github:
        github.control.add_token(TOKEN, scopes=["admin:org", "repo"])
        assets = {}
        for architecture in ("x64", "arm64"):
            made = mirror.add_runner(VERSION, architecture)
            assets[architecture] = {"sha256": made.sha256, "download_url": made.url}
        github.control.release(VERSION, architectures=assets)
        mirror.add_miniforge()
        yield github, mirror


def spec(world: tuple[GithubApi, Mirror]) -> HostSpec:
    """A host that takes Miniforge from the mirror."""
    github, mirror = world
    path = "/conda-forge/miniforge/releases/download/{version}/Miniforge3-{version}-Linux-{machine}.sh"
    runner = GithubRunner(url=f"{github.url}/acme")
    return HostSpec(host="gpu-1", github_runner=runner, conda=Conda(url=mirror.url + path))


def collector(target: Path, *, wheels: bool = True) -> Collector:
    """One whose wheel costs no index."""

    told: list[str] = []

    def one_wheel(folder: Path) -> None:
        (folder / "tool-1.0-py3-none-any.whl").write_bytes(b"a wheel")

    return Collector(
        target,
        fetch=parts.fetch,
        read_key=lambda url: b"a key of " + url.encode(),
        wheels=one_wheel if wheels else None,
        tell=told.append,
    )


def collect(world: tuple[GithubApi, Mirror], target: Path) -> Manifest:
    """A bundle with one of each kind."""
    keys = ("https://download.example.org/linux/debian/gpg",)
    wanted = parts.wanted([spec(world)], {"GH_TOKEN": TOKEN}, architectures=["x64"], keys=keys)
    return collector(target).collect(wanted, made_at=AT, tool_version="0.1.0")


def verify(path: Path) -> Ran:
    """The command's own verdict."""
    return call("bundle", "--verify", str(path))


def test_the_command_collects_what_github_offers(world: tuple[GithubApi, Mirror], tmp_path: Path) -> None:
    """Two architectures, named by the release; JSON and text say what is in it."""
    github, _ = world
    target = tmp_path / "site"
    args = [
        "--without",
        "miniforge",
        "--without",
        "wheels",
        "--architecture",
        "x64",
        "--architecture",
        "arm64",
    ]
    env = {"GH_TOKEN": TOKEN, "RUNNERCTL_URL": f"{github.url}/acme"}
    ran = call("bundle", str(target), *args, "-o", "json", env=env)
    assert ran.code == 0, ran.err
    assert ran.json["schema"] == "runnerctl.bundled/1"
    assert [(file["kind"], file["version"], file["architecture"]) for file in ran.json["files"]] == [
        ("runner", VERSION, "arm64"),
        ("runner", VERSION, "x64"),
    ]
    assert sorted(path.name for path in target.iterdir()) == ["manifest.json", "runner"]
    assert not target.with_name("site.partial").exists()
    checked = verify(target)
    assert checked.code == 0 and "is whole: 2 files" in checked.out
    again = call("bundle", str(target), *args, env=env)
    assert again.code == 0 and "is complete" in again.out


def test_a_directory_and_an_archive_hold_the_same(world: tuple[GithubApi, Mirror], tmp_path: Path) -> None:
    """Every kind of file; equal content makes equal bytes; an archive unpacks to the directory."""
    manifest = collect(world, tmp_path / "site")
    assert {file.kind for file in manifest.files} == {"runner", "miniforge", "wheel", "key"}
    assert wrong_files(tmp_path / "site", manifest) == []
    for name in ("one.tar.gz", "two.tar.gz"):
        assert collect(world, tmp_path / name) == manifest
    assert (tmp_path / "one.tar.gz").read_bytes() == (tmp_path / "two.tar.gz").read_bytes()
    place = tmp_path / "place"
    place.mkdir()
    assert unpack(tmp_path / "one.tar.gz", place) == manifest
    assert wrong_files(place, manifest) == []
    assert verify(tmp_path / "one.tar.gz").code == 0


def _wheel(folder: Path, name: str, *requires: str) -> None:
    with zipfile.ZipFile(folder / f"{name}.whl", "w") as archive:
        lines = "".join(f"Requires-Dist: {line}\n" for line in requires)
        info = "-".join(name.split("-")[:2])
        archive.writestr(f"{info}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: x\n{lines}\n")


def test_what_only_another_python_needs_is_noticed(tmp_path: Path) -> None:
    """pip asks its own Python which requirements apply; the host's decides."""
    _wheel(
        tmp_path,
        "runnerctl-0.1-py3-none-any",
        'pyjwt[crypto]>=2; extra == ""',
        "Fast.Json",
        "never; extra == 'x'",
    )
    _wheel(
        tmp_path,
        "pyjwt-2.0-py3-none-any",
        'old_typing>=4; python_version < "3.11"',
        'crypt; extra == "crypto"',
    )
    _wheel(tmp_path, "crypt-1.0-cp39-abi3-manylinux2014_x86_64")
    _wheel(tmp_path, "fast_json-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64")
    assert missing(tmp_path, "runnerctl", python="3.11", machine="x86_64") == []
    assert missing(tmp_path, "runnerctl", python="3.10", machine="x86_64") == ["Fast.Json", "old_typing>=4"]
    assert missing(tmp_path, "runnerctl", python="3.11", machine="aarch64") == ["Fast.Json", "crypt"]


def test_a_fleet_asks_once(world: tuple[GithubApi, Mirror]) -> None:
    """Hosts that want the same are one question; one with another pin is one more file."""
    github, _ = world
    same = [replace(spec(world), host=f"gpu-{number}") for number in range(50)]
    github.control.clear_requests()
    wanted = parts.wanted(same, {"GH_TOKEN": TOKEN}, architectures=["x64"])
    assert (len(wanted.runners), len(wanted.installers)) == (1, 1)
    assert github.control.counts()[0] <= 3
    sha256 = "0" * 64
    pinned = GithubRunner(
        url=f"{github.url}/acme", version="2.1.0", sha256=sha256, download_url="http://a/r.tgz"
    )
    wanted = parts.wanted(
        [*same, replace(same[0], github_runner=pinned)], {"GH_TOKEN": TOKEN}, architectures=["x64"]
    )
    assert {runner.version for runner in wanted.runners} == {VERSION, "2.1.0"}


def test_an_interrupted_run_is_taken_up_again(world: tuple[GithubApi, Mirror], tmp_path: Path) -> None:
    """A download that breaks off leaves no bundle; what was there already is not fetched again."""
    _, mirror = world
    target = tmp_path / "site"
    mirror.forget_downloads()
    mirror.fault("drop", "*/Miniforge3-*.sh", times=1)
    with pytest.raises(RunnerctlError):
        collect(world, target)
    assert not target.exists()
    assert verify(target).code == 64
    collect(world, target)
    runners = {path: count for path, count in mirror.downloads().items() if path.endswith(".tar.gz")}
    assert list(runners.values()) == [1]
    mirror.forget_downloads()
    collect(world, target)  # an older bundle gives what it has
    assert not [path for path in mirror.downloads() if path.endswith((".tar.gz", ".sh"))]


def test_a_file_that_was_changed_on_its_way_is_not_kept(
    world: tuple[GithubApi, Mirror], tmp_path: Path
) -> None:
    """The checksum of GitHub's two sources decides."""
    _, mirror = world
    mirror.fault("corrupt", "*.tar.gz", times=1)
    with pytest.raises(RunnerctlError, match="SHA-256 is"):
        collect(world, tmp_path / "site")
    assert not (tmp_path / "site").exists()


@pytest.mark.parametrize("there", ["directory", "file", "archive", "nowhere"])
def test_only_an_older_bundle_is_replaced(tmp_path: Path, there: str) -> None:
    """Somebody's directory or file stays as it is."""
    target = tmp_path / {"nowhere": "missing/site", "archive": "site.tar.gz"}.get(there, "site")
    if there == "directory":
        target.mkdir()
        (target / "thesis.tex").write_text("dear")
    if there in ("file", "archive"):
        target.write_text("dear")
    with pytest.raises(UsageError):
        collector(target).collect(Wanted(), made_at=AT, tool_version="0.1.0")
    assert there == "nowhere" or target.exists()


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _swap_for_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_flip, "SHA-256 is"),
        (lambda path: path.unlink(), "is missing"),
        (lambda path: path.write_bytes(b""), "has 0 bytes"),
        (_swap_for_link, "is no regular file"),
        (lambda path: (path.parent / "more").write_text("x"), "more: is not in the manifest"),
        (lambda path: os.mkfifo(path.parent / "pipe"), "pipe: is not in the manifest"),
    ],
)
def test_any_damage_is_found(world: tuple[GithubApi, Mirror], tmp_path: Path, damage: Any, said: str) -> None:
    """By the command and by the roles alike; a bundle that was whole a moment ago is looked at again."""
    target, cache = tmp_path / "site", tmp_path / "cache"
    manifest = collect(world, target)
    assert open_bundle(target, cache).manifest == manifest
    damage(next((target / "runner").iterdir()))
    ran = verify(target)
    assert ran.code == 65 and said in ran.err and "Traceback" not in ran.err
    with pytest.raises(DataError, match=said):
        open_bundle(target, cache)


def _read_again(*_: object) -> list[str]:
    pytest.fail("read again")


def test_what_was_verified_is_not_read_again(
    world: tuple[GithubApi, Mirror], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A play asks for every host; an archive is unpacked once, and again when it was replaced."""
    collect(world, tmp_path / "site.tar.gz")
    first = open_bundle(tmp_path / "site.tar.gz", tmp_path / "cache")
    monkeypatch.setattr(store, "wrong_files", _read_again)
    second = open_bundle(tmp_path / "site.tar.gz", tmp_path / "cache")
    assert first.root == second.root
    monkeypatch.undo()
    collector(tmp_path / "site.tar.gz").collect(Wanted(), made_at=AT, tool_version="0.1.0")
    assert [
        file.kind for file in open_bundle(tmp_path / "site.tar.gz", tmp_path / "cache").manifest.files
    ] == ["wheel"]
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_what_a_bundle_lacks_is_said_with_the_option_that_brings_it(
    world: tuple[GithubApi, Mirror], tmp_path: Path
) -> None:
    """Versions and architectures."""
    manifest = collect(world, tmp_path / "site")
    bundle = open_bundle(tmp_path / "site", tmp_path / "cache")
    assert bundle.runner("x86_64").version == VERSION
    assert bundle.miniforge("x86_64", Conda().version).architecture == "x64"
    assert bundle.key("https://download.example.org/linux/debian/gpg") == (
        "a key of https://download.example.org/linux/debian/gpg"
    )
    assert bundle.with_sha256(manifest.files[0].sha256) == bundle.path(manifest.files[0])
    for machine, version in (("aarch64", None), ("x86_64", "2.1.0")):
        with pytest.raises(ConfigError, match="make it again with `runnerctl bundle"):
            bundle.runner(machine, version)


def test_the_roles_take_keys_and_release_from_it(
    world: tuple[GithubApi, Mirror], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key by the address it lay at; another keeps its address. A pin that is another file is refused."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    collect(world, tmp_path / "site")
    action: Any = SimpleNamespace(_loader=SimpleNamespace(path_dwim=lambda name: str(tmp_path / name)))
    host = replace(spec(world), runnerctl=Runnerctl(bundle="site"))
    docker, other = "https://download.example.org/linux/debian/gpg", "https://other.example.org/key"
    plan = {"packages": ["a"], "repositories": [{"key_url": docker}, {"key_url": other}]}
    assert with_bundled_keys(action, host, plan) == {
        "packages": ["a"],
        "repositories": [{"key_url": None, "key_text": f"a key of {docker}"}, {"key_url": other}],
    }
    assert with_bundled_keys(action, spec(world), plan) == plan
    (problem,) = bundle_problems(action, host, "x86_64")
    assert "no wheels for the store" in problem.message
    host = replace(host, conda=replace(host.conda, store=False))
    assert bundle_problems(action, host, "x86_64") == []
    (problem,) = bundle_problems(action, host, "aarch64")
    assert problem.variable == "runnerctl_bundle" and "--architecture arm64" in problem.remedy
    pinned = GithubRunner(url=host.github_runner.url, version=VERSION, sha256="0" * 64)
    (problem,) = bundle_problems(action, replace(host, github_runner=pinned), "x86_64")
    assert "github_runner_sha256 is another" in problem.message
    (problem,) = bundle_problems(action, replace(host, runnerctl=Runnerctl(bundle="gone")), "x86_64")
    assert "there is no such bundle" in problem.message


def _hostile(target: Path, members: list[tuple[str, bytes, bytes]], **pax: str) -> None:
    with tarfile.open(target, "w:gz", format=tarfile.PAX_FORMAT) as archive:
        for name, kind, data in members:
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname = kind, len(data), "/etc/passwd"
            member.pax_headers = pax
            archive.addfile(member, io.BytesIO(data) if kind == tarfile.REGTYPE else None)


def _manifest(path: str, data: bytes = b"x", **more: str) -> bytes:
    import hashlib

    digest = hashlib.sha256(data).hexdigest()
    file = {"path": path, "kind": "wheel", "size_bytes": len(data), "sha256": digest, **more}
    return json.dumps(
        {"schema": "runnerctl.bundle/1", "made_at": AT, "tool_version": "1", "files": [file]}
    ).encode()


FILE, LINK = tarfile.REGTYPE, tarfile.SYMTYPE
HOSTILE = {
    "a name that climbs": [
        ("manifest.json", FILE, _manifest("../../evil.whl")),
        ("../../evil.whl", FILE, b"x"),
    ],
    "an absolute name": [("manifest.json", FILE, _manifest("/tmp/evil.whl")), ("/tmp/evil.whl", FILE, b"x")],
    "a folder of its own": [("manifest.json", FILE, _manifest("bin/a.whl")), ("bin/a.whl", FILE, b"x")],
    "a link": [("manifest.json", FILE, _manifest("wheels/a.whl")), ("wheels/a.whl", LINK, b"")],
    "another name": [("manifest.json", FILE, _manifest("wheels/a.whl")), ("../a.whl", FILE, b"x")],
    "more than it says": [
        ("manifest.json", FILE, _manifest("wheels/a.whl")),
        ("wheels/a.whl", FILE, b"x"),
        ("../b.whl", FILE, b"x"),
    ],
    "the manifest last": [("wheels/a.whl", FILE, b"x"), ("manifest.json", FILE, _manifest("wheels/a.whl"))],
    "a version that climbs": [
        ("manifest.json", FILE, _manifest("wheels/a.whl", version="../../etc/cron.d")),
        ("wheels/a.whl", FILE, b"x"),
    ],
    "endless depth": [("manifest.json", FILE, b'{"x":' + b"[" * 100_000)],
    "a manifest that is a link": [("manifest.json", LINK, b"")],
    "nothing": [],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_writes_nothing_anywhere(tmp_path: Path, case: str) -> None:
    """Nothing outside, and nothing that counts inside."""
    target, cache = tmp_path / "deep/er/site.tar.gz", tmp_path / "deep/cache"
    target.parent.mkdir(parents=True)
    _hostile(target, HOSTILE[case])
    ran = verify(target)
    assert ran.code == 65 and len(ran.err.splitlines()) == 1, ran.err
    with pytest.raises(DataError):
        open_bundle(target, cache)
    assert sorted(path.name for path in cache.iterdir()) == ["lock"]
    assert sorted(path.name for path in tmp_path.rglob("*.whl")) == []


@pytest.mark.parametrize(
    "data", [b"", b"no archive", gzip.compress(b"no tar file", mtime=0), b"\x1f\x8b\x08\0cut"]
)
def test_what_is_no_archive_is_one_line(tmp_path: Path, data: bytes) -> None:
    """Whatever was copied in its place."""
    (tmp_path / "site.tar.gz").write_bytes(data)
    ran = verify(tmp_path / "site.tar.gz")
    assert ran.code == 65 and len(ran.err.splitlines()) == 1, ran.err


@pytest.mark.parametrize("name", ["GNU.sparse.map", "GNU.sparse.size"])
def test_an_archive_whose_head_is_nonsense_is_one_line(tmp_path: Path, name: str) -> None:
    """Python's tarfile stumbles over some, with errors of other kinds."""
    members = [("manifest.json", FILE, _manifest("wheels/a.whl")), ("wheels/a.whl", FILE, b"x")]
    _hostile(tmp_path / "site.tar.gz", members, **{name: "a,b"})
    ran = verify(tmp_path / "site.tar.gz")
    assert (ran.code, ran.err.count("is no whole archive")) == (65, 1)


def test_a_cache_that_others_may_write_to_is_not_trusted(
    world: tuple[GithubApi, Mirror], tmp_path: Path
) -> None:
    """What was verified in it would prove nothing; and no link in it is followed."""
    target, cache = tmp_path / "site", tmp_path / "cache"
    collect(world, target)
    cache.mkdir()
    (cache / "lock").symlink_to(tmp_path / "victim")
    for mode, said in ((0o777, "others may write to it"), (0o700, "cannot be written")):
        cache.chmod(mode)
        with pytest.raises(UnavailableError, match=said):
            open_bundle(target, cache)
    assert not (tmp_path / "victim").exists()


def test_wrong_use_is_said_before_anything_is_fetched(tmp_path: Path) -> None:
    """No URL, an unknown architecture, a Python that is none, a path that is no bundle."""
    target = str(tmp_path / "site")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").touch()
    for args, said in (
        ([target], "give --url"),
        ([target, "--architecture", "riscv"], "x64 or arm64"),
        ([target, "--python", "three"], "give it as 3.11"),
        ([target, "--limit", "gpu-1"], "add -i INVENTORY"),
        ([str(tmp_path / "mine"), "--without", "runner"], "is no bundle"),
        (["--verify", str(tmp_path / "mine")], "is no bundle"),
        (["--verify", "~no-such-user/site"], "there is no such bundle"),
    ):
        ran = call("bundle", *args)
        assert ran.code == 64 and said in ran.err, (args, ran)


@pytest.mark.parametrize("url", ["https://[", "https://[::1/file.sh"])
def test_an_address_that_is_none_is_one_clear_error(tmp_path: Path, url: str) -> None:
    """It may come from a server, or from the command line."""
    for wanted in (Wanted(keys=(url,)), Wanted(runners=(Download(url, "0" * 64, "2.336.0", "x64"),))):
        with pytest.raises(DataError, match="is no address"):
            collector(tmp_path / "site").collect(wanted, made_at=AT, tool_version="0.1.0")


def test_a_key_that_is_changed_after_the_look_is_not_handed_out(
    world: tuple[GithubApi, Mirror], tmp_path: Path
) -> None:
    """Packages of whoever holds the key are installed as root."""
    collect(world, tmp_path / "site")
    opened = open_bundle(tmp_path / "site", tmp_path / "cache")
    (file,) = [each for each in opened.manifest.files if each.kind == "key"]
    opened.path(file).write_text("another key")
    with pytest.raises(DataError, match="was changed meanwhile"):
        opened.key(file.url or "")
