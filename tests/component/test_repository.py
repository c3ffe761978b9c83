"""Repositories: the right key or none, one clear line for what is wrong, and nothing left half written."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils import repository as module
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.errors import HostError
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.process import Result
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.receipt import Receipt
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.repository import (
    Repository,
    RepositoryOutcome,
    ensure,
    refresh,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.repository_apt import update_error
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.repository_key import (
    fingerprints,
    fingerprints_from_text,
    key_packets,
)
from ansible_collections.runnerctl.gpu_runner.plugins.module_utils.repository_rpm import makecache_error

from tests.fakes.mirror import Mirror
from tests.fakes.mirror.apt_repo import AptRepo, Deb, SigningKey

pytestmark = pytest.mark.exhaustive  # one thing in each of its ways

TOOL = Deb("acme-tool", "1.0-1", files={"/usr/share/acme": "tool\n"})


@pytest.fixture(scope="module")
def key() -> Iterator[SigningKey]:
    with SigningKey() as made:
        yield made


@pytest.fixture(scope="module")
def other_key() -> Iterator[SigningKey]:
    with SigningKey("Somebody Else <else@example.org>") as made:
        yield made


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirror]:
    with Mirror(tmp_path / "mirror") as server:
        yield server


@pytest.fixture
def repo(mirror: Mirror, key: SigningKey) -> AptRepo:
    made = AptRepo(mirror.root / "acme", key)
    made.add(TOOL)
    made.publish()
    return made


@dataclasses.dataclass
class Machine:
    """A root directory with an apt of its own; everything else of apt's is as on this machine."""

    root: Path
    repository: Repository

    @property
    def receipt(self) -> Receipt:
        return Receipt(self.root / "receipt.json")

    def ensure(self, *, check: bool = False, **changes: Any) -> RepositoryOutcome:
        wanted = dataclasses.replace(self.repository, **changes)
        return ensure(
            wanted, receipt=self.receipt, role="container_toolkit", check=check, root=str(self.root)
        )

    def files(self) -> set[str]:
        return {str(path.relative_to(self.root)) for path in (self.root / "etc").rglob("*") if path.is_file()}


@pytest.fixture
def machine(tmp_path: Path, repo: AptRepo, mirror: Mirror, monkeypatch: pytest.MonkeyPatch) -> Machine:
    root = tmp_path / "root"
    (root / "var/lib/apt/lists/partial").mkdir(parents=True)
    (root / "etc").mkdir()
    settings = tmp_path / "apt.conf"
    settings.write_text(
        f'APT::Sandbox::User "root";\nDir::Cache "{tmp_path}/cache";\nDir::Log "{tmp_path}";\n'
    )
    (tmp_path / "cache/archives/partial").mkdir(parents=True)
    monkeypatch.setenv("APT_CONFIG", str(settings))
    url = f"{mirror.url}/acme"
    return Machine(
        root,
        Repository(
            name="acme",
            format="apt",
            url=url,
            key_url=f"{url}/gpgkey",
            key_fingerprint=repo.key.fingerprint,
            variable="acme_repository",
        ),
    )


SOURCE = "etc/apt/sources.list.d/runnerctl-acme.sources"
KEY = "etc/apt/keyrings/runnerctl-acme.asc"
PIN = "etc/apt/preferences.d/runnerctl-acme"


def test_fingerprints_are_those_that_gpg_prints(key: SigningKey, other_key: SigningKey) -> None:
    """Read in pure Python from armour and from packets, several keys in one file too."""
    packets = key_packets(key.public().encode())
    assert fingerprints(packets) == [key.fingerprint]
    assert fingerprints(key_packets(packets)) == [key.fingerprint]
    both = key_packets((key.public() + "\n" + other_key.public()).encode())
    assert fingerprints(both) == [key.fingerprint, other_key.fingerprint]


def test_what_is_no_public_key_is_refused_in_one_line(key: SigningKey) -> None:
    """A web page, a damaged key, a secret key, nothing at all."""
    damaged = key.public().replace("\n\n", "\n\nAAAA", 1).encode()
    for data in (b"", b"<html>not found</html>", damaged, key_packets(key.public().encode())[:-7]):
        with pytest.raises(HostError, match=r"is no OpenPGP|damaged") as error:
            key_packets(data)
        assert "\n" not in str(error.value)
    with pytest.raises(HostError, match="secret key"):
        key_packets(b"\x94\x01\x04" + key_packets(key.public().encode()))


def test_people_write_fingerprints_with_spaces() -> None:
    """As gpg prints them, in small letters, and several."""
    text = "9dc8 5822 9fc7 dd38 854a  e2d8 8d81 803c 0ebf cd88"
    assert fingerprints_from_text(text) == {"9DC858229FC7DD38854AE2D88D81803C0EBFCD88"}
    assert len(fingerprints_from_text(f"{text},{'A' * 40}")) == 2
    for wrong in ("", "9DC85822", f"{text},"):
        with pytest.raises(ValueError, match="no fingerprint"):
            fingerprints_from_text(wrong)


