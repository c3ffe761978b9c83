"""The fleet's page: its structure, its safety, and in headless Chromium how it reads."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import datetime, timedelta, timezone
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from runnerctl.cli.render_fleet import render_text
from runnerctl.cli.render_fleet_html import render_html
from runnerctl.core.fleet import Fleet, HostAnswer
from tests import browser
from tests.fleets import answer, big_fleet, finding, healthy, judged, record, small_fleet, spec

HOSTILE = "</title><script>alert(1)</script>\"'&\u202egnp.exe\x1b[2J"
VOID = {"meta", "br", "link"}
SCREENS = {"wall": (1920, 1080), "desk": (1280, 800), "phone": (390, 844), "small phone": (320, 640)}


class Reader(HTMLParser):
    """A page's elements, and whether every one that opens is closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.opened.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element without content."""
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Every element closes the last one that was opened."""
        assert self.opened.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect what is read."""
        if not self.opened or self.opened[-1] not in ("style", "script"):
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of every element of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]


def hostile_fleet() -> Fleet:
    """Names and reasons by people who are no friends."""
    here = spec("gpu-1", "a")
    bad = finding("slot.unit", "WARNING", "a", f"held: {HOSTILE}", f"`{HOSTILE}` and {HOSTILE}")
    rest = [each for each in healthy("a", 1) if each.id != "slot.unit"]
    away = HostAnswer(f"gpu-2{HOSTILE}", None, reason=HOSTILE, remedy=HOSTILE)
    records = [record("gpu-1-a", 1), record(f"gpu-1-{HOSTILE}", 2, online=False)]
    return judged([answer(here, [*rest, bad]), away], records)


@pytest.mark.parametrize("fleet", [small_fleet(), big_fleet(12), hostile_fleet(), judged([])])
def test_the_page_is_sound_and_loads_nothing(fleet: Fleet) -> None:
    """Well-formed, with landmarks and headers; no address of anything; only our own script, by its hash."""
    page = render_html(fleet, refresh_seconds=60)
    reader = Reader(page)
    assert reader.opened == []
    tags = [tag for tag, _ in reader.elements]
    assert [tags.count(tag) for tag in ("html", "title", "header", "main", "footer", "h1")] == [1] * 6
    assert [each["href"] for each in reader.named("a")] == ["#runners"]
    assert not {"img", "link", "iframe", "object", "form", "base"} & set(tags)
    used = {name for _, attributes in reader.elements for name in attributes}
    assert not {"src", "srcset", "onclick", "onload"} & used
    assert "url(" not in page and "@import" not in page and "http" not in page.replace("http-equiv", "")
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    contents = [str(each.get("content")) for each in reader.named("meta")]
    policy = next(content for content in contents if "default-src" in content)
    assert len(scripts) == 1 and f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline';")


def test_names_are_text_and_nothing_else() -> None:
    """Markup, quotes, escape sequences and reversed text of others show as what they are."""
    page = render_html(hostile_fleet())
    assert "alert(1)" in page and "<script>alert" not in page and "\u202e" not in page and "\x1b" not in page
    assert "&lt;/title&gt;&lt;script&gt;" in page and "\\u202e" in page and "\\x1b" in page
    text = render_text(hostile_fleet())
    assert "\x1b" not in text and "\u202e" not in text


def test_a_table_has_headers_and_every_state_a_word_and_a_shape() -> None:
    """Colour is never alone; tables laid out as cards keep their roles; the time needs no script."""
    reader = Reader(render_html(small_fleet()))
    assert [each.get("scope") for each in reader.named("th")].count("col") == 4
    assert all(each.get("role") in ("columnheader", "rowheader") for each in reader.named("th"))
    assert all(each.get("aria-hidden") == "true" for each in reader.named("svg"))
    assert "15:04:05 UTC" in reader.text and "2026-11-22" in reader.text and "CRITICAL" in reader.text
    assert "Needs attention" in reader.text and "All is well" in reader.text
    for word in ("disk is full", "No route to host", "GitHub shows it offline", "busy", "idle"):
        assert word in reader.text
    assert reader.named("time")[0]["datetime"] == "2026-11-22T15:04:05Z"
    assert not [each for each in reader.named("meta") if each.get("http-equiv") == "refresh"]


