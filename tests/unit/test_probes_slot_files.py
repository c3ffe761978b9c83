"""What the probes say of a slot's files, its environment, its memory, and of a certificate's issuer."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runnerctl.core.snapshot import SlotFiles, Unavailable, Unit
from runnerctl.probes import network, slot_files, slots, system, units
from runnerctl.probes.bounded import Outcome
from runnerctl.probes.certificate import issuer_of
from runnerctl.probes.collect import collect

VERSION = "2.336.0"


class Paper:
    """Takes a child's parts."""

    def stage(self, name: str) -> None:
        """Nobody asks for it here."""

    def part(self, part: Any) -> None:
        """Nor for this."""


def lay_out(root: Path) -> Path:
    """A slot `a` of user 996:993 below another root; returns its directory."""
    slot = root / "var/lib/gha-runner/a"
    for name in ("_work", "_diag", "home"):
        (slot / name).mkdir(parents=True)
    for name in (".credentials", ".credentials_rsaparams"):
        (slot / name).write_text('\ufeff{"a": "SECRET"}', encoding="utf-8")
    (slot / ".env").write_text("\ufeffhttp_proxy=http://p:1\nEMPTY=\nno line\nA=b=c\n", encoding="utf-8")
    release = root / f"opt/actions-runner/{VERSION}"
    (release / "externals/node20").mkdir(parents=True)
    (release / "bin").mkdir()
    for name in ("Runner.Listener", "Runner.Worker", "Runner.Common.dll"):
        (release / "bin" / name).write_text("program")
        (release / "bin" / name).chmod(0o755)
    listed: dict[str, Any] = {
        "targets": {"net": {"x": {"runtime": {"lib/net8/Runner.Common.dll": {}, "lib/_._": {}}}}}
    }
    (release / "bin/Runner.Listener.deps.json").write_text(json.dumps(listed))
    folder = root / "etc/systemd/system/gha-runner@a.service.d"
    folder.mkdir(parents=True)
    (folder / "10-slot.conf").write_text(f"BindReadOnlyPaths=/opt/actions-runner/{VERSION}/bin:/x\n")
    (root / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nbroken\ngha-a:x:996:993::/:/bin/false\n")
    return slot


def read(root: Path) -> SlotFiles:
    """The reading of slot `a`."""
    rows = slot_files.read_slot_files(Paper(), rootfs=root, slots=["a"])  # type: ignore[arg-type]
    found = slot_files.parse_slot_files(Outcome(value=rows), "a")
    assert isinstance(found, SlotFiles)
    return found


def test_a_whole_slot(tmp_path: Path) -> None:
    """Owners and modes; what stands in the credential files is nowhere in the answer."""
    slot = lay_out(tmp_path)
    found = read(tmp_path)
    assert (found.user, found.uid, found.gid) == ("gha-a", 996, 993)
    assert [fact.kind for fact in found.folders] == ["directory"] * 4
    assert [fact.whole for fact in found.credentials] == [True, True]
    release = found.release
    assert release is not None
    assert (release.missing, release.empty, release.not_executable) == ((), (), ())
    assert found.worker_log_at is None
    assert b"SECRET" not in msgspec.json.encode(found)
    log = slot / "_diag/Worker_20261122-080000-utc.log"
    log.touch()
    os.utime(log, (1_790_000_000, 1_790_000_000))
    assert read(tmp_path).worker_log_at == datetime.fromtimestamp(1_790_000_000, timezone.utc)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    """Half an update, files cut off, a user that is gone."""
    slot = lay_out(tmp_path)
    binaries = tmp_path / f"opt/actions-runner/{VERSION}/bin"
    (binaries / "Runner.Worker").unlink()
    (binaries / "Runner.Common.dll").unlink()
    (binaries / "System.dll").touch()
    (binaries / "Runner.Listener").chmod(0o644)
    (binaries.parent / "externals/node20").rmdir()
    (slot / ".credentials").write_text('{"a": ')
    (slot / ".credentials_rsaparams").unlink()
    (tmp_path / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\n")
    found = read(tmp_path)
    assert (found.uid, found.gid) == (None, None)
    assert [(fact.kind, fact.whole) for fact in found.credentials] == [("file", False), ("absent", None)]
    release = found.release
    assert release is not None
    assert release.missing == ("bin/Runner.Common.dll", "bin/Runner.Worker", "externals")
    assert release.empty == ("bin/System.dll",)
    assert release.not_executable == ("bin/Runner.Listener",)


def test_no_release_no_directory_no_leave(tmp_path: Path) -> None:
    """Nothing there is an answer; not being allowed to look is another."""
    found = read(tmp_path)
    assert {fact.kind for fact in (*found.folders, *found.credentials)} == {"absent"}
    assert found.release is not None
    assert not found.release.present
    denied = Outcome(failure=Unavailable("PermissionError: [Errno 13] x", call="files of slot a"))
    answer = slot_files.parse_slot_files(denied, "a")
    assert isinstance(answer, Unavailable)
    assert answer.kind == "denied"


def test_the_runners_environment_is_its_own_file(tmp_path: Path) -> None:
    """Split at the first `=`; a host without that file has none."""
    lay_out(tmp_path)
    expected = {"http_proxy": "http://p:1", "EMPTY": "", "A": "b=c"}
    assert slots.slot_environ(tmp_path, "a") == expected
    assert slots.slot_environ(tmp_path, "b") is None


def test_a_snapshot_below_another_root_has_the_files(tmp_path: Path) -> None:
    """The whole way: child, answer, reading."""
    lay_out(tmp_path)
    found = collect(tmp_path, api_urls=(), environ={})
    assert isinstance(found.slots, tuple)
    files = found.slots[0].files
    assert isinstance(files, SlotFiles)
    assert files.uid == 996


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("sys/fs/cgroup/x/memory.events", "low 0\noom 2\noom_kill 3\noom_group_kill 0\n", 3),
        ("sys/fs/cgroup/memory/x/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", 1),
        ("sys/fs/cgroup/x/memory.events", "", None),
    ],
)
def test_the_kernel_counts_what_it_killed(tmp_path: Path, path: str, text: str, expected: int | None) -> None:
    """In both versions of control groups."""
    file = tmp_path / path
    file.parent.mkdir(parents=True)
    file.write_text(text)
    assert slots.count_oom_kills(tmp_path, Unit("u", "", "", "", control_group="/x")) == expected


