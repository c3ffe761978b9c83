"""Every kind of damage to a published environment is found, and the environment put aside and built anew."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runnerctl.envs.engine_rattler import Rattler
from runnerctl.envs.ensure import Asked, ensure
from runnerctl.envs.leases import holder
from runnerctl.envs.model import Ready, Request
from runnerctl.envs.policy import Policy
from runnerctl.envs.store import Store
from runnerctl.envs.store_files import remove_tree
from runnerctl.envs.verifying import verified
from tests.component.envs_engine_support import facts, yml
from tests.fakes.conda_channel import CondaPackage, Link, add_packages

FILES = {
    "lib/mod.py": "x = 1\n",
    "lib/__pycache__/mod.cpython-311.pyc": "bytecode",
    "share/text": "as it was\n",
    "share/link": Link("text"),
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A store that pytest can remove again."""
    yield Store(tmp_path / "store")
    remove_tree(tmp_path / "store")


@pytest.fixture
def build(store: Store, tmp_path: Path) -> Callable[..., Ready]:
    """Builds, or finds, the environment; for the process that is told."""
    add_packages(tmp_path / "channel", CondaPackage("small", "1.0", files=FILES, noarch="generic"))
    asked = Asked(Request(yml((tmp_path / "channel").as_uri(), ["small"])), facts(), Policy())
    return lambda who=None: ensure(store, asked, Rattler(), holder=who)


def rewrite(path: Path, text: str) -> None:
    """Other content of the same size and times, as a bad disk has it."""
    info = path.stat()
    assert len(text) == info.st_size
    path.chmod(0o644)
    path.write_text(text)
    path.chmod(info.st_mode & 0o777)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def relink(path: Path) -> None:
    """Another target of as many letters."""
    path.unlink()
    path.symlink_to("gone")


def remark(path: Path) -> None:
    """A marker that can be read, and says something else of Python's place on PATH."""
    told = json.loads(path.read_text())
    told["activation"]["path"] = ["/tmp"]
    path.write_text(json.dumps(told))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a file is missing": (lambda at: (at / "share/text").unlink(), "share/text is missing"),
    "a byte": (lambda at: rewrite(at / "share/text", "as it WAS\n"), "another content"),
    "a mode": (lambda at: (at / "share/text").chmod(0o644), "can be written to"),
    "one file more": (lambda at: (at / "lib/more.py").write_text(""), "it has 8 files"),
    "a link leads elsewhere": (lambda at: relink(at / "share/link"), "not as it was published"),
    "bytecode": (
        lambda at: rewrite(at / "lib/__pycache__/mod.cpython-311.pyc", "BYTEcode"),
        "not as it was published",
    ),
    "the marker": (lambda at: remark(at.with_suffix(".json")), "not as it was published"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_found_and_put_aside(store: Store, build: Callable[..., Ready], name: str) -> None:
    """By the full look; who asks next gets it whole."""
    damage, what = DAMAGES[name]
    first = build()
    prefix = Path(first.prefix)
    assert [each["problems"] for each in verified([store], None, full=True)] == [[]]
    for folder in (prefix, *(path for path in prefix.rglob("*") if path.is_dir())):
        folder.chmod(0o755)
    damage(prefix)
    (found,) = verified([store], first.digest, full=True)
    assert what in " / ".join(found["problems"])
    assert found["set_aside"]
    assert store.published(first.digest) is None
    kept = (path.name.split(".")[2:] for path in (store.root / "quarantine").iterdir())
    names = sorted("".join(words) for words in kept)
    assert names == ["", "json", "reason"]
    assert os.listdir(store.root / "trash") == []
    assert build().status == "built"
    assert [each["problems"] for each in verified([store], None, full=True)] == [[]]


def test_what_a_job_uses_stays_where_it_is(store: Store, build: Callable[..., Ready]) -> None:
    """It is told, and goes when the job has ended."""
    ready = build(holder(os.getpid()))
    (Path(ready.prefix) / "share/text").chmod(0o644)
    (found,) = verified([store], None, full=False)
    assert found["problems"] and not found["set_aside"]
    assert store.published(ready.digest) is not None
