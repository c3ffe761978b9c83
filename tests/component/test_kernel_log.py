"""Reading the kernel log: a journalctl of our own on PATH, and files instead of /dev/kmsg."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from runnerctl.core.driver_readings import KernelLog
from runnerctl.core.snapshot import Unavailable
from runnerctl.probes.bounded import Task, run_all
from runnerctl.probes.kernel_log import parse_kernel_log, read_kernel_log

NOW = 1_763_800_000.0
BOOT = "0123456789abcdef0123456789abcdef"
XID = "NVRM: Xid (PCI:0000:11:00): 95, pid=7, name=python, Uncontained"
# Understands what the probe asks for: rows of a file, in either order, after a cursor, since a time.
JOURNALCTL = """#!/usr/bin/env -S python3 -IS
import json, os, re, sys
folder = os.path.dirname(os.path.abspath(__file__))
with open(f"{folder}/calls", "a") as calls:
    print(" ".join(sys.argv[1:]), file=calls)
if os.path.exists(f"{folder}/says"):
    sys.stderr.write(open(f"{folder}/says").read())
    sys.exit(1)
rows = [json.loads(line) for line in open(f"{folder}/rows")]
for option in sys.argv[1:]:
    name, _, value = option.partition("=")
    if name == "--after-cursor":
        if value not in [row["__CURSOR"] for row in rows]:
            sys.exit("Failed to seek to cursor: Invalid argument")
        rows = rows[[row["__CURSOR"] for row in rows].index(value) + 1:]
    if name == "--lines":
        rows = rows[-int(value):]
    if name == "--grep":
        if os.path.exists(f"{folder}/no-grep"):
            sys.exit("Compiled without pattern matching support")
        rows = [row for row in rows if re.search(value, str(row["MESSAGE"])) or type(row["MESSAGE"]) is list]
    if name == "--since":
        rows = [row for row in rows if int(row["__REALTIME_TIMESTAMP"]) >= int(value[1:]) * 1000000]
if not rows and "--grep" in " ".join(sys.argv):
    sys.exit(1)
for row in reversed(rows) if "--reverse" in sys.argv else rows:
    print(json.dumps(row, separators=(",", ":")))
"""


@dataclass(frozen=True)
class Bench:
    """A host's root below which there is a journal, and a journalctl that shows rows of ours."""

    folder: Path

    @property
    def root(self) -> Path:
        """The host's root."""
        return self.folder / "root"

    @property
    def state(self) -> Path:
        """Where readings note where they ended."""
        return self.folder / "state/kernel-log.json"

    def write(self, path: str, text: str) -> None:
        """A file below the root."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def journal(self, *rows: tuple[float, Any], boot_id: str = BOOT) -> None:
        """More rows: hours ago and message."""
        (self.root / "var/log/journal/id").mkdir(parents=True, exist_ok=True)
        (self.root / "var/log/journal/id/system.journal").touch()
        file = self.folder / "bin/rows"
        number = len(file.read_text().splitlines())
        with file.open("a") as stream:
            for hours, message in rows:
                number += 1
                stamp = str(int((NOW - hours * 3600) * 1_000_000))
                row = {"__CURSOR": f"c{number}", "__REALTIME_TIMESTAMP": stamp, "_BOOT_ID": boot_id}
                stream.write(json.dumps({**row, "MESSAGE": message}) + "\n")

    def read(self, *, seconds: float = 5, path: str | None = None) -> KernelLog | Unavailable | None:
        """One reading in a child of its own."""
        environ = {"PATH": path or f"{self.folder}/bin:{os.environ['PATH']}"}
        call = partial(
            read_kernel_log,
            rootfs=self.root,
            environ=environ,
            now=NOW,
            timeout_seconds=seconds,
            state=self.state,
        )
        return parse_kernel_log(run_all({"log": Task(call, seconds)})["log"])

    def log(self) -> KernelLog:
        """One reading that must go well."""
        log = self.read()
        assert isinstance(log, KernelLog), log
        return log

    def calls(self) -> list[str]:
        """How journalctl was called."""
        return (self.folder / "bin/calls").read_text().splitlines()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A host whose journal is empty."""
    made = Bench(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "state").mkdir()
    program = tmp_path / "bin/journalctl"
    program.write_text(JOURNALCTL)
    program.chmod(0o755)
    (tmp_path / "bin/rows").touch()
    made.write("proc/sys/kernel/random/boot_id", "01234567-89ab-cdef-0123-456789abcdef\n")
    made.write("proc/stat", f"cpu 1 2\nbtime {int(NOW - 40 * 3600)}\n")
    return made


