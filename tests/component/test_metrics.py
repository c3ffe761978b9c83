"""What monitoring systems get: metrics and alert rules, judged by Prometheus' own checker; plugin output."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runnerctl.cli.render_metrics import write_metrics
from runnerctl.cli.render_plugin import render_plugin
from runnerctl.core.health import Health, judge
from runnerctl.core.metrics import prometheus_text
from runnerctl.core.snapshot import Snapshot, decode
from runnerctl.errors import UnavailableError, UsageError
from tests.promtool import promtool

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "docs/monitoring"
HEALTHY = ROOT / "tests/unit/cases/healthy.json"
XID = {"time": "2026-11-22T08:00:00Z", "boot_id": "b1", "kind": "xid", "code": 95, "pci": "0000:02:00"}
GPU = {
    "clock_sm_mhz": 1410,
    "utilization_percent": 37,
    "memory_temperature_celsius": 55,
    "power_limit_watts": 72.5,
    "pcie_generation": 4,
    "pcie_width": 16,
    "pcie_replays": 3,
    "recovery_action": 0,
    "ecc_counts": {
        "volatile_corrected": 1,
        "volatile_uncorrected": 0,
        "aggregate_corrected": 12,
        "aggregate_uncorrected": 2,
    },
    "remapped_rows": {"corrected": 1, "uncorrected": 0, "pending": True, "failure": False},
    "nvlinks": [{"link": 0, "active": True}, {"link": 1, "active": False}],
}


def taken(**changes: Any) -> Snapshot:
    """A snapshot in which everything that can be a metric is one."""
    tree = json.loads(HEALTHY.read_text())
    tree["nvml"]["gpus"][0].update(GPU)
    sxid = {**XID, "kind": "sxid", "code": 12028, "fatal": False, "pci": "0000:05:00"}
    log = {"reading": "taken", "boot_id": "b1", "source": "journal", "events": [XID, XID, sxid]}
    return decode(json.dumps({**tree, "kernel_log": log, **changes}).encode())


def text_of(snapshot: Snapshot) -> str:
    """The exposition of a snapshot and its verdict."""
    return prometheus_text(judge(snapshot), snapshot)


def check(text: str) -> subprocess.CompletedProcess[str]:
    """What promtool says of metrics."""
    return subprocess.run(
        [promtool(), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["full", "no driver", "nothing known"])
def test_promtool_has_no_complaint(kind: str) -> None:
    """Names, types, units and help texts are as Prometheus wants them."""
    gone = {"reading": "unavailable", "reason": "it hangs"}
    changes: dict[str, dict[str, Any]] = {
        "full": {},
        "no driver": {"nvml": gone},
        "nothing known": {"nvml": gone, "slots": gone, "kernel_log": gone},
    }
    done = check(text_of(taken(**changes[kind])))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.exhaustive
def test_promtool_would_complain() -> None:
    """The check above can fail."""
    assert check("# TYPE runnerctl_degrees gauge\nrunnerctl_degrees 1\n").returncode


@pytest.mark.parametrize(
    "line",
    [
        "runnerctl_health_status 2",
        'runnerctl_finding_status{id="xid.events",subject="GPU 1"} 2',
        'runnerctl_gpu_xid_errors{gpu="1",pci="0000:02:00",code="95"} 2',
        'runnerctl_nvswitch_sxid_errors{pci="0000:05:00",code="12028"} 1',
        "runnerctl_gpu_sm_clock_hertz{GPU0} 1410000000",
        "runnerctl_gpu_utilization_ratio{GPU0} 0.37",
        "runnerctl_gpu_power_limit_watts{GPU0} 72.5",
        'runnerctl_gpu_ecc_errors_total{GPU0,type="uncorrected",since="aggregate"} 2',
        "runnerctl_gpu_row_remap_pending{GPU0} 1",
        "runnerctl_gpu_nvlinks_active{GPU0} 1",
        "runnerctl_gpu_pcie_replays_total{GPU0} 3",
        'runnerctl_slot_running{slot="main"} 1',
        'runnerctl_slot_busy{slot="main"} 0',
        'runnerctl_slot_held{slot="main"} 0',
        "runnerctl_health_duration_seconds 0.21",
    ],
)
def test_the_metrics_are_there(line: str) -> None:
    """Values in base units."""
    labels = 'gpu="0",uuid="GPU-11111111-1111-4111-8111-111111111111"'
    assert line.replace("GPU0", labels) in text_of(taken()).splitlines()


def test_names_of_a_host_cannot_break_the_format() -> None:
    """Label values are escaped."""
    tree = json.loads(HEALTHY.read_text())
    tree["nvml"]["gpus"][0]["name"] = 'bad"name\\with\nbreaks'
    snapshot = decode(json.dumps(tree).encode())
    text = text_of(snapshot)
    assert r'name="bad\"name\\with\nbreaks"' in text
    assert check(text).returncode == 0


def test_what_is_not_known_is_left_out() -> None:
    """A missing series is not a zero."""
    text = text_of(taken())
    assert text.count("runnerctl_gpu_sm_clock_hertz{") == 1
    assert "runnerctl_gpu_up{" not in text_of(taken(nvml={"reading": "unavailable", "reason": "it hangs"}))


@pytest.mark.exhaustive
def test_the_alert_rules_are_sound() -> None:
    """They are rules, they do what they say, and every metric they use exists."""
    for command in (["check", "rules", "--lint=all", "alerts.yml"], ["test", "rules", "alerts_test.yml"]):
        done = subprocess.run(
            [promtool(), *command], cwd=RULES, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    used = set(re.findall(r"\brunnerctl_\w+", (RULES / "alerts.yml").read_text()))
    assert used
    assert used <= set(re.findall(r"^# TYPE (\w+)", text_of(taken()), re.MULTILINE))


def test_the_file_is_replaced_at_once(tmp_path: Path) -> None:
    """Readable for the exporter, and nothing is left beside it."""
    file = tmp_path / "runnerctl.prom"
    file.write_text("old")
    file.chmod(0o600)
    write_metrics(str(file), "new\n")
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("new\n", 0o644)
    assert [path.name for path in tmp_path.iterdir()] == ["runnerctl.prom"]


def test_a_file_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    """One line with the file and what to do."""
    with pytest.raises(UnavailableError, match=r"cannot be written.*directory that exists"):
        write_metrics(str(tmp_path / "no/where.prom"), "x")
    with pytest.raises(UsageError, match=r"\.prom"):
        write_metrics(str(tmp_path / "metrics.txt"), "x")
    (tmp_path / "folder.prom").mkdir()
    with pytest.raises(UnavailableError):
        write_metrics(str(tmp_path / "folder.prom"), "x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.prom"]


def perfdata(text: str) -> dict[str, str]:
    """Label -> value of the first line, read as a monitoring system reads it."""
    data = text.splitlines()[0].split("|")[1].split()
    form = re.compile(r"([\w.]+)=(-?\d+(?:\.\d+)?(?:s|%|B|c)?)(?:;[^;]*){0,4}")
    found = [form.fullmatch(item) for item in data]
    assert all(found), data
    return {match[1]: match[2] for match in found if match}


def test_the_plugin_line_is_of_the_guidelines() -> None:
    """Status, gist, performance data; the rest below."""
    snapshot = taken()
    text = render_plugin(judge(snapshot), snapshot)
    first, *more = text.splitlines()
    assert first.startswith("RUNNERCTL CRITICAL - xid.events GPU 1: Xid 95")
    assert text.count("|") == 1
    data = perfdata(text)
    assert (data["gpu0_utilization"], data["findings_critical"], data["duration"]) == ("37%", "1", "0.210s")
    assert more[0].startswith("CRITICAL: xid.events GPU 1")


def test_the_plugin_line_of_a_good_host_is_short() -> None:
    """Without a snapshot there is no performance data of GPUs."""
    health = judge(decode(HEALTHY.read_bytes()))
    text = render_plugin(health)
    assert re.match(r"RUNNERCTL OK - all \d+ findings are OK \| duration=", text)
    assert len(text.splitlines()) == 1
    nothing = Health(
        status="UNKNOWN", host="x", checked_at=health.checked_at, duration_seconds=0, findings=()
    )
    assert render_plugin(nothing).startswith("RUNNERCTL UNKNOWN - nothing could be checked |")