def test_a_repository_is_added_once_and_then_costs_nothing(machine: Machine, mirror: Mirror) -> None:
    """Files, lists and receipt on the first run; on the second not one request."""
    predicted = machine.ensure(check=True)
    assert machine.files() == set()
    assert mirror.downloads() == {}, "check mode reads nothing from the network"
    lists = machine.root / "var/lib/apt/lists"
    os.utime(lists, (1000, 1000))
    first = machine.ensure()
    assert lists.stat().st_mtime == 1000, "lists of other sources are as old as before"
    assert sorted(predicted.actions) == sorted(first.actions)
    assert first.changed
    assert machine.files() == {SOURCE, KEY}
    assert f"Signed-By: {machine.root}/{KEY}" in (machine.root / SOURCE).read_text()
    assert {entry.name for entry in machine.receipt.entries("path")} == {
        f"{machine.root}/{name}" for name in (SOURCE, KEY)
    }
    mirror.forget_downloads()
    second = machine.ensure()
    assert not second.changed
    assert not second.fetched
    assert mirror.downloads() == {}
    assert not machine.ensure(check=True).changed


@pytest.mark.exhaustive
def test_pins_come_and_go(machine: Machine) -> None:
    """A pin that is no more wanted is taken away."""
    pin = module.Pin("acme-*", "version 1.0-1", 1001)
    machine.ensure(pins=(pin,))
    assert "Package: acme-*\nPin: version 1.0-1\nPin-Priority: 1001\n" in (machine.root / PIN).read_text()
    assert not machine.ensure(pins=(pin,)).changed
    assert machine.ensure().changed
    assert machine.files() == {SOURCE, KEY}


def test_a_repository_with_suites(machine: Machine, mirror: Mirror, key: SigningKey) -> None:
    """``dists/<suite>`` is found again in the lists: the second run asks nothing."""
    repo = AptRepo(mirror.root / "deb_x", key, suite="bookworm", component="stable")
    repo.add(TOOL)
    repo.publish()
    where: dict[str, Any] = {"url": f"{mirror.url}/deb_x", "suite": "bookworm", "components": ("stable",)}
    assert machine.ensure(**where).fetched
    assert not machine.ensure(**where).fetched


def test_another_key_is_refused_before_anything_is_written(machine: Machine, other_key: SigningKey) -> None:
    """Both fingerprints are named, and the variable."""
    with pytest.raises(HostError, match="acme_repository_key_fingerprint is wrong") as error:
        machine.ensure(key_fingerprint=other_key.fingerprint)
    assert str(machine.repository.key_fingerprint) in str(error.value)
    assert other_key.fingerprint in str(error.value)
    with pytest.raises(HostError, match="fingerprint"):
        machine.ensure(key_text=other_key.public())
    assert machine.files() == set()


def test_a_remote_repository_needs_a_fingerprint(machine: Machine) -> None:
    """One line says which variable to set."""
    with pytest.raises(HostError, match=r"\(acme_repository_key_fingerprint\)$"):
        machine.ensure(key_fingerprint=None)
    with pytest.raises(HostError, match="40 hexadecimal"):
        machine.ensure(key_fingerprint="C95B321B")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("other key", "signed by another key"),
        ("expired", "Release file has expired"),
        ("unsigned", "is not signed"),
        ("broken list", "differs from the signed list"),
        ("missing list", r"missing there \(404\)"),
    ],
)
def test_lists_that_cannot_be_trusted(
    machine: Machine, repo: AptRepo, other_key: SigningKey, fault: str, cause: str
) -> None:
    """Real apt refuses; the message is one line with repository and cause; no file and no receipt stays."""
    faults = {
        "other key": lambda: repo.sign_with(other_key),
        "expired": repo.expire,
        "unsigned": repo.drop_signature,
        "broken list": repo.break_list,
        "missing list": (repo.releases / "Packages").unlink,
    }
    faults[fault]()
    with pytest.raises(HostError, match=cause) as error:
        machine.ensure()
    assert str(error.value).startswith("repository acme (http://127.0.0.1:")
    assert machine.files() == set()
    assert machine.receipt.entries() == []
    repo.publish()
    assert machine.ensure().changed


@pytest.mark.exhaustive
@pytest.mark.parametrize(("fault", "cause"), [("other key", "another key"), ("unsigned", "not signed")])
def test_a_host_that_lets_unsigned_sources_in_lets_ours_not(
    machine: Machine, repo: AptRepo, other_key: SigningKey, fault: str, cause: str
) -> None:
    """What an administrator allows for a source of their own holds for theirs alone."""
    with Path(os.environ["APT_CONFIG"]).open("a") as settings:
        for name in ("Insecure", "Weak", "DowngradeToInsecure"):
            settings.write(f'Acquire::Allow{name}Repositories "true";\n')
    machine.ensure()
    (repo.drop_signature if fault == "unsigned" else lambda: repo.sign_with(other_key))()
    with pytest.raises(HostError, match=cause):
        refresh(machine.repository, root=str(machine.root))