def test_the_table_for_a_terminal() -> None:
    """A row a slot, the worst first, within 80 columns, what repeats said once."""
    lines = render_text(small_fleet()).splitlines()
    assert lines[0] == "CRITICAL  2 of 6 runners can take a job (1 busy now, 4 cannot)"
    assert lines[1] == "3 hosts: 1 CRITICAL, 1 UNKNOWN, 1 OK"
    assert lines[3].split("  ")[0] == "HOST" and all(len(line) <= 80 for line in lines)
    assert lines[4].startswith("gpu-2  a     NO          disk is full")
    assert "gpu-2  b     NO          as above" in lines and lines[-1].split() == ["gpu-1", "b", "busy", "-"]
    assert "\x1b[31;1mNO\x1b[0m" in render_text(small_fleet(), colour=True)
    every = render_text(big_fleet(12), verbose=True)
    assert "GitHub has no record of this runner" in every and "(+" not in every


def now(fleet: Fleet, *, seconds: float = 0) -> Fleet:
    """The same, judged just now, or so long ago."""
    return msgspec.structs.replace(fleet, checked_at=datetime.now(timezone.utc) - timedelta(seconds=seconds))


@pytest.mark.system
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
def test_it_reads_well(tmp_path: Path, screen: str, dark: bool) -> None:
    """Nothing is wider than the screen, faint or tiny: with three hosts, with sixty, with hostile names."""
    width, height = SCREENS[screen]
    pages = []
    for number, fleet in enumerate((small_fleet(), big_fleet(), hostile_fleet())):
        pages.append(tmp_path / f"{number}.html")
        pages[-1].write_text(render_html(now(fleet)))
    for seen in browser.measure(*pages, width=width, height=height, dark=dark):
        assert seen["width"] == width and seen["scroll_width"] <= width
        assert all(text["left"] >= 0 and text["right"] <= width + 0.5 for text in seen["texts"])
        faint = [text for text in seen["texts"] if text["contrast"] < 4.5]
        assert not faint, faint[:3]
        least = 19 if screen == "wall" else 13.9  # CSS pixels: a wall screen is read from three metres
        assert min(text["size"] for text in seen["texts"]) >= least
        background = [int(part) for part in re.findall(r"\d+", seen["background"])]
        assert (sum(background) < 150) == dark
        tops = [row["top"] for row in seen["rows"]]
        assert tops == sorted(tops)


@pytest.mark.system
def test_what_is_wrong_is_on_the_first_screen_of_a_wall(tmp_path: Path) -> None:
    """With sixty hosts, too; and in letters that carry."""
    page = tmp_path / "fleet.html"
    page.write_text(render_html(now(big_fleet())))
    (seen,) = browser.measure(page, width=1920, height=1080)
    assert len(seen["rows"]) == 6 and seen["rows"][-1]["bottom"] <= 1080
    assert max(text["size"] for text in seen["texts"]) >= 60
    assert seen["title"].startswith("CRITICAL: 237 of 244 runners can take a job")


@pytest.mark.system
def test_a_page_that_nobody_renews_says_that_it_is_old(tmp_path: Path) -> None:
    """Under its own policy: the age is told, and after three missed renewals it is called old."""
    page = tmp_path / "fleet.html"
    for seconds, old in ((5, False), (7300, True)):
        page.write_text(render_html(now(small_fleet(), seconds=seconds)))
        dumped = browser.dom(page)
        assert ('id="stale" role="alert">' in dumped.replace(' hidden=""', " HIDDEN")) == old
        assert (">, 2 h ago<" in dumped) == old and (" s ago<" in dumped) != old
