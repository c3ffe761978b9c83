"""A verdict as Markdown for the summary page of a GitHub Actions job. Pure."""

from __future__ import annotations

import re

from runnerctl.cli.output import escape
from runnerctl.cli.render_health import folded
from runnerctl.core.findings import SEVERITY, Finding
from runnerctl.core.health import Health

__all__ = ["render_summary"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~@$:.-])")


def render_summary(health: Health) -> str:
    """A heading with the verdict, a table of what is not OK, and the rest folded away.

    Whatever came from the host is escaped: no markup, no link, no mention of a user gets through.
    """
    bad = sorted((f for f in health.findings if f.status != "OK"), key=lambda f: -SEVERITY[f.status])
    good = [finding for finding in health.findings if finding.status == "OK"]
    lines = [f"### Health of {_plain(health.host)}: {health.status}", ""]
    lines += [f"Checked at {health.checked_at:%Y-%m-%d %H:%M:%SZ} in {health.duration_seconds:.2f} s.", ""]
    if bad:
        lines += ["| Status | Check | Subject | Finding | What to do |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(finding, remedy=True) for finding in bad]
        lines.append("")
    if good:
        count = f"{len(good)} finding{'' if len(good) == 1 else 's'} OK"
        lines += ["<details>", f"<summary>{count}</summary>", ""]
        lines += ["| Check | Subject | Finding |", "| --- | --- | --- |"]
        lines += [_row(finding, remedy=False) for finding in folded(good)]
        lines += ["", "</details>", ""]
    if not health.findings:
        lines += ["Nothing could be checked.", ""]
    return "\n".join(lines)


def _row(finding: Finding, *, remedy: bool) -> str:
    cells = [f"`{finding.id}`", _plain(finding.subject), _text(finding.summary)]
    if remedy:
        cells = [f"**{finding.status}**", *cells, _text(finding.remedy)]
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    """Running text whose commands in backquotes stay code; without a pair of them all of it is plain."""
    parts = " ".join(text.split()).split("`")
    if len(parts) % 2 == 0:
        return _plain(text)
    return "".join(
        _code(part) if number % 2 else _plain(part, strip=False) for number, part in enumerate(parts)
    )


def _code(text: str) -> str:
    """Nothing acts within code but the table's own separator."""
    return f"`{escape(text)}`".replace("|", "\\|") if text.strip() else ""


def _plain(text: str, *, strip: bool = True) -> str:
    text = escape(" ".join(text.split()) if strip else text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", text)
