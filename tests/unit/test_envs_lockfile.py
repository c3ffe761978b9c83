"""A lock: what it was written for, and what is no lock."""

from __future__ import annotations

import pytest

from runnerctl.envs import lockfile
from runnerctl.envs.file import parse
from runnerctl.errors import DataError

BODY = "version: 7\nenvironments: {}\n"
TEXT = "channels: [a, b]\ndependencies: [python=3.12, numpy, pip, {pip: [one, -r more.txt]}]\n"
FILES = {"more.txt": "two==2\n"}


def test_there_and_back() -> None:
    text = lockfile.write(BODY, parse(TEXT), files=FILES, engine="mamba", pip=["b==2", "a==1.0+x"])
    lock = lockfile.read(text)
    assert (lock.body, lock.engine, lock.pip) == (BODY, "mamba", ("a==1.0+x", "b==2"))
    again = lockfile.write(text, parse(TEXT), files=FILES)
    assert lockfile.read(again).pip == () and lockfile.read(again).body == BODY
    lockfile.check(lock, parse(TEXT), files=FILES, engine="mamba")


SAME = [
    TEXT.replace("python=3.12, numpy", "NumPy,  python = 3.12"),
    f"# a word\nname: other\n{TEXT}variables: {{A: b}}\n",
]
OTHER = [
    (TEXT.replace("3.12", "3.13"), FILES),
    (TEXT.replace("[a, b]", "[b, a]"), FILES),
    (TEXT.replace("one", "one==1"), FILES),
    (TEXT, {"more.txt": "two==3\n"}),
]


@pytest.mark.parametrize("text", SAME)
def test_what_changes_no_package_changes_nothing(text: str) -> None:
    lock = lockfile.read(lockfile.write(BODY, parse(TEXT), files=FILES))
    lockfile.check(lock, parse(text), files=FILES, engine="rattler")


@pytest.mark.parametrize(("text", "files"), OTHER)
def test_a_file_that_changed_since(text: str, files: dict[str, str]) -> None:
    lock = lockfile.read(lockfile.write(BODY, parse(TEXT), files=FILES))
    with pytest.raises(DataError, match=r"env.yml: has changed since .* runnerctl env lock"):
        lockfile.check(lock, parse(text, "env.yml"), files=files, engine="rattler")


def test_another_engine_s_lock() -> None:
    lock = lockfile.read(lockfile.write(BODY, parse(TEXT), files=FILES, engine="conda"))
    with pytest.raises(DataError, match="written by the engine conda, not rattler; give --engine conda"):
        lockfile.check(lock, parse(TEXT), files=FILES, engine="rattler")


GOOD = lockfile.write(BODY, parse(TEXT), files=FILES, pip=["a==1"])


@pytest.mark.parametrize(
    "text",
    [
        "",
        BODY,
        GOOD.replace("lock 1", "lock 2"),
        GOOD.replace("# input: sha256:", "# input: sha256:x"),
        GOOD.replace("# engine: rattler", "# engine: pixi"),
        GOOD.replace("# engine: rattler\n", ""),
        GOOD.replace("a==1", "a @ https://example.org/a.whl"),
        GOOD.replace("a==1", "--index-url=https://example.org"),
    ],
)
def test_what_is_no_lock(text: str) -> None:
    with pytest.raises(DataError, match=r"my\.lock:1: .*make it anew"):
        lockfile.read(text, "my.lock")