def test_who_was_killed_for_memory() -> None:
    """By systemd's message, or by the kernel's own line."""
    kernel = "oom-kill:constraint=CONSTRAINT_MEMCG,task_memcg=/system.slice/gha-runner@b.service,task=x,pid=1"
    rows = [
        {"UNIT": "gha-runner@a.service", "__REALTIME_TIMESTAMP": "1790000000000000"},
        {"UNIT": "gha-runner@a.service", "__REALTIME_TIMESTAMP": "1790000009000000"},
        {"MESSAGE": kernel, "__REALTIME_TIMESTAMP": "1790000001000000"},
        {"MESSAGE": "oom-kill:nothing", "__REALTIME_TIMESTAMP": "1790000001000000"},
    ]
    found = units.parse_out_of_memory(["\n".join(map(json.dumps, rows)), "cut of"])
    assert {slot: time.timestamp() for slot, time in found.items()} == {
        "a": 1_790_000_009,
        "b": 1_790_000_001,
    }


def certificate(*names: x509.NameAttribute[str]) -> bytes:
    """A certificate of an issuer with these names, DER."""
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(
        x509.Name(list(names)), x509.Name([]), key.public_key(), 7, now, now + timedelta(days=1)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def test_the_issuer_of_a_certificate() -> None:
    """Its common name, else its organisation; control characters and cut data do no harm."""
    common = x509.NameAttribute(NameOID.COMMON_NAME, "Müller Inspection\x1b CA")
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Müller")
    whole = certificate(organisation, common)
    assert issuer_of(whole) == "Müller Inspection CA"
    assert issuer_of(certificate(organisation)) == "Müller"
    assert issuer_of(certificate()) is None
    for length in range(0, len(whole), 7):
        issuer_of(whole[:length])


def test_the_proxy_is_named_without_its_password() -> None:
    """Facts of the child are no stages."""
    parts = ({"via": "http://proxy:3128"}, {"name": "dns", "seconds": 0.1})
    failure = Unavailable("ConnectionRefusedError: [Errno 111] Connection refused", call="tcp")
    api = network.parse_api("http://x", Outcome(parts=parts, failure=failure))
    assert (api.via, api.proxy, api.failed_stage) == ("http://proxy:3128", True, "tcp")
    assert [stage.name for stage in api.stages] == ["dns"]


def test_a_read_only_bind_mount_is_a_reading_of_its_own() -> None:
    """It has the device of the file system that it is a part of."""
    row: dict[str, Any] = {"device": "8:1", "total_bytes": 9, "free_bytes": 9, "total_inodes": 9}
    row |= {"free_inodes": 9}
    rows = [
        {**row, "paths": ["/"], "read_only": False},
        {**row, "paths": ["/opt"], "read_only": False},
        {**row, "paths": ["/var/lib/gha-runner/a/_work"], "read_only": True},
    ]
    found = system.parse_filesystems(Outcome(value=rows))
    assert isinstance(found, tuple)
    assert [each.paths for each in found] == [("/", "/opt"), ("/var/lib/gha-runner/a/_work",)]
