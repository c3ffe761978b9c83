"""Keys of repositories: an address, a file on the controller, or the text, for every role alike."""

from __future__ import annotations

import base64
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.action.preflight import ActionModule
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.repository_key import armoured
from ansible_collections.runnerctl.gpu_runner.plugins.plugin_utils.keys import (
    driver_key,
    read_key,
    toolkit_keys,
)

from runnerctl.core.repository_keys import key_kind, key_problem
from runnerctl.core.sections import ContainerToolkit, NvidiaDriver

PUBLIC = b"\xc6\x05" + b"\x04abcd"  # a packet of tag 6: as far as anybody looks here, a public key
SECRET = b"\xc5\x05" + b"\x04abcd"
TEXT = armoured(PUBLIC).decode()
REMEDY = "give a public key: its address, a file on the controller, or its text"


class Action(ActionModule):
    """Any action will do; this one has no play."""

    def __init__(self) -> None: ...


@pytest.fixture
def action(tmp_path: Path) -> Action:
    """Its play's folder has a key armoured, one as gpg exports it, a secret one, and none at all."""
    (tmp_path / "key.asc").write_text(f"Some words before it.\n{TEXT}")
    (tmp_path / "key.gpg").write_bytes(PUBLIC)
    secret = base64.b64encode(SECRET).decode()
    block = "PGP PRIVATE KEY BLOCK"
    (tmp_path / "secret.asc").write_text(f"-----BEGIN {block}-----\n\n{secret}\n-----END {block}-----\n")
    (tmp_path / "secret.gpg").write_bytes(SECRET)
    (tmp_path / "page.html").write_text("<html>404</html>")
    made = Action()
    vars(made)["_loader"] = SimpleNamespace(path_dwim=lambda name: str(tmp_path / name))
    return made


@pytest.mark.parametrize("given", [None, "https://m.example/key", "http://m.example/key"])
def test_an_address_is_the_hosts_affair(action: Action, given: str | None) -> None:
    """So is the default."""
    assert read_key(action, "x_repository_key", given) == (None, [])


@pytest.mark.parametrize("given", ["key.asc", "key.gpg", TEXT, f"\n  {TEXT}"])
def test_files_and_text_become_the_same_armour(action: Action, given: str) -> None:
    """Also a file as ``gpg --export`` writes it."""
    assert read_key(action, "x_repository_key", given) == (TEXT, [])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.asc", "'none.asc' cannot be read on the controller: No such file or directory"),
        (".", "'.' cannot be read on the controller: Is a directory"),
        ("page.html", "'page.html' is no OpenPGP public key"),
        ("secret.gpg", "'secret.gpg' holds a secret key"),
        ("secret.asc", "'secret.asc' is no OpenPGP public key"),
        ("-----BEGIN PGP PUBLIC KEY BLOCK-----\nxyz\n", "its text is no OpenPGP public key"),
    ],
)
def test_anything_else_is_one_line(action: Action, given: str, message: str) -> None:
    """With the variable, and without the key's text."""
    text, problems = read_key(action, "x_repository_key", given)
    assert text is None
    assert [each.line("h1") for each in problems] == [f"h1: x_repository_key: {message}; {REMEDY}"]


def test_nothing_is_read_that_nobody_needs(action: Action) -> None:
    """Roles that are off, Docker's key without Docker's repository."""
    absent = "none.asc"
    assert driver_key(action, NvidiaDriver(manage=False, repository_key=absent)) == (None, [])
    assert len(driver_key(action, NvidiaDriver(repository_key=absent))[1]) == 1

    def problems(**given: Any) -> list[str]:
        wanted = ContainerToolkit(repository_key=absent, docker_repository_key=absent, **given)
        return [problem.variable for problem in toolkit_keys(action, wanted)[1]]

    assert problems() == []
    assert problems(manage=True, docker_source="docker") == ["container_toolkit_repository_key"]
    both = problems(manage=True, docker=True, docker_source="docker")
    assert both == ["container_toolkit_repository_key", "container_toolkit_docker_repository_key"]


def test_keys_by_their_field(action: Action) -> None:
    """As the plan wants them; one with an address has no text."""
    wanted = ContainerToolkit(
        manage=True,
        docker=True,
        docker_source="docker",
        repository_key="key.asc",
        docker_repository_key="https://m.example/key",
    )
    assert toolkit_keys(action, wanted) == ({"repository_key": TEXT}, [])


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ("https://m.example/key", "address"),
        (TEXT, "text"),
        ("files/my key.asc", "file"),
        ("~/keys/mirror.asc", "file"),
        ("/etc/keys/mirror.gpg", "file"),
    ],
)
def test_kinds(given: str, kind: str) -> None:
    """All three are good as they stand."""
    assert key_kind(given) == kind
    assert key_problem("x", given) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("https://me:secret@m.example/key", "holds a user or a password"),
        ("https://m.example/{release}", "holds a placeholder"),
        ("https://m.example/a b", "holds a space"),
        ("mQINBF\nxyz", "is neither an address, nor a file, nor a key"),
    ],
)
def test_what_is_none_of_them(given: str, message: str) -> None:
    """Refused before anything is read; no secret is repeated."""
    problem = key_problem("x_repository_key", given)
    assert problem is not None
    assert problem.message.startswith(message)
    assert "secret" not in problem.line("h1")
