"""NVIDIA's specification for the Container Device Interface: which devices, made for which driver."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from runnerctl.probes.files import under
from runnerctl.probes.kernels import text_of

__all__ = ["read_cdi"]

_DIRECTORIES = ("/run/cdi", "/var/run/cdi", "/etc/cdi")  # the first that has one wins, as with the engines
_KIND = re.compile(r"""^\s*"?kind"?\s*:\s*["']?nvidia\.com/gpu["']?""", re.MULTILINE)
_LIBRARY = re.compile(r"lib(?:cuda|nvidia-ml)\.so\.(\d+\.\d+(?:\.\d+)*)")
# What nvidia-ctk writes is regular: one key a line, in YAML and in JSON alike.
_DEVICE = re.compile(r"""^\s*-?\s*"?name"?\s*:\s*["']?([\w:.-]+)["']?,?\s*$""", re.MULTILINE)
_PATH = re.compile(r"""^\s*-?\s*"?(path|hostPath)"?\s*:\s*["']?(/[^\s"',]+)["']?,?\s*$""", re.MULTILINE)
_MOST_MISSING = 16


def read_cdi(rootfs: Path) -> dict[str, Any]:
    """Path, driver version, device names and missing files of the specification in use; nothing without one.

    A device's node may be named by its ``path`` alone; a hook's ``path`` is a file of the host as well.
    """
    for directory in _DIRECTORIES:
        home = under(rootfs, directory)
        if directory.startswith("/var/run") and under(rootfs, "/var/run").is_symlink():
            continue
        for path in sorted(home.glob("*")):
            if path.suffix in (".yaml", ".yml", ".json") and _KIND.search(text := _lines(path)):
                return {"cdi_path": f"{directory}/{path.name}", **_content(rootfs, text)}
    return {}


def _lines(path: Path) -> str:
    """The text with one key a line; JSON may come without any line break."""
    text = text_of(path)
    if path.suffix == ".json":
        with suppress(ValueError):
            return json.dumps(json.loads(text), indent=1)
    return text


def _content(rootfs: Path, text: str) -> dict[str, Any]:
    versions = _LIBRARY.findall(text)
    places = dict.fromkeys(place for _, place in _PATH.findall(text))
    missing = [place for place in places if not os.path.lexists(under(rootfs, place))]
    return {
        "cdi_driver": max(set(versions), key=versions.count) if versions else None,
        "cdi_devices": tuple(dict.fromkeys(name for name in _DEVICE.findall(text) if name != "nvidia.com")),
        "cdi_missing": tuple(missing[:_MOST_MISSING]),
    }
