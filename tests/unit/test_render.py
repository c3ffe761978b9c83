"""How a verdict looks: folded text, the summary of a job, `runnerctl xid`."""

from __future__ import annotations

import io
import json
from datetime import datetime, timezone

import pytest

from runnerctl.cli.context import Context
from runnerctl.cli.main import run
from runnerctl.cli.render_health import render_text
from runnerctl.cli.render_summary import render_summary
from runnerctl.core.findings import Finding, Status
from runnerctl.core.health import Health, worst
from runnerctl.core.xid_table import TABLE


def verdict(*findings: Finding) -> Health:
    """A verdict with these findings."""
    time = datetime(2026, 11, 22, 9, 0, tzinfo=timezone.utc)
    return Health(
        status=worst(findings), host="gpu-box", checked_at=time, duration_seconds=0.2, findings=findings
    )


def on_gpus(status: Status, *summaries: str) -> list[Finding]:
    """One finding for each GPU."""
    return [
        Finding("gpu.answers", status, f"GPU {number}", summary, "" if status == "OK" else "do it")
        for number, summary in enumerate(summaries)
    ]


@pytest.mark.parametrize(
    ("summaries", "expected"),
    [
        (["L4, 41 °C", "L4, 41 °C"], "2 GPUs  L4, 41 °C"),
        (["L4, 41 °C", "L4, 47 °C", "L4, 39 °C"], "3 GPUs  L4, 39-47 °C"),
        (["L4, 41 °C, idle", "H100, 41 °C, busy"], "2 GPUs  41 °C"),
        (["one", "two"], "2 GPUs  all well"),
        (["driver 575.57.08 with 2", "driver 575.57.08 with 3"], "2 GPUs  driver 575.57.08 with 2-3"),
    ],
)
def test_what_is_ok_on_several_gpus_is_one_line(summaries: list[str], expected: str) -> None:
    """With what they have in common; all of it when verbose."""
    health = verdict(*on_gpus("OK", *summaries))
    assert expected in render_text(health)
    assert render_text(health).count("gpu.answers") == 1
    assert render_text(health, verbose=True).count("gpu.answers") == len(summaries)


def test_what_is_not_ok_is_never_folded() -> None:
    """Two bad GPUs of four are two lines, the other two one."""
    bad = on_gpus("CRITICAL", "lost", "lost")
    good = [Finding("gpu.answers", "OK", f"GPU {number}", "fine") for number in (2, 3)]
    text = render_text(verdict(*bad, *good))
    assert (text.count("CRITICAL  gpu.answers GPU"), text.count("2 GPUs")) == (2, 1)


def test_different_filesystems_stay_apart() -> None:
    """Only GPUs and slots are many of a kind."""
    text = render_text(verdict(*(Finding("host.disk", "OK", path, "free") for path in ("/", "/var"))))
    assert text.count("host.disk") == 2


def test_an_eight_gpu_host_fits_the_screen() -> None:
    """One line for each check that is OK."""
    findings = [Finding(f"gpu.check{n}", "OK", f"GPU {g}", "fine") for n in range(20) for g in range(8)]
    assert len(render_text(verdict(*findings)).splitlines()) == 22


def test_the_summary_escapes_what_comes_from_the_host() -> None:
    """No markup, link, image or mention gets through; commands stay code."""
    evil = "<img src=x> | [a](http://x) @acme #1 **b** \x1b[31m\nnew www.evil.example"
    finding = Finding("gpu.answers", "CRITICAL", evil, f"{evil} `", "run `nvidia-smi | head`, then `<b>`")
    text = render_summary(verdict(finding, Finding("host.disk", "OK", "/", "free")))
    row = next(line for line in text.splitlines() if "gpu.answers" in line)
    assert "<img" not in row
    assert "&lt;img" in row
    for part in ("](http", " @acme", " #1", "**b**", "\x1b", "http://", "www.evil"):
        assert part not in row
    assert r"`nvidia-smi \| head`, then `<b>`" in row
    assert row.replace(r"\|", "").count("|") == 6
    assert "### Health of gpu\\-box: CRITICAL" in text
    assert text.index("<details>") < text.index("host.disk") < text.index("</details>")


def told(*arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    code = run(arguments, Context(env={}, stdout=out, stderr=err))
    return code, out.getvalue(), err.getvalue()


def test_xid_explains_a_code() -> None:
    """In 80 columns."""
    code, text, _ = told("xid", "79")
    assert code == 0
    for part in ("fallen off the bus", "RESTART_BM", "REBOOT", "with a boot", "power cycle"):
        assert part in text
    for entry in TABLE.values():
        _, text, _ = told("xid", str(entry.code))
        assert max(map(len, text.splitlines())) <= 80


def test_xid_does_not_fail_on_a_code_that_nobody_knows() -> None:
    """It says so."""
    code, text, _ = told("xid", "4711")
    assert code == 0
    assert "unknown Xid 4711" in text
    assert "PROBE" in text


def test_xid_lists_all_codes() -> None:
    """As text and as JSON."""
    code, text, _ = told("xid")
    assert code == 0
    assert max(map(len, text.splitlines())) <= 80
    _, answer, _ = told("xid", "-o", "json")
    listed = json.loads(answer)
    assert listed["schema"] == "runnerctl.xid/1"
    assert [row["code"] for row in listed["xids"]] == list(TABLE)
    assert {"meaning", "cause", "nvidia_bucket", "action", "ends"} <= set(listed["xids"][0])


@pytest.mark.parametrize("word", ["seventy-nine", "-1", "79x", "9999999"])
def test_xid_refuses_what_is_no_number(word: str) -> None:
    """One line, exit code 64."""
    code, text, error = told("xid", "--", word)
    assert (code, text) == (64, "")
    assert len(error.splitlines()) == 1