@pytest.mark.exhaustive
def test_a_wrong_signature_is_seen_also_where_older_lists_are_cached(
    machine: Machine, repo: AptRepo, other_key: SigningKey
) -> None:
    """apt alone would exit 0 with a warning; what worked before stays as it was."""
    machine.ensure()
    before = machine.files()
    repo.sign_with(other_key)
    with pytest.raises(HostError, match="another key"):
        refresh(machine.repository, root=str(machine.root))
    with pytest.raises(HostError, match="another key"):
        machine.ensure(pins=(module.Pin("*", "release o=Acme", 400),))
    assert machine.files() == before


@pytest.mark.exhaustive
def test_a_server_that_does_not_answer(machine: Machine, mirror: Mirror) -> None:
    """The key cannot be had, or the lists cannot: one line each."""
    mirror.fault("404", "/acme/gpgkey")
    with pytest.raises(HostError, match="404"):
        machine.ensure()
    mirror.faults.clear()
    key = (mirror.root / "acme/gpgkey").read_text()
    with pytest.raises(HostError, match="does not answer"):
        machine.ensure(key_text=key, url="http://127.0.0.1:9/acme")
    assert machine.files() == set()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "A b"}, "no name"),
        ({"format": "zip"}, "neither apt nor rpm"),
        ({"url": "ftp://h/x"}, r"no http.*acme_repository_url"),
        ({"url": "https://me:pw@h/x"}, "a user or a password"),
        ({"url": "https://h/x\nTrusted: yes"}, "no http"),
        ({"key_url": None}, "has no key"),
    ],
)
def test_what_no_package_manager_is_given(machine: Machine, changes: dict[str, Any], message: str) -> None:
    """Refused before anything is written."""
    with pytest.raises(HostError, match=message):
        machine.ensure(**changes)
    assert machine.files() == set()


def test_from_dict_refuses_what_it_does_not_know() -> None:
    """A misspelt key is no silent default."""
    data = {"name": "x", "format": "apt", "url": "file:///srv/x", "key_text": "k", "suite": None}
    assert Repository.from_dict(data).suite == "/"
    with pytest.raises(HostError, match="keyfile"):
        Repository.from_dict({**data, "keyfile": 1})


def test_the_file_for_dnf(tmp_path: Path, key: SigningKey) -> None:
    """Signed packages, signed lists or both; never neither. Rendered, since dnf is not here."""
    wanted = Repository(
        name="acme",
        format="rpm",
        url="https://h/rpm/$basearch",
        key_text=key.public(),
        key_fingerprint=key.fingerprint,
    )
    predicted = ensure(wanted, receipt=Receipt(tmp_path / "r"), role="x", check=True, root=str(tmp_path))
    text = next(change.after for change in predicted.changes if change.path.endswith(".repo"))
    assert "[runnerctl-acme]\n" in text
    assert "baseurl=https://h/rpm/$basearch\n" in text
    assert "gpgcheck=1\nrepo_gpgcheck=1\n" in text
    assert f"gpgkey=file://{tmp_path}/etc/pki/rpm-gpg/RPM-GPG-KEY-runnerctl-acme\n" in text
    neither = dataclasses.replace(wanted, check_packages=False, check_lists=False)
    with pytest.raises(HostError, match="signed"):
        ensure(neither, receipt=Receipt(tmp_path / "r"), role="x", check=True, root=str(tmp_path))


def test_a_failed_dnf_takes_the_files_back(
    tmp_path: Path, key: SigningKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with apt."""
    program = tmp_path / "bin" / "dnf"
    program.parent.mkdir()
    program.write_text(
        "#!/bin/sh\necho 'repomd.xml GPG signature verification error: Bad GPG signature' >&2; exit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    wanted = Repository(
        name="acme", format="rpm", url="https://h/rpm", key_text=key.public(), key_fingerprint=key.fingerprint
    )
    root = tmp_path / "root"
    with pytest.raises(HostError, match="signed by another key"):
        ensure(wanted, receipt=Receipt(tmp_path / "r"), role="x", root=str(root))
    assert [path for path in root.rglob("*") if path.is_file()] == []


def test_what_nobody_has_foreseen_is_quoted() -> None:
    """The package manager's own line, where no cause fits."""
    assert update_error(Result(100, "", "E: Something else\n"))[0] == "Something else"
    assert makecache_error(Result(1, "", "Error: Something else\n")) == "Something else"