def test_the_journal_is_read_since_the_boot_oldest_first(bench: Bench) -> None:
    """Forty hours of uptime are all read; an earlier boot counts for a day."""
    bench.journal((60, XID), (50, XID), boot_id="f" * 32)
    bench.journal((39, XID), (20, "usb 1-1: new device"), (2, XID.replace("95", "31")))
    log = bench.log()
    assert [(event.code, event.pid) for event in log.events] == [(95, 7), (31, 7)]
    assert (log.boot_id, log.source, log.truncated) == (BOOT, "journal", False)
    assert "-k" not in bench.calls()[0].split()


@pytest.mark.exhaustive
def test_the_next_reading_begins_where_the_last_ended(bench: Bench) -> None:
    """Old events are kept, new ones added, each once."""
    bench.journal((3, XID), (2, "usb"))
    assert len(bench.log().events) == 1
    bench.journal((1, XID))
    log = bench.log()
    assert [event.time.timestamp() for event in log.events] == [NOW - 3 * 3600, NOW - 3600]
    assert "--after-cursor=c2" in bench.calls()[-1]
    assert (bench.state.stat().st_mode & 0o777) == 0o600
    names = sorted(path.name for path in bench.state.parent.iterdir())
    assert names == ["kernel-events.json", "kernel-log.json"]
    assert len(bench.log().events) == 2


@pytest.mark.exhaustive
@pytest.mark.parametrize("damage", ["", "{", '{"schema": "other", "boot_id": "x", "cursor": "c"}', None])
def test_a_damaged_or_strange_note_means_a_whole_reading(bench: Bench, damage: str | None) -> None:
    """Also one of another boot, and one whose cursor is gone from the journal."""
    bench.journal((3, XID))
    bench.log()
    note = json.loads(bench.state.read_text())
    text = json.dumps({**note, "cursor": "gone"}) if damage is None else damage
    bench.state.write_text(text)
    assert len(bench.log().events) == 1
    assert "--reverse" in bench.calls()[-1]


@pytest.mark.exhaustive
def test_a_journalctl_without_a_filter_is_read_whole(bench: Bench) -> None:
    """It is built without PCRE on some systems."""
    bench.journal((3, XID), (2, "usb"))
    (bench.folder / "bin/no-grep").touch()
    assert len(bench.log().events) == 1
    assert "--grep" not in bench.calls()[-1]


@pytest.mark.exhaustive
def test_a_journal_without_such_lines_is_no_failure(bench: Bench) -> None:
    """The filter's exit code is 1 then."""
    bench.journal((3, "usb"))
    assert (bench.log().events, bench.log().source) == ((), "journal")
    bench.journal((1, XID))
    assert len(bench.log().events) == 1


@pytest.mark.exhaustive
def test_a_storm_of_programs_faults_does_not_hide_the_one_that_matters(bench: Bench) -> None:
    """Thousands of lines of one program, and one of the GPU before them."""
    bench.journal((12, XID))
    bench.journal(*((10 - number * 6 / 3600, XID.replace("95", "13")) for number in range(3000)))
    log = bench.log()
    assert log.events[0].code == 95
    assert len(log.events) == 2000
    assert not log.truncated


def test_messages_that_are_no_text_are_read(bench: Bench) -> None:
    """The journal shows bytes that are no UTF-8 as numbers."""
    bench.journal((1, list(b"NVRM: Xid (PCI:0000:11:00): 43, pid=1, name=\xff, Ch 1")))
    assert [event.code for event in bench.log().events] == [43]


def test_a_journal_that_may_not_be_read_is_said(bench: Bench) -> None:
    """Nothing else is there to read either."""
    bench.journal()
    (bench.folder / "bin/says").write_text("No journal files were opened due to insufficient permissions.\n")
    log = bench.read()
    assert isinstance(log, Unavailable)
    assert log.kind == "denied"


def test_a_journalctl_that_fails_is_said(bench: Bench) -> None:
    """With its own words."""
    bench.journal()
    (bench.folder / "bin/says").write_text("Failed to open the journal: bad message\n")
    log = bench.read()
    assert isinstance(log, Unavailable)
    assert "bad message" in log.reason


def test_a_journalctl_that_hangs_has_a_deadline(bench: Bench) -> None:
    """The whole group is killed."""
    bench.journal()
    (bench.folder / "bin/journalctl").write_text("#!/bin/sh\nexec sleep 60\n")
    started = time.monotonic()
    log = bench.read(seconds=0.5)
    assert isinstance(log, Unavailable)
    assert log.kind == "timeout"
    assert time.monotonic() - started < 1.5


