"""Pages in headless Chromium, as a person would see them: measured at a width, or as a picture."""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.hosts.machine import HostsError, ensure_programs

__all__ = ["PROGRAMS", "dom", "measure", "picture", "prepare"]

# Program -> packages. A page is set in the viewer's own letters: without any there is nothing to measure.
PROGRAMS = {"chromium": "chromium fonts-dejavu-core"}
OTHERS = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 60

# What a person could not read: wider than the screen, too small, too faint, or one over the other.
SCRIPT = """
function rgb(text) { return text.match(/[\\d.]+/g).map(Number); }
function solid(node) {
  for (; node; node = node.parentElement) {
    const found = rgb(getComputedStyle(node).backgroundColor);
    if (found.length < 4 || found[3] === 1) return found;
  }
  return [255, 255, 255];
}
function light(parts) {
  const [r, g, b] = parts.map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
  return .2126 * r + .7152 * g + .0722 * b;
}
function contrast(node) {
  const one = light(rgb(getComputedStyle(node).color)), two = light(solid(node));
  return (Math.max(one, two) + .05) / (Math.min(one, two) + .05);
}
function texts() {
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    if (!node.data.trim() || parent.closest("script,style,[hidden],.skip")) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    const box = range.getBoundingClientRect(), own = parent.getBoundingClientRect();
    if (own.width <= 1 || own.height <= 1) continue;
    found.push({text: node.data.trim().slice(0, 60), size: parseFloat(getComputedStyle(parent).fontSize),
                contrast: contrast(parent), left: box.left, right: box.right});
  }
  return found;
}
function measure() {
  const root = document.documentElement;
  const rows = [...document.querySelectorAll("tbody tr")].map(row => row.getBoundingClientRect());
  return {
    width: root.clientWidth, scroll_width: root.scrollWidth, height: root.scrollHeight,
    background: getComputedStyle(document.body).backgroundColor, title: document.title, texts: texts(),
    rows: rows.map(box => ({top: box.top, bottom: box.bottom, left: box.left, right: box.right})),
    stale: !document.getElementById("stale").hidden, age: document.getElementById("age").textContent,
  };
}
"""


def prepare() -> str:
    """The browser's path; installed where it is missing and we may. Raises HostsError where neither is so."""
    found = _found()
    if found is None:
        ensure_programs(PROGRAMS)
        found = _found()
    if found is None:
        raise HostsError("there is no Chromium: install the package chromium")
    return found


def _found() -> str | None:
    return next((path for name in OTHERS if (path := shutil.which(name))), None)


def measure(*pages: Path, width: int, height: int, dark: bool = False) -> list[Any]:
    """What each page is like in a window of ``width`` x ``height`` CSS pixels.

    Pages lie in frames of that size, for a window has a least width; in copies whose policy lets us measure.
    """
    frames = "".join(_frame(page.read_text(), width, height) for page in pages)
    script = (
        f"const all = [], inner = {_quoted(SCRIPT)};"
        "addEventListener('load', () => { for (const frame of document.querySelectorAll('iframe')) {"
        "const script = frame.contentDocument.createElement('script'); script.textContent = inner;"
        "frame.contentDocument.head.append(script); all.push(frame.contentWindow.measure()); }"
        "document.getElementById('out').textContent = JSON.stringify(all); });"
    )
    with tempfile.TemporaryDirectory(prefix="browser-") as folder:
        outer = Path(folder) / "outer.html"
        head = "<!DOCTYPE html><meta charset=utf-8>"
        outer.write_text(f"{head}<pre id=out></pre>{frames}<script>{script}</script>")
        dumped = _run(["--dump-dom", outer.as_uri()], width=width + 40, height=height + 40, dark=dark)
    found = dumped.partition('<pre id="out">')[2].partition("</pre>")[0]
    if not found:
        raise HostsError(f"the pages could not be measured: {dumped[:500]}")
    measured: list[Any] = json.loads(html.unescape(found))
    return measured


def _frame(text: str, width: int, height: int) -> str:
    policy = text[text.index('<meta http-equiv="Content-Security-Policy"') :].partition(">")[0] + ">"
    inner = html.escape(text.replace(policy, ""))
    return f'<iframe style="border:0;width:{width}px;height:{height}px" srcdoc="{inner}"></iframe>'


def dom(page: Path) -> str:
    """The page's own document after its own script ran, under its own policy."""
    return _run(["--dump-dom", page.as_uri()], width=1280, height=800, dark=False)


def picture(page: Path, target: Path, *, width: int, height: int, dark: bool = False) -> None:
    """A picture of the page's first screen, as PNG."""
    _run([f"--screenshot={target}", page.as_uri()], width=width, height=height, dark=dark)


def _quoted(script: str) -> str:
    return json.dumps(script).replace("</", "<\\/")


def _run(arguments: list[str], *, width: int, height: int, dark: bool) -> str:
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        command = [
            prepare(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            f"--user-data-dir={profile}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            *arguments,
        ]
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=_env(profile),
        )
    if done.returncode:
        raise HostsError(f"chromium ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


def _env(profile: str) -> dict[str, str]:
    """A home of its own: the browser keeps caches there."""
    return {"PATH": os.environ.get("PATH", os.defpath), "HOME": profile, "LANG": "C.UTF-8"}
