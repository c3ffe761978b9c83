"""The verdict on a fleet as one web page: nothing is loaded from anywhere, nothing needs a script. Pure.

Names in it come from GitHub and from hosts: every text passes `_text`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from runnerctl.cli.output import escape
from runnerctl.cli.render_fleet import able_line, counts_line, hosts_line, other_causes, sorted_rows, untold
from runnerctl.cli.render_fleet_css import CSS, ICONS, SCRIPT
from runnerctl.core.findings import SEVERITY, Status
from runnerctl.core.fleet import Able, Fleet, FleetHost, FleetRow

__all__ = ["render_html"]

STALE_SECONDS = 900.0  # of a page that nobody renews
MISSED = 3  # renewals, after which a page that should be renewed is called old
FEW_HOSTS = 8  # so many leave room for larger letters
MORE_CAUSES = 2  # besides the first
_ABLE: dict[Able, str] = {"yes": "Yes", "busy": "Busy", "no": "No", "unknown": "Unknown"}
_CODE = re.compile(r"`([^`]+)`")


def render_html(fleet: Fleet, *, refresh_seconds: float | None = None) -> str:
    """The page. With ``refresh_seconds`` it loads itself anew after that time."""
    size = "few" if fleet.counts.hosts <= FEW_HOSTS else "many"
    parts = [
        *_head(fleet, refresh_seconds),
        f"<body class={size}>",
        '<a class=skip href="#runners">To the runners</a>',
        *_header(fleet, refresh_seconds),
        '<main id=runners tabindex="-1">',
        *_attention(fleet),
        *_ready(fleet),
        "</main>",
        *_footer(fleet),
        f"<script>{SCRIPT}</script>",
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _head(fleet: Fleet, refresh_seconds: float | None) -> Iterator[str]:
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'; "
        "form-action 'none'"
    )
    yield '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield '<meta name="referrer" content="no-referrer"><meta name="robots" content="noindex">'
    if refresh_seconds:
        yield f'<meta http-equiv="refresh" content="{max(int(refresh_seconds), 1)}">'
    yield f"<title>{fleet.status}: {counts_line(fleet)}</title>"
    yield f"<style>{CSS}</style></head>"


def _header(fleet: Fleet, refresh_seconds: float | None) -> Iterator[str]:
    kind = _kind(fleet.status)
    most = MISSED * refresh_seconds if refresh_seconds else STALE_SECONDS
    stamp = f"{fleet.checked_at:%Y-%m-%dT%H:%M:%SZ}"
    yield f'<header><div class="verdict {kind}">{_icon(kind)}<div><h1>{able_line(fleet)}</h1>'
    yield f"<p><b>{fleet.status}</b> &middot; {hosts_line(fleet)}</p></div>"
    yield f'<div class=made><strong><time id=made datetime="{stamp}" data-most="{most:g}">'
    yield f"{fleet.checked_at:%H:%M:%S} UTC</time></strong>"
    yield f"<p>{fleet.checked_at:%Y-%m-%d}<span id=age></span></p>"
    yield f"<p>renewed every {refresh_seconds:g} s</p>" if refresh_seconds else ""
    yield "</div></div>"
    old = "This page is old: nothing newer came for"
    yield f"<p id=stale role=alert hidden>{old} <span id=since></span>.</p>"
    yield from _counts(fleet)
    yield from (f"<p class=note>{_text(note)}</p>" for note in fleet.notes)
    yield "</header>"


def _counts(fleet: Fleet) -> Iterator[str]:
    counts = fleet.counts
    kinds = (
        ("ok", "idle", counts.able),
        ("busy", "busy", counts.busy),
        ("critical", "cannot take a job", counts.unable),
        ("unknown", "not known", counts.unknown),
    )
    parts = "".join(f'<i class={kind} style="flex:{number}"></i>' for kind, _, number in kinds if number)
    yield f"<div class=bar aria-hidden=true>{parts}</div>"
    yield '<dl class=counts aria-label="Runners by what they can do">'
    for kind, word, number in kinds:
        zero = "" if number else " zero"
        yield f'<div class="{kind}{zero}"><dt>{word}</dt><dd>{_icon(kind)}{number}</dd></div>'
    yield "</dl>"


@dataclass(frozen=True)
class _Group:
    """Rows of one host that say the same: one line with several slots."""

    rows: Sequence[FleetRow]

    @property
    def first(self) -> FleetRow:
        return self.rows[0]


def _grouped(rows: Sequence[FleetRow]) -> list[_Group]:
    found: dict[tuple[str, ...], list[FleetRow]] = {}
    for row in rows:
        told = tuple(cause.summary for cause in row.causes)
        key = (row.kind, row.host, row.can_take_a_job, row.status, row.why, row.remedy, *told)
        found.setdefault(key, []).append(row)
    return [_Group(group) for group in found.values()]


def _attention(fleet: Fleet) -> Iterator[str]:
    """What is wrong, worst first: runners, and hosts with something wrong that hurts no runner of theirs."""
    rows = [row for row in sorted_rows(fleet) if row.status != "OK"]
    lines = [(group.first.status, list(_row(group))) for group in _grouped(rows)]
    lines += [(host.findings[0].status, list(_host(host))) for host in untold(fleet)]
    if not lines:
        return
    yield "<section aria-labelledby=attention>"
    yield f"<h2><span id=attention>Needs attention</span> <small>{len(lines)}</small></h2>"
    yield from _table(("Runner or host", "Takes jobs", "Why", "What to do"))
    for _, line in sorted(lines, key=lambda line: -SEVERITY[line[0]]):
        yield from line
    yield "</tbody></table></section>"


def _table(head: Sequence[str]) -> Iterator[str]:
    """The roles repeat what the elements say: laid out as cards on a phone, they would lose it."""
    cells = "".join(f"<th scope=col role=columnheader>{name}</th>" for name in head)
    yield f"<table role=table><thead role=rowgroup><tr role=row>{cells}</tr></thead><tbody role=rowgroup>"


def _row(group: _Group) -> Iterator[str]:
    row = group.first
    kind = _kind(row.status)
    yield f'<tr role=row class="{kind}"><th scope=row role=rowheader>{_names(group)}</th>'
    shape = "hold" if row.causes and row.causes[0].id == "hold" else kind
    word = "On hold" if shape == "hold" else _ABLE[row.can_take_a_job]
    yield f"<td role=cell class=able><span>{_icon(shape)}{word}</span></td>"
    others = [cause.summary for cause in other_causes(row)]
    more = "".join(f"<small>{_text(summary)}</small>" for summary in others[:MORE_CAUSES])
    rest = len(others) - MORE_CAUSES
    more += f"<small>and {rest} more</small>" if rest > 0 else ""
    yield f'<td role=cell class=why data-label=Why>{_text(row.why) or "-"}{more}</td>'
    yield f'<td role=cell class=do data-label="What to do">{_marked(row.remedy) or "-"}</td></tr>'


def _names(group: _Group) -> str:
    row = group.first
    if row.kind == "record":
        return " ".join(_text(each.runner_name or "") for each in group.rows)
    slots = "".join(f"<span>{_text(each.slot)}</span>" for each in group.rows if each.slot)
    return f"{_text(row.host)} <span class=slots>{slots}</span>" if slots else _text(row.host)


def _host(host: FleetHost) -> Iterator[str]:
    first, *others = host.findings
    kind = _kind(first.status)
    where = "" if first.subject in ("", "host") else f"{first.subject}: "
    more = "".join(f"<small>{_text(each.summary)}</small>" for each in others[:MORE_CAUSES])
    rest = len(others) - MORE_CAUSES
    more += f"<small>and {rest} more</small>" if rest > 0 else ""
    yield f'<tr role=row class="{kind}"><th scope=row role=rowheader>{_text(host.host)}</th>'
    yield f"<td role=cell class=able><span>{_icon(kind)}{first.status.capitalize()}</span></td>"
    yield f"<td role=cell class=why data-label=Why>{_text(where + first.summary)}{more}</td>"
    yield f'<td role=cell class=do data-label="What to do">{_marked(first.remedy) or "-"}</td></tr>'


def _ready(fleet: Fleet) -> Iterator[str]:
    """Those with which all is well: a card for each host, nothing to read but the names."""
    by_host: dict[str, list[FleetRow]] = {}
    for row in fleet.rows:
        if row.status == "OK":
            by_host.setdefault(row.host, []).append(row)
    if not by_host:
        return
    number = sum(len(rows) for rows in by_host.values())
    key = "".join(
        f"<span class={kind}><span class=key>{_icon(kind)}{word}</span></span>"
        for kind, word in (("ok", "idle"), ("busy", "busy"))
    )
    yield "<section aria-labelledby=ready>"
    yield f"<h2><span id=ready>All is well</span> <small>{number}</small> {key}</h2>"
    yield "<ul class=ready>"
    for host, rows in sorted(by_host.items()):
        slots = "".join(_chip(row) for row in rows)
        yield f"<li><h3>{_text(host)}</h3><ul>{slots}</ul></li>"
    yield "</ul></section>"


def _chip(row: FleetRow) -> str:
    if row.slot is None:
        return "<li class=ok>no slots</li>"
    kind, word = ("busy", "busy") if row.can_take_a_job == "busy" else ("ok", "idle")
    return f"<li class={kind}>{_icon(kind)}{_text(row.slot)} <em>{word}</em></li>"


def _footer(fleet: Fleet) -> Iterator[str]:
    view = "by the hosts' own verdicts and GitHub's records" if fleet.github_asked else "by the hosts alone"
    yield f"<footer><p>Judged {view}; it took {fleet.duration_seconds:.0f} s. runnerctl fleet</p></footer>"


def _kind(status: Status) -> str:
    return status.lower()


def _icon(kind: str) -> str:
    return f'<svg viewBox="0 0 24 24" aria-hidden="true">{ICONS[kind]}</svg>'


def _text(value: str) -> str:
    """Any text as HTML: nothing in it is markup, and nothing in it turns the text around."""
    return html.escape(escape(value), quote=True)


def _marked(text: str) -> str:
    """A remedy: what stands between backticks is for a shell."""
    return _CODE.sub(r"<code>\1</code>", _text(text))
