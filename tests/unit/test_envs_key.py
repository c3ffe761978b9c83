"""Names of environments: what changes them, and what does not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from runnerctl.envs.file import parse
from runnerctl.envs.key import digest, input_key, named_files, normal_spec, text_key
from runnerctl.envs.model import Channel, HostFacts, Package, Request, Solution, VirtualPackage

TEXT = """\
name: one
channels: [conda-forge, other]
dependencies:
  - python=3.12
  - NumPy >= 1.26
  - pip: [rich, -r more.txt]
variables: {A: "1"}
"""
FACTS = HostFacts("linux-64", (VirtualPackage("__glibc", "2.36"), VirtualPackage("__linux", "6.1.0")))


def _key(text: str = TEXT, facts: HostFacts = FACTS, index: str | None = None, **changes: Any) -> str:
    request = Request(**{"text": text, "files": {"more.txt": "x==1\n"}, **changes})
    file = parse(request.text)
    channels = tuple(Channel(line.text) for line in file.channels)
    return input_key(file, channels, facts, request, pip_index=index)


@pytest.mark.parametrize(
    "text",
    [
        TEXT.replace("name: one", "# a comment\nname: two"),
        TEXT.replace(
            "  - python=3.12\n  - NumPy >= 1.26\n", "  - numpy>=1.26\n  - 'python=3.12'\n  - python=3.12\n"
        ),
        "prefix: /x\n" + TEXT,
    ],
)
def test_what_changes_no_key(text: str) -> None:
    """Comments, the name, the order of specs, how they are spaced."""
    assert _key(text) == _key()


def test_a_new_kernel_changes_no_key() -> None:
    """Its presence counts, not its version."""
    facts = HostFacts("linux-64", (VirtualPackage("__linux", "6.9"), VirtualPackage("__glibc", "2.36")))
    assert _key(facts=facts) == _key()


def test_everything_that_decides_a_solution_changes_the_key() -> None:
    """Each of these alone."""
    more = [*FACTS.virtual, VirtualPackage("__cuda", "12.8")]
    keys = [
        _key(),
        _key(TEXT.replace("3.12", "3.11")),
        _key(TEXT.replace("python=3.12", "python=3.12=*_cpython")),
        _key(TEXT.replace("conda-forge, other", "other, conda-forge")),
        _key(TEXT.replace("[rich, -r more.txt]", "[-r more.txt, rich]")),
        _key(TEXT.replace('"1"', '"2"')),
        _key(facts=HostFacts("linux-64", tuple(more))),
        _key(facts=msgspec.structs.replace(FACTS, subdir="linux-aarch64")),
        _key(lock="a"),
        _key(lock="b"),
        _key(engine="conda"),
        _key(files={"more.txt": "x==2\n"}),
        _key(index="https://pip.example/simple"),
    ]
    assert len(set(keys)) == len(keys)


def test_a_digest_names_what_is_installed() -> None:
    """The order of packages does not matter, their content does."""
    one = Package("a", "1", "0", "https://x/a.conda", "aa")
    two = Package("b", "1", "0", "https://x/b.conda", "bb")
    file, request = parse(TEXT), Request(TEXT)
    first = digest(Solution((one, two), ""), file, request)
    assert digest(Solution((two, one), "other"), file, request) == first
    changed = msgspec.structs.replace(two, sha256="cc")
    assert digest(Solution((one, changed), ""), file, request) != first
    assert len(first) == 20
    assert digest(Solution((one, two), ""), file, Request(TEXT, lock="pins rich")) != first
    plain = parse(TEXT.replace("  - pip: [rich, -r more.txt]\n", ""))
    without = digest(Solution((one, two), ""), plain, request)
    locked = digest(Solution((one, two), ""), plain, Request(TEXT, lock="says what it likes of a and b"))
    assert locked != without, "a lock's words about packages are for those alone who give it"


def test_the_raw_text_has_a_name_of_its_own() -> None:
    """The policy and the facts are part of it; how a file is called, and when to refresh, is not."""
    first = text_key(Request(TEXT), FACTS, "p")
    assert text_key(Request(TEXT, where="x", refresh_seconds=3), FACTS, "p") == first
    assert text_key(Request(TEXT), FACTS, "q") != first
    assert text_key(Request(TEXT + "#"), FACTS, "p") != first


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("NumPy  >= 1.26 , < 3", "numpy>=1.26,<3"),
        ("numpy 1.26.*  py_0", "numpy 1.26.* py_0"),
        ("conda-forge::SciPy = 1.2", "conda-forge::scipy=1.2"),
        ("python", "python"),
    ],
)
def test_specs_in_one_form(text: str, normal: str) -> None:
    """Blanks that mean nothing go, those that separate version and build stay."""
    assert normal_spec(text) == normal


def test_included_files_are_found_without_a_parser() -> None:
    """Whoever sends a request along has to send these with it."""
    text = '- pip:\n  - -r a.txt\n  - "-c ./b.txt"\n  - --requirement=c.txt  # why\n'
    text += "  - -r ../no.txt\n  - -r /no\n"
    assert named_files(text) == ("a.txt", "b.txt", "c.txt")