@pytest.mark.exhaustive
def test_a_log_without_end_is_cut_short(bench: Bench) -> None:
    """What was read by then counts, the newest lines first; it is not noted down as a whole reading."""
    bench.journal()
    row = {
        "__CURSOR": "c",
        "__REALTIME_TIMESTAMP": str(int(NOW * 1_000_000)),
        "_BOOT_ID": BOOT,
        "MESSAGE": XID,
    }
    (bench.folder / "bin/journalctl").write_text(
        f"#!/bin/sh\necho '{json.dumps(row)}'\n[ $6 != --lines=1 ] || exit 0\nexec yes '{{\"MESSAGE\": 1}}'\n"
    )
    log = bench.read(seconds=1)
    assert isinstance(log, KernelLog)
    assert (log.truncated, len(log.events)) == (True, 1)
    assert not bench.state.exists()


def test_a_chatty_log_stays_quick(bench: Bench) -> None:
    """A hundred thousand lines of others cost about a tenth of a second, more on a machine that is busy."""
    bench.journal()
    line = json.dumps(
        {
            "__CURSOR": "c",
            "__REALTIME_TIMESTAMP": "1763799000000000",
            "_BOOT_ID": BOOT,
            "MESSAGE": "usb 1-1: x",
        }
    )
    (bench.folder / "bin/lines").write_text(f"{line}\n" * 100_000)
    (bench.folder / "bin/journalctl").write_text(
        f"#!/bin/sh\n[ $6 != --lines=1 ] || exec head -n1 {bench.folder}/bin/lines\n"
        f"exec cat {bench.folder}/bin/lines\n"
    )
    started = time.monotonic()
    log = bench.read(seconds=20)
    assert isinstance(log, KernelLog)
    assert (log.events, log.truncated) == ((), False)
    assert time.monotonic() - started < 5


def test_without_a_journal_the_kernels_own_buffer_is_read(bench: Bench) -> None:
    """Times count from the boot; what belongs to a device is left out."""
    bench.write(
        "dev/kmsg",
        "6,1,1000000,-;Linux version 6.1\n"
        f"4,2,7200000000,-;{XID}\n SUBSYSTEM=pci\n DEVICE=+pci:0000:11:00.0\n"
        "4,3,7200000001,-;NVRM: The NVIDIA GPU 0000:b3:00.0\\x0aNVRM: fallen off the bus and is not\n",
    )
    log = bench.log()
    assert (log.source, log.boot_id) == ("kmsg", BOOT)
    assert [(event.kind, event.pci) for event in log.events] == [
        ("xid", "0000:11:00"),
        ("off_the_bus", "0000:b3:00"),
    ]
    assert log.events[0].time.timestamp() == NOW - 38 * 3600


def test_a_journal_without_the_kernel_is_no_kernel_log(bench: Bench) -> None:
    """A container's journal: the kernel's own buffer is read instead, where there is one."""
    bench.write("dev/kmsg", f"4,2,7200000000,-;{XID}\n")
    bench.journal()
    assert bench.log().source == "kmsg"


def test_without_journalctl_the_kernels_own_buffer_is_read(bench: Bench) -> None:
    """A small system may have no systemd."""
    bench.journal((1, XID))
    bench.write("dev/kmsg", f"4,2,7200000000,-;{XID}\n")
    assert isinstance(log := bench.read(path="/nonexistent"), KernelLog)
    assert (log.source, len(log.events)) == ("kmsg", 1)


def test_a_tree_without_any_log_has_none(bench: Bench) -> None:
    """An image has no kernel log: that is no fault."""
    assert bench.read() is None


@pytest.mark.parametrize("rest", ["kill -SEGV $$", "exit 3"])
def test_a_journal_that_breaks_off_is_not_taken_for_whole(bench: Bench, rest: str) -> None:
    """What came is kept, and that something is missing is said."""
    bench.journal((2, XID))
    row = (bench.folder / "bin/rows").read_text()
    program = bench.folder / "bin/journalctl"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{row}END\n{rest}\n")
    log = bench.log()
    assert [event.code for event in log.events] == [95]
    assert log.truncated
    assert not bench.state.exists()


def test_a_journalctl_that_crashes_says_nothing_of_silence(bench: Bench) -> None:
    """The reading before it left a cursor; nothing after that is not the same as nothing known."""
    bench.journal((2, "usb 1-1: new device"))
    bench.log()
    (bench.folder / "bin/journalctl").write_text("#!/bin/sh\nkill -SEGV $$\n")
    found = bench.read()
    assert isinstance(found, Unavailable), found
    assert "signal 11" in found.reason
    assert "journalctl --verify" in found.remedy


def test_a_line_of_an_impossible_time_counts(bench: Bench) -> None:
    """A clock that was set far ahead must not hide a fault, nor the lines beside it."""
    bench.journal((2, XID), (-8_000_000_000_000, XID.replace("95", "79")))
    assert sorted(event.code or 0 for event in bench.log().events) == [79, 95]
